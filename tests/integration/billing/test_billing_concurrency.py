"""
Two connections at once: no update is lost, a payment wins against planner and push, and no two wait for each other.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import booked
import pytest
import redis
from booked import NOW, flags, states
from processes import wait_until
from sqlalchemy import Connection, Engine, select, text, update

from ifinu.billing import calendars, charges, customers, epoch, outbox, planner, tenants
from ifinu.billing.billing_schema import agenda, intents
from ifinu.billing.billing_schema import charges as billing_charges
from ifinu.broker import NORMAL, Keys
from ifinu.broker.keys import claim_key
from ifinu.errors import InvalidBilling

_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.fixture(autouse=True)
def _charge(engine: Engine) -> None:
    with engine.begin() as connection:
        booked.tenant(connection)
        booked.customer(connection)
        booked.charge(connection)


def pay(connection: Connection, id_: str = "c1", **arguments: Any) -> charges.Paid:
    return charges.pay(connection, "t1", id_, via="cli", now=NOW, **arguments)


def raised_due(connection: Connection) -> list[str]:
    return charges.edit(connection, "t1", "c1", now=NOW, due_date=date(2026, 12, 21))


def both(engine: Engine, first: Callable[[Connection], Any], second: Callable[[Connection], Any]) -> Future[Any]:
    """Do `first`, start `second` in another connection, and commit `first` once `second` waits for it."""

    def run() -> Any:
        with engine.begin() as connection:
            return second(connection)

    # In a transaction the view would stay as it was first read.
    watched = engine.execution_options(isolation_level="AUTOCOMMIT")
    with ThreadPoolExecutor(1) as pool, watched.connect() as watch:
        with engine.begin() as connection:
            first(connection)
            ended = pool.submit(run)
            wait_until(lambda: watch.execute(_WAITING).scalar_one() == 1, seen=lambda: ended)
        ended.exception(10)
        return ended


def the_charge(engine: Engine) -> charges.Charge:
    with engine.connect() as connection:
        return charges.get(connection, "t1", "c1")


def test_two_payments_at_once_both_count(engine: Engine) -> None:
    second = both(engine, lambda c: pay(c, amount=Decimal(100)), lambda c: pay(c, amount=Decimal(49)))
    assert (second.result().left, the_charge(engine).paid) == (Decimal("0.90"), 149)


def test_two_payments_in_full_at_once_are_one(engine: Engine) -> None:
    second = both(engine, pay, pay)
    assert (second.result().was, the_charge(engine).paid) == ("paid", Decimal("149.90"))


def test_an_edit_after_a_payment_finds_the_charge_paid(engine: Engine) -> None:
    assert isinstance(both(engine, pay, raised_due).exception(), InvalidBilling)
    assert (the_charge(engine).status, the_charge(engine).due_date) == ("paid", booked.DUE)


def test_a_payment_after_an_edit_keeps_both(engine: Engine) -> None:
    assert both(engine, raised_due, pay).result().status == "paid"
    assert (the_charge(engine).status, the_charge(engine).due_date) == ("paid", date(2026, 12, 21))
    with engine.connect() as connection:
        assert connection.execute(select(agenda)).all() == []


def test_an_import_after_a_payment_leaves_the_charge_paid(engine: Engine) -> None:
    rows = [booked.new_charge(due_date=date(2026, 12, 21))]
    assert both(engine, pay, lambda c: charges.upsert(c, rows, NOW)).result() == (0, 0, 1)
    assert (the_charge(engine).status, the_charge(engine).due_date) == ("paid", booked.DUE)


def test_an_import_of_what_another_one_adds_changes_it(engine: Engine) -> None:
    def imports(amount: int) -> Callable[[Connection], Any]:
        rows = [booked.new_charge(f"new{n}", amount=Decimal(amount)) for n in range(3)]
        return lambda connection: charges.upsert(connection, rows, NOW)

    assert both(engine, imports(1), imports(2)).result() == (0, 3, 0)


def test_a_payment_withdraws_what_a_planner_is_just_planning(engine: Engine) -> None:
    made = the_charge(engine)

    def plan(connection: Connection) -> None:
        connection.execute(select(agenda).with_for_update())
        booked.intent(connection, made)

    message = both(engine, plan, pay).result().cancelled
    with engine.connect() as connection:
        assert states(connection) == {message[0]: "cancelled paid"}


def test_a_payment_flags_what_is_just_being_pushed(engine: Engine) -> None:
    with engine.begin() as connection:
        message = booked.intent(connection, the_charge(engine))
    assert both(engine, lambda c: c.execute(update(intents).values(state="queued")), pay).result().cancelled == [
        message
    ]
    with engine.connect() as connection:
        assert (states(connection), flags(connection)) == ({message: "queued paid"}, {message: False})


def test_payments_of_all_charges_of_common_messages_at_once_never_deadlock(engine: Engine) -> None:
    """
    Each of eight charges leads one message about all of them, so that each payment touches the messages of the others.
    """
    rounds = 12
    for n in range(rounds):
        with engine.begin() as connection:
            made = [booked.charge(connection, f"r{n}-{each}") for each in range(8)]
            for step, leader in enumerate(made):
                day = date(2027, 1, 1 + step)
                for other in made:
                    state = "planned" if other is leader else "merged"
                    booked.intent(connection, other, f"s{step}", state, leader=leader.seq, planned_on=day)
        start = threading.Barrier(8)

        def pays(id_: str, start: threading.Barrier = start) -> charges.Paid:
            with engine.begin() as connection:
                start.wait(10)
                return pay(connection, id_)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(pays, [each.id for each in made]))
    with engine.connect() as connection:
        assert set(states(connection).values()) == {"cancelled paid"}
        assert len(states(connection)) == rounds * 64


def test_holds_of_a_customer_and_payments_at_once_never_deadlock(engine: Engine) -> None:
    start = threading.Barrier(4)

    def repeats(act: Callable[[Connection], Any]) -> None:
        start.wait(20)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            with engine.begin() as connection:
                act(connection)

    def pays(connection: Connection) -> None:
        made = booked.charge(connection, f"x{time.monotonic_ns()}")
        booked.intent(connection, made)
        pay(connection, made.id)

    def holds(connection: Connection) -> None:
        customers.hold(connection, "t1", "k1", until=None, reason="acordo", now=NOW)

    def moves(connection: Connection) -> None:
        phone = f"+55119876500{time.monotonic_ns() % 90 + 10}"
        customers.change(connection, "t1", "k1", NOW, phone=phone)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(repeats, [pays, pays, holds, moves]))
    with engine.connect() as connection:
        assert connection.scalars(select(billing_charges.c.status).where(billing_charges.c.id.like("x%"))).first()


def test_what_is_paid_while_it_is_planned_and_pushed_is_not_left_to_be_sent(
    engine: Engine, client: redis.Redis
) -> None:
    """
    Planner, outbox and payments at once, charges of one customer in one message. What is left planned or queued about a
    paid charge has no message that a worker would send, and every open charge has one, or is spoken of in one.
    """
    count = 150
    with engine.begin() as connection:
        tenants.change(connection, "t1", NOW, spread_s=0, window_spec="always", daily_cap=10)
        calendars.fill(connection, booked.TODAY)
        for n in range(count // 3):
            booked.customer(connection, f"p{n}", phone=f"+551198765{n:04}")
        rows = [
            booked.new_charge(f"p{n}", customer_id=f"p{n % (count // 3)}", due_date=booked.TODAY) for n in range(count)
        ]
        charges.upsert(connection, rows, NOW)
    with engine.begin() as connection:
        epoch.check(connection, client, NOW, claim_ttl_s=604_800)
    done = threading.Event()

    def repeats(act: Callable[[Connection], Any]) -> None:
        while not done.is_set():
            with engine.begin() as connection:
                act(connection)

    def pays(first: int) -> None:
        for n in range(first, count, 4):  # three of four are paid
            with engine.begin() as connection:
                pay(connection, f"p{n}")

    later = NOW + timedelta(minutes=5)
    push = functools.partial(outbox.push, client=client, now=later, claim_ttl_s=604_800, limit=7)
    flag = functools.partial(charges.apply_cancel_flags, client=client, limit=20, now=later)
    plan = functools.partial(planner.plan, now=NOW, chunk=10)
    with ThreadPoolExecutor(7) as pool:
        background = [pool.submit(repeats, act) for act in (plan, plan, push, flag)]
        for paying in [pool.submit(pays, first) for first in range(3)]:
            paying.result(60)
        time.sleep(1)
        done.set()
        for ended in background:
            ended.result(60)
    with engine.begin() as connection:
        planner.plan_all(connection, NOW)
        while push(connection).more:
            pass
        flag(connection, limit=1000)
        query = select(intents.c.id, intents.c.state, intents.c.leader, billing_charges.c.status, billing_charges.c.seq)
        query = query.join(billing_charges, billing_charges.c.seq == intents.c.charge_seq)
        found = connection.execute(query.where(intents.c.kind == "vencimento", billing_charges.c.id.like("p%"))).all()
    pushed = {json.loads(body)["id"] for body in client.lrange(Keys.of(NORMAL).ready, 0, -1)}
    cancelled = {id_ for id_ in pushed if client.hget(claim_key(id_), "state") == b"cancelled"}
    by_seq = {row.seq: row for row in found}
    paid = [row for row in found if row.status == "paid"]
    with engine.connect() as connection:
        statuses = [each.status for each, _ in charges.find(connection, "t1", now=NOW, search="p", limit=count)]
    assert statuses.count("open") == sum(n % 4 == 3 for n in range(count)) == len(found) - len(paid)
    assert [row for row in paid if row.state in ("planned", "merged")] == []
    assert [row for row in paid if row.id in pushed - cancelled] == []
    for row in found:
        if row.status != "paid":
            goes = row if row.state == "queued" else by_seq.get(row.leader, row)
            assert (goes.state, goes.id in pushed - cancelled) == ("queued", True), row
