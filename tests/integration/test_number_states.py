"""The states that monitoring reports of numbers, beside what a fetch does."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from processes import wait_until
from prometheus_client import CollectorRegistry

from ifinu.broker.keys import (
    GENERATION,
    NORMAL,
    NUMBERS,
    Keys,
    answers_key,
    conversation_waits_key,
    conversations_key,
    number_key,
    script,
)
from ifinu.metrics import polls
from ifinu.metrics.labels import NAMED
from ifinu.metrics.redis_series import RedisCollector
from ifinu.numbers import number_states, registry
from ifinu.numbers.directory import BANNED, DISCONNECTED
from ifinu.numbers.guard import OURS
from ifinu.numbers.number_states import NumberState
from ifinu.numbers.registry import Number

SOON_MS = 60_000
ZONE_MS = -10_800_000


def hour() -> int:
    return int((time.time() * 1000 + ZONE_MS) // 3_600_000)


def register(client: redis.Redis, name: str, **fields: Any) -> None:
    client.set(GENERATION, "g")
    client.sadd(NUMBERS, name)
    given = {"par": 1, "min": 1_000, "max": 1_000, "fuso": ZONE_MS, **fields}
    client.hset(number_key(name), mapping=given)


def push(client: redis.Redis, name: str, count: int = 1) -> None:
    client.lpush(NORMAL, *(json.dumps({"id": f"{name}-{n}", "instancia": name}) for n in range(count)))


def fetch(client: redis.Redis, want: int = 10) -> int:
    answer = script("fetch")(client, Keys.of(NORMAL), (want, 30_000, f"{time.time_ns()}.", "g", 0.5, 10_000, ""))
    return len(answer[2::4])


def collected(client: redis.Redis) -> dict[str, dict[str, float]]:
    """What the exporter reads from Redis."""
    series = CollectorRegistry()
    RedisCollector(series, client)
    polls.numbers(series, client, every_s=60.0).poll()
    return by_label(series)


def by_label(series: CollectorRegistry) -> dict[str, dict[str, float]]:
    """The samples of each series by the value of its label."""
    return {
        family.name: {"".join(sample.labels.values()): sample.value for sample in family.samples}
        for family in series.collect()
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, NumberState.OPEN),
        ({"livre": -SOON_MS, "presa": -SOON_MS, "motivo": BANNED}, NumberState.OPEN),
        ({"teto": 80, "dia": 0, "hoje": 80, "hora": 0, "nesta_hora": 80}, NumberState.OPEN),  # of another day
        ({"livre": SOON_MS}, NumberState.GAP),
        ({"teto": 80, "dia": "today", "hoje": 80, "hora": 0}, NumberState.AT_CAP),
        ({"teto": 80, "dia": "today", "hoje": 79, "hora": "now", "nesta_hora": 9}, NumberState.OPEN),
        ({"teto": 80, "dia": "today", "hoje": 10, "hora": "now", "nesta_hora": 10}, NumberState.AT_CAP),
        ({"teto": 0}, NumberState.AT_CAP),
        ({"presa": SOON_MS, "motivo": "by hand", "livre": SOON_MS}, NumberState.HELD),
        ({"presa": SOON_MS, "motivo": f"{OURS}silent"}, NumberState.GUARD),
        ({"presa": SOON_MS, "motivo": DISCONNECTED}, NumberState.DISCONNECTED),
        ({"presa": SOON_MS, "motivo": "instance"}, NumberState.DISCONNECTED),
        ({"presa": SOON_MS, "motivo": BANNED}, NumberState.BANNED),
    ],
)
def test_a_number_is_open_exactly_if_a_fetch_takes_its_message(client, fields, expected):
    now_ms = int(time.time() * 1000)
    given = {
        name: now_ms + value if name in ("livre", "presa") else {"today": hour() // 24, "now": hour()}.get(value, value)
        for name, value in fields.items()
    }
    register(client, "n1", **given)
    (number,) = number_states.read(client)
    assert (number.name, number.state) == ("n1", expected)
    push(client, "n1")
    assert fetch(client) == (expected is NumberState.OPEN)


def test_a_number_with_all_it_may_have_in_flight_is_full(client):
    register(client, "n1", par=2)
    push(client, "n1", 3)
    assert fetch(client) == 2
    assert [number.state for number in number_states.read(client)] == [NumberState.FULL]


def test_after_a_restart_of_redis_all_numbers_pause(client):
    register(client, "n1")
    client.set(f"{NUMBERS}:desde", int(time.time() * 1000) + SOON_MS)
    assert [number.state for number in number_states.read(client)] == [NumberState.GAP]
    push(client, "n1")
    assert fetch(client) == 0


def test_a_number_without_a_pace_is_held(client):
    client.sadd(NUMBERS, "n1")
    assert [number.state for number in number_states.read(client)] == [NumberState.HELD]


def test_while_nothing_is_registered_there_are_no_samples_of_numbers(client):
    push(client, "n1", 5)
    series = collected(client)
    ours = {name: samples for name, samples in series.items() if "number" in name or "lanes" in name or "turn" in name}
    assert len(ours) == 9
    assert {name: samples for name, samples in series.items() if "portfolio" in name} == {
        "ifinu_portfolio_people": {}, "ifinu_portfolio_people_max": {}, "ifinu_portfolio_people_waiting": {}
    }  # fmt: skip
    assert {name: samples for name, samples in ours.items() if samples} == {"ifinu_numbers_loaded": {"": 0}}


def test_messages_in_lanes_are_counted_by_queue_by_state_and_for_the_longest_by_name(client):
    now_ms = int(time.time() * 1000)
    for n in range(NAMED + 5):
        register(client, f"n{n}", livre=now_ms + SOON_MS)
        push(client, f"n{n}", n + 1)
    register(client, "5577998616740", presa=now_ms + SOON_MS, motivo=BANNED)
    push(client, "5577998616740", 500)
    while client.llen(NORMAL):
        assert fetch(client) == 0
    series = collected(client)
    waiting = (NAMED + 5) * (NAMED + 6) / 2
    assert series["ifinu_queue_backlog"] == {"urgente": 0, "whatsapp": 0, "baixa": 0}
    assert series["ifinu_queue_in_lanes"] == {"urgente": 0, "whatsapp": waiting + 500, "baixa": 0}
    none = dict.fromkeys(map(str, NumberState), 0)
    assert series["ifinu_numbers"] == none | {"gap": NAMED + 5, "banned": 1}
    assert series["ifinu_numbers_waiting"] == none | {"gap": waiting, "banned": 500}
    longest = {f"n{n}": n + 1 for n in range(6, NAMED + 5)}
    assert series["ifinu_number_waiting"] == {"+55 77 9****-6740": 500, **longest}


def test_a_turn_is_overdue_if_nobody_serves_it(client):
    now_ms = int(time.time() * 1000)
    register(client, "n1", livre=now_ms + 300)
    push(client, "n1", 2)
    fetch(client)
    assert collected(client)["ifinu_queue_turn_overdue_seconds"]["whatsapp"] == 0
    client.zadd(f"{NORMAL}:turnos", {"n1": now_ms - 400_000})
    assert 400 <= collected(client)["ifinu_queue_turn_overdue_seconds"]["whatsapp"] < 500
    client.hset(number_key("n1"), "livre", 0)
    assert fetch(client) == 1
    assert collected(client)["ifinu_queue_turn_overdue_seconds"]["whatsapp"] == 0


def test_new_chats_are_summed_over_the_numbers_with_a_limit(client):
    register(client, "n1", novos=5)
    register(client, "n2", novos=7)
    register(client, "n3")
    for name, day in (("n1", hour() // 24), ("n2", hour() // 24 - 1), ("n3", hour() // 24)):
        client.sadd(f"{number_key(name)}:novos:{day}", "p1", "p2")
    series = collected(client)
    assert series["ifinu_numbers_new_chats"] == {"": 2}
    assert series["ifinu_numbers_new_chats_max"] == {"": 12}


def test_the_portfolios_with_the_least_room_are_exported_with_their_tiers(client):
    now_ms = int(time.time() * 1000)
    for n in range(NAMED + 3):  # of 100, n % are used
        register(client, f"n{n}", grupo=f"p{n:02}", conversas=100)
        client.zadd(conversations_key(f"p{n:02}"), {f"a{person}": now_ms for person in range(n + 1)})
    register(client, "m1", grupo="5577998616740", conversas=4)
    register(client, "m2", grupo="5577998616740", conversas=4)
    yesterday = dict.fromkeys(("old", "older"), now_ms - 86_400_001)
    client.zadd(conversations_key("5577998616740"), yesterday | dict.fromkeys(("a", "b", "c"), now_ms - 86_000_000))
    client.zadd(conversation_waits_key("5577998616740"), {"late": now_ms - 1, "d": now_ms + SOON_MS})
    register(client, "m3", grupo="any")
    client.zadd(conversations_key("any"), dict.fromkeys("abcdefgh", now_ms))
    register(client, "m4", grupo="shut", conversas=0)
    series = collected(client)
    fullest = [f"p{n:02}" for n in range(NAMED + 2, NAMED + 2 - (NAMED - 2), -1)]
    assert series["ifinu_portfolio_people"] == {"shut": 0, "+55 77 9****-6740": 3} | {
        name: int(name[1:]) + 1 for name in fullest
    }
    assert series["ifinu_portfolio_people_max"] == {"shut": 0, "+55 77 9****-6740": 4} | dict.fromkeys(fullest, 100)
    assert series["ifinu_portfolio_people_waiting"] == {"shut": 0, "+55 77 9****-6740": 1} | dict.fromkeys(fullest, 0)


def test_a_portfolio_without_a_limit_has_no_tier(client):
    register(client, "m1", grupo="any")
    series = collected(client)
    assert series["ifinu_portfolio_people"] == {"any": 0}
    assert series["ifinu_portfolio_people_max"] == {}


def test_answers_are_summed_over_the_numbers_whose_webhook_reports_them(client):
    register(client, "n1")
    client.pfadd(answers_key("n1", hour() // 24), "p1")
    assert collected(client)["ifinu_numbers_answers"] == {}
    client.hset(number_key("n1"), "ouve", 1)
    register(client, "n2", ouve=1)
    assert collected(client)["ifinu_numbers_answers"] == {"": 1}
    client.pfadd(answers_key("n2", hour() // 24), "p1", "p2")
    client.pfadd(answers_key("n2", hour() // 24 - 1), "p3")
    assert collected(client)["ifinu_numbers_answers"] == {"": 3}


def test_the_loss_of_the_registrys_copy_shows(client):
    register(client, "n1", livre=int(time.time() * 1000) + SOON_MS)
    assert collected(client)["ifinu_numbers_loaded"] == {"": 1}
    client.delete(GENERATION)
    series = collected(client)
    assert series["ifinu_numbers_loaded"] == {"": 0}
    assert series["ifinu_numbers"]["gap"] == 1


def test_the_registry_counts_its_numbers_and_names_those_at_risk(ledger):
    now = datetime.now(UTC)
    for name in ("calm", "5577998616740", "gone"):
        registry.register(ledger, Number(name, now))
    registry.change(ledger, "5577998616740", brake=0.5)
    registry.change(ledger, "gone", banned_at=now)
    series = CollectorRegistry()
    with polls.ledger(series, ledger, every_s=60.0) as polled:
        wait_until(lambda: list(polled.collect()))
        found = by_label(series)
    assert found["ifinu_numbers_registered"] == {"": 3}
    assert found["ifinu_number_risk"] == {"+55 77 9****-6740": 50, "gone": 100}


def test_an_empty_registry_has_no_samples(ledger):
    series = CollectorRegistry()
    with polls.ledger(series, ledger, every_s=60.0) as polled:
        wait_until(lambda: list(polled.collect()))
        found = by_label(series)
    assert found == {
        "ifinu_ledger_up": {"": 1},
        "ifinu_unconfirmed": {},
        "ifinu_numbers_registered": {},
        "ifinu_number_risk": {},
    }


def test_a_scrape_asks_redis_as_much_with_many_numbers_as_with_one(client):
    def commands() -> int:
        series = CollectorRegistry()
        RedisCollector(series, client)
        list(series.collect())  # the first one also connects
        before = int(client.info("stats")["total_commands_processed"])
        list(series.collect())
        return int(client.info("stats")["total_commands_processed"]) - before

    register(client, "n1")
    one = commands()
    for n in range(2, 100):
        register(client, f"n{n}")
    assert commands() == one


def test_the_numbers_are_read_beside_a_scrape_and_have_no_samples_while_redis_is_away(client, monkeypatch):
    for n in range(3):
        register(client, f"n{n}")
    series = CollectorRegistry()
    with polls.numbers(series, client, every_s=0.02):
        wait_until(lambda: by_label(series).get("ifinu_numbers", {}).get("open") == 3)
        client.srem(NUMBERS, "n1")
        wait_until(lambda: by_label(series)["ifinu_numbers"]["open"] == 2)
        monkeypatch.setattr(client, "smembers", Mock(side_effect=redis.ConnectionError))
        wait_until(lambda: by_label(series)["ifinu_numbers"] == {})
        monkeypatch.undo()
        wait_until(lambda: by_label(series)["ifinu_numbers"].get("open") == 2)


def test_the_cost_in_redis_does_not_grow_with_what_waits(client):
    """One message or a thousand: the same commands."""
    now_ms = int(time.time() * 1000)

    def commands() -> int:
        before = int(client.info("stats")["total_commands_processed"])
        collected(client)
        return int(client.info("stats")["total_commands_processed"]) - before

    register(client, "n1", livre=now_ms + SOON_MS)
    push(client, "n1")
    fetch(client)
    one = commands()
    push(client, "n1", 1_000)
    while client.llen(NORMAL):
        fetch(client)
    assert commands() == one
