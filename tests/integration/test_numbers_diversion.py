"""A number that is held for long gives what waits for it to its tenant's other numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from ifinu.broker import NORMAL, Keys, clock, lanes
from ifinu.broker.keys import EVENTS, GENERATION, NUMBERS, QUEUES, number_key, script, tenant_key
from ifinu.numbers import cache, registry
from ifinu.numbers.directory import BANNED
from ifinu.numbers.diversion import AFTER, Diverted, divert
from ifinu.numbers.patrol import Patrol
from ifinu.numbers.registry import GONE_AFTER, GONE_FOR, Number

NOW = datetime(2026, 12, 1, 15, 0, tzinfo=UTC)
FAR_MS = 4_102_444_800_000
TENANTS = {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}


@pytest.fixture
def numbers(client: redis.Redis) -> list[Number]:
    client.set(GENERATION, "g")
    for name, tenant in TENANTS.items():
        client.sadd(NUMBERS, name)
        client.hset(number_key(name), mapping={"par": 1, "min": 0, "max": 0, "inquilino": tenant})
        mine = json.dumps([each for each, of in TENANTS.items() if of == tenant])
        client.hset(tenant_key(tenant), mapping={"numeros": mine, "politica": "fixo", "peso": 1})
    return [Number(name, NOW, tenant) for name, tenant in TENANTS.items()]


def hold(client: redis.Redis, name: str, reason: str = "desconectado", ago: timedelta = AFTER) -> None:
    since_ms = (clock.now(client) - ago).timestamp() * 1000
    client.hset(number_key(name), mapping={"presa": FAR_MS, "motivo": reason, "presa_desde": since_ms})


def push(client: redis.Redis, count: int, **fields: Any) -> None:
    for number in range(count):
        body = {"id": f"m{number}", "usuario_id": "a", "telefone": f"77998{number:06d}", **fields}
        client.lpush(NORMAL, json.dumps(body))


def fetch(client: redis.Redis, want: int = 0) -> list[str]:
    keys = [key for queue in QUEUES for key in Keys.of(queue)]
    answer = script("fetch")(client, keys, (want, 60_000, "w.", "g", "0.5", 1000, ""))
    return [mark.decode().partition(" ")[2] for mark in answer[5::4]]


def waiting(client: redis.Redis) -> dict[str, int]:
    found: dict[str, int] = {}
    for lane in lanes.counts(client):
        found[lane.number] = found.get(lane.number, 0) + lane.length
    return found


def set_aside(client: redis.Redis, count: int, **fields: Any) -> None:
    """Let messages wait in the lanes of their numbers, none of which may send now."""
    for name in TENANTS:
        client.hset(number_key(name), "livre", FAR_MS)
    push(client, count, **fields)
    fetch(client, 1)


def test_what_waits_for_a_number_that_is_held_for_long_goes_by_the_tenants_others(
    client: redis.Redis, numbers: list[Number]
) -> None:
    set_aside(client, 60)
    before = waiting(client)
    assert set(before) == {"a1", "a2", "a3"}
    hold(client, "a1")
    assert divert(client, numbers, clock.now(client)) == [Diverted("a1", on=True, moved=before["a1"])]
    after = waiting(client)
    assert set(after) == {"a2", "a3"}
    assert after["a2"] > before["a2"]
    assert after["a3"] > before["a3"]
    assert sum(after.values()) == lanes.total(client, NORMAL) == 60
    push(client, 60)  # to the same people
    fetch(client, 1)
    assert waiting(client) == {name: 2 * count for name, count in after.items()}
    assert divert(client, numbers, clock.now(client)) == []


def test_a_short_hold_and_another_tenants_number_divert_nothing(client: redis.Redis, numbers: list[Number]) -> None:
    hold(client, "a1", ago=AFTER - timedelta(minutes=1))
    hold(client, "b1")  # its tenant has no other
    assert divert(client, numbers, clock.now(client)) == []


def test_a_banned_number_is_diverted_at_once(client: redis.Redis, numbers: list[Number]) -> None:
    client.hset(number_key("a1"), mapping={"presa": FAR_MS, "motivo": BANNED})
    assert divert(client, numbers, clock.now(client)) == [Diverted("a1", on=True, moved=0)]


def test_a_number_that_is_gone_from_the_gateway_is_diverted_until_it_is_found_again(
    client: redis.Redis, numbers: list[Number]
) -> None:
    """
    Its hold ends again and again, so that a message can try it.
    """
    set_aside(client, 30)
    now, before = clock.now(client), waiting(client)
    missing = replace(numbers[0], missing_since=now - GONE_FOR, missing_count=GONE_AFTER - 1)
    assert divert(client, [missing, *numbers[1:]], now) == []
    gone = replace(missing, missing_count=GONE_AFTER)
    assert divert(client, [gone, *numbers[1:]], now) == [Diverted("a1", on=True, moved=before["a1"])]
    push(client, 30)  # to the same people
    fetch(client, 1)
    assert set(waiting(client)) == {"a2", "a3"}
    assert divert(client, [gone, *numbers[1:]], now) == []
    assert divert(client, numbers, now) == [Diverted("a1", on=False, moved=0)]


def test_messages_that_name_the_number_wait_for_it(client: redis.Redis, numbers: list[Number]) -> None:
    set_aside(client, 5, instancia="a1")
    hold(client, "a1")
    divert(client, numbers, clock.now(client))
    assert waiting(client) == {"a1": 5}


def test_nothing_moves_while_all_numbers_of_the_tenant_are_held(client: redis.Redis, numbers: list[Number]) -> None:
    set_aside(client, 30)
    before = waiting(client)
    for name in ("a1", "a2", "a3"):
        hold(client, name)
    assert divert(client, numbers, clock.now(client)) == []
    assert waiting(client) == before


@pytest.mark.parametrize("released", [True, False], ids=["released", "its hold ended"])
def test_a_number_that_may_send_again_gets_its_people_back(
    client: redis.Redis, numbers: list[Number], released: bool
) -> None:
    hold(client, "a1")
    divert(client, numbers, clock.now(client))
    if released:
        lanes.release(client, "a1")
        assert divert(client, numbers, clock.now(client)) == []
    else:
        client.hset(number_key("a1"), "presa", 1)
        assert divert(client, numbers, clock.now(client)) == [Diverted("a1", on=False, moved=0)]
    set_aside(client, 60)
    assert waiting(client)["a1"] > 0


def test_a_hold_that_grows_is_one_hold(client: redis.Redis, numbers: list[Number]) -> None:
    """
    Each failed probe holds the number anew. Its hold began with the first one.
    """
    now_ms = clock.now(client).timestamp() * 1000
    key = number_key("a1")
    script("hold_number")(client, (key,), ("a1", int(now_ms + 1000), "instance", 60_000))
    began = client.hget(key, "presa_desde")
    client.hset(key, "presa", int(now_ms - 10))
    script("hold_number")(client, (key,), ("a1", int(now_ms + 1000), "instance", 60_000))
    assert client.hget(key, "presa_desde") == began
    lanes.release(client, "a1")
    assert client.hget(key, "presa_desde") is None


def test_the_guard_diverts_and_says_so(client: redis.Redis, ledger: Any) -> None:
    for name in ("a1", "a2"):
        registry.register(ledger, Number(name, NOW, "a"))
    cache.load(client, ledger)
    hold(client, "a1")
    guard = Patrol(client, ledger)
    assert [each.number for each in guard.divert(clock.now(client))] == ["a1"]
    ((_, entry),) = client.xrange(EVENTS)
    assert json.loads(entry[b"data"]) == {"number": "a1", "step": "diverted", "figures": {"moved": 0}}
