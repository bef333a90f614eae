"""
Registered numbers with real workers: each message goes by its tenant's number, at that number's pace.

The simulator's own figures are the judge.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from processes import Fleet, Queue, Simulated, stopping, wait_until
from sqlalchemy import Engine

from ifinu.broker import NORMAL, lanes
from ifinu.broker.keys import number_key
from ifinu.numbers import cache, registry
from ifinu.numbers.presets import Preset
from ifinu.numbers.registry import Number

NAMES = ("a1", "a2", "b1", "ifinu")
GAP_MS = 200


@pytest.fixture
def simulator(tmp_path: Any) -> Any:
    names = (part for name in NAMES for part in ("--instance", name))
    with stopping(Simulated(tmp_path, "--plain", *names)) as server:
        yield server


@pytest.fixture
def register(ledger: Engine, client: redis.Redis) -> Callable[..., None]:
    """Register numbers of tenants, and load them into Redis. Their gap is 0.2 s."""

    def register(**tenants: str | None) -> None:
        for name, tenant in tenants.items():
            overrides = {"parallel": 1, "gap_min_ms": GAP_MS, "gap_max_ms": GAP_MS}
            registry.register(
                ledger, Number(name, datetime.now(UTC), tenant, preset=Preset.DIRECT, overrides=overrides)
            )
        cache.load(client, ledger)
        for name in tenants:  # a new number waits for its longest gap first
            client.hset(number_key(name), "livre", 0)

    return register


def message(number: int, **fields: Any) -> bytes:
    return json.dumps(
        {"id": f"n{number}", "tipo_notificacao": "lembrete", "telefone": f"77998{number:06d}", "texto": "Olá", **fields}
    ).encode()


def by_instance(simulator: Simulated) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for send in simulator.sends():
        found.setdefault(send.instance, []).append(send.number)
    return found


def test_each_tenants_messages_go_by_its_numbers_at_their_pace_and_others_as_ever(
    fleet: Fleet, queue: Queue, simulator: Simulated, client: redis.Redis, register: Callable[..., None]
):
    register(a1="a", a2="a", b1="b")
    queue.push(*(message(n, usuario_id="a") for n in range(12)), *(message(n, usuario_id="b") for n in range(12, 18)))
    queue.push(*(message(n) for n in range(18, 38)))
    for _ in range(2):
        fleet.start().ready()
    wait_until(lambda: simulator.total() == 38 and queue.idle(), seen=lambda: (simulator.total(), queue.counts()))
    sent = by_instance(simulator)
    assert {name: len(numbers) for name, numbers in sent.items() if name in ("b1", "ifinu")} == {"b1": 6, "ifinu": 20}
    assert len(sent["a1"]) + len(sent["a2"]) == 12
    figures = simulator.control.numbers()
    for name in ("a1", "a2", "b1"):
        assert figures[name]["most_in_flight"] == 1
        assert figures[name]["least_gap_s"] is None or figures[name]["least_gap_s"] >= GAP_MS / 1000
    assert lanes.total(client, NORMAL) == 0
    assert queue.dead() == []


def test_a_number_without_a_gap_sends_its_next_message_as_soon_as_one_is_sent(
    fleet: Fleet, queue: Queue, simulator: Simulated, client: redis.Redis, register: Callable[..., None]
):
    register(a1="a")
    client.hset(number_key("a1"), mapping={"min": 0, "max": 0})
    queue.push(*(message(n, usuario_id="a") for n in range(60)))
    fleet.start(IFINU_RATE_LIMIT="1000/s", IFINU_RATE_BURST="100").ready()
    wait_until(lambda: simulator.total() == 60 and queue.idle(), seen=lambda: (simulator.total(), queue.counts()))
    at = sorted(send.at_monotonic for send in simulator.sends())
    between = [later - earlier for earlier, later in itertools.pairwise(at)]
    # Redis ends a wait up to 0.1 s late; a busy machine may be late too, but not each time.
    assert statistics.quantiles(between, n=10)[0] < 0.04


def test_no_door_leads_through_another_tenants_number(
    fleet: Fleet, queue: Queue, simulator: Simulated, client: redis.Redis, register: Callable[..., None]
):
    """
    The doors: a message that names the number, one in its lane, the instance of the settings, and a retry whose header
    says another tenant.
    """
    register(a1="a", b1="b")
    queue.push(message(1, usuario_id="a", instancia="b1"))
    lane = f"{NORMAL}:espera:b1:b"
    client.lpush(lane, message(2, usuario_id="a"))  # as if it had been routed to the wrong lane
    client.lpush(f"{number_key('b1')}:roda:{NORMAL}", "b")
    client.zadd(f"{NORMAL}:turnos", {"b1": 0})
    client.incr(f"{NORMAL}:na_espera")
    queue.push(message(3, usuario_id="c"))
    envelope = {
        "body": json.dumps([[json.loads(message(4, usuario_id="a", instancia="b1"))], {}, {}]),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"id": "n4", "task": "ifinu.send_notification", "ifinu_linha": "b\tb1\t98000004"},
        "properties": {"body_encoding": "utf-8"},
    }
    queue.push(json.dumps(envelope).encode())
    fleet.start(IFINU_EVOLUTION_INSTANCE="b1").ready()
    wait_until(lambda: len(queue.dead()) == 3 and simulator.total() == 1, seen=lambda: (queue.dead(), queue.counts()))
    assert by_instance(simulator) == {"a1": ["557798000002"]}
    assert {letter["reason"] for letter in queue.dead()} == {"wrong_tenant"}


def test_a_disconnected_number_is_held_for_all_workers_and_keeps_its_order(
    fleet: Fleet, queue: Queue, simulator: Simulated, client: redis.Redis, register: Callable[..., None]
):
    register(a1="a", b1="b")
    simulator.control.set_instance("a1", state="close")
    for _ in range(2):
        fleet.start().ready()
    queue.push(*(message(n, usuario_id="a") for n in range(10)))
    wait_until(lambda: client.hget(number_key("a1"), "motivo") is not None)
    queue.push(*(message(n, usuario_id="b") for n in range(10, 14)))
    wait_until(lambda: simulator.total() == 4)  # the other number's flow meanwhile
    wait_until(lambda: lanes.total(client, NORMAL) == 10, seen=queue.counts)
    assert set(by_instance(simulator)) == {"b1"}
    posts = simulator.control.summary()["posts"]["total"]
    assert posts - simulator.total() <= 2  # one tried it, and at most one that was on its way
    simulator.control.set_instance("a1", state="open")
    lanes.release(client, "a1")
    wait_until(lambda: simulator.total() == 14 and queue.idle(), seen=queue.counts)
    assert by_instance(simulator)["a1"] == [f"557798{n:06d}" for n in range(10)]
    assert queue.dead() == []
