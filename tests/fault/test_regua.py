"""Messages about charges: whatever is killed or lost between PostgreSQL and Redis, each goes once."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bills
import pytest
import redis
from ledgers import database, migrated
from lethal_scheduler import CHUNK
from processes import FIRST_NUMBER, Fleet, Queue, Simulated, postgres_server, start, stopping, wait_until
from sqlalchemy import Engine, func, select

from ifinu.billing.billing_schema import intents
from ifinu.broker.keys import EPOCH, EVENTS
from ifinu.embedded import Postgres, Valkey
from ifinu.ledger.engine import connect
from ifinu.ledger.schema import notifications

HERE = str(Path(__file__).parent)


class Schedulers:
    """Starts `ifinu scheduler` and `ifinu recorder` as processes, and ends them."""

    def __init__(self, directory: Path, redis_url: str, database_url: str) -> None:
        self._directory = directory
        self._environment = {
            **os.environ,
            "IFINU_REDIS_URL": redis_url,
            "IFINU_DATABASE_URL": database_url,
            "IFINU_LOG_FORMAT": "json",
        }
        self._started: list[tuple[Any, Path]] = []

    def start(self, *, dies_after: int = 0) -> Any:
        return self._run("lethal_scheduler", [str(dies_after)], {"PYTHONPATH": HERE})

    def record(self) -> Any:
        return self._run("ifinu", ["recorder"], {})

    def _run(self, module: str, arguments: list[str], more: dict[str, str]) -> Any:
        log = self._directory / f"{module}-{uuid.uuid4().hex}.log"
        process = start(module, arguments, self._environment | more, log)
        self._started.append((process, log))
        return process

    def text(self) -> str:
        """The end of each log."""
        return "\n".join(log.read_text(errors="replace")[-1500:] for _, log in self._started if log.exists())

    def stop(self) -> None:
        for process, _ in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server for these tests only, since they kill it."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def database_url(postgres: Postgres) -> str:
    return migrated(database(postgres.url, f"regua_{uuid.uuid4().hex}"))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = connect(database_url)
    yield made
    made.dispose()


@pytest.fixture
def schedulers(tmp_path: Path, valkey: Valkey, database_url: str) -> Iterator[Schedulers]:
    with stopping(Schedulers(tmp_path, valkey.url, database_url)) as made:
        yield made


@pytest.fixture
def work(fleet: Fleet, database_url: str) -> Callable[..., None]:
    """Starts a worker on the database of the charges."""

    def work(**environment: str) -> None:
        fleet.start(IFINU_DATABASE_URL=database_url, IFINU_UNKNOWN_GRACE_S="1.5", **environment).ready()

    return work


def plan(engine: Engine, count: int) -> None:
    """Plan one message that is due to each of so many people."""
    now = datetime.now(UTC)
    due = {"not_before": now - timedelta(minutes=1), "valid_until": now + timedelta(days=1)}
    with engine.begin() as connection:
        bills.tenant(connection)
        for n in range(count):
            bills.customer(connection, f"k{n}", phone=f"+55779{FIRST_NUMBER + n}")
            seq = bills.charge(connection, f"c{n}", f"k{n}", due=now.date() + timedelta(days=3))
            bills.intent(connection, seq, "lembrete", **due, planned_on=now.date())


def left(engine: Engine) -> int:
    """How many messages are planned."""
    with engine.connect() as connection:
        query = select(func.count()).select_from(intents).where(intents.c.state == "planned")
        return connection.execute(query).scalar_one()


def recorded(engine: Engine) -> collections.Counter[str]:
    """The messages that the ledger knows, by state."""
    with engine.connect() as connection:
        return collections.Counter(connection.scalars(select(notifications.c.state)))


def times(simulator: Simulated) -> dict[int, int]:
    """How many people got a message how many times."""
    return dict(collections.Counter(collections.Counter(send.number for send in simulator.sends()).values()))


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_schedulers_killed_between_a_push_and_its_commit_send_nothing_twice(
    engine: Engine, schedulers: Schedulers, work: Callable[..., None], queue: Queue, simulator: Simulated, sized
):
    """
    Two of three schedulers kill themselves at every second push, and are started again; the third does not.
    """
    count, kills = sized((80, 2), (4_000, 100))
    plan(engine, count)
    work(IFINU_RECORDER="true")
    dying = [schedulers.start(dies_after=2) for _ in range(2)]
    killed = 0
    while killed < kills and left(engine) > 3 * CHUNK:
        for place, process in enumerate(dying):
            if process.poll() is not None:
                assert process.poll() == -signal.SIGKILL, schedulers.text()
                killed += 1
                dying[place] = schedulers.start(dies_after=2)
    schedulers.start()
    wait_until(lambda: not left(engine) and queue.idle(), 120, lambda: (left(engine), queue.counts()))
    assert killed >= min(kills, 2)
    assert times(simulator) == {1: count}
    assert queue.dead() == []


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_what_was_pushed_and_not_sent_goes_once_after_a_flushall(
    engine: Engine, schedulers: Schedulers, work: Callable[..., None], queue: Queue, simulator: Simulated, sized
):
    count = sized(20, 2_000)
    plan(engine, count)
    schedulers.record()
    schedulers.start()
    wait_until(lambda: queue.counts()["ready"] == count, 60, schedulers.text)
    queue.client.flushall()
    wait_until(lambda: queue.counts()["ready"] == count, 90, schedulers.text)
    work()
    wait_until(lambda: simulator.total() >= count and queue.idle(), 120, queue.counts)
    assert times(simulator) == {1: count}


@pytest.mark.fault
@pytest.mark.timeout(600)
@pytest.mark.parametrize("records", [False, True], ids=["unrecorded", "recorded in part"])
def test_what_was_sent_and_not_recorded_is_not_sent_again_after_a_flushall(
    engine: Engine,
    schedulers: Schedulers,
    work: Callable[..., None],
    queue: Queue,
    simulator: Simulated,
    sized,
    records: bool,
):
    """
    Messages are being sent while Redis is flushed, some of them unrecorded; or nothing was ever recorded.
    """
    count = sized(40, 3_000)
    plan(engine, count)
    if records:
        schedulers.record()
    schedulers.start()
    work(IFINU_RATE_LIMIT=sized("20/s", "200/s"), IFINU_RATE_BURST="1")
    wait_until(lambda: simulator.total() > count // 2, 60, schedulers.text)
    queue.client.flushall()
    if not records:
        schedulers.record()
    wait_until(lambda: recorded(engine) == {"sent": count}, 150, lambda: (recorded(engine), queue.counts()))
    assert times(simulator) == {1: count}
    wait_until(lambda: queue.client.exists(EPOCH), 20, schedulers.text)


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_a_postgresql_killed_while_messages_are_pushed_loses_none_of_them(
    engine: Engine,
    schedulers: Schedulers,
    work: Callable[..., None],
    queue: Queue,
    simulator: Simulated,
    postgres: Postgres,
    sized,
):
    count, kills = sized((80, 1), (4_000, 10))
    plan(engine, count)
    work(IFINU_RECORDER="true")
    for _ in range(3):
        schedulers.start()
    for kill in range(kills):
        wait_until(lambda: simulator.total() > count * (kill + 1) // (kills + 2), 60, schedulers.text)  # noqa: B023
        engine.dispose()
        postgres.kill()
        postgres.start()
    wait_until(lambda: recorded(engine) == {"sent": count}, 120, lambda: (recorded(engine), queue.counts()))
    # What was pushed without its commit is pushed again, and dropped by a worker.
    wait_until(lambda: not left(engine) and queue.idle(), 60, lambda: (left(engine), queue.counts()))
    assert times(simulator) == {1: count}


@pytest.fixture(autouse=True)
def _no_events_are_left(client: redis.Redis) -> Iterator[None]:
    yield
    client.delete(EVENTS)
