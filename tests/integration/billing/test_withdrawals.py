"""
Withdrawn messages: what was planned, queued, or part of a message about several charges; and their flags in Redis.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import booked
import pytest
import redis
from booked import NOW, TODAY, flags, states
from sqlalchemy import Connection, Engine, select, update

from ifinu.billing import charges, customers
from ifinu.billing.billing_schema import intents
from ifinu.broker.claims import Claims, ClaimState
from ifinu.broker.keys import claim_key
from ifinu.ledger.states import State

LATER = NOW + timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _customer(request: pytest.FixtureRequest) -> None:
    if "connection" in request.fixturenames:
        connection = request.getfixturevalue("connection")
        booked.tenant(connection)
        booked.customer(connection)


def pay(connection: Connection, id_: str = "c1") -> charges.Paid:
    return charges.pay(connection, "t1", id_, via="cli", now=NOW)


def group(connection: Connection, *, state: str) -> list[str]:
    """One message about three charges, that of c1; c2 is due before c3."""
    due = [{}, {"due_date": date(2026, 12, 8)}, {"due_date": date(2026, 12, 9)}]
    made = [booked.charge(connection, f"c{n}", **columns) for n, columns in enumerate(due, 1)]
    return booked.together(connection, *made, state=state)


def leaders(connection: Connection) -> dict[str, Any]:
    query = select(intents.c.id, intents.c.leader, intents.c.not_before).where(intents.c.kind != "pagamento")
    rows = connection.execute(query).all()
    ids = {row.id.partition(".")[0]: row.id for row in rows}
    return {row.id: (ids.get(f"c{row.leader}"), row.not_before) for row in rows}


@pytest.mark.parametrize("state", ["planned", "queued"])
def test_the_next_charge_takes_over_the_message_of_one_that_was_paid(connection: Connection, state: str) -> None:
    one, two, three = group(connection, state=state)
    assert pay(connection).cancelled == [one]
    first = "cancelled paid" if state == "planned" else "queued paid"
    assert states(connection) == {one: first, two: "planned", three: "merged merged"}
    assert leaders(connection) == {one: (one, NOW), two: (two, LATER), three: (two, NOW)}
    assert flags(connection) == ({} if state == "planned" else {one: False})
    pay(connection, "c2")
    assert states(connection) == {one: first, two: "cancelled paid", three: "planned"}
    pay(connection, "c3")
    assert states(connection) == {one: first, two: "cancelled paid", three: "cancelled paid"}


def test_a_charge_that_is_paid_leaves_the_message_of_another_one(connection: Connection) -> None:
    one, two, three = group(connection, state="queued")
    assert pay(connection, "c2").cancelled == [two]
    assert states(connection) == {one: "queued", two: "cancelled paid", three: "merged merged"}
    assert flags(connection) == {}


@pytest.mark.parametrize(
    ("state", "flagged"),
    [
        (State.SENT, False), (State.READ, False), (State.EXPIRED, False), (State.SUPPRESSED, False),
        (State.CANCELLED, False),
        (State.RETRYING, True), (State.DEFERRED, True), (State.UNKNOWN, True), (State.DEAD, True), (State.PURGED, True),
    ],
)  # fmt: skip
def test_a_queued_message_is_cancelled_unless_the_ledger_knows_its_end(
    connection: Connection, state: State, flagged: bool
) -> None:
    one, two, three = group(connection, state="queued")
    booked.recorded(connection, one, state)
    assert pay(connection).cancelled == ([one] if flagged else [])
    assert flags(connection) == ({one: False} if flagged else {})
    assert states(connection) == {
        one: "queued paid" if flagged else "queued", two: "planned" if flagged else "merged merged",
        three: "merged merged",
    }  # fmt: skip


def _edit_due(connection: Connection) -> None:
    charges.edit(connection, "t1", "c1", now=NOW, due_date=date(2026, 12, 21))


def _hold(connection: Connection) -> None:
    charges.hold(connection, "t1", "c1", until=None, reason="contestação", now=NOW)


def _cancel(connection: Connection) -> None:
    charges.cancel(connection, "t1", "c1", now=NOW)


def _import(connection: Connection) -> None:
    charges.upsert(connection, [booked.new_charge(due_date=date(2026, 12, 21))], NOW)


@pytest.mark.parametrize(
    ("act", "reason"),
    [(_edit_due, "edited"), (_import, "edited"), (_hold, "on_hold"), (_cancel, "charge_cancelled")],
)
@pytest.mark.parametrize("state", ["planned", "queued"])
def test_what_withdraws_a_charge_leaves_the_others(
    connection: Connection, state: str, act: Callable[[Connection], None], reason: str
) -> None:
    one, two, three = group(connection, state=state)
    act(connection)
    first = f"{'cancelled' if state == 'planned' else 'queued'} {reason}"
    assert states(connection) == {one: first, two: "planned", three: "merged merged"}
    assert flags(connection) == ({} if state == "planned" else {one: False})


# -- another recipient


def test_another_customer_gets_the_messages_of_a_charge(connection: Connection) -> None:
    booked.customer(connection, "k2", phone="+5511987650002")
    one, two, three = group(connection, state="queued")
    charges.edit(connection, "t1", "c1", now=NOW, customer_id="k2")
    assert states(connection) == {f"{one}~1": "planned", two: "planned", three: "merged merged"}
    assert flags(connection) == {one: False}
    whose = dict(connection.execute(select(intents.c.id, intents.c.customer_id)).all())
    assert whose == {f"{one}~1": "k2", two: "k1", three: "k1"}
    charges.edit(connection, "t1", "c3", now=NOW, customer_id="k2")
    assert states(connection) == {f"{one}~1": "planned", two: "planned", three: "planned"}
    connection.execute(update(intents).where(intents.c.id == f"{one}~1").values(state="queued"))
    charges.edit(connection, "t1", "c1", now=NOW, customer_id="k1")
    assert states(connection)[f"{one}~2"] == "planned"
    assert flags(connection) == {one: False, f"{one}~1": False}


def test_a_message_that_was_sent_does_not_go_to_another_customer_too(connection: Connection) -> None:
    booked.customer(connection, "k2", phone="+5511987650002")
    one, two, three = group(connection, state="queued")
    booked.recorded(connection, one, State.SENT)
    charges.edit(connection, "t1", "c1", now=NOW, customer_id="k2")
    assert states(connection) == {one: "queued", two: "merged merged", three: "merged merged"}


def test_a_new_phone_gets_what_is_queued_for_the_former_one(connection: Connection) -> None:
    one, two, three = group(connection, state="queued")
    customers.change(connection, "t1", "k1", NOW, name="Ana S. Souza")
    assert flags(connection) == {}
    customers.change(connection, "t1", "k1", NOW, phone="(11) 98765-0002")
    assert states(connection) == {f"{one}~1": "planned", two: "merged merged", three: "merged merged"}
    assert flags(connection) == {one: False}


@pytest.mark.parametrize("state", ["planned", "queued"])
def test_a_charge_leaves_the_message_to_a_phone_that_its_customer_has_no_more(
    connection: Connection, state: str
) -> None:
    """
    k1 and k2 have one phone; one message speaks of the charges of both.
    """
    booked.customer(connection, "k2", phone=booked.PHONE)
    booked.customer(connection, "k3", phone=booked.PHONE)
    made = [booked.charge(connection, f"c{n}", customer_id=f"k{n}") for n in (1, 2, 3)]
    one, two, three = booked.together(connection, *made, state=state)
    connection.execute(update(intents).values(customer_id="k1"))
    customers.change(connection, "t1", "k2", NOW, phone="(11) 98765-0002")
    assert states(connection) == {one: state, two: "planned", three: "merged merged"}
    assert leaders(connection) == {one: (one, NOW), two: (two, LATER), three: (one, NOW)}
    customers.upsert(connection, "t1", [customers.Customer("t1", "k1", phone="(11) 98765-0001")], NOW)
    first = one if state == "planned" else f"{one}~1"
    assert states(connection) == {first: "planned", two: "planned", three: "planned"}
    whose = dict(connection.execute(select(intents.c.id, intents.c.customer_id)).all())
    assert whose == {first: "k1", two: "k2", three: "k3"}


def test_charges_that_leave_a_message_together_make_one(connection: Connection) -> None:
    booked.customer(connection, "k2", phone=booked.PHONE)
    made = [booked.charge(connection, f"c{n}", customer_id="k1" if n == 1 else "k2") for n in (1, 2, 3)]
    one, two, three = booked.together(connection, *made, state="queued")
    connection.execute(update(intents).values(customer_id="k1"))
    customers.change(connection, "t1", "k1", NOW, phone="(11) 98765-0001")
    assert states(connection) == {f"{one}~1": "planned", two: "planned", three: "merged merged"}
    rows = connection.execute(select(intents.c.customer_id, intents.c.leader).where(intents.c.id != f"{one}~1"))
    assert {tuple(row) for row in rows} == {("k2", made[1].seq)}


def test_a_customer_who_is_held_inactive_or_without_phone_gets_nothing(connection: Connection) -> None:
    one, two, three = group(connection, state="planned")
    customers.change(connection, "t1", "k1", NOW, phone=None)
    assert set(states(connection).values()) == {"cancelled no_phone"}
    connection.execute(update(intents).values(state="planned"))
    assert sorted(customers.hold(connection, "t1", "k1", until=TODAY + timedelta(1), reason="férias", now=NOW)) == [
        one, two, three,
    ]  # fmt: skip
    assert set(states(connection).values()) == {"cancelled on_hold"}
    connection.execute(update(intents).values(state="planned"))
    customers.change(connection, "t1", "k1", NOW, active=False)
    assert set(states(connection).values()) == {"cancelled customer_inactive"}


# -- Redis


def apply(connection: Connection, client: redis.Redis, limit: int = 100) -> tuple[int, int]:
    return charges.apply_cancel_flags(connection, client, limit, NOW)


def test_the_flags_cancel_queued_messages_in_redis(connection: Connection, client: redis.Redis) -> None:
    one, two, _ = group(connection, state="queued")
    pay(connection)
    assert apply(connection, client) == (1, 0)
    assert client.hget(claim_key(one), "state") == b"cancelled"
    assert (flags(connection), apply(connection, client)) == ({one: True}, (0, 0))
    assert states(connection)[two] == "planned"


@pytest.mark.parametrize("state", [ClaimState.SENDING, ClaimState.SENT])
def test_a_message_that_went_before_its_flag_is_not_sent_again_by_another_charge(
    connection: Connection, client: redis.Redis, state: str
) -> None:
    one, two, three = group(connection, state="queued")
    client.hset(claim_key(one), "state", state)
    pay(connection)
    assert states(connection) == {one: "queued paid", two: "planned", three: "merged merged"}
    assert apply(connection, client) == (0, 1)
    assert states(connection) == {one: "queued", two: "merged merged", three: "merged merged"}


def test_what_redis_does_not_take_stays_open(
    engine: Engine, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        booked.tenant(connection)
        booked.customer(connection)
        ids = [
            booked.intent(connection, booked.charge(connection, f"c{n}", amount=Decimal(n)), state="queued")
            for n in range(1, 4)
        ]
        for n in range(1, 4):
            pay(connection, f"c{n}")
    whole = Claims.cancel

    def fails_at_the_second(self: Claims, id_: str) -> str:
        if id_ == ids[1]:
            raise redis.ConnectionError("gone")
        return whole(self, id_)

    monkeypatch.setattr(Claims, "cancel", fails_at_the_second)
    with pytest.raises(redis.ConnectionError), engine.begin() as connection:
        apply(connection, client)
    monkeypatch.setattr(Claims, "cancel", whole)
    with engine.begin() as connection:
        assert flags(connection) == dict.fromkeys(ids, False)
        assert apply(connection, client, limit=2) == (2, 0)
        assert apply(connection, client, limit=2) == (1, 0)
        assert flags(connection) == dict.fromkeys(ids, True)
    assert [client.hget(claim_key(id_), "state") for id_ in ids] == [b"cancelled"] * 3


def test_a_charge_of_which_a_sent_message_spoke_keeps_its_history(connection: Connection) -> None:
    one, two, three = group(connection, state="queued")
    booked.recorded(connection, one, State.DELIVERED)
    pay(connection, "c2")
    charges.edit(connection, "t1", "c3", now=NOW, due_date=date(2026, 12, 30))
    assert states(connection) == {one: "queued", two: "merged merged", three: "merged merged"}
