"""
Pace and caps of numbers when Redis restarts, is emptied, or comes back older than it was.

Real workers, of which one records; the simulator's own figures are the judge.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from ledger_rows import notification
from processes import Fleet, Queue, Simulated, fleet_of, redis_server, stopping, wait_until
from sqlalchemy import Engine
from waiting import zone_amid_an_hour

from ifinu.broker import clock, restarts
from ifinu.broker.keys import GENERATION, NUMBERS, SERVER, SINCE, month_of, number_key, senders_key
from ifinu.embedded import Valkey
from ifinu.ledger.states import State
from ifinu.numbers import cache, registry, upkeep
from ifinu.numbers.presets import Preset
from ifinu.numbers.registry import Number

GAP_MS = 200
CAP = 40  # a day; an hour gets an eighth
HOURLY = CAP // 8


@pytest.fixture
def ledger_url(postgres_ledger: str) -> str:
    return postgres_ledger


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey that a test may kill."""
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulated]:
    with stopping(Simulated(tmp_path, "--plain", "--instance", "a1", "--instance", "ifinu")) as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path, valkey: Valkey, simulator: Simulated, ledger_url: str) -> Iterator[Fleet]:
    with stopping(fleet_of(tmp_path, valkey.url, simulator.url)) as workers:
        workers.environment |= {"IFINU_RECORDER": "true", "IFINU_DATABASE_URL": ledger_url}
        yield workers


@pytest.fixture
def register(ledger: Engine, client: redis.Redis) -> Callable[..., None]:
    """Register the number `a1` of tenant `a`, and load it into Redis."""

    def register(*, gap_ms: int = GAP_MS, per_day: int | None = None, new_chats: int | None = None) -> None:
        overrides = {
            "parallel": 1,
            "gap_min_ms": gap_ms,
            "gap_max_ms": gap_ms,
            "per_day": per_day,
            "new_chats": new_chats,
        }
        zone = zone_amid_an_hour()
        new = Number("a1", datetime.now(UTC), "a", zone=zone, preset=Preset.DIRECT, overrides=overrides)
        registry.register(ledger, new)
        cache.load(client, ledger)

    return register


def message(number: int) -> bytes:
    wire = {"id": f"n{number}", "tipo_notificacao": "lembrete", "telefone": f"77998{number:06d}", "texto": "Olá"}
    return json.dumps(wire | {"usuario_id": "a"}).encode()


def sent(simulator: Simulated) -> int:
    return sum(send.instance == "a1" for send in simulator.sends())


def recorded(ledger: Engine) -> int:
    found = registry.activity(ledger, ["a1"], datetime(2020, 1, 1, tzinfo=UTC))
    return found["a1"].sent if found else 0


def away(server: Valkey, change: Callable[[redis.Redis], Any]) -> None:
    """Change the data of a server that is down, so that it comes back without what its last second wrote."""
    server.kill()
    with redis_server(server.directory) as other, redis.Redis.from_url(other.url) as client:
        change(client)
    server.start()


# -- the copy is kept loaded


@pytest.fixture
def tending(ledger: Engine, valkey: Valkey) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=upkeep.tend, args=(ledger, valkey.url, stop, {}))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def test_a_lost_copy_is_back_within_seconds(ledger: Engine, client: redis.Redis, register: Any, tending: None):
    time.sleep(2)
    assert client.keys() == []  # while nothing is registered nothing is written
    register()
    wait_until(lambda: client.exists(SERVER))
    for _ in range(2):
        client.flushall()
        wait_until(lambda: client.get(GENERATION) == registry.generation(ledger).encode())
        assert client.smembers(NUMBERS) == {b"a1"}


def test_the_copy_is_there_when_a_recorder_has_started(
    ledger: Engine, client: redis.Redis, register: Any, request: pytest.FixtureRequest
):
    register()
    client.flushall()
    request.getfixturevalue("tending")
    wait_until(lambda: client.get(GENERATION) == registry.generation(ledger).encode())


def test_a_warm_up_changes_without_a_command(
    ledger: Engine, client: redis.Redis, register: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    register(per_day=CAP)
    monkeypatch.setattr(upkeep, "_LOAD_EVERY_S", 0.5)
    monkeypatch.setattr(upkeep, "_RECOUNT_FOR_S", 0.0)
    request.getfixturevalue("tending")
    wait_until(lambda: client.exists(SERVER))
    registry.change(ledger, "a1", overrides={"parallel": 1, "per_day": 7})
    wait_until(lambda: client.hget(number_key("a1"), "teto") == b"7")


@pytest.mark.parametrize("loads_before", [0, 1])
def test_a_copy_that_is_lost_while_it_is_loaded_gets_its_people_back_too(
    ledger: Engine, client: redis.Redis, register: Any, monkeypatch: pytest.MonkeyPatch, loads_before: int
):
    register()
    at = clock.now(client)
    about = {"instance": "a1", "tenant": "a", "sent_at": at, "key_id": "K1", "phone_hash": "p1"}
    notification(ledger, "n1", State.SENT, at, **about)
    copy = upkeep.Copy(client, ledger)
    for _ in range(loads_before):
        copy.keep()
    read, lose = registry.read, iter([True])

    def losing(engine: Engine) -> registry.Registry:
        if next(lose, False):
            client.flushall()
        return read(engine)

    monkeypatch.setattr(registry, "read", losing)
    copy.keep()
    assert client.hgetall(senders_key("a1", month_of(at))) == {b"p1": b"a"}


def test_a_worker_goes_on_after_its_last_number_is_gone(
    fleet: Fleet, queue: Queue, simulator: Simulated, client: redis.Redis, ledger: Engine, register: Any
):
    register()
    worker = fleet.start().ready()
    queue.push(message(1))
    wait_until(lambda: sent(simulator) == 1, seen=worker.text)
    registry.remove(ledger, "a1")
    cache.load(client, ledger)
    queue.push(message(2))
    wait_until(lambda: simulator.total() == 2 and queue.idle(), seen=worker.text)
    client.flushall()
    queue.push(message(3))
    wait_until(lambda: simulator.total() == 3, seen=worker.text)


# -- Redis loses something


def test_a_restart_that_lost_a_gap_breaks_none(
    fleet: Fleet, queue: Queue, simulator: Simulated, client: redis.Redis, valkey: Valkey, register: Any
):
    gap_ms = 12_000
    register(gap_ms=gap_ms)
    workers = [fleet.start().ready() for _ in range(2)]
    client.hset(number_key("a1"), "livre", 0)
    queue.push(*(message(n) for n in range(3)))
    wait_until(lambda: sent(simulator) == 1, seen=workers[0].text)
    wait_until(lambda: int(client.hget(number_key("a1"), "livre") or 0) > 0)
    away(valkey, lambda other: other.hset(number_key("a1"), "livre", 0))
    wait_until(lambda: sent(simulator) == 2, seen=workers[0].text)
    figures = simulator.control.numbers()["a1"]
    assert figures["least_gap_s"] >= gap_ms / 1000
    assert queue.dead() == []


def test_the_first_that_sees_another_server_lets_the_numbers_pause(client: redis.Redis, valkey: Valkey, register: Any):
    register(gap_ms=20_000)
    assert not restarts.pause_numbers(client)  # the first server
    assert not client.exists(SINCE)
    valkey.kill()
    valkey.start()
    assert [restarts.pause_numbers(client) for _ in range(3)] == [True, False, False]
    ends = int(client.get(SINCE) or 0) / 1000 - clock.now(client).timestamp()
    assert 15 < ends <= 20
    client.hset(number_key("a1"), mapping={"fator": 0.5, "max": 40_000})
    client.set(SERVER, "another")
    assert restarts.pause_numbers(client)
    assert 75 < int(client.get(SINCE) or 0) / 1000 - clock.now(client).timestamp() <= 80


def test_without_numbers_a_restart_writes_nothing(client: redis.Redis):
    assert not restarts.pause_numbers(client)
    assert client.keys() == []


def test_a_flushall_in_the_midst_exceeds_no_cap(
    fleet: Fleet, queue: Queue, simulator: Simulated, client: redis.Redis, ledger: Engine, register: Any
):
    """
    What the ledger has, and what is being sent at that moment, counts.
    """
    register(per_day=CAP)
    simulator.control.set_fault(latency_ms={"fixed": 2_000})
    workers = [fleet.start().ready() for _ in range(2)]
    wait_until(lambda: any("ifinu.recorder.started" in worker.text() for worker in workers), seen=workers[0].text)
    queue.push(*(message(n) for n in range(20)))
    wait_until(lambda: recorded(ledger) == 3, seen=workers[0].text)
    wait_until(lambda: client.scard(f"{number_key('a1')}:voo") == 1)  # the fourth
    client.flushall()  # the messages are lost with it
    queue.push(*(message(n) for n in range(20, 40)))
    wait_until(lambda: client.exists(GENERATION), seen=workers[0].text)
    wait_until(lambda: sent(simulator) == HOURLY, seen=lambda: (sent(simulator), client.hgetall(number_key("a1"))))
    time.sleep(5)
    assert sent(simulator) == HOURLY
    assert simulator.control.numbers()["a1"]["least_gap_s"] >= GAP_MS / 1000


def test_an_older_redis_exceeds_no_cap_and_gets_the_registry_of_today(
    fleet: Fleet, queue: Queue, simulator: Simulated, client: redis.Redis, valkey: Valkey, ledger: Engine, register: Any
):
    older = valkey.directory.with_name("older")
    register(per_day=CAP)
    worker = fleet.start().ready()
    wait_until(lambda: client.exists(SERVER), seen=worker.text)
    time.sleep(1.5)  # it is on the disk
    shutil.copytree(valkey.directory, older)
    queue.push(*(message(n) for n in range(HOURLY)))
    wait_until(lambda: sent(simulator) == HOURLY, seen=worker.text)
    registry.register(ledger, Number("a2", datetime.now(UTC), "b"))
    cache.load(client, ledger)
    wait_until(lambda: recorded(ledger) == HOURLY)
    valkey.kill()
    shutil.rmtree(valkey.directory)
    shutil.copytree(older, valkey.directory)
    valkey.start()
    queue.push(*(message(n) for n in range(HOURLY, 2 * HOURLY)))
    wait_until(lambda: client.hget(number_key("a1"), "nesta_hora") == b"%d" % HOURLY, seen=worker.text)
    wait_until(lambda: client.get(GENERATION) == registry.generation(ledger).encode())  # it is written last
    time.sleep(restarts.LEAST_MS / 1000 + 2)
    assert sent(simulator) == HOURLY


def test_after_a_flushall_people_are_not_written_to_as_if_the_day_began(
    fleet: Fleet, queue: Queue, simulator: Simulated, client: redis.Redis, ledger: Engine, register: Any
):
    """
    Neither does a person get a second reminder, nor does the number open more chats than it may.
    """
    register(new_chats=2)
    worker = fleet.start(IFINU_SANDBOX_NUMBER="", IFINU_PHONE_KEY="0" * 32, IFINU_REMINDERS_PER_PERSON="1").ready()
    queue.push(message(1), message(2))
    wait_until(lambda: recorded(ledger) == 2, seen=worker.text)
    people = {key: client.hgetall(key) for key in client.keys("ifinu:remetentes:a1:*")}
    assert [len(of_month) for of_month in people.values()] == [2]
    client.flushall()
    again = json.loads(message(1)) | {"id": "again"}
    queue.push(json.dumps(again).encode(), message(3))
    wait_until(lambda: queue.counts()["delayed"] == 2, seen=lambda: (queue.counts(), worker.text()[-2000:]))
    assert sent(simulator) == 2
    wait_until(lambda: worker.text().count("person_cap") == worker.text().count("new_chats") == 1, seen=worker.text)
    wait_until(
        lambda: {key: client.hgetall(key) for key in client.keys("ifinu:remetentes:a1:*")} == people,
        seen=client.keys,
    )
