"""
One process records, and the others stand by.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from processes import wait_until
from pydantic import SecretStr
from recording import add_event, table
from sqlalchemy import Engine

from ifinu.broker.keys import EVENTS, RECORDER
from ifinu.embedded import Valkey
from ifinu.ledger.leader import LEASE_S, Leadership
from ifinu.ledger.progress import Progress
from ifinu.ledger.schema import notifications
from ifinu.ledger.standby import record, stand_by
from ifinu.settings import load


def test_the_first_leads_until_it_resigns(client: redis.Redis) -> None:
    one, other = Leadership(client, "one"), Leadership(client, "other")
    assert one.acquire()
    assert not other.acquire()
    assert (one.holder, other.holder) == ("one", "one")
    assert one.acquire()
    one.resign()
    assert other.acquire()


def test_the_leadership_expires_unless_it_is_renewed(client: redis.Redis) -> None:
    leadership = Leadership(client, "one")
    leadership.acquire()
    client.pexpire(RECORDER, 50)
    leadership.acquire()
    assert LEASE_S * 1000 - 1000 < client.pttl(RECORDER) <= LEASE_S * 1000


def test_a_leader_that_was_replaced_does_not_lead_again(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ifinu.ledger.leader._RENEWED_S", 0.0)
    late, now = Leadership(client, "late"), Leadership(client, "now")
    late.acquire()
    assert late.keep()
    client.delete(RECORDER)  # it expired
    now.acquire()
    assert not late.keep()
    late.resign()
    assert now.keep()


def test_keeping_the_leadership_asks_redis_only_every_few_seconds(client: redis.Redis) -> None:
    leadership = Leadership(client, "one")
    leadership.acquire()
    client.delete(RECORDER)
    assert leadership.keep()
    assert not client.exists(RECORDER)


def test_the_leadership_is_kept_while_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No other process can become leader meanwhile.
    """
    with redis.Redis.from_url("redis://127.0.0.1:1", retry=None) as nowhere:
        assert Leadership(nowhere).keep()


def test_names_of_leaders_are_unique(client: redis.Redis) -> None:
    assert Leadership(client).name != Leadership(client).name


@contextmanager
def _standing_by(url: str, database_url: str, **arguments: Any) -> Iterator[threading.Event]:
    stop = threading.Event()
    with redis.Redis.from_url(url) as client:
        config = load(database_url=SecretStr(database_url))
        run = functools.partial(record, client, config, stop, Progress(), **arguments)
        thread = threading.Thread(target=stand_by, args=(client, stop, run))
        thread.start()
        try:
            yield stop
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()


def test_one_of_two_recorders_leads_and_the_other_names_it_and_takes_over(
    client: redis.Redis, valkey: Valkey, ledger: Engine, ledger_url: str
) -> None:
    with structlog.testing.capture_logs() as lines, _standing_by(valkey.url, ledger_url) as first:
        wait_until(lambda: any(line["event"] == "ifinu.recorder.started" for line in lines))
        holder = client.get(RECORDER).decode()
        with _standing_by(valkey.url, ledger_url):
            wait_until(lambda: any(line["event"] == "ifinu.recorder.standing_by" for line in lines))
            assert [line["holder"] for line in lines if "holder" in line] == [holder]
            add_event(client, "sent", "n1", key_id="K1")
            wait_until(lambda: client.xlen(EVENTS) == 0)
            first.set()
            wait_until(lambda: client.get(RECORDER) not in (None, holder.encode()), seen=lambda: lines)
            add_event(client, "sent", "n2", key_id="K2")
            wait_until(lambda: client.xlen(EVENTS) == 0)
    assert table(ledger, notifications, "id") == [("n1",), ("n2",)]
    assert not client.exists(RECORDER)
    assert [line["recorded"] for line in lines if line["event"] == "ifinu.recorder.ended"] == [1, 1]


def test_what_runs_beside_the_recorder_ends_with_it_and_delays_nothing(
    client: redis.Redis, valkey: Valkey, ledger: Engine, ledger_url: str
) -> None:
    """
    It runs in the process that leads, and in that one only.
    """
    began, ended = threading.Semaphore(0), threading.Event()

    def beside(engine: Engine, stop: threading.Event) -> None:
        began.release()
        with engine.connect():
            stop.wait()
        ended.set()

    with _standing_by(valkey.url, ledger_url, beside=beside) as first:
        assert began.acquire(timeout=10)
        add_event(client, "sent", "n1", key_id="K1")
        wait_until(lambda: client.xlen(EVENTS) == 0)
        with _standing_by(valkey.url, ledger_url, beside=beside):
            assert not began.acquire(timeout=0.3)
            first.set()
            assert ended.wait(60)
            assert began.acquire(timeout=10)
    assert table(ledger, notifications, "id") == [("n1",)]


def test_a_recorder_waits_for_a_redis_that_has_not_started(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines, _standing_by("redis://127.0.0.1:1", f"sqlite:///{tmp_path / 'x'}"):
        wait_until(lambda: lines)
    assert [line["event"] for line in lines] == ["ifinu.recorder.standing_by"]


@pytest.mark.parametrize(
    "module",
    [
        "ifinu.ledger", "ifinu.ledger.leader", "ifinu.ledger.standby", "ifinu.ledger.child",
        "ifinu.numbers.guarded_recorder", "ifinu.worker.app",
    ],
)  # fmt: skip
def test_a_standby_has_not_loaded_the_recorders_modules(module: str) -> None:
    loaded = f"import sys, {module}; print(*({{'sqlalchemy', 'alembic', 'psycopg2', 'sqlite3'}} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=200)
    assert run.stdout.strip() == ""


def test_a_recorder_has_not_loaded_alembic(ledger_url: str) -> None:
    """
    Ten megabytes that only a migration needs.
    """
    look = (
        "import sys; from ifinu.ledger.recorder import is_current; from ifinu.ledger.engine import connect; "
        "engine = connect(sys.argv[1]); print(is_current(engine), 'alembic' in sys.modules); engine.dispose()"
    )
    run = subprocess.run(
        [sys.executable, "-c", look, ledger_url], capture_output=True, text=True, check=True, timeout=200
    )
    assert run.stdout.split() == ["True", "False"]
