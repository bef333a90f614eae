"""
The guard's passes, on a real Redis and both kinds of ledger.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import ledger_rows as rows
import pytest
import structlog
from processes import wait_until
from sqlalchemy import create_engine, event

from ifinu.broker import clock, lanes
from ifinu.broker.keys import EVENTS, GENERATION, answers_key, number_key
from ifinu.ledger import schema
from ifinu.ledger.entries import Entry
from ifinu.ledger.progress import Progress
from ifinu.ledger.states import State
from ifinu.numbers import cache, registry, upkeep
from ifinu.numbers.directory import BANNED, DISCONNECTED
from ifinu.numbers.guard import Memory, Move
from ifinu.numbers.guarded_recorder import guarding
from ifinu.numbers.patrol import Patrol, Risk, risks
from ifinu.numbers.registry import UNTIL_RELEASED, Number
from ifinu.numbers.signals import Reader
from ifinu.settings import load

HOUR = timedelta(hours=1)


@pytest.fixture
def now(client):
    return clock.now(client)


@pytest.fixture
def guard(client, ledger, now):
    """A guard of two numbers, `n1` and `n2`, that Redis knows."""
    for name in ("n1", "n2"):
        registry.register(ledger, Number(name, registered_at=now, paired_at=now - timedelta(days=90)))
    cache.load(client, ledger)
    return Patrol(client, ledger)


def throttle(ledger, at, times, instance="n1"):
    for number in range(times):
        rows.event(ledger, f"e{number}", "deferred", at, seq=number, reason="throttled", instance=instance)


def in_redis(client, name="n1"):
    brake, until, reason, chats = client.hmget(number_key(name), "fator", "presa", "motivo", "novos")
    return float(brake or 1), int(until or 0), (reason or b"").decode(), int(chats)


def run(guard, **how):
    judged, at = guard.look(**how)
    return {each.number.name: [step.move for step in each.steps] for each in guard.act(judged, at)}


def steps_in_stream(client):
    return [Entry.read(id_, fields).event.data for id_, fields in client.xrange(EVENTS)]


def figures_of(guard, name):
    judged, _ = guard.look()
    return next(each.figures for each in judged if each.number.name == name)


def test_a_calm_pass_changes_nothing(guard, client, ledger):
    before = registry.read(ledger), client.hgetall(number_key("n1"))
    assert run(guard) == {}
    assert (registry.read(ledger), client.hgetall(number_key("n1"))) == before
    assert client.xlen(EVENTS) == 0


def test_a_message_that_opened_a_chat_is_looked_for_only_where_one_has_failed(guard, client, ledger, now):
    """Its event is one look-up for each message, and most numbers have no error."""
    asked: list[str] = []
    event.listen(ledger, "before_cursor_execute", lambda *about: asked.append(about[2]))
    at = now - timedelta(minutes=5)
    for number in range(3):
        rows.notification(ledger, f"m{number}", State.SENT, at, instance="n1", sent_at=at, key_id=f"K{number}")
        rows.event(ledger, f"m{number}", "sent", at, seq=number, new=number > 0)
    n = figures_of(guard, "n1")
    assert (n.sent, n.new) == (3, 0)
    assert not any("opens" in statement for statement in asked)
    late = {"instance": "n1", "sent_at": at, "key_id": "K", "failed_at": at + timedelta(seconds=200)}
    rows.notification(ledger, "late", State.FAILED, at, **late)
    n = figures_of(guard, "n1")
    assert (n.sent, n.new, n.new_errors, n.known_errors) == (4, 2, 0, 1)
    assert any("opens" in statement for statement in asked)


def test_the_guard_reads_the_sends_of_its_numbers_and_not_all_sends(postgres_ledger):
    fill = create_engine(postgres_ledger)
    with fill.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO notifications (id, instance, state, state_rank, state_ms, state_seq, attempts, key_id,"
            " first_at, last_at, sent_at) SELECT i::text, 'n' || mod(i, 5000), 'sent', 1, 0, 0, 1, i::text, at, at, at"
            " FROM (SELECT i, now() - i * interval '1 s' AS at FROM generate_series(1, 50000) i) each"
        )
    with fill.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE notifications")
    read = {}

    @event.listens_for(fill, "before_cursor_execute")
    def note(_connection, _cursor, statement, parameters, *_):
        if "key_id IS NOT NULL" in statement and not statement.startswith("EXPLAIN"):
            read[statement] = parameters

    now = datetime.now(UTC)
    figures = Reader(fill, now).figures(dict.fromkeys((f"n{n}" for n in range(500)), None))
    assert all(10 <= of_one.sent + (name == "n0") <= 11 for name, of_one in figures.items())
    assert len(read) == 2  # the sends of the last hours, and what is usual
    with fill.connect() as connection:
        for statement, parameters in read.items():
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
            assert "notifications_instance_sent_at_idx" in plan
            assert "Seq Scan on notifications" not in plan
    fill.dispose()


def test_a_step_is_in_the_registry_in_redis_and_in_the_stream(guard, client, ledger, now):
    throttle(ledger, now - timedelta(minutes=1), 3)
    assert run(guard) == {"n1": [Move.SLOWED, Move.PAUSED]}
    number = registry.registered(ledger, "n1")
    assert (number.brake, number.risk, number.held_reason) == (0.5, 50, "guarda:too_fast")
    assert HOUR <= number.held_until - now < HOUR + timedelta(minutes=1)
    until_ms = round(number.held_until.timestamp() * 1000)
    assert in_redis(client) == (0.5, until_ms, "guarda:too_fast", 60)
    assert in_redis(client, "n2") == (1.0, 0, "", 60)
    slowed, paused = steps_in_stream(client)
    assert slowed == {
        "number": "n1", "step": "slowed", "signal": "too_fast", "until": None, "brake": 0.5, "risk": 50,
        "figures": {"throttled": 3},
    }  # fmt: skip
    assert (paused["step"], paused["until"]) == ("paused", number.held_until.isoformat(timespec="seconds"))
    assert run(guard) == {}
    assert client.xlen(EVENTS) == 2


def test_a_pass_that_failed_halfway_is_completed_by_the_next(guard, client, ledger, now):
    throttle(ledger, now - timedelta(minutes=1), 3)
    judged, at = guard.look()
    guard._store([each for each in judged if each.steps], at)
    assert in_redis(client) == (1.0, 0, "", 60)
    assert run(guard) == {}
    brake, until, reason, _ = in_redis(client)
    assert (brake, reason) == (0.5, "guarda:too_fast")
    assert until > now.timestamp() * 1000


def test_a_hold_of_the_guard_ends_in_redis_too(guard, client, ledger, now):
    throttle(ledger, now - timedelta(minutes=1), 3)
    run(guard)
    registry.change(ledger, "n1", held_until=now - timedelta(seconds=1))
    assert run(guard) == {"n1": [Move.RELEASED]}
    assert in_redis(client) == (0.5, 0, "", 60)


def test_a_persons_hold_stays(guard, client, ledger, now):
    until = now + 5 * HOUR
    registry.hold(ledger, "n1", until, "ask first")
    lanes.hold(client, "n1", round(until.timestamp() * 1000), "ask first")
    throttle(ledger, now - timedelta(minutes=1), 3)
    assert run(guard) == {"n1": [Move.SLOWED]}
    assert in_redis(client)[1:3] == (round(until.timestamp() * 1000), "ask first")
    assert registry.registered(ledger, "n1").held_reason == "ask first"


@pytest.mark.parametrize(
    ("warming", "heard_h", "people", "receipts", "steps"),
    [
        (True, 48, 0, True, {"n1": [Move.SLOWED]}),
        (True, 48, 1, True, {}),  # of the last fifty
        (False, 48, 0, True, {}),
        (True, None, 0, True, {}),  # nothing says that the webhook reports what people write
        (True, 12, 0, True, {}),  # the answers to the first of these messages may have been missed
        (True, 48, 0, False, {}),  # without a receipt the webhook reports nothing
    ],
)
def test_a_number_that_warms_up_and_gets_no_answers_is_slowed(
    guard, client, ledger, now, warming, heard_h, people, receipts, steps
):
    if warming:
        registry.change(ledger, "n1", warm_up_from=(now - timedelta(days=5)).date())
    if heard_h is not None:
        client.hset(number_key("n1"), "ouve", round((now - heard_h * HOUR).timestamp() * 1000))
    client.hset(number_key("n1"), "fuso", 0)
    for person in range(people):
        client.pfadd(answers_key("n1", int(now.timestamp() // 86_400)), f"p{person}")
    for number in range(60):
        at = now - timedelta(hours=24, seconds=-number)
        acks = {"server_ack_at": at, "delivered_at": at} if receipts else {}
        rows.notification(ledger, f"m{number}", State.SENT, at, instance="n1", sent_at=at, key_id=f"K{number}", **acks)
    rows.notification(ledger, "now", State.SENT, now, instance="n1", sent_at=now, key_id="K")
    assert run(guard) == steps
    if steps:
        (slowed,) = steps_in_stream(client)
        assert (slowed["signal"], slowed["figures"].get("answers")) == ("one_way", people)


def test_no_new_chats_until_tomorrow(guard, client, ledger, now):
    at = now - timedelta(minutes=5)
    for number in range(3):
        values = {"instance": "n1", "sent_at": at, "key_id": f"K{number}", "failed_at": at + timedelta(seconds=2)}
        rows.notification(ledger, f"m{number}", State.FAILED, at, **values)
        rows.event(ledger, f"m{number}", "sent", at, seq=number, new=True)
    assert run(guard) == {"n1": [Move.SLOWED, Move.NO_NEW_CHATS]}
    assert in_redis(client)[3] == 0
    assert risks([registry.registered(ledger, "n1")], now) == {"n1": Risk(50, 0.5, False, True, False)}
    registry.change(ledger, "n1", no_new_chats_until=now)
    assert run(guard)["n1"][0] is Move.NEW_CHATS
    assert in_redis(client)[3] == 60


@pytest.mark.parametrize(
    ("code", "move", "reason", "banned", "after"),
    [
        (401, Move.UNLINKED, DISCONNECTED, False, {"n1": [Move.RELEASED]}),
        (403, Move.BANNED, BANNED, True, {}),
    ],
)
def test_a_closed_connection(guard, client, ledger, now, code, move, reason, banned, after):
    generation = client.get(GENERATION)
    rows.add(ledger, schema.instances, name="n1", state="close", code=code, at=now, ms=1, seq=0)
    assert run(guard, everyone=False) == {"n1": [move]}
    assert (client.get(GENERATION) != generation) == banned, "workers route by it"
    number = registry.registered(ledger, "n1")
    assert (number.held_until, number.held_reason, number.banned_at is not None) == (UNTIL_RELEASED, reason, banned)
    assert in_redis(client)[1:3] == (round(UNTIL_RELEASED.timestamp() * 1000), reason)
    with ledger.begin() as connection:
        connection.execute(schema.instances.update().values(state="open", code=None))
    assert run(guard, everyone=False) == after
    assert in_redis(client)[2] == ("" if after else reason)


def test_only_numbers_that_sent_lately_or_had_trouble_are_looked_at_each_minute(guard, client, ledger, now):
    def looked_at():
        return {each.number.name for each in guard.look(everyone=False)[0]}

    assert looked_at() == set()
    rows.notification(ledger, "m1", State.SENT, now, instance="n1", sent_at=now - timedelta(minutes=70))
    assert looked_at() == {"n1"}
    rows.notification(ledger, "m2", State.DEAD, now, instance="n2", reason="number_not_on_whatsapp")
    assert looked_at() == {"n1", "n2"}
    with ledger.begin() as connection:
        connection.execute(schema.notifications.delete())
    throttle(ledger, now, 1, instance="n2")
    assert looked_at() == {"n2"}
    with ledger.begin() as connection:
        connection.execute(schema.events.delete())
    registry.change(ledger, "n1", brake=0.9)
    assert looked_at() == {"n1"}
    assert {each.number.name for each in guard.look()[0]} == {"n1", "n2"}


def test_two_guards_take_a_step_once(guard, client, ledger, now):
    throttle(ledger, now - timedelta(minutes=1), 1)
    other = Patrol(client, ledger)
    first, second = guard.look(), other.look()
    assert [each.number.name for each in guard.act(*first)] == ["n1"]
    assert other.act(*second) == []
    assert registry.registered(ledger, "n1").brake == 0.5
    assert client.xlen(EVENTS) == 1


def test_a_brake_for_a_number_that_redis_does_not_know_waits_for_the_registry(guard, client, ledger, now):
    client.flushdb()
    throttle(ledger, now - timedelta(minutes=1), 1)
    assert run(guard) == {"n1": [Move.SLOWED]}
    assert not client.exists(number_key("n1"))
    cache.load(client, ledger)
    assert in_redis(client)[0] == 0.5


@pytest.mark.parametrize(("times", "days"), [(1, 1), (3, 3)])
def test_a_day_with_trouble_does_not_count_for_the_warm_up_and_a_hold_costs_three(guard, ledger, now, times, days):
    today = registry.registered(ledger, "n1").local(now).date()
    begun = today - timedelta(days=6)
    registry.change(ledger, "n1", warm_up_from=begun)
    throttle(ledger, now - timedelta(minutes=1), times)
    run(guard)
    assert registry.registered(ledger, "n1").warm_up_from == begun + timedelta(days=days)


def test_what_is_remembered_is_read_back_from_the_registry(guard, ledger, now):
    throttle(ledger, now - timedelta(minutes=1), 1)
    run(guard)
    memory = Memory.of(registry.registered(ledger, "n1"))
    assert memory.stepped_at >= now
    assert memory.brake == 0.5


def test_the_loop_survives_an_outage_and_goes_on(guard, valkey, client, ledger, now, monkeypatch):
    throttle(ledger, now - timedelta(minutes=1), 1)
    looks = []
    look = Patrol.look

    def failing(self, **how):
        looks.append(how)
        if len(looks) <= 2:
            raise registry.ConfigurationError("away")
        return look(self, **how)

    monkeypatch.setattr(Patrol, "look", failing)
    stop = threading.Event()
    monkeypatch.setattr(upkeep.tend, "__defaults__", (0.05, 0.01))  # seconds between two looks, and two passes
    progress = Progress()
    thread = threading.Thread(target=guarding(load(redis_url=valkey.url), progress), args=(ledger, stop))
    with structlog.testing.capture_logs() as lines:
        thread.start()
        try:
            wait_until(lambda: in_redis(client)[0] == 0.5, seen=lambda: looks)
            wait_until(lambda: len(lines) == 2, seen=lambda: lines)
            client.flushall()
            wait_until(lambda: client.get(GENERATION) is not None, seen=lambda: lines)  # it loads what Redis has lost
        finally:
            stop.set()
            thread.join(10)
    assert not thread.is_alive()
    assert progress.guard_steps == dict.fromkeys(Move, 0) | {Move.SLOWED: 1}
    assert looks[:3] == [{"everyone": True}] * 3  # the first pass, until it succeeds
    waiting, step = lines
    assert (waiting["event"], waiting["duty"], waiting["error"]) == (
        "ifinu.numbers.waiting",
        "guard",
        "away",
    )  # once for two passes
    assert {name: step[name] for name in ("event", "log_level", "number", "step", "signal", "until", "brake")} == {
        "event": "ifinu.guard.step", "log_level": "warning", "number": "n1", "step": "slowed", "signal": "too_fast",
        "until": None, "brake": 0.5,
    }  # fmt: skip
