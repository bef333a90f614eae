"""
The recorder while the database or Redis is away, and after the stream has changed.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import structlog
from ledgers import migrated
from processes import postgres_server, redis_server, wait_until
from recording import add_event, count, record, running, table
from sqlalchemy import Engine, make_url

from ifinu import settings
from ifinu.backup.postgres import Database
from ifinu.broker.keys import EVENTS
from ifinu.cli.doctor.findings import Level
from ifinu.cli.doctor.ledger_checks import examine_ledger
from ifinu.embedded import Postgres, Valkey
from ifinu.ledger.engine import connect
from ifinu.ledger.migrate import migrate
from ifinu.ledger.schema import events, gaps, notifications
from ifinu.ledger.stream import GROUP, Stream


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that the test may stop."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Redis server that the test may kill; each write is on disk at once."""
    with redis_server(tmp_path / "valkey", {"appendfsync": "always"}) as server:
        yield server


class _Producer:
    """Adds one `sent` event after another, until the end of the block."""

    def __init__(self, url: str) -> None:
        self.sent = 0
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _Producer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        with redis.Redis.from_url(self._url) as client:
            while not self._stop.wait(0.002):
                add_event(client, "sent", f"n{self.sent:06}", key_id=f"K{self.sent:06}")
                self.sent += 1


@pytest.mark.parametrize("end", [Postgres.kill, Postgres.terminate], ids=["kill", "terminate"])
def test_events_wait_in_the_stream_while_the_database_is_away(
    client: redis.Redis, valkey: Valkey, own_postgres: Postgres, end: Callable[[Postgres], None]
) -> None:
    """
    PostgreSQL is stopped under load and restarted: every event is in the ledger once, and the outage is logged once.
    """
    engine = connect(migrated(own_postgres.url))
    with structlog.testing.capture_logs() as lines, running(valkey.url, engine) as recorder:
        with _Producer(valkey.url) as producer:
            wait_until(lambda: recorder.progress.recorded > 50, seen=lambda: recorder.progress)
            end(own_postgres)
            before = producer.sent
            wait_until(lambda: producer.sent > before + 200 and any(e["event"].endswith("waiting") for e in lines))
            assert client.xlen(EVENTS) > 100
            own_postgres.start()
        wait_until(lambda: client.xlen(EVENTS) == 0, seen=lambda: (client.xlen(EVENTS), lines))
    assert table(engine, notifications, "id", "state") == [(f"n{i:06}", "sent") for i in range(producer.sent)]
    assert count(engine, events) == producer.sent
    assert [line["event"] for line in lines] == ["ifinu.recorder.waiting", "ifinu.recorder.resumed"]
    assert count(engine, gaps) == 0
    engine.dispose()


def test_the_recorder_waits_for_redis_and_resumes_at_its_position(own_valkey: Valkey, ledger: Engine) -> None:
    with (
        redis.Redis.from_url(own_valkey.url) as client,
        structlog.testing.capture_logs() as lines,
        running(own_valkey.url, ledger) as recorder,
    ):
        add_event(client, "sent", "before", key_id="K1")
        wait_until(lambda: client.xlen(EVENTS) == 0)  # acknowledged; else it is recorded again
        own_valkey.kill()
        wait_until(lambda: lines)
        own_valkey.start()
        add_event(client, "sent", "after", key_id="K2")
        wait_until(lambda: recorder.progress.recorded == 2, seen=lambda: (recorder.progress, lines))
    assert table(ledger, notifications, "id") == [("after",), ("before",)]
    assert [line["event"] for line in lines] == ["ifinu.recorder.waiting", "ifinu.recorder.resumed"]
    assert count(ledger, gaps) == 0


@pytest.mark.parametrize("recording", ["meanwhile", "later"])
@pytest.mark.parametrize("loss", ["flushall", "delete", "group destroyed"])
def test_a_lost_stream_is_detected_and_reported(
    client: redis.Redis, valkey: Valkey, ledger: Engine, loss: str, recording: str
) -> None:
    """
    The stream is lost under a recorder or before one starts, and new events have come since.
    """

    def lose() -> None:
        match loss:
            case "flushall":
                client.flushall()
            case "delete":
                client.delete(EVENTS)
            case "group destroyed":
                client.xgroup_destroy(EVENTS, GROUP)
        add_event(client, "sent", "after", key_id="K2")

    add_event(client, "sent", "before", key_id="K1")
    with structlog.testing.capture_logs() as lines:
        if recording == "meanwhile":
            with running(valkey.url, ledger) as recorder:
                wait_until(lambda: client.xlen(EVENTS) == 0)  # acknowledged too; otherwise it would be recorded again
                lose()
                wait_until(lambda: recorder.progress.recorded == 2)
        else:
            record(client, valkey.url, ledger)
            lose()
            recorder = record(client, valkey.url, ledger)
    assert recorder.progress.gaps == 1
    assert [(line["event"], line["log_level"], line["cause"]) for line in lines] == [
        ("ifinu.recorder.stream_lost", "error", "group_gone")
    ]
    assert table(ledger, gaps, "cause") == [("group_gone",)]
    assert table(ledger, notifications, "id") == [("after",), ("before",)]


def test_acknowledging_in_a_deleted_group_is_no_outage_and_deletes_nothing(client: redis.Redis) -> None:
    stream = Stream(client)
    stream.make_group()
    add_event(client, "sent", "n", key_id="K")
    taken = stream.take(10, again=False, recorded_to=(0, 0))
    assert taken is not None
    client.xgroup_destroy(EVENTS, GROUP)
    stream.acknowledge(taken.entries)
    assert client.xlen(EVENTS) == 1


def test_a_redis_restored_to_an_older_state_is_detected(own_valkey: Valkey, ledger: Engine, tmp_path: Path) -> None:
    """
    The rows since then are kept, later events are recorded, and the gap is reported once.
    """
    with redis.Redis.from_url(own_valkey.url) as client:
        add_event(client, "sent", "n1", key_id="K1")
        record(client, own_valkey.url, ledger)
    own_valkey.terminate()
    shutil.copytree(own_valkey.directory, tmp_path / "copy")
    own_valkey.start()
    with redis.Redis.from_url(own_valkey.url) as client:
        add_event(client, "sent", "n2", key_id="K2")
        record(client, own_valkey.url, ledger)
    own_valkey.kill()

    with (
        redis_server(tmp_path / "copy", {"appendfsync": "always"}) as older,
        redis.Redis.from_url(older.url) as client,
        structlog.testing.capture_logs() as lines,
    ):
        add_event(client, "sent", "n3", key_id="K3")
        record(client, older.url, ledger)
        record(client, older.url, ledger)
    assert [(line["event"], line["cause"]) for line in lines] == [("ifinu.recorder.stream_lost", "went_back")]
    assert table(ledger, gaps, "cause") == [("went_back",)]
    assert table(ledger, notifications, "id") == [("n1",), ("n2",), ("n3",)]


def test_a_new_ledger_on_an_old_stream_has_no_gap(client: redis.Redis, valkey: Valkey, ledger: Engine) -> None:
    client.xgroup_create(EVENTS, GROUP, id="0", mkstream=True)
    add_event(client, "sent", "n", key_id="K")
    assert record(client, valkey.url, ledger).progress.gaps == 0
    assert count(ledger, gaps) == 0


def test_the_recorder_waits_for_postgresql_to_be_migrated(client: redis.Redis, valkey: Valkey, postgres: str) -> None:
    engine = connect(postgres)
    add_event(client, "sent", "n", key_id="K")
    with structlog.testing.capture_logs() as lines, running(valkey.url, engine) as recorder:
        wait_until(lambda: lines)
        assert client.xlen(EVENTS) == 1
        migrate(engine)
        wait_until(lambda: recorder.progress.recorded == 1)
    assert [line["event"] for line in lines] == ["ifinu.recorder.not_migrated"]
    assert "ifinu migrate" in lines[0]["hint"]
    engine.dispose()


def test_the_recorder_creates_a_sqlite_ledger_itself(client: redis.Redis, valkey: Valkey, tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'new.db'}")
    add_event(client, "sent", "n", key_id="K")
    record(client, valkey.url, engine)
    assert table(engine, notifications, "id") == [("n",)]
    engine.dispose()


def test_the_ledger_uses_the_available_one_of_several_hosts(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = make_url(postgres)
    login = f"{there.username}:{there.password or ''}@"
    monkeypatch.setenv(
        "IFINU_DATABASE_URL", f"postgresql://{login}localhost:1,{there.host}:{there.port}/{there.database}"
    )
    url = settings.load().database_url.get_secret_value()
    engine = connect(url)
    migrate(engine)
    assert count(engine, notifications) == 0
    engine.dispose()
    assert Database(url, "the ledger").tables().keys() >= {"public.notifications"}


def test_the_doctor_reports_a_read_only_ledger(postgres: str) -> None:
    migrated(postgres)
    engine = connect(f"{postgres}?options=-c%20default_transaction_read_only%3Don")
    found = {finding.check: finding.level for finding in examine_ledger(engine)}
    engine.dispose()
    assert found["ledger writes"] is Level.FAIL
