from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from command_line import Shell
from figures import judge, recorded
from ledgers import database, migrated
from processes import API_KEY, Fleet, Queue, Simulated, numbered, postgres_server, wait_until

from ifinu.broker.keys import EVENTS
from ifinu.embedded import Postgres, Valkey


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server for these tests only, since they stop it."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def ledger_url(postgres: Postgres, request: pytest.FixtureRequest) -> str:
    return migrated(database(postgres.url, request.node.name[:60]))


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey: Valkey, simulator: Simulated, ledger_url: str) -> Shell:
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", ledger_url)
    monkeypatch.setenv("IFINU_EVOLUTION_URL", simulator.url)
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY", API_KEY)
    return Shell(capsys, monkeypatch)


def levels(ifinu: Shell) -> dict[str, str]:
    """The levels of `ifinu doctor`, by check."""
    return {check["check"]: check["level"] for check in ifinu("doctor", "--json").json["checks"]}


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_sending_continues_while_postgresql_is_stopped_and_every_event_is_recorded_afterwards(
    fleet: Fleet, queue: Queue, simulator: Simulated, postgres: Postgres, ledger_url: str, ifinu: Shell, sized, report
):
    """
    Events wait in the stream; `ifinu doctor` reports the reason.
    """
    messages, away_s = sized((450, 0), (6_000, 60))
    workers = [fleet.start(IFINU_RECORDER="true", IFINU_DATABASE_URL=ledger_url).ready() for _ in range(2)]
    wait_until(lambda: any('"ifinu.recorder.started"' in worker.text() for worker in workers), 40, workers[0].text)
    queue.push(*numbered(messages)[:150])
    wait_until(lambda: len(recorded(ledger_url)) > 50, 40, workers[0].text)
    postgres.terminate()
    sent = simulator.total()
    queue.push(*numbered(messages)[150:])
    wait_until(lambda: simulator.total() > sent + 200, 40, queue.counts)
    assert levels(ifinu)["ledger"] == "fail"
    wait_until(lambda: queue.client.xlen(EVENTS) > 200, 20, lambda: queue.client.xlen(EVENTS))
    time.sleep(away_s)  # the outage lasts this long
    wait_until(queue.idle, 90, queue.counts)
    postgres.start()
    wait_until(lambda: queue.client.xlen(EVENTS) == 0, 60, lambda: workers[0].text()[-2000:])
    figures = judge(queue, simulator, messages, recorded(ledger_url))
    report("PostgreSQL stopped", f"while {messages - sent} were sent", figures)
    assert figures.harm() == {}  # an event missing from the ledger would be `unreported`
    assert levels(ifinu)["ledger"] == "ok"
    for event in ("waiting", "resumed"):
        wait_until(lambda name=f'"ifinu.recorder.{event}"': any(name in worker.text() for worker in workers))


@pytest.mark.fault
def test_a_deleted_stream_is_detected_and_reported_while_sending_goes_on(
    fleet: Fleet, queue: Queue, simulator: Simulated, ledger_url: str, ifinu: Shell, report
):
    worker = fleet.start(IFINU_RECORDER="true", IFINU_DATABASE_URL=ledger_url).ready()
    wait_until(lambda: '"ifinu.recorder.started"' in worker.text(), 40, worker.text)
    queue.push(*numbered(300)[:120])
    wait_until(lambda: len(recorded(ledger_url)) > 100, 40, worker.text)
    assert levels(ifinu).get("gaps") is None
    queue.push(*numbered(300)[120:240])
    wait_until(lambda: simulator.total() > 130, 40, queue.counts)
    queue.client.delete(EVENTS)
    wait_until(lambda: '"ifinu.recorder.stream_lost"' in worker.text(), 40, worker.text)
    queue.push(*numbered(300)[240:])
    wait_until(queue.idle, 40, queue.counts)
    wait_until(lambda: queue.client.xlen(EVENTS) == 0, 40, worker.text)
    assert levels(ifinu)["gaps"] == "warn"
    assert ifinu("status", "--json").json["ledger"]["gaps"][0]["cause"] == "group_gone"
    figures = judge(queue, simulator, 300, recorded(ledger_url))
    unreported = len(figures.harm().get("unreported", ()))
    report("the stream of events deleted", f"{unreported} not recorded, and reported", figures)
    assert figures.harm().keys() <= {"unreported"}
    assert len(figures.reported) > 150  # those before the deletion and those after
