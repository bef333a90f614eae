"""
The recorder as a child process, seen from the process that starts it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from processes import wait_until
from recording import add_event, count
from sqlalchemy import Engine

from ifinu.broker.keys import EVENTS, RECORDER
from ifinu.embedded import Valkey
from ifinu.ledger import child
from ifinu.ledger.child import RecorderError, record_in_child
from ifinu.ledger.leader import Leadership
from ifinu.ledger.progress import GUARD_STEPS, Progress
from ifinu.ledger.schema import events
from ifinu.numbers.guard import Move
from ifinu.settings import load
from ifinu.worker import bootsteps


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, valkey: Valkey, ledger_url: str) -> None:
    """The child reads its settings from here."""
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", ledger_url)
    monkeypatch.setenv("IFINU_LOG_FORMAT", "json")


@contextmanager
def _recording(
    client: redis.Redis, progress: Progress, module: str = "ifinu.ledger.child", **overrides: str
) -> Iterator[Future[None]]:
    """A child that records until the end of the block."""
    stop, leadership = threading.Event(), Leadership(client)
    assert leadership.acquire()
    with ThreadPoolExecutor(1) as thread:
        recording = thread.submit(record_in_child, load(**overrides), stop, progress, leadership, module)
        try:
            yield recording
        finally:
            stop.set()


def _child(module: str = "ifinu.ledger.child") -> int:
    """Process id of the one child of this process that records."""
    [pid] = [
        int(pid)
        for tasks in Path("/proc/self/task").glob("*/children")
        for pid in tasks.read_text().split()
        if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid


def test_counts_go_on_from_one_child_to_the_next_and_options_of_the_worker_reach_it(
    client: redis.Redis, ledger: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    progress = Progress()
    for number in (1, 2):
        add_event(client, "sent", f"n{number}", key_id=f"K{number}")
        client.xadd(EVENTS, {"event": "none of ours", "id": "", "data": "{}"})
        with _recording(client, progress, worker_name="probe", log_level="warning") as recording:
            wait_until(lambda n=number: (progress.active, progress.recorded) == (True, n), seen=lambda: progress)
            assert not recording.done()
        recording.result(60)
        assert progress == Progress(recorded=number, refused=number)
    assert count(ledger, events) == 2
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line["host"]) for line in lines] == [("ifinu.recorder.refused", "probe")] * 2


def test_the_guards_steps_go_on_from_one_child_to_the_next() -> None:
    assert set(Progress().guard_steps) == set(Move) == set(GUARD_STEPS)
    before, progress = Progress(), Progress()
    before.guard_steps["slowed"] = 3
    report = json.dumps({"guard_steps": Progress().guard_steps | {"slowed": 2, "paused": 1}})
    for _ in range(2):  # each report counts from the child's start
        child._read(io.BytesIO(report.encode() + b"\n"), before, progress)
    assert progress.guard_steps == dict.fromkeys(Move, 0) | {"slowed": 5, "paused": 1}


def test_a_child_ends_when_another_process_leads(client: redis.Redis) -> None:
    progress = Progress()
    with _recording(client, progress) as recording:
        wait_until(lambda: progress.active, seen=lambda: progress)
        client.set(RECORDER, "another")
        recording.result(60)
    assert not progress.active
    assert client.get(RECORDER) == b"another"


def test_the_recorder_that_a_worker_starts_records_too(client: redis.Redis, ledger: Engine) -> None:
    """
    It is the one with the guard beside it.
    """
    progress = Progress()
    add_event(client, "sent", "n1", key_id="K1")
    with _recording(client, progress, bootsteps._RECORDER) as recording:
        wait_until(lambda: progress.recorded == 1, seen=lambda: progress)
        _child(bootsteps._RECORDER)
    recording.result(60)
    assert count(ledger, events) == 1


def test_a_child_that_is_killed_is_an_error(client: redis.Redis) -> None:
    progress = Progress()
    with _recording(client, progress) as recording:
        wait_until(lambda: progress.active, seen=lambda: progress)
        os.kill(_child(), signal.SIGKILL)
        with pytest.raises(RecorderError) as raised:
            recording.result(60)
    assert raised.value.code == -signal.SIGKILL
    assert not progress.active
