"""
The registry in the ledger's database, its copy in Redis, and the directory that workers read there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import ledger_rows
import pytest
import redis
import structlog
from processes import wait_until
from sqlalchemy import Engine, insert

from ifinu.broker import NORMAL, QUEUES, Keys, clock, lanes
from ifinu.broker.keys import (
    GENERATION,
    LOADING,
    NUMBERS,
    PEOPLE,
    SENDERS_TTL_MS,
    SINCE,
    TENANTS,
    conversations_key,
    in_lanes_key,
    month_of,
    number_key,
    script,
    senders_key,
    tenant_key,
)
from ifinu.errors import BrokerUnavailable, ConfigurationError
from ifinu.ledger.engine import STATEMENT_S
from ifinu.ledger.schema import instances, notifications
from ifinu.ledger.states import State
from ifinu.numbers import cache, contacts, registry, upkeep
from ifinu.numbers.cache import load
from ifinu.numbers.directory import EMPTY, Directory
from ifinu.numbers.presets import Preset
from ifinu.numbers.registry import UNTIL_RELEASED, Channel, Number, Policy, Tenant

NOW = datetime(2026, 12, 1, 15, 0, tzinfo=UTC)
NO_LANES = [in_lanes_key(queue) for queue in QUEUES]  # counts, which are 0


def add(engine: Engine, name: str, **values: Any) -> None:
    """Register a number that is not warmed up, unless it is asked for."""
    values.setdefault("warm_up", False)
    registry.register(engine, Number(name, NOW, **values))


def hash_of(client: redis.Redis, key: str) -> dict[str, str]:
    return {field.decode(): value.decode() for field, value in client.hgetall(key).items()}


def number_hash(client: redis.Redis, name: str) -> dict[str, str]:
    return hash_of(client, number_key(name))


# -- the registry


def test_a_number_is_registered_read_and_removed(ledger: Engine) -> None:
    whole = Number(
        "n1", NOW, tenant="u1", channel=Channel.BUSINESS, phone="+55 92 9****-6740", phone_hash="ab" * 16,
        zone="America/Manaus", preset=Preset.MODERATE, overrides={"per_day": None, "new_chats": 7}, paired_at=NOW,
        warm_up=False, warm_up_from=date(2026, 12, 1), risk=40, brake=0.5, held_until=NOW, held_reason="x",
        no_new_chats_until=NOW, guard={"a": [1]}, banned_at=NOW, missing_since=NOW, missing_count=2,
    )  # fmt: skip
    registry.register(ledger, whole)
    add(ledger, "n2")
    assert registry.number(ledger, "n1") == whole
    found = registry.read(ledger)
    assert [one.name for one in found.numbers] == ["n1", "n2"]
    assert found.tenants == (Tenant("u1", Policy.STICKY, 1),)
    registry.remove(ledger, "n1")
    assert registry.number(ledger, "n1") is None


def test_an_empty_registry_has_no_generation(ledger: Engine) -> None:
    assert registry.read(ledger) == registry.Registry("", (), ())


def test_what_workers_route_by_changes_the_generation_and_nothing_else_does(ledger: Engine) -> None:
    seen = {""}

    def is_new() -> bool:
        before = len(seen)
        seen.add(registry.read(ledger).generation)
        return len(seen) > before

    add(ledger, "n1")
    assert is_new()
    for values in ({"tenant": "u1"}, {"banned_at": NOW}, {"channel": Channel.EVOLUTION}):
        registry.change(ledger, "n1", **values)
        assert is_new(), values
    registry.change(ledger, "n1", tenant="u1", brake=0.5, preset=Preset.DIRECT)
    registry.hold(ledger, "n1", NOW, "reason")
    assert not is_new()
    registry.set_tenant(ledger, "u1", policy=Policy.IN_TURNS, weight=3)
    assert is_new()
    registry.remove(ledger, "n1")
    assert is_new()


def test_an_unknown_name_a_second_one_and_a_wrong_pace_are_refused(ledger: Engine) -> None:
    add(ledger, "n1")
    refused = [
        ("n2 is not registered", lambda: registry.registered(ledger, "n2")),
        ("n2 is not registered", lambda: registry.change(ledger, "n2", risk=1)),
        ("n2 is not registered", lambda: registry.remove(ledger, "n2")),
        ("registered already", lambda: add(ledger, "n1")),
        ("no colon.* has ':'", lambda: add(ledger, "n:1")),
        (r"no control character.* has '\\t'", lambda: add(ledger, "n\t1")),
        ("per_day must be", lambda: add(ledger, "n3", overrides={"per_day": -1})),
        ("shortest gap", lambda: registry.change(ledger, "n1", overrides={"gap_min_ms": 30_000})),
        ("weight is from 1", lambda: registry.set_tenant(ledger, "u1", weight=0)),
    ]
    for words, act in refused:
        with pytest.raises(ConfigurationError, match=words):
            act()


def test_the_first_pairing_begins_the_warm_up_in_the_numbers_zone(ledger: Engine) -> None:
    late = datetime(2026, 12, 2, 3, 30, tzinfo=UTC)  # 23:30 of the day before in Manaus
    for name, values in {
        "new": {"warm_up": True},
        "old hand": {},
        "cloud": {"warm_up": True, "preset": Preset.CLOUD},
    }.items():
        add(ledger, name, zone="America/Manaus", **values)
        registry.paired(ledger, name, late)
        again = registry.paired(ledger, name, late + timedelta(days=9))
        assert again.paired_at == late
        assert again.warm_up_from == (date(2026, 12, 1) if name == "new" else None)
    assert registry.registered(ledger, "new").pace(late).per_day == 0
    assert registry.registered(ledger, "new").pace(late + timedelta(hours=1)).per_day == 20


@pytest.mark.parametrize(
    ("values", "per_day"),
    [
        ({}, 20),
        ({"warm_up": False}, 400),
        ({"paired_at": NOW - timedelta(days=400)}, 400),
        ({"channel": Channel.EVOLUTION}, 400),
        ({"preset": Preset.CLOUD}, 250),
        ({"warm_up_from": date(2026, 12, 1)}, 0),
    ],
)
def test_a_number_whose_pairing_is_not_known_is_paced_as_on_its_first_day(values: dict[str, Any], per_day: int) -> None:
    assert Number("n1", NOW, **values).pace(NOW).per_day == per_day


def test_a_pairing_that_only_a_webhook_reported_begins_the_warm_up(ledger: Engine, client: redis.Redis) -> None:
    for name, state in {"n1": "open", "n2": "connecting", "n3": None}.items():
        add(ledger, name, warm_up=True)
        if state is not None:
            ledger_rows.add(ledger, instances, name=name, state=state, at=clock.now(client), ms=1, seq=0)
    load(client, ledger)
    assert [number_hash(client, name)["teto"] for name in ("n1", "n2", "n3")] == ["0", "20", "20"]
    assert registry.registered(ledger, "n1").paired_at is not None
    assert registry.registered(ledger, "n2").paired_at is None


def test_without_new_chats_a_number_goes_on_with_the_people_it_knows(ledger: Engine) -> None:
    add(ledger, "n1", no_new_chats_until=NOW + timedelta(hours=1))
    found = registry.registered(ledger, "n1")
    assert (found.pace(NOW).new_chats, found.pace(NOW).per_day) == (0, 400)
    assert found.pace(NOW + timedelta(hours=1)).new_chats == 60


def test_a_number_is_gone_after_three_answers_over_ten_minutes(ledger: Engine) -> None:
    add(ledger, "n1")
    seen = []
    for minutes in (0, 1, 9, 10):
        at = NOW + timedelta(minutes=minutes)
        seen.append(registry.missing(ledger, "n1", at).is_gone(at))
    assert seen == [False, False, False, True]
    assert not registry.found(ledger, "n1").is_gone(NOW + timedelta(minutes=10))
    registry.missing(ledger, "n1", NOW)
    late = NOW + timedelta(hours=1)
    assert not registry.missing(ledger, "n1", late).is_gone(late)  # only two


def test_the_counters_come_from_the_ledger(ledger: Engine) -> None:
    rows = [
        ("a", State.READ, 0, {"instance": "n1", "sent_at": NOW}),
        ("b", State.FAILED, 1, {"instance": "n1", "sent_at": NOW}),
        ("c", State.DEAD, 2, {"instance": "n1"}),
        ("d", State.SENT, -60 * 24, {"instance": "n1", "sent_at": NOW - timedelta(days=1)}),
        ("e", State.SENT, 0, {"instance": "n2", "sent_at": NOW}),
    ]
    for id_, state, minutes, values in rows:
        ledger_rows.notification(ledger, id_, state, NOW + timedelta(minutes=minutes), **values)
    found = registry.activity(ledger, ["n1", "n3"], NOW - timedelta(hours=1))
    assert found == {"n1": registry.Activity(2, 2, NOW + timedelta(minutes=2))}
    assert registry.first_sent(ledger, "n1") == NOW - timedelta(days=1)
    assert registry.first_sent(ledger, "n3") is None


# -- the copy


def test_the_copy_has_what_the_scripts_and_the_workers_need(ledger: Engine, client: redis.Redis) -> None:
    add(ledger, "n1", tenant="u1", zone="America/Manaus", paired_at=NOW, overrides={"new_chats": None})
    add(ledger, "n2", preset=Preset.DIRECT, held_until=UNTIL_RELEASED, held_reason="mão", brake=0.5)
    add(ledger, "n3", tenant="u1", banned_at=NOW)
    registry.set_tenant(ledger, "u1", policy=Policy.IN_TURNS, weight=3)
    generation = load(client, ledger)
    now_ms = round(clock.now(client).timestamp() * 1000)
    n1, n2, n3 = (number_hash(client, name) for name in ("n1", "n2", "n3"))
    assert abs(int(n1.pop("livre")) - now_ms - 25_000) < 5_000
    assert abs(int(n1.pop("presa_desde")) - now_ms) < 5_000  # a hold that it comes with is counted from now on
    day = (now_ms - 4 * 3_600_000) // 86_400_000
    hour = (now_ms - 4 * 3_600_000) // 3_600_000
    assert n1 == {
        "par": "1", "min": "8000", "max": "25000", "teto": "400", "fuso": str(-4 * 3_600_000), "dia": str(day),
        "hoje": "0", "hora": str(hour), "nesta_hora": "0", "presa": "0", "motivo": "", "fator": "1.0",
        "desde": str(round(NOW.timestamp() * 1000)), "inquilino": "u1", "canal": "BAILEYS",
    }  # fmt: skip
    until = str(round(UNTIL_RELEASED.timestamp() * 1000))
    assert {name: n2.get(name) for name in ("teto", "novos", "presa", "motivo", "fator", "inquilino")} == {
        "teto": None, "novos": None, "presa": until, "motivo": "mão", "fator": "0.5", "inquilino": "",
    }  # fmt: skip
    assert (n3["presa"], n3["motivo"]) == (until, "banido")
    assert hash_of(client, tenant_key("u1")) == {"numeros": '["n1", "n3"]', "politica": "rodizio", "peso": "3"}
    assert client.get(GENERATION) == generation.encode() == registry.read(ledger).generation.encode()
    assert client.smembers(NUMBERS) == {b"n1", b"n2", b"n3"}
    assert not client.exists(LOADING)


def test_what_only_redis_knows_stays_and_the_pace_changes(ledger: Engine, client: redis.Redis) -> None:
    add(ledger, "n1")
    load(client, ledger)
    known = {"livre": "5", "hoje": "7", "hora": "1", "nesta_hora": "2", "presa": "9", "motivo": "z", "fator": "0.3"}
    client.hset(number_key("n1"), mapping=known)
    registry.change(ledger, "n1", preset=Preset.DIRECT, held_until=UNTIL_RELEASED, brake=0.9)
    load(client, ledger)
    found = number_hash(client, "n1")
    assert {name: found[name] for name in known} == known
    assert (found["par"], "teto" in found, "novos" in found) == ("10", False, False)
    registry.change(ledger, "n1", preset=Preset.CONSERVATIVE)
    load(client, ledger)
    assert number_hash(client, "n1")["teto"] == "400"


def sent_today(ledger: Engine, client: redis.Redis, *, zone: str = "America/Sao_Paulo") -> int:
    """Write what an instance did around its midnight; return how much of it counts for today."""
    while (now := clock.now(client)).minute == 59 and now.second > 40:
        time.sleep(1)  # this hour's count is compared, too
    midnight = Number("n1", now, zone=zone).local(now).replace(hour=0, minute=0, second=0, microsecond=0)
    before = midnight - timedelta(minutes=1)
    rows = [
        ("yesterday", State.SENT, {"sent_at": before}, before),
        ("sent", State.READ, {"sent_at": now}, now),
        ("in doubt", State.UNKNOWN, {}, now),
        ("failed", State.FAILED, {"sent_at": now}, now),
        ("not sent", State.RETRYING, {}, now),
        ("another's", State.SENT, {"sent_at": now, "instance": "n2"}, now),
    ]
    for id_, state, values, at in rows:
        ledger_rows.notification(ledger, id_, state, at, **({"instance": "n1"} | values))
    ledger_rows.notification(ledger, "read today", State.READ, before, instance="n1", sent_at=before, read_at=now)
    return 3


@pytest.mark.parametrize("zone", ["America/Sao_Paulo", "America/Rio_Branco"])
def test_after_a_flushall_the_caps_come_from_the_ledger_and_the_first_gap_is_kept(
    ledger: Engine, client: redis.Redis, zone: str
) -> None:
    add(ledger, "n1", zone=zone, held_until=UNTIL_RELEASED, held_reason="x", brake=0.5)
    count = sent_today(ledger, client, zone=zone)
    load(client, ledger)
    client.flushall()
    load(client, ledger)
    assert Directory.load(client).number("n1") is not None
    found = number_hash(client, "n1")
    assert (found["hoje"], found["nesta_hora"], found["motivo"], found["fator"]) == (str(count), str(count), "x", "0.5")
    assert int(found["livre"]) > clock.now(client).timestamp() * 1000 + 20_000


def test_after_a_flushall_the_conversations_of_a_portfolio_come_from_the_ledger(
    ledger: Engine, client: redis.Redis
) -> None:
    now = clock.now(client)
    for name, portfolio in (("m1", "acme"), ("m2", "acme"), ("m3", None)):
        add(ledger, name, channel=Channel.BUSINESS, portfolio=portfolio)
    registry.set_tier(ledger, "acme", 2)
    rows = [
        ("first", "m1", "p1", 23, State.READ, {}),
        ("second", "m2", "p1", 2, State.SENT, {}),
        ("maybe", "m2", "p2", 1, State.UNKNOWN, {"sent_at": None}),
        ("over", "m1", "p3", 25, State.SENT, {}),
        ("not sent", "m1", "p4", 1, State.RETRYING, {"sent_at": None}),
        ("code#pix", "m1", "p5", 1, State.SENT, {}),
        ("another's", "m3", "p6", 1, State.SENT, {}),
    ]
    for id_, name, person, hours, state, values in rows:
        at = now - timedelta(hours=hours)
        ledger_rows.notification(
            ledger, id_, state, at, **{"instance": name, "sent_at": at, "phone_hash": person, **values}
        )
    load(client, ledger)
    contacts.restore(client, ledger)
    began = dict(client.zrange(conversations_key("acme"), 0, -1, withscores=True))
    ago_h = {person.decode(): round((now.timestamp() * 1000 - ms) / 3_600_000) for person, ms in began.items()}
    assert ago_h == {"p1": 23, "p2": 1}
    assert (number_hash(client, "m2")["grupo"], number_hash(client, "m2")["conversas"]) == ("acme", "2")
    contacts.restore(client, ledger)
    assert client.zcard(conversations_key("acme")) == 2


def test_no_number_sends_before_the_people_of_today_are_back(
    ledger: Engine, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, "n1", preset=Preset.DIRECT)
    now = clock.now(client)
    for id_ in ("1", "2"):
        ledger_rows.notification(ledger, id_, State.SENT, now, instance="n1", sent_at=now, phone_hash=f"p{id_}")
    load(client, ledger)
    sent_to, waits_s = registry.sent_to, []

    def slowly(engine: Engine, since: datetime) -> Iterator[registry.SentTo]:
        for one in sent_to(engine, since):
            waits_s.append(float(client.get(SINCE) or 0) / 1000 - clock.now(client).timestamp())
            yield one

    monkeypatch.setattr(registry, "sent_to", slowly)
    client.set(SINCE, 0)
    contacts.restore(client, ledger)
    assert all(wait_s < 0 for wait_s in waits_s)
    waits_s.clear()
    contacts.restore(client, ledger, closed=True)
    assert len(waits_s) == 2
    assert all(STATEMENT_S < wait_s < 30 for wait_s in waits_s)
    later_ms = round(now.timestamp() * 1000) + 600_000
    client.set(SINCE, later_ms)
    contacts.restore(client, ledger, closed=True)
    assert client.get(SINCE) == b"%d" % later_ms  # another reason to wait is longer


def test_what_a_recorder_did_not_finish_to_restore_is_restored_by_the_next(
    ledger: Engine, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, "n1", preset=Preset.DIRECT)
    now = clock.now(client)
    ledger_rows.notification(ledger, "1", State.SENT, now, instance="n1", sent_at=now, phone_hash="p1", tenant="u1")
    with monkeypatch.context() as dying:
        dying.setattr(registry, "wrote_to", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            upkeep.Copy(client, ledger).keep()
    assert client.exists(GENERATION)
    assert float(client.get(SINCE) or 0) / 1000 > clock.now(client).timestamp() + 5
    assert not client.exists(PEOPLE)
    upkeep.Copy(client, ledger).keep()
    assert hash_of(client, senders_key("n1", month_of(now))) == {"p1": "u1"}
    assert client.exists(PEOPLE)
    with monkeypatch.context() as whole:
        whole.setattr(registry, "wrote_to", Mock(side_effect=AssertionError))
        upkeep.Copy(client, ledger).keep()  # a new recorder, and nothing is missing


def test_people_are_read_and_written_in_parts(
    ledger: Engine, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, "n1")
    now = clock.now(client)
    with ledger.begin() as connection:
        connection.execute(
            insert(notifications),
            [
                {
                    "id": f"m{n}", "instance": "n1", "tenant": f"u{n % 2}", "phone_hash": f"p{n}", "state": "sent",
                    "state_rank": 1, "state_ms": round(now.timestamp() * 1000), "state_seq": n, "attempts": 1,
                    "first_at": now, "last_at": now, "sent_at": now,
                }
                for n in range(30)
            ],
        )  # fmt: skip
    monkeypatch.setattr(contacts, "_PAGE", 7)
    monkeypatch.setattr(contacts, "_SAYS_EVERY_S", 0.0)
    with structlog.testing.capture_logs() as logs:
        contacts.restore(client, ledger)
        contacts.restore_senders(client, ledger)
    assert len(client.keys("ifinu:contato:*")) == 30
    assert hash_of(client, senders_key("n1", month_of(now))) == {f"p{n}": f"u{n % 2}" for n in range(30)}
    steps = [(count, False) for count in (7, 14, 21, 28, 30)] + [(30, True)]
    for what in ("today", "two months"):
        assert [(log["count"], log["done"]) for log in logs if log.get("what") == what] == steps


def test_after_a_flushall_a_number_knows_its_people_of_this_month_and_the_last(
    ledger: Engine, client: redis.Redis
) -> None:
    for name in ("n1", "n2"):
        add(ledger, name)
    now = clock.now(client)
    this = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = (this - timedelta(days=1)).replace(day=1)
    rows = [
        ("1", "n1", "p1", "u1", last, {}),
        ("2", "n1", "p1", "u2", this, {}),
        ("3", "n1", "p1", "u1", this + timedelta(seconds=1), {}),
        ("4", "n2", "p1", None, this - timedelta(seconds=1), {}),
        ("5", "n1", "p2", "u9", this, {}),
        ("too old", "n1", "p3", "u1", last - timedelta(seconds=1), {}),
        ("not sent", "n1", "p4", "u1", this, {"sent_at": None}),
        ("unregistered", "n3", "p5", "u1", this, {}),
    ]
    for id_, name, person, tenant, at, values in rows:
        values = {"instance": name, "sent_at": at, "phone_hash": person, "tenant": tenant, **values}
        ledger_rows.notification(ledger, id_, State.SENT, at, **values)
    this_month, last_month = (senders_key("n1", month_of(day)) for day in (this, last))
    client.hset(this_month, "p2", "u3")  # written after the loss
    contacts.restore_senders(client, ledger)
    assert hash_of(client, this_month) == {"p1": "u1", "p2": "u3"}
    assert hash_of(client, last_month) == {"p1": "u1"}
    assert hash_of(client, senders_key("n2", month_of(last))) == {"p1": ""}
    assert len(client.keys("ifinu:remetentes:*")) == 3
    assert 0 < client.pttl(last_month) <= SENDERS_TTL_MS


@pytest.mark.parametrize(("in_redis", "expected"), [(1, 3), (9, 9)])
def test_a_recount_keeps_the_higher_count(ledger: Engine, client: redis.Redis, in_redis: int, expected: int) -> None:
    add(ledger, "n1")
    sent_today(ledger, client)
    load(client, ledger)
    client.hset(number_key("n1"), mapping={"hoje": in_redis, "nesta_hora": in_redis})
    load(client, ledger)
    assert number_hash(client, "n1")["hoje"] == str(in_redis)
    load(client, ledger, recount=True)
    found = number_hash(client, "n1")
    assert (found["hoje"], found["nesta_hora"]) == (str(expected), str(expected))
    client.hset(number_key("n1"), mapping={"dia": 1, "hora": 1, "hoje": 50, "nesta_hora": 50})  # of another day
    load(client, ledger, recount=True)
    assert number_hash(client, "n1")["hoje"] == "3"


def test_a_copy_that_is_gone_or_old_is_not_current(ledger: Engine, client: redis.Redis) -> None:
    def current() -> bool:
        before = cache.is_current(client, ledger)
        load(client, ledger)
        assert cache.is_current(client, ledger)
        return before

    assert current()  # nothing is registered
    add(ledger, "n1")
    assert not current()
    client.flushall()
    assert not current()
    registry.change(ledger, "n1", tenant="u1")
    assert not current()
    registry.remove(ledger, "n1")
    assert not current()


def test_what_is_no_longer_registered_leaves_redis(ledger: Engine, client: redis.Redis) -> None:
    add(ledger, "n1", tenant="u1")
    add(ledger, "n2")
    load(client, ledger)
    registry.remove(ledger, "n1")
    load(client, ledger)
    assert (client.smembers(NUMBERS), client.exists(number_key("n1"))) == ({b"n2"}, 0)
    registry.remove(ledger, "n2")
    generation = load(client, ledger)
    assert generation == registry.read(ledger).generation
    assert client.keys("ifinu:*") == [GENERATION.encode()]  # by it, a worker learns that its numbers are gone
    assert (Directory.load(client).generation, len(Directory.load(client))) == (generation, 0)


def test_what_waited_for_the_last_number_goes_back_to_its_queue_in_its_order(
    ledger: Engine, client: redis.Redis
) -> None:
    add(ledger, "n1")
    load(client, ledger)
    client.hset(number_key("n1"), "livre", 10**15)
    names = {
        queue: [b'{"id": "%s %d", "instancia": "n1"}' % (queue.encode(), n) for n in range(250)] for queue in QUEUES
    }
    for queue, messages in names.items():
        client.lpush(queue, *messages)
    fetch = [key for queue in QUEUES for key in Keys.of(queue)]
    for _ in range(3):
        script("fetch")(client, fetch, (10, 60_000, "t.", client.get(GENERATION), 0.5, 300, ""))
    registry.remove(ledger, "n1")
    assert lanes.total(client, NORMAL) == 250
    load(client, ledger)
    assert {queue: client.lrange(queue, 0, -1)[::-1] for queue in QUEUES} == names
    assert sorted(client.keys("ifinu:*")) == sorted(name.encode() for name in (*QUEUES, GENERATION, *NO_LANES))


def test_what_a_removed_number_still_sends_does_not_count_for_a_later_one_of_its_name(
    ledger: Engine, client: redis.Redis
) -> None:
    for name in ("n1", "n2"):
        add(ledger, name)
    load(client, ledger)
    client.hset(number_key("n1"), "livre", 0)
    client.lpush(NORMAL, b'{"instancia": "n1"}')
    keys = Keys.of(NORMAL)
    script("fetch")(client, keys, (10, 60_000, "t.", client.get(GENERATION), 0.5, 300, ""))
    registry.remove(ledger, "n1")
    load(client, ledger)
    add(ledger, "n1")
    load(client, ledger)
    script("give_back")(client, (keys.ready, keys.in_flight, keys.deadlines), ("t.001", ""))
    assert number_hash(client, "n1")["hoje"] == "0"  # it is not one below


def test_what_waits_for_a_lost_number_stays_while_others_are_registered(ledger: Engine, client: redis.Redis) -> None:
    for name in ("n1", "n2"):
        add(ledger, name)
    load(client, ledger)
    client.lpush(NORMAL, b'{"instancia": "n1"}', b'{"instancia": "n1"}')
    script("fetch")(client, Keys.of(NORMAL), (10, 60_000, "t.", client.get(GENERATION), 0.5, 300, ""))
    registry.remove(ledger, "n1")
    load(client, ledger)
    assert lanes.waiting(client) == {"n1": 2}  # else they would leave without a pace


def test_while_nothing_is_registered_nothing_is_written(ledger: Engine, client: redis.Redis) -> None:
    assert load(client, ledger) == ""
    assert client.keys() == []


def test_many_loaders_at_once_leave_one_whole_copy(ledger: Engine, client: redis.Redis) -> None:
    for n in range(5):
        add(ledger, f"n{n}", tenant=f"u{n % 2}")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(load(client, ledger))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [registry.read(ledger).generation] * 8
    assert len(Directory.load(client)) == 5


def test_a_loader_that_lost_its_lock_writes_nothing_more(
    ledger: Engine, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It starts again, with the registry as it is by then.
    """
    add(ledger, "n1")
    real, reads = registry.read, []

    def slowly(engine: Engine) -> registry.Registry:
        found = real(engine)
        reads.append(found.generation)
        if len(reads) == 1:  # the lock expires, and the registry changes
            client.delete(LOADING)
            add(ledger, "n2")
        return found

    monkeypatch.setattr(registry, "read", slowly)
    assert load(client, ledger) == reads[1] != reads[0]
    assert client.smembers(NUMBERS) == {b"n1", b"n2"}


def test_a_loader_waits_for_another_and_gives_up_in_the_end(
    ledger: Engine, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, "n1")
    monkeypatch.setattr(cache, "_WAIT_S", 0.2)
    client.set(LOADING, "another")
    with pytest.raises(BrokerUnavailable, match="another process"):
        load(client, ledger)
    client.pexpire(LOADING, 100)
    assert load(client, ledger)


KILLED_MIDWAY = """
import sys, time
import redis
from ifinu.ledger.engine import connect
from ifinu.numbers import cache

url, database = sys.argv[1:]
client = redis.Redis.from_url(url)
real, steps = cache._step, []

def step(*args, **part):
    if len(steps) == 2:
        client.set("halfway", 1)
        time.sleep(60)
    steps.append(1)
    real(*args, **part)

cache._step, cache._PART = step, 2
cache.load(client, connect(database))
"""


@pytest.fixture
def halfway(ledger: Engine, client: redis.Redis, valkey: Any, ledger_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A loader that has written four of nine numbers."""
    for n in range(9):
        add(ledger, f"n{n}")
    process = subprocess.Popen([sys.executable, "-c", KILLED_MIDWAY, valkey.url, ledger_url], env=os.environ)
    try:
        wait_until(lambda: client.exists("halfway"))
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_loader_killed_midway_leaves_nothing_visible_and_the_next_completes(
    halfway: subprocess.Popen[bytes],
    client: redis.Redis,
    ledger: Engine,
) -> None:
    halfway.send_signal(signal.SIGKILL)
    halfway.wait()
    assert client.scard(NUMBERS) == 4
    assert not client.exists(GENERATION)
    assert Directory.load(client) is EMPTY
    assert 0 < client.pttl(LOADING) <= 15_000
    client.pexpire(LOADING, 200)
    load(client, ledger)
    assert len(Directory.load(client)) == 9


# -- the directory


def test_the_directory_says_who_may_send_from_what(ledger: Engine, client: redis.Redis) -> None:
    add(ledger, "n1", tenant="u1")
    add(ledger, "n2", tenant="u1", channel=Channel.BUSINESS)
    add(ledger, "n3", tenant="u1", banned_at=NOW)
    add(ledger, "shared")
    load(client, ledger)
    found = Directory.load(client)
    assert found.generation == registry.read(ledger).generation
    assert (found.number("n2").channel, found.number("n2").tenant, found.number("other")) == ("BUSINESS", "u1", None)
    assert {
        (tenant, name): found.allowed(tenant, name)
        for tenant in ("u1", "u2", "", None)
        for name in ("n1", "n3", "shared", "other")
    } == {
        ("u1", "n1"): True, ("u1", "n3"): True, ("u1", "shared"): True, ("u1", "other"): True,
        ("u2", "n1"): False, ("u2", "n3"): False, ("u2", "shared"): True, ("u2", "other"): True,
        ("", "n1"): False, ("", "n3"): False, ("", "shared"): True, ("", "other"): True,
        (None, "n1"): False, (None, "n3"): False, (None, "shared"): True, (None, "other"): True,
    }  # fmt: skip
    assert (found.numbers_of("u1"), found.numbers_of("u2"), found.numbers_of(None)) == (("n1", "n2"), (), ())
    registry.change(ledger, "n1", banned_at=NOW)
    registry.change(ledger, "n2", banned_at=NOW)
    load(client, ledger)  # a ban takes effect though Redis knows the number
    assert Directory.load(client).numbers_of("u1") == ("n1",)  # its messages wait there
    assert (found.tenant("u1").policy, found.tenant("u1").weight) == ("fixo", 1)


def test_the_empty_directory_allows_everything() -> None:
    assert (EMPTY.generation, len(EMPTY), EMPTY.allowed("u1", "n1"), EMPTY.number("n1")) == ("", 0, True, None)


def test_a_directory_is_read_again_if_the_registry_changes_meanwhile(
    ledger: Engine, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, "n1", tenant="u1")
    load(client, ledger)
    real, asked = client.smembers, []

    def smembers(key: str) -> Any:
        found = real(key)
        if not asked:
            asked.append(key)
            registry.change(ledger, "n1", tenant="u2")
            load(client, ledger)
            asked.append(key)
        return found

    monkeypatch.setattr(client, "smembers", smembers)
    assert Directory.load(client).allowed("u2", "n1")
    assert not Directory.load(client).allowed("u1", "n1")


def test_names_may_hold_any_character_but_a_colon(ledger: Engine, client: redis.Redis) -> None:
    name, tenant = 'Loja "do" João 1\\2', "ação: {}%"
    add(ledger, name, tenant=tenant)
    load(client, ledger)
    found = Directory.load(client)
    assert found.numbers_of(tenant) == (name,)
    assert json.loads(client.hget(tenant_key(tenant), "numeros")) == [name]
    assert client.smembers(TENANTS) == {tenant.encode()}
