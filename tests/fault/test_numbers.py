"""
Registered numbers under load and under faults: paces, caps and turns hold.

The simulator judges: by its record of sends, and by its rules, which ban a number that is driven too fast.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from figures import Figures, judge, recorded
from processes import FIRST_NUMBER, Fleet, Queue, Simulated, fleet_of, raw, redis_server, start, stopping, wait_until
from sqlalchemy import Engine, text
from waiting import zone_amid_an_hour

from ifinu.broker import lanes
from ifinu.broker.keys import EVENTS, GENERATION, claim_key, number_key
from ifinu.ledger import queries
from ifinu.numbers import cache, registry
from ifinu.numbers.presets import Preset
from ifinu.numbers.registry import Number
from ifinu.simulator import Send

Pace = dict[str, int]
Register = Callable[..., None]

MOST = 50  # instances of the simulator
# The query of the runbook: what a producer does not push again after a FLUSHALL.
ENDED = "SELECT id FROM notifications WHERE state NOT IN ('queued', 'retrying', 'deferred', 'unknown', 'dead')"
PROMISED_S = 5.0  # within which a message goes out behind another number's flood
PROBE_S = 5.0  # from a failure until a number is tried again, the first time

STEADY: Pace = {"parallel": 1, "gap_min_ms": 60, "gap_max_ms": 150}
SIDE_BY_SIDE: Pace = {"parallel": 3, "gap_min_ms": 0, "gap_max_ms": 0}
PAIRED: Pace = {"parallel": 2, "gap_min_ms": 50, "gap_max_ms": 100}
CAPPED: Pace = {"parallel": 1, "gap_min_ms": 30, "gap_max_ms": 60, "per_day": 40}
AN_HOUR = 5  # an eighth of that
SHY: Pace = {"parallel": 1, "gap_min_ms": 20, "gap_max_ms": 40, "new_chats": 4}
PACES = STEADY, SIDE_BY_SIDE, CAPPED, SHY, PAIRED

# All that wait, in one look: else one that moves meanwhile is seen twice or not at all.
_WAITING = """
local found = {}
local function add(messages)
  for _, each in ipairs(messages) do
    found[#found + 1] = each
  end
end
add(redis.call('LRANGE', KEYS[1], 0, -1))
add(redis.call('ZRANGE', KEYS[2], 0, -1))
for _, lane in ipairs(redis.call('KEYS', KEYS[1] .. ':espera:*')) do
  add(redis.call('LRANGE', lane, 0, -1))
end
return found
"""


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulated]:
    names = (part for i in range(MOST) for part in ("--instance", f"n{i}"))
    with stopping(Simulated(tmp_path, "--plain", "--insert-ms", "5", *names)) as server:
        yield server


@pytest.fixture
def ledger_url(tmp_path: Path, _sqlite_template: Path) -> str:
    return f"sqlite:///{shutil.copy(_sqlite_template, tmp_path / 'ledger.db')}"


@pytest.fixture
def register(ledger: Engine) -> Register:
    """Register numbers by their paces, and load them into Redis."""
    zone = zone_amid_an_hour()

    def register(client: redis.Redis, paces: dict[str, Pace], tenants: dict[str, str] | None = None) -> None:
        for name, pace in paces.items():
            tenant = (tenants or {}).get(name)
            now = datetime.now(UTC)
            registry.register(ledger, Number(name, now, tenant, zone=zone, preset=Preset.DIRECT, overrides=pace))
        cache.load(client, ledger)

    return register


def banning(paces: dict[str, Pace]) -> dict[str, dict[str, Any]]:
    """The rules by which WhatsApp bans a number for its first breach of its pace."""
    rules: dict[str, dict[str, Any]] = {}
    for name, pace in paces.items():
        rules[name] = {"ban_after": 1}
        if pace["parallel"] == 1:  # of two at once, the second follows at once
            rules[name]["gap_ms"] = pace["gap_min_ms"]
        if "new_chats" in pace:
            rules[name]["new_chats"] = pace["new_chats"]
    return rules


def message(i: int, **fields: Any) -> bytes:
    """A message to the phone of that number, as `processes.numbered` makes them."""
    return raw(i, telefone=f"77 9{FIRST_NUMBER + i}", **fields)


def which(send: Send) -> int:
    return int(send.number[-8:]) - FIRST_NUMBER


def breaches(simulator: Simulated, paces: dict[str, Pace]) -> dict[str, Any]:
    """What each number did that its pace forbids, and what WhatsApp holds against it; empty if all is well."""
    figures = simulator.control.numbers()
    found = {}
    for name, pace in paces.items():
        seen = figures[name]
        gap_s = seen["least_gap_s"]
        broken = {
            "in flight": seen["most_in_flight"] > pace["parallel"],
            # Of two at once, one may be on its way when the other ends.
            "gap": pace["parallel"] == 1 and gap_s is not None and gap_s * 1000 < pace["gap_min_ms"],
            "cap": "per_day" in pace and seen["sends"] > AN_HOUR,
            "new chats": seen["people"] > pace.get("new_chats", seen["people"]),
            "judged": seen["banned"] or any(seen["breaches"].values()),
        }
        if any(broken.values()):
            found[name] = {"broken": [what for what, is_so in broken.items() if is_so], **seen}
    return found


def posts(simulator: Simulated) -> int:
    return int(simulator.control.summary()["posts"]["total"])


def waiting(queue: Queue) -> frozenset[str]:
    """The ids of all messages that wait: on the list, for their time, in lanes."""
    found = [json.loads(each) for each in queue.client.eval(_WAITING, 2, queue.keys.ready, queue.keys.delayed)]
    ids = [each["headers"]["id"] if "headers" in each else each["id"] for each in found]
    assert len(ids) == len(set(ids))
    return frozenset(ids)


def settled(queue: Queue) -> bool:
    counts = queue.counts()
    return not (counts["ready"] or counts["in_flight"])


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_no_number_breaks_its_gap_its_cap_or_its_parallel_sends_whatever_the_number_of_workers(
    fleet: Fleet, queue: Queue, simulator: Simulated, register: Register, sized, report
):
    """
    Each second number is a tenant's, whose messages name the tenant alone. A cap of 40 a day allows 5 an hour.
    """
    workers, numbers, each = sized((3, 10, 12), (20, MOST, 200))
    paces = {f"n{i}": PACES[i % len(PACES)] for i in range(numbers)}
    register(queue.client, paces, {f"n{i}": f"t{i}" for i in range(0, numbers, 2)})
    simulator.control.set_fault(latency_ms={"uniform": [5, 60]}, bans=banning(paces))
    total = numbers * each

    def addressed(i: int) -> dict[str, str]:
        number = i % numbers
        return {"instancia": f"n{number}"} if number % 2 else {"usuario_id": f"t{number}"}

    queue.push(*(message(i, **addressed(i)) for i in range(total)))
    for worker in [fleet.start() for _ in range(workers)]:
        worker.ready(120)
    most = {
        name: min(each, pace.get("new_chats", each), AN_HOUR if "per_day" in pace else each)
        for name, pace in paces.items()
    }
    wait_until(
        lambda: simulator.total() >= sum(most.values()) and settled(queue),
        sized(60, 600),
        lambda: (simulator.total(), queue.counts(), breaches(simulator, paces)),
    )
    time.sleep(1)  # for what may go beyond
    assert breaches(simulator, paces) == {}
    assert {name: seen["sends"] for name, seen in simulator.control.numbers().items() if name in paces} == most
    figures = judge(queue, simulator, total, waiting=waiting(queue))
    left = len(figures.waiting)
    report("numbers with gaps and caps", f"{workers} workers, {numbers} numbers, {left:,} wait for a cap", figures)
    assert figures.harm() == {}
    assert figures.letters == 0
    assert left == total - sum(most.values())
    assert all(send.instance == f"n{which(send) % numbers}" for send in simulator.sends())


@pytest.mark.fault
@pytest.mark.timeout(1200)
def test_a_flood_for_one_number_delays_no_other_number(
    fleet: Fleet, queue: Queue, simulator: Simulated, register: Register, sized, report
):
    """
    All messages of the one tenant are on the list before the ten of the other, and workers find all at the same time.
    """
    flood, workers = sized((3_000, 2), (100_000, 8))
    gap_ms = 200
    slow: Pace = {"parallel": 1, "gap_min_ms": gap_ms, "gap_max_ms": gap_ms}
    register(queue.client, {"n0": slow, "n1": slow | {"gap_min_ms": 0, "gap_max_ms": 0}}, {"n0": "a", "n1": "b"})
    queue.client.set(queue.keys.paused, 1)
    queue.push(*(message(i, usuario_id="a") for i in range(flood)))
    queue.push(*(message(flood + i, usuario_id="b") for i in range(10)))
    for worker in [fleet.start() for _ in range(workers)]:
        worker.ready(120)
    queue.client.delete(queue.keys.paused)
    began = time.monotonic()
    wait_until(
        lambda: simulator.control.numbers()["n1"]["sends"] == 10,
        sized(60, 120),
        lambda: (simulator.total(), queue.counts(), lanes.counts(queue.client)),
        every_s=0.2,
    )
    sends = simulator.sends()
    waits = sorted(send.at_monotonic - began for send in sends if send.instance == "n1")
    before = [send.instance for send in sends if send.at_monotonic - began <= waits[-1]].count("n0")
    assert before <= PROMISED_S * 1000 / gap_ms  # in the time of so many turns of the other number
    if sized(False, True):
        assert statistics.quantiles(waits, n=20)[-1] < PROMISED_S
    queue.client.set(queue.keys.paused, 1)
    wait_until(lambda: queue.counts()["in_flight"] == 0, 30, queue.counts)
    figures = judge(queue, simulator, flood + 10, waiting=waiting(queue))
    report("ten messages behind a flood", f"{before} of the flood sent before the last of them", figures)
    assert figures.harm() == {}
    assert figures.letters == 0


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_tenants_that_share_a_number_take_turns_whatever_the_one_has_queued(
    fleet: Fleet, queue: Queue, simulator: Simulated, register: Register, sized, report
):
    flood = sized(3_000, 20_000)
    pace: Pace = {"parallel": 1, "gap_min_ms": 100, "gap_max_ms": 100}
    register(queue.client, {"n0": pace})
    queue.client.set(queue.keys.paused, 1)
    queue.push(*(message(i, usuario_id="a", instancia="n0") for i in range(flood)))
    queue.push(*(message(flood + i, usuario_id="b", instancia="n0") for i in range(10)))
    for worker in [fleet.start() for _ in range(2)]:
        worker.ready()
    queue.client.delete(queue.keys.paused)
    wait_until(lambda: flood + 9 in map(which, simulator.sends()), 60, queue.counts)
    order = [which(send) for send in simulator.sends()]
    first, last = order.index(flood), order.index(flood + 9)
    queue.client.set(queue.keys.paused, 1)
    wait_until(lambda: queue.counts()["in_flight"] == 0, 30, queue.counts)
    figures = judge(queue, simulator, flood + 10, waiting=waiting(queue))
    report("tenants that share a number", "10 messages behind a flood", figures)
    assert figures.harm() == {}
    assert order[first : last + 1 : 2] == list(range(flood, flood + 10))
    others = [i for i in order if i < flood]
    assert others == list(range(len(others)))
    assert first <= PROMISED_S * 1000 / pace["gap_min_ms"]
    assert last - first == 18


@pytest.mark.fault
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("parallel", [1, 3])
def test_a_number_that_dies_with_its_queue_full_is_asked_no_more_and_sends_all_in_order_when_it_is_back(
    fleet: Fleet, queue: Queue, simulator: Simulated, register: Register, sized, report, parallel: int
):
    """
    The calls that it gets after its death are those that were on their way, and a probe from time to time. The order is
    strict with one at a time.
    """
    messages = sized(300, 10_000 if parallel > 1 else 3_000)
    paces: dict[str, Pace] = {
        "n0": {"parallel": parallel, "gap_min_ms": 0, "gap_max_ms": 0},
        "n1": {"parallel": 1, "gap_min_ms": 20, "gap_max_ms": 40},
    }
    register(queue.client, paces, {"n0": "a", "n1": "b"})
    simulator.control.set_fault(latency_ms={"uniform": [2, 10]}, bans=banning({"n1": paces["n1"]}))
    queue.push(*(message(i, usuario_id="a") for i in range(messages)))
    for worker in [fleet.start(IFINU_RATE_LIMIT="200/s") for _ in range(sized(2, 4))]:
        worker.ready(120)
    wait_until(lambda: simulator.total() > messages // 10, 60, queue.counts)

    simulator.control.set_instance("n0", state="close")
    died, before = time.monotonic(), posts(simulator)
    queue.push(*(message(messages + i, usuario_id="b") for i in range(30)))
    wait_until(lambda: simulator.control.numbers()["n1"]["sends"] == 30, 60, queue.counts)
    wait_until(lambda: settled(queue), 60, queue.counts)
    further, probes = posts(simulator) - before - 30, int((time.monotonic() - died) / PROBE_S)
    assert further <= parallel * (1 + probes)
    # But for a moment in which one of them is a probe.
    wait_until(lambda: simulator.control.numbers()["n0"]["sends"] + len(waiting(queue)) == messages, 20, queue.counts)

    simulator.control.set_instance("n0", state="open")
    lanes.release(queue.client, "n0")
    wait_until(
        lambda: simulator.total() == messages + 30 and queue.idle(),
        sized(60, 600),
        lambda: (queue.counts(), lanes.counts(queue.client)),
    )
    figures = judge(queue, simulator, messages + 30)
    report("a number dies with its queue full", f"{further} further calls", figures)
    assert figures.harm() == {}
    assert figures.letters == 0
    assert breaches(simulator, paces) == {}
    order = [which(send) for send in simulator.sends() if send.instance == "n0"]
    if parallel == 1:
        assert order == list(range(messages))


@contextlib.contextmanager
def recording(fleet: Fleet, log: Path) -> Iterator[None]:
    """`ifinu recorder` as a process."""
    process = start("ifinu", ["recorder"], {**os.environ, **fleet.environment}, log)
    try:
        wait_until(lambda: "ifinu.recorder.started" in log.read_text(), 40, log.read_text)
        yield
    finally:
        process.kill()
        process.wait(20)


def flush(queue: Queue, ids: list[str]) -> set[str]:
    """Empty Redis. Returns those of the ids that were being sent or in doubt, or of which an event was not recorded."""
    with queue.client.pipeline(transaction=True) as at_once:
        at_once.xrange(EVENTS)
        for id_ in ids:
            at_once.hget(claim_key(id_), "state")
        at_once.flushall()
        unread, *states, _ = at_once.execute()
    doubted = {id_ for id_, state in zip(ids, states, strict=True) if state in (b"sending", b"unknown")}
    return doubted | {fields[b"id"].decode() for _, fields in unread}


def harm_beyond(figures: Figures, doubted: set[str]) -> dict[str, Any]:
    """The violations, but for what the ledger may lack of messages that a `FLUSHALL` interrupted."""
    found = figures.harm()
    for name in ("unresolved", "unreported"):
        if name in found and not (ids := found.pop(name)) <= doubted:
            found[name] = ids - doubted
    return found


def test_the_runbook_has_the_query():
    assert ENDED in Path("docs/runbook.md").read_text()


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_workers_and_redis_that_are_killed_and_a_flushall_break_no_cap_and_lose_and_repeat_nothing(
    tmp_path: Path, simulator: Simulated, ledger: Engine, ledger_url: str, register: Register, sized, report
):
    """
    A worker dies every 2 s, Redis now and then, and once somebody runs FLUSHALL. The ledger names what that took, and
    the producers push it again. Messages of the capped number that have not gone are in its lane.
    """
    each, least, restarts = sized((40, 2, 1), (1_500, 20, 5))
    names = {f"n{i}": pace for i, pace in enumerate((STEADY, SIDE_BY_SIDE, PAIRED, CAPPED))}
    sending = 3 * each
    messages = {f"test_{i}": message(i, instancia=f"n{i % 3}") for i in range(sending)}
    messages |= {f"test_{sending + i}": message(sending + i, instancia="n3") for i in range(40)}
    draw = random.Random(11)
    simulator.control.set_fault(latency_ms={"uniform": [5, 60]}, bans=banning(names))
    with (
        redis_server(tmp_path / "redis") as server,
        redis.Redis.from_url(server.url) as client,
        stopping(fleet_of(tmp_path, server.url, simulator.url)) as fleet,
    ):
        # A worker that starts after the FLUSHALL waits for the registry.
        fleet.environment |= {"IFINU_DATABASE_URL": ledger_url, "IFINU_NUMBERS": "registered"}
        queue = Queue(client)
        register(client, names)

        def capped() -> int:
            return sum(send.instance == "n3" for send in simulator.sends())

        def cap_is_recorded() -> bool:
            hour = client.hget(number_key("n3"), "nesta_hora")
            is_calm = hour == b"%d" % AN_HOUR and not client.scard(f"{number_key('n3')}:voo")
            done = registry.activity(ledger, ["n3"], datetime(2020, 1, 1, tzinfo=UTC)) if is_calm else {}
            return bool(done) and done["n3"].sent == capped()

        def taken() -> set[str]:
            """What the ledger does not know as ended, once it has what it can have."""
            wait_until(lambda: client.exists(GENERATION) and not client.xlen(EVENTS), 60, lambda: client.xlen(EVENTS))
            with ledger.connect() as connection:
                return messages.keys() - set(connection.execute(text(ENDED)).scalars())

        with recording(fleet, tmp_path / "recorder.log"):
            alive = [fleet.start() for _ in range(sized(2, 4))]
            for worker in alive:
                worker.ready(120)
            queue.push(*messages.values())
            kills = deaths = 0
            doubted: set[str] | None = None
            while simulator.total() < sending or kills < least:
                time.sleep(2)
                if doubted is None and simulator.total() * 3 > sending:
                    wait_until(cap_is_recorded, 60, lambda: (capped(), client.hgetall(number_key("n3"))))
                    doubted = flush(queue, list(messages))
                    lost = taken()
                    sent = {f"test_{which(send)}" for send in simulator.sends()}
                    assert messages.keys() - sent <= lost
                    assert lost & sent <= doubted
                    assert lost - sent
                    queue.push(*(messages[id_] for id_ in messages if id_ in lost - sent))
                victim = draw.choice(wait_until(lambda: [worker for worker in alive if worker.is_ready()], 60))
                alive.remove(victim)
                victim.kill()
                alive.append(fleet.start())
                kills += 1
                if deaths < restarts and simulator.total() * (restarts + 1) > sending * (deaths + 1):
                    server.kill()
                    server.start()
                    deaths += 1
                assert kills < 2_000
            wait_until(lambda: queue.idle(besides="n3"), 120, lambda: (queue.counts(), lanes.counts(client)))
            left = taken()
            gaps = queries.found_gaps(ledger, datetime(2020, 1, 1, tzinfo=UTC))
        figures = judge(queue, simulator, len(messages), recorded(ledger_url), waiting=waiting(queue))
        report(
            "kill -9 of workers and of Redis and a FLUSHALL, with numbers",
            f"{kills} and {deaths} kills; FLUSHALL took {len(lost)}",
            figures,
        )
        assert deaths == restarts
        assert doubted is not None
        assert harm_beyond(figures, doubted) == {}
        assert breaches(simulator, names) == {}
        assert [gap.cause for gap in gaps] == ["group_gone"]
        assert figures.waiting <= left <= figures.waiting | doubted
        assert 0 < capped() <= AN_HOUR
        assert capped() + len(figures.waiting) == 40
        assert collections.Counter(send.instance for send in simulator.sends())["n0"] == each
        assert client.scard(f"{number_key('n0')}:voo") == 0
