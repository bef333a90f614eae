"""
Two connections at once: no update is lost, a payment wins against planner and push, and no two wait for each other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from typing import Any

import booked
import pytest
from booked import NOW, flags, states
from processes import wait_until
from sqlalchemy import Connection, Engine, select, text, update

from ifinu.billing import charges, customers
from ifinu.billing.billing_schema import agenda, intents
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
        assert (states(connection), flags(connection)) == ({message: "queued"}, {message: False})


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
    until = time.monotonic() + 3

    def repeats(act: Callable[[Connection], Any]) -> int:
        done = 0
        while time.monotonic() < until:
            with engine.begin() as connection:
                act(connection)
            done += 1
        return done

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
        assert all(ended > 0 for ended in pool.map(repeats, [pays, pays, holds, moves]))
