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
from pix import pix
from sqlalchemy import Connection, Engine, insert, select, update

from ifinu.billing import charges, customers, tenants
from ifinu.billing.billing_schema import cancel_flags, intents
from ifinu.broker.claims import Claims, ClaimState
from ifinu.broker.keys import claim_key
from ifinu.ledger.states import State

LATER = NOW + timedelta(minutes=1)
BUSY = timedelta(seconds=30)  # that a flag waits for a message that is being sent


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
    assert leaders(connection) == {
        one: (one, LATER if state == "planned" else NOW), two: (two, LATER), three: (two, NOW),
    }  # fmt: skip
    assert flags(connection) == ({} if state == "planned" else {one: False})
    pay(connection, "c2")
    assert states(connection) == {one: first, two: "cancelled paid", three: "planned"}
    pay(connection, "c3")
    assert states(connection) == {one: first, two: "cancelled paid", three: "cancelled paid"}


@pytest.mark.parametrize("state", ["planned", "queued"])
def test_a_charge_that_is_paid_leaves_the_message_of_another_one(connection: Connection, state: str) -> None:
    """That one names it, so a queued one is replaced: a worker may not be able to ask the database."""
    one, two, three = group(connection, state=state)
    assert pay(connection, "c2").cancelled == [two]
    left = one if state == "planned" else f"{one}~1"
    assert states(connection) == {left: "planned", two: "cancelled paid", three: "merged merged"}
    assert flags(connection) == ({} if state == "planned" else {one: False})
    assert pay(connection, "c1").cancelled == [left]
    assert states(connection)[three] == "planned"


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
    first, at = (one, LATER) if state == "planned" else (f"{one}~1", NOW)  # the queued one names the charge of k2
    assert states(connection) == {first: "planned", two: "planned", three: "merged merged"}
    assert leaders(connection) == {first: (first, at), two: (two, LATER), three: (first, NOW)}
    customers.upsert(connection, "t1", [customers.Customer("t1", "k1", phone="(11) 98765-0001")], NOW)
    first = one if state == "planned" else f"{one}~2"
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


# -- pushed, and not committed


def _edit_notify(connection: Connection) -> None:
    charges.edit(connection, "t1", "c1", now=NOW, notify=False)


def _import_notify(connection: Connection) -> None:
    charges.upsert(connection, [booked.new_charge(notify=False)], NOW)


def _hold_customer(connection: Connection) -> None:
    customers.hold(connection, "t1", "k1", until=None, reason="férias", now=NOW)


def _erase(connection: Connection) -> None:
    customers.erase(connection, "+5511987654321", NOW)


def _email_only(connection: Connection) -> None:
    customers.change(connection, "t1", "k1", NOW, channels=("email",))


def _no_phone(connection: Connection) -> None:
    customers.change(connection, "t1", "k1", NOW, phone=None)


def _suspend(connection: Connection) -> None:
    tenants.change(connection, "t1", NOW, status="suspended")


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (pay, "paid"), (_edit_due, "edited"), (_import, "edited"), (_hold, "on_hold"), (_cancel, "charge_cancelled"),
        (_edit_notify, "muted"), (_import_notify, "muted"), (_hold_customer, "on_hold"), (_erase, "no_phone"),
        (_email_only, "email_only"), (_no_phone, "no_phone"), (_suspend, "tenant_inactive"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("state", ["planned", "queued"])
def test_a_message_that_a_scheduler_may_have_pushed_is_cancelled_in_redis_too(
    connection: Connection, client: redis.Redis, state: str, act: Callable[[Connection], None], reason: str
) -> None:
    """A scheduler died between its push and its commit: the message is on a queue, and `planned`."""
    about = booked.charge(connection)
    out = booked.intent(connection, about, state=state, not_before=NOW)
    rest = booked.intent(connection, about, "v", not_before=NOW + timedelta(seconds=1))
    over = booked.intent(connection, about, "a1", not_before=NOW, valid_until=NOW)
    act(connection)
    assert states(connection)[out] == f"{'cancelled' if state == 'planned' else 'queued'} {reason}"
    if act is not _suspend:  # the push skips what is not due yet
        assert states(connection)[rest] == f"cancelled {reason}"
        assert states(connection)[over] == f"cancelled {reason}"
    assert flags(connection) == {out: False}
    assert apply(connection, client) == (1, 0)
    assert client.hget(claim_key(out), "state") == b"cancelled"


def test_a_charge_whose_leader_may_have_been_pushed_gets_its_own_message(connection: Connection) -> None:
    one, two, three = group(connection, state="planned")
    due(connection, one)
    assert pay(connection).cancelled == [one]
    assert states(connection) == {one: "cancelled paid", two: "planned", three: "merged merged"}
    assert flags(connection) == {one: False}


def due(connection: Connection, id_: str) -> None:
    connection.execute(update(intents).where(intents.c.id == id_).values(not_before=NOW))


def test_a_message_to_a_former_phone_that_may_have_been_pushed_gets_another_id(connection: Connection) -> None:
    """The check at the send would end the pushed one, and its claim keep the next push of that id from going."""
    id_ = booked.intent(connection, booked.charge(connection))
    due(connection, id_)
    customers.change(connection, "t1", "k1", NOW, phone="(11) 98765-0002")
    assert states(connection) == {f"{id_}~1": "planned"}
    assert flags(connection) == {id_: False}


def test_what_was_cancelled_in_redis_takes_a_place_under_another_id(connection: Connection) -> None:
    """The planner merged it into another message when it was due, and flagged it."""
    one, two, three = group(connection, state="queued")
    connection.execute(insert(cancel_flags).values(id=two, at=NOW, done_at=NOW))
    pay(connection)
    assert states(connection) == {one: "queued paid", f"{two}~1": "planned", three: "merged merged"}


# -- another amount, code or link


CHANGES: list[dict[str, Any]] = [
    {"amount": Decimal("99.90")}, {"discount": Decimal(10)}, {"waives_fees": True}, {"pix_code": pix("depois")},
    {"payment_link": "https://pay.example/2"}, {"pix_expires_at": NOW + timedelta(days=1)},
    {"boleto_line": "00190500954014481606906809350314337370000000100"},
]  # fmt: skip


@pytest.mark.parametrize("by", ["edit", "import"])
@pytest.mark.parametrize("changed", CHANGES, ids=lambda changed: next(iter(changed)))
@pytest.mark.parametrize("state", ["planned", "due", "queued"])
def test_a_queued_message_is_replaced_when_what_it_asks_for_changes(
    connection: Connection, state: str, changed: dict[str, Any], by: str
) -> None:
    id_ = booked.intent(connection, booked.charge(connection), state="planned" if state == "due" else state)
    if state == "due":
        due(connection, id_)
    if by == "edit":
        charges.edit(connection, "t1", "c1", now=NOW, **changed)
    else:
        charges.upsert(connection, [booked.new_charge(**changed)], NOW)
    assert states(connection) == {id_ if state == "planned" else f"{id_}~1": "planned"}
    assert flags(connection) == ({} if state == "planned" else {id_: False})


def test_another_description_or_the_same_values_replace_nothing(connection: Connection) -> None:
    id_ = booked.intent(connection, booked.charge(connection, pix_code=pix()), state="queued")
    charges.edit(connection, "t1", "c1", now=NOW, description="Mensalidade", pix_code=pix())
    charges.upsert(connection, [booked.new_charge(description="Outra", pix_code=pix())], NOW)
    assert (states(connection), flags(connection)) == ({id_: "queued"}, {})


def test_a_payment_of_a_part_replaces_what_asks_for_all(connection: Connection) -> None:
    id_ = booked.intent(connection, booked.charge(connection), state="queued")
    assert charges.pay(connection, "t1", "c1", amount=Decimal(10), via="cli", now=NOW).cancelled == []
    assert states(connection) == {f"{id_}~1": "planned"}


def test_the_message_of_another_charge_is_replaced_when_it_names_a_changed_one(connection: Connection) -> None:
    one, two, three = group(connection, state="queued")
    charges.edit(connection, "t1", "c3", now=NOW, amount=Decimal(7))
    assert states(connection) == {f"{one}~1": "planned", two: "merged merged", three: "merged merged"}
    assert flags(connection) == {one: False}
    customers_of_two = "k2"
    booked.customer(connection, customers_of_two, phone="+5511987650002")
    connection.execute(update(intents).where(intents.c.id == f"{one}~1").values(state="queued"))
    charges.edit(connection, "t1", "c2", now=NOW, customer_id=customers_of_two)
    assert states(connection) == {f"{one}~2": "planned", two: "planned", three: "merged merged"}


@pytest.mark.parametrize("state", [State.SENT, State.DEAD, State.UNKNOWN, State.PURGED])
def test_what_was_sent_or_is_in_doubt_dead_or_purged_is_not_replaced(connection: Connection, state: State) -> None:
    id_ = booked.intent(connection, booked.charge(connection), state="queued")
    booked.recorded(connection, id_, state)
    charges.edit(connection, "t1", "c1", now=NOW, amount=Decimal(7))
    assert (states(connection), flags(connection)) == ({id_: "queued"}, {})


def test_what_was_withdrawn_is_not_replaced(connection: Connection) -> None:
    id_ = booked.intent(connection, booked.charge(connection), state="queued")
    _hold(connection)
    charges.release(connection, "t1", "c1", now=NOW)
    charges.edit(connection, "t1", "c1", now=NOW, amount=Decimal(7))
    customers.change(connection, "t1", "k1", NOW, phone="(11) 98765-0002")
    assert (states(connection), flags(connection)) == ({id_: "queued on_hold"}, {id_: False})


def test_a_doubtful_message_keeps_the_id_by_which_the_gateway_is_asked(connection: Connection) -> None:
    id_ = booked.intent(connection, booked.charge(connection), doubtful=True)
    due(connection, id_)
    charges.edit(connection, "t1", "c1", now=NOW, amount=Decimal(7))
    assert (states(connection), flags(connection)) == ({id_: "planned"}, {})


@pytest.mark.parametrize(
    ("claim", "goes"),
    [(None, "new"), ("waiting", "new"), ("dead", "new"), ("cancelled", "new"), ("sent", "old"), ("unknown", "old")],
)
def test_a_replacement_goes_only_if_redis_cancelled_the_former_message(
    connection: Connection, client: redis.Redis, claim: str | None, goes: str
) -> None:
    id_ = booked.intent(connection, booked.charge(connection), state="queued")
    if claim is not None:
        client.hset(claim_key(id_), "state", claim)
    charges.edit(connection, "t1", "c1", now=NOW, amount=Decimal(7))
    apply(connection, client)
    assert states(connection) == ({f"{id_}~1": "planned"} if goes == "new" else {id_: "queued"})
    assert client.hexists(claim_key(id_), "cancelled") == (claim in (None, "waiting", "dead"))
    again = charges.edit(connection, "t1", "c1", now=NOW, amount=Decimal(8))
    assert again == []
    if claim == "unknown":  # it may go, so that it can be replaced later
        assert states(connection) == {f"{id_}~2": "planned"}


def test_a_second_replacement_counts_on(connection: Connection, client: redis.Redis) -> None:
    id_ = booked.intent(connection, booked.charge(connection), state="queued")
    charges.edit(connection, "t1", "c1", now=NOW, amount=Decimal(7))
    connection.execute(update(intents).values(state="queued"))
    charges.edit(connection, "t1", "c1", now=NOW, amount=Decimal(8))
    assert states(connection) == {f"{id_}~2": "planned"}
    client.hset(claim_key(f"{id_}~1"), "state", "sent")
    assert apply(connection, client) == (1, 1)
    assert states(connection) == {f"{id_}~1": "queued"}


# -- a pause


def test_a_pause_takes_back_what_is_queued_and_a_resumption_sends_it_later(connection: Connection) -> None:
    one, two, _ = group(connection, state="queued")
    sent = booked.intent(connection, booked.charge(connection, "c4"), state="queued")
    booked.recorded(connection, sent, State.DELIVERED)
    over = booked.intent(connection, booked.charge(connection, "c5"), state="queued", valid_until=NOW)
    tenants.pause(connection, "t1", NOW)
    found = states(connection)
    assert (found[f"{one}~1"], found[two], found[sent], found[over]) == ("planned", "merged merged", "queued", "queued")
    assert flags(connection) == {one: False}
    tenants.pause(connection, "t1", NOW)
    tenants.resume(connection, "t1", NOW)
    assert leaders(connection)[f"{one}~1"][1] == NOW + timedelta(minutes=2)


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


def test_a_message_that_went_before_its_flag_is_not_sent_again_by_another_charge(
    connection: Connection, client: redis.Redis
) -> None:
    one, two, three = group(connection, state="queued")
    client.hset(claim_key(one), "state", ClaimState.SENT)
    pay(connection)
    assert states(connection) == {one: "queued paid", two: "planned", three: "merged merged"}
    assert apply(connection, client) == (0, 1)
    assert states(connection) == {one: "queued", two: "merged merged", three: "merged merged"}


def test_a_sent_message_that_was_replaced_and_then_withdrawn_is_not_sent_again_by_another_charge(
    connection: Connection, client: redis.Redis
) -> None:
    one, two, three = group(connection, state="queued")
    client.hset(claim_key(one), "state", ClaimState.SENT)
    charges.edit(connection, "t1", "c3", now=NOW, amount=Decimal(50))
    pay(connection)
    assert states(connection) == {f"{one}~1": "cancelled paid", two: "planned", three: "merged merged"}
    assert apply(connection, client) == (1, 1)  # what replaced it has a flag, too
    assert states(connection) == {one: "queued", two: "merged merged", three: "merged merged"}


@pytest.mark.parametrize("end", [ClaimState.SENT, ClaimState.CANCELLED, ClaimState.SENDING])
def test_the_flag_of_a_message_that_is_being_sent_waits_for_its_end(
    connection: Connection, client: redis.Redis, end: ClaimState
) -> None:
    """Its worker may stop it still, since the check at the send sees the payment; then the next charge's has to go."""
    one, two, three = group(connection, state="queued")
    client.hset(claim_key(one), "state", ClaimState.SENDING)
    pay(connection)
    assert apply(connection, client) == (0, 0)
    assert states(connection) == {one: "queued paid", two: "planned", three: "merged merged"}
    client.hset(claim_key(one), "state", end)
    stopped = end == ClaimState.CANCELLED
    applied = charges.apply_cancel_flags(connection, client, 100, NOW + BUSY)
    assert applied == ((1, 0) if stopped else (0, 1))
    assert states(connection)[two] == ("planned" if stopped else "merged merged")
    assert flags(connection) == {one: True}


@pytest.mark.parametrize("end", [ClaimState.SENT, ClaimState.CANCELLED, ClaimState.UNKNOWN])
def test_what_a_message_in_doubt_spoke_of_waits_until_a_worker_has_looked_it_up(
    connection: Connection, client: redis.Redis, end: ClaimState
) -> None:
    one, two, three = group(connection, state="queued")
    client.hset(claim_key(one), "state", ClaimState.UNKNOWN)
    pay(connection)
    for minutes in range(0, 15, 2):
        now = NOW + timedelta(minutes=minutes)
        assert charges.apply_cancel_flags(connection, client, 100, now) == (0, 0)
        assert states(connection) == {one: "queued paid", two: "planned", three: "merged merged"}
        assert leaders(connection)[two][1] == now + timedelta(minutes=1)
        assert client.hexists(claim_key(one), "cancelled")
    client.hset(claim_key(one), "state", end)
    applied = charges.apply_cancel_flags(connection, client, 100, NOW + timedelta(minutes=15))
    assert applied == ((0, 1) if end is ClaimState.SENT else (1, 0))
    assert states(connection)[two] == ("merged merged" if end is ClaimState.SENT else "planned")
    assert flags(connection) == {one: True}


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
