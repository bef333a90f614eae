from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from figures import judge, recorded
from processes import Fleet, Queue, Simulated, Worker, numbered, wait_until

from ifinu.broker.keys import EVENTS
from ifinu.embedded import free_port

RATE = {"IFINU_RATE_LIMIT": "100/s", "IFINU_RATE_BURST": "10"}


def recorders(*workers: Worker) -> list[int]:
    """Process ids of the recorders of these workers, including those whose worker is dead."""
    return [pid for pid, command in commands().items() if re.search(_named(workers), command)]


def _named(workers: tuple[Worker, ...]) -> str:
    return rf"ifinu\.numbers\.guarded_recorder\0[^\0]*:({'|'.join(str(worker.process.pid) for worker in workers)}):"


def commands() -> dict[int, str]:
    """Command line of every process; a zombie has none."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(file.parent.name)] = file.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def lines(worker: Worker) -> list[dict[str, Any]]:
    """The log of a worker and its recorders; a line that is not JSON is an error."""
    text = worker.text()
    return [json.loads(line) for line in text[text.index('{"') :].splitlines() if line.startswith("{")]


def scrape(port: int) -> dict[str, float]:
    """The recorder's series on a worker's `/metrics`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(ifinu_recorder_\w+) (\S+)$", text, re.MULTILINE)}


def is_started(worker: Worker) -> bool:
    return '"ifinu.recorder.started"' in worker.text()


@pytest.mark.fault
def test_a_recorder_ends_with_its_killed_worker_and_another_worker_records(
    fleet: Fleet, queue: Queue, simulator: Simulated, postgres_ledger: str, report
):
    own = {"IFINU_RECORDER": "true", "IFINU_DATABASE_URL": postgres_ledger, **RATE}
    first = fleet.start(**own).ready()
    wait_until(lambda: is_started(first), 20, first.text)
    second = fleet.start(**own).ready()
    wait_until(lambda: '"ifinu.recorder.standing_by"' in second.text(), 20, second.text)
    assert len(recorders(first, second)) == 1
    queue.push(*numbered(600))
    wait_until(lambda: len(recorded(postgres_ledger)) > 100, 40, first.text)
    os.kill(first.process.pid, signal.SIGKILL)  # not its group: the recorder has to notice
    wait_until(lambda: not recorders(first), 10, lambda: recorders(first))
    wait_until(queue.idle, 60, queue.counts)
    wait_until(lambda: queue.client.xlen(EVENTS) == 0, 40, second.text)
    wait_until(lambda: len(recorders(second)) == 1, 40, second.text)
    entries = recorded(postgres_ledger)
    figures = judge(queue, simulator, 600, entries)
    report("kill -9 of the worker that records", "its recorder ends, the other worker's starts", figures)
    assert figures.harm() == {}
    assert len(entries) == len({(name, id_, json.dumps(data)) for name, id_, data in entries})
    second.terminate()
    assert recorders(second) == []


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_a_killed_recorder_is_started_again_while_sending_goes_on(
    fleet: Fleet, queue: Queue, simulator: Simulated, ledger_url: str, sized, report
):
    messages, kills = sized((500, 2), (5_000, 4))
    port = free_port()
    worker = fleet.start(
        IFINU_RECORDER="true", IFINU_DATABASE_URL=ledger_url, IFINU_METRICS_PORT=str(port), **RATE
    ).ready()
    queue.push(*numbered(messages))
    counts = [0.0]
    for number in range(kills):
        wait_until(lambda: scrape(port)["ifinu_recorder_active"] == 1, 90, worker.text)
        so_far = len(recorded(ledger_url))
        wait_until(lambda at=so_far: queue.idle() or len(recorded(ledger_url)) > at, 40, worker.text)
        [victim] = recorders(worker)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda dead=victim: dead not in recorders(worker), 10)
        wait_until(lambda n=number: worker.text().count('"ifinu.recorder.died"') == n + 1, 10, worker.text)
        away = scrape(port)  # the next one starts three seconds later
        counts.append(away["ifinu_recorder_events_total"])
        assert away["ifinu_recorder_active"] == 0
    wait_until(queue.idle, 120, queue.counts)
    assert worker.process.poll() is None
    wait_until(lambda: scrape(port)["ifinu_recorder_active"] == 1, 90, worker.text)
    wait_until(lambda: queue.client.xlen(EVENTS) == 0, 40, worker.text)
    entries = recorded(ledger_url)
    figures = judge(queue, simulator, messages, entries)
    report("kill -9 of the recorder", f"{kills} times", figures)
    assert figures.harm() == {}
    assert len(entries) == messages
    assert [line["code"] for line in lines(worker) if line["event"] == "ifinu.recorder.died"] == [-9] * kills
    assert counts == sorted(counts)  # a counter never goes back


@pytest.mark.fault
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 1)])  # Celery's exit codes
def test_a_worker_that_ends_has_recorded_its_last_events(
    fleet: Fleet, queue: Queue, simulator: Simulated, ledger_url: str, number: signal.Signals, code: int
):
    """
    The signal reaches the recorder too, as systemd's SIGTERM and a terminal's Ctrl-C do.
    """
    simulator.control.set_fault(latency_ms=300)
    worker = fleet.start(IFINU_RECORDER="true", IFINU_DATABASE_URL=ledger_url).ready()
    wait_until(lambda: is_started(worker), 20, worker.text)
    queue.push(*numbered(40))
    wait_until(lambda: simulator.total() >= 10, 20, queue.counts)
    os.killpg(worker.process.pid, number)
    assert worker.process.wait(30) == code
    assert recorders(worker) == []
    assert queue.client.xlen(EVENTS) == 0
    assert [name for name, *_ in recorded(ledger_url)] == ["sent"] * simulator.total()
    ended = [line for line in lines(worker) if line["event"] == "ifinu.recorder.ended"]
    assert [(line["host"], line["lag"]) for line in ended] == [("w0", 0)]


@pytest.mark.fault
def test_a_second_signal_ends_the_worker_at_once_and_its_recorder_soon(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    simulator.control.set_fault(rates={"hang": 1.0}, hang_ms=60_000)
    worker = fleet.start(IFINU_RECORDER="true").ready()
    wait_until(lambda: is_started(worker), 20, worker.text)
    queue.push(*numbered(10))
    wait_until(lambda: simulator.total() == 10, 20, queue.counts)
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in worker.text(), 20, worker.text)
    assert len(recorders(worker)) == 1
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 1
    wait_until(lambda: not recorders(worker), 10, lambda: recorders(worker))


@pytest.mark.fault
def test_a_recorder_that_hangs_holds_up_the_end_of_its_worker_for_five_seconds(fleet: Fleet):
    worker = fleet.start(IFINU_RECORDER="true").ready()
    wait_until(lambda: is_started(worker), 20, worker.text)
    [hangs] = recorders(worker)
    os.kill(hangs, signal.SIGSTOP)
    assert worker.terminate() == 0
    wait_until(lambda: not recorders(worker), 10)


def test_a_worker_that_records_loads_no_database_driver_and_shows_no_secret(
    fleet: Fleet, queue: Queue, postgres_ledger: str
):
    worker = fleet.start(IFINU_RECORDER="true", IFINU_DATABASE_URL=postgres_ledger.replace("ifinu@", "ifinu:hidden@"))
    other = fleet.start(IFINU_DATABASE_URL=postgres_ledger).ready()
    wait_until(lambda: is_started(worker), 40, worker.text)
    [recorder] = recorders(worker)
    mapped = {pid: "psycopg2" in Path(f"/proc/{pid}/maps").read_text() for pid in (worker.process.pid, recorder)}
    assert mapped == {worker.process.pid: False, recorder: True}
    assert "hidden" not in commands()[recorder]
    assert recorders(other) == []  # IFINU_RECORDER=false
