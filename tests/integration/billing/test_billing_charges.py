"""Charges: their states, and what becomes of the messages about them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import booked
import pytest
from booked import NOW, TODAY, flags, states
from ledgers import migrated
from sqlalchemy import Connection, select, text, update

from ifinu.billing import charges, customers, planner, rules, tenants
from ifinu.billing.billing_schema import agenda, intents
from ifinu.billing.customers import Customer
from ifinu.errors import InvalidBilling, NotFound
from ifinu.ledger.engine import connect
from ifinu.notification import Kind


@pytest.fixture(autouse=True)
def _customer(connection: Connection) -> None:
    booked.tenant(connection)
    booked.customer(connection)


def pay(connection: Connection, id_: str = "c1", **arguments: Any) -> charges.Paid:
    return charges.pay(connection, "t1", id_, **({"via": "cli", "now": NOW} | arguments))


def on_agenda(connection: Connection) -> dict[int, date]:
    return dict(connection.execute(select(agenda.c.charge_seq, agenda.c.next_on)).all())


def test_a_new_charge_is_open_and_on_the_agenda(connection: Connection) -> None:
    made = booked.charge(connection, due_date=date(2026, 12, 12), method="boleto")  # a Saturday
    assert (made.status, made.payable_on, made.late_from) == ("open", date(2026, 12, 14), date(2026, 12, 17))
    assert (made.paid, made.discount, made.notify, made.known_on) == (0, 0, True, TODAY)
    assert on_agenda(connection) == {made.seq: planner.EVERY_STEP}


def test_a_charge_known_late_in_the_evening_is_known_on_the_tenants_day(connection: Connection) -> None:
    made = booked.charge(connection, now=datetime(2026, 12, 2, 1, 0, tzinfo=UTC))  # 22:00 in São Paulo
    assert made.known_on == TODAY


def test_a_payment_in_full_closes_the_charge_and_withdraws_its_messages(connection: Connection) -> None:
    one, other = booked.charge(connection), booked.charge(connection, "c2")
    planned, queued = booked.intent(connection, one, "l3"), booked.intent(connection, one, "v0", "queued")
    (others,) = booked.together(connection, other)
    merged = booked.intent(connection, one, "a1", "merged", leader=other.seq)
    paid = pay(connection)
    assert (paid.was, paid.status, paid.left, sorted(paid.cancelled)) == (
        "open",
        "paid",
        0,
        sorted([planned, queued, merged]),
    )
    assert states(connection) == {
        planned: "cancelled paid", merged: "cancelled paid", queued: "queued paid", others: "planned",
    }  # fmt: skip
    assert flags(connection) == {queued: False}
    assert on_agenda(connection) == {other.seq: planner.EVERY_STEP}
    found = charges.get(connection, "t1", "c1")
    assert (found.paid, found.paid_at, found.paid_via, found.version) == (one.amount, NOW, "cli", one.version + 1)


def test_a_second_payment_changes_nothing(connection: Connection) -> None:
    made = booked.charge(connection)
    pay(connection)
    receipt = booked.intent(connection, made, "p", kind="pagamento")
    again = pay(connection, at=NOW + timedelta(days=1), via="asaas")
    assert (again.was, again.status, again.cancelled) == ("paid", "paid", [])
    assert (charges.get(connection, "t1", "c1").paid_via, states(connection)) == ("cli", {receipt: "planned"})


@pytest.mark.parametrize(
    ("amounts", "status", "left", "over"),
    [
        (["100"], "open", "49.90", "0"),
        (["100", "49.89"], "open", "0.01", "0"),
        (["100", "49.90"], "paid", "0", "0"),
        (["100", "60"], "paid", "0", "10.10"),
        (["200"], "paid", "0", "50.10"),
    ],
)
def test_the_balance_decides_whether_a_charge_is_paid(
    connection: Connection, amounts: list[str], status: str, left: str, over: str
) -> None:
    message = booked.intent(connection, booked.charge(connection))
    paid = [pay(connection, amount=Decimal(amount)) for amount in amounts][-1]
    assert (paid.status, paid.left, paid.over) == (status, Decimal(left), Decimal(over))
    assert states(connection) == {message: "planned" if status == "open" else "cancelled paid"}


@pytest.mark.parametrize(
    ("day", "status"),
    [(datetime(2026, 12, 11, 2, tzinfo=UTC), "paid"), (datetime(2026, 12, 11, 4, tzinfo=UTC), "open")],
)
def test_a_discount_counts_until_the_last_payable_day(connection: Connection, day: datetime, status: str) -> None:
    """
    The due date is 10 December; two o'clock UTC is still that day in São Paulo.
    """
    booked.charge(connection, discount=Decimal(10))
    assert pay(connection, amount=Decimal("139.90"), at=day).status == status


def test_a_cancelled_charge_is_silent_and_may_still_be_paid(connection: Connection) -> None:
    planned = booked.intent(connection, booked.charge(connection))
    assert charges.cancel(connection, "t1", "c1", now=NOW) == [planned]
    assert charges.cancel(connection, "t1", "c1", now=NOW) == []
    assert (states(connection), on_agenda(connection)) == ({planned: "cancelled charge_cancelled"}, {})
    assert pay(connection, amount=Decimal(1)).status == "cancelled"
    assert (pay(connection).was, charges.get(connection, "t1", "c1").status) == ("cancelled", "paid")
    with pytest.raises(InvalidBilling, match="is paid; undo the payment first"):
        charges.cancel(connection, "t1", "c1", now=NOW)


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"amount": Decimal(0)}, "amount"),
        ({"amount": Decimal("1.001")}, "amount"),
        ({"amount": Decimal("NaN")}, "amount"),
        ({"amount": 1.5}, "amount"),
        ({"due_date": NOW}, "due_date"),
        ({"due_date": date(1999, 12, 31)}, "due_date"),
        ({"id_": " "}, "id"),
        ({"id_": "a\nb"}, "id"),
        ({"method": "cash"}, "method"),
        ({"discount": Decimal("149.90")}, "discount"),
        ({"pix_code": "000201"}, "pix_code"),
        ({"boleto_line": "1"}, "boleto_line"),
        ({"payment_link": "javascript:alert(1)"}, "payment_link"),
        ({"pix_expires_at": datetime(2026, 12, 1)}, "pix_expires_at"),  # noqa: DTZ001
    ],
)
def test_a_wrong_field_is_refused_by_its_name(columns: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidBilling) as caught:
        booked.new_charge(**columns)
    assert caught.value.field == field


def test_an_unknown_id_suggests_the_likely_one(connection: Connection) -> None:
    booked.charge(connection, "inv-42")
    booked.charge(connection, "other")
    for wrong, likely in (("INV-42", "inv-42"), ("inv-43", "inv-42"), ("x", None)):
        with pytest.raises(NotFound) as caught:
            charges.get(connection, "t1", wrong)
        assert caught.value.likely == likely
    with pytest.raises(NotFound, match=r"there is no tenant 't2'$"):
        charges.get(connection, "t2", "inv-42")
    with pytest.raises(NotFound, match=r"there is no customer 'k2'$"):
        booked.charge(connection, "c9", customer_id="k2")
    with pytest.raises(InvalidBilling, match="there is a charge 'inv-42' already"):
        booked.charge(connection, "inv-42")


# -- edits


def edit(connection: Connection, **columns: Any) -> list[str]:
    return charges.edit(connection, "t1", "c1", now=NOW, **columns)


def test_an_edit_changes_what_is_given_and_nothing_else(connection: Connection) -> None:
    before = booked.charge(connection, description="Mensalidade", discount=Decimal(10))
    message = booked.intent(connection, before)
    assert edit(connection, amount=Decimal("200.00"), description=None, method="boleto") == []
    after = charges.get(connection, "t1", "c1")
    expected = {"amount": Decimal(200), "description": None, "method": "boleto", "version": before.version + 1}
    assert after == replace(before, late_from=date(2026, 12, 15), **expected)
    assert (states(connection), on_agenda(connection)) == ({message: "planned"}, {after.seq: planner.EVERY_STEP})


def test_another_due_date_is_decided_anew(connection: Connection) -> None:
    made = booked.charge(connection, due_date=date(2026, 11, 27))
    charges.mark_overdue(connection, NOW)
    message = booked.intent(connection, made, "a1")
    connection.execute(update(agenda).values(next_on=date(2026, 12, 4)))
    assert edit(connection, due_date=date(2026, 12, 5)) == [message]  # a Saturday
    after = charges.get(connection, "t1", "c1")
    assert (after.status, after.payable_on, after.late_from) == ("open", date(2026, 12, 7), date(2026, 12, 8))
    assert (states(connection), on_agenda(connection)) == (
        {message: "cancelled edited"}, {made.seq: planner.EVERY_STEP},
    )  # fmt: skip


def test_a_lower_amount_that_was_paid_already_closes_the_charge(connection: Connection) -> None:
    message = booked.intent(connection, booked.charge(connection))
    pay(connection, amount=Decimal(100))
    assert edit(connection, amount=Decimal("100.01")) == []
    assert edit(connection, amount=Decimal(100)) == [message]
    assert charges.get(connection, "t1", "c1").status == "paid"
    assert (states(connection), on_agenda(connection)) == ({message: "cancelled paid"}, {})


@pytest.mark.parametrize(
    ("columns", "field", "words"),
    [
        ({"due": date(2026, 12, 5)}, "due", "did you mean due_date"),
        ({"paid": Decimal(1)}, "paid", "cannot be changed"),
        ({"discount": None}, "discount", "needs a value"),
        ({"customer_id": "k2"}, "customer", "there is no customer 'k2'"),
        ({"provider": "asaas", "provider_id": "pay_1"}, "provider_id", "another charge has this id"),
    ],
)
def test_an_edit_refuses_what_it_cannot_do(
    connection: Connection, columns: dict[str, Any], field: str, words: str
) -> None:
    booked.charge(connection)
    booked.charge(connection, "c2", provider="asaas", provider_id="pay_1")
    with pytest.raises(InvalidBilling, match=words) as caught, connection.begin_nested():
        edit(connection, **columns)
    assert caught.value.field == field


@pytest.mark.parametrize("close", [pay, lambda connection: charges.cancel(connection, "t1", "c1", now=NOW)])
def test_a_closed_charge_is_not_edited(connection: Connection, close: Callable[[Connection], Any]) -> None:
    booked.charge(connection)
    close(connection)
    with pytest.raises(InvalidBilling, match="only an open one"):
        edit(connection, amount=Decimal(1))


# -- holds


def test_a_hold_has_an_end_and_a_reason(connection: Connection) -> None:
    booked.charge(connection)
    hold = functools.partial(charges.hold, connection, "t1", "c1", now=NOW)
    for until, reason, field in ((TODAY, "acordo", "until"), (None, " ", "reason")):
        with pytest.raises(InvalidBilling) as caught:
            hold(until=until, reason=reason)
        assert caught.value.field == field
    hold(until=date(2026, 12, 20), reason="acordo")
    found = charges.get(connection, "t1", "c1")
    assert (found.hold_until, found.hold_reason, found.status) == (date(2026, 12, 20), "acordo", "open")
    assert (found.is_held(date(2026, 12, 19)), found.is_held(date(2026, 12, 20))) == (True, False)
    hold(until=None, reason="contestação")
    assert charges.get(connection, "t1", "c1").hold_until == date.max


def test_a_release_keeps_the_end_so_that_missed_steps_are_not_made_up_for(connection: Connection) -> None:
    booked.charge(connection)
    connection.execute(update(agenda).values(next_on=date(2026, 12, 4)))
    assert charges.release(connection, "t1", "c1", now=NOW) is False
    charges.hold(connection, "t1", "c1", until=None, reason="acordo", now=NOW)
    assert charges.release(connection, "t1", "c1", now=NOW + timedelta(days=8)) is True
    found = charges.get(connection, "t1", "c1")
    assert (found.hold_until, on_agenda(connection)) == (date(2026, 12, 9), {found.seq: date(2026, 12, 4)})


def test_a_customers_hold_is_released_as_a_charges(connection: Connection) -> None:
    customers.hold(connection, "t1", "k1", until=None, reason="acordo", now=NOW)
    assert customers.get(connection, "t1", "k1").hold_until == date.max
    assert customers.release(connection, "t1", "k1", now=NOW) is True
    assert customers.get(connection, "t1", "k1").hold_until == TODAY
    assert customers.release(connection, "t1", "k1", now=NOW) is False


# -- refunds


@pytest.mark.parametrize(("due", "status"), [(date(2026, 12, 10), "open"), (date(2026, 11, 27), "overdue")])
def test_a_refund_opens_the_charge_and_holds_it(connection: Connection, due: date, status: str) -> None:
    made = booked.charge(connection, due_date=due)
    pay(connection)
    receipt = booked.intent(connection, made, "p", kind="pagamento")
    undone = charges.undo_payment(connection, "t1", "c1", reason="estorno", now=NOW)
    assert (undone.status, undone.paid, undone.paid_at, undone.paid_via) == (status, 0, None, None)
    assert (undone.hold_until, undone.hold_reason) == (date.max, "estorno")
    assert (states(connection), on_agenda(connection)) == (
        {receipt: "cancelled on_hold"}, {made.seq: planner.EVERY_STEP},
    )  # fmt: skip
    assert pay(connection).status == "paid"


def test_a_refund_of_a_part_leaves_the_rest_paid(connection: Connection) -> None:
    booked.charge(connection)
    pay(connection)
    undone = charges.undo_payment(connection, "t1", "c1", amount=Decimal(50), reason="estorno", now=NOW)
    assert (undone.status, undone.paid, undone.paid_via) == ("open", Decimal("99.90"), "cli")
    again = charges.undo_payment(connection, "t1", "c1", amount=Decimal(500), reason="chargeback", now=NOW)
    assert (again.paid, again.paid_via) == (0, None)


def test_a_refund_of_a_cancelled_charge_leaves_it_cancelled(connection: Connection) -> None:
    booked.charge(connection)
    charges.cancel(connection, "t1", "c1", now=NOW)
    assert charges.undo_payment(connection, "t1", "c1", reason="estorno", now=NOW).status == "cancelled"
    assert on_agenda(connection) == {}


# -- overdue


def test_a_charge_is_overdue_when_its_last_day_has_passed_where_the_tenant_is(connection: Connection) -> None:
    booked.tenant(connection, "acre", uf="AC", tz="America/Rio_Branco")
    booked.customer(connection, of="acre")
    for of in ("t1", "acre"):
        booked.charge(connection, of=of, due_date=date(2026, 12, 5))  # a Saturday, payable on Monday, the 7th
        booked.charge(connection, "c2", of=of)
    due = datetime(2026, 12, 8, 3, 0, tzinfo=UTC)  # midnight in São Paulo, 22:00 in Acre
    for at, count in ((due - timedelta(seconds=1), 0), (due, 1), (due, 0), (due + timedelta(hours=2), 1)):
        assert charges.mark_overdue(connection, at) == count, at
    found = {of: [charges.get(connection, of, id_).status for id_ in ("c1", "c2")] for of in ("t1", "acre")}
    assert found == {"t1": ["overdue", "open"], "acre": ["overdue", "open"]}


# -- upsert


def test_an_upsert_adds_changes_and_leaves(connection: Connection) -> None:
    booked.charge(connection, "same", description="a", method="boleto", discount=Decimal(5))
    booked.charge(connection, "moved", method="boleto", description="kept")
    booked.charge(connection, "paid")
    pay(connection, "paid")
    moved = charges.get(connection, "t1", "moved")
    message = booked.intent(connection, moved, state="queued")
    rows = [
        booked.new_charge("same", description="a"),
        booked.new_charge("moved", due_date=date(2026, 12, 21)),
        booked.new_charge("paid", amount=Decimal(1)),
        booked.new_charge("new", due_date=date(2026, 11, 10)),
        booked.new_charge("new", due_date=date(2026, 11, 11)),  # the later one counts
    ]
    assert charges.upsert(connection, rows, NOW) == (1, 1, 2)
    assert charges.upsert(connection, rows[:-2], NOW) == (0, 0, 3)
    found = {id_: charges.get(connection, "t1", id_) for id_ in ("same", "moved", "paid", "new")}
    assert (found["same"].method, found["same"].discount, found["same"].version) == ("boleto", 5, 1)
    assert (found["moved"].late_from, found["moved"].description, found["moved"].version) == (
        date(2026, 12, 24), "kept", 2,
    )  # fmt: skip
    assert (found["paid"].amount, found["new"].due_date, found["new"].status) == (
        Decimal("149.90"), date(2026, 11, 11), "overdue",
    )  # fmt: skip
    assert flags(connection) == {message: False}


def test_an_upsert_refuses_what_has_no_customer_or_a_taken_id_of_the_provider(connection: Connection) -> None:
    booked.charge(connection, provider="asaas", provider_id="pay_1")
    for columns, words in (
        ({"customer_id": "k1x"}, "no customer 'k1x'; did you mean 'k1'"),
        ({"provider": "asaas", "provider_id": "pay_1"}, "another charge has this id of the provider"),
        ({"of": "t9"}, "no tenant 't9'"),
    ):
        with pytest.raises(InvalidBilling, match=words), connection.begin_nested():
            charges.upsert(connection, [booked.new_charge("c2"), booked.new_charge("c3", **columns)], NOW)
    assert [charge.id for charge, _ in charges.find(connection, "t1", now=NOW)] == ["c1"]


# -- find


def test_charges_are_found_by_state_lateness_and_words(connection: Connection) -> None:
    booked.customer(connection, "k2", name="Bruno Lima", phone="+5521987650002", document="529.982.247-25")
    booked.charge(connection, "inv-1", description="Plano ouro", due_date=date(2026, 11, 23))
    booked.charge(connection, "inv-2", customer_id="k2", due_date=date(2026, 11, 27))
    booked.charge(connection, "inv-3")
    charges.mark_overdue(connection, NOW)

    def ids(**by: Any) -> list[str]:
        return [charge.id for charge, _ in charges.find(connection, "t1", now=NOW, **by)]

    assert ids() == ["inv-1", "inv-2", "inv-3"]
    assert ids(limit=1) == ["inv-1"]
    assert ids(status=["overdue"]) == ["inv-1", "inv-2"]
    assert (ids(late=(1, 7)), ids(late=(5, None)), ids(late=(9, None))) == (["inv-2"], ["inv-1"], [])
    assert ids(customer="k2") == ["inv-2"]
    searches = {"OURO": ["inv-1"], "inv-3": ["inv-3"], "bruno": ["inv-2"], "(21) 98765-0002": ["inv-2"]}
    for words, expected in {**searches, "529.982.247-25": ["inv-2"], "nothing": []}.items():
        assert ids(search=words) == expected, words


# -- what the planner decides at once


@pytest.mark.parametrize(
    ("receipts", "state"), [("always", "planned"), ("never", "skipped"), ("after_notice", "skipped")]
)
def test_a_payment_in_full_is_confirmed_if_the_tenant_wants_it(
    connection: Connection, receipts: str, state: str
) -> None:
    tenants.change(connection, "t1", NOW, receipts=receipts)
    booked.charge(connection)
    booked.charge(connection, "c2")
    pay(connection, amount=Decimal(1))
    pay(connection)
    pay(connection, "c2", amount=Decimal(1))
    edit = functools.partial(charges.edit, connection, "t1", "c2", now=NOW)
    edit(amount=Decimal(1))
    found = connection.execute(select(intents.c.kind, intents.c.state)).all()
    assert found == [("pagamento", state)] * 2


def test_a_new_charge_is_announced_by_a_rule_that_says_so(connection: Connection) -> None:
    rule = rules.Rule("t1", (rules.Step("criada", Kind.CREATED, trigger="creation", valid_days=2),))
    made = rules.save(connection, "t1", rule, rules.ALWAYS)
    tenants.change(connection, "t1", NOW, rule_id=made)
    booked.charge(connection)
    charges.upsert(connection, [booked.new_charge(), booked.new_charge("c2", amount=Decimal(1))], NOW)
    found = connection.execute(select(intents.c.kind, intents.c.state)).all()
    assert sorted(found) == [("cobranca_criada", "planned"), ("cobranca_criada", "skipped")]  # one a day is enough


def test_an_import_into_tables_without_statistics_looks_up_each_row_by_its_key(postgres: str) -> None:
    """
    Between a first import and PostgreSQL's first ANALYZE of it, a join once read all open charges for each row. The
    database is new: an index that other tests have filled and emptied looks expensive.
    """
    engine = connect(migrated(postgres))
    with engine.begin() as connection:
        booked.tenant(connection)
        booked.customer(connection)
        customers.upsert(connection, "t1", (Customer("t1", f"n{n}", name="Ana") for n in range(2000)), NOW)
        charges.upsert(connection, (booked.new_charge(f"n{n}") for n in range(2000)), NOW)
        connection.execute(text("ANALYZE billing_tenants"))
        given = {"rows": "[]", "now": NOW, "seqs": [1], "tenant": "t1"}
        for statement, key in (
            (charges._FIND_CHANGED, "charges_tenant_id_key"),
            (charges._LOCK_CHANGED, "charges_pkey"),
            (charges._CHANGE, "charges_pkey"),
            (charges._FIND_MISSING, "customers_pkey"),
            (customers._FIND_CHANGED, "customers_pkey"),
            (customers._CHANGE, "customers_pkey"),
        ):
            plan = "\n".join(connection.execute(text(f"EXPLAIN {statement.text}"), given).scalars())
            assert key in plan, plan
            assert not {"charges_open_customer_idx", "customers_tenant_name_idx"} & {*plan.split()}, plan
    engine.dispose()
