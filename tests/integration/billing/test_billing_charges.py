"""Charges: their states, and what becomes of the messages about them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import booked
import pytest
from booked import NOW, TODAY, flags, states
from sqlalchemy import Connection, select

from ifinu.billing import charges
from ifinu.billing.billing_schema import agenda
from ifinu.errors import InvalidBilling, NotFound


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
    assert on_agenda(connection) == {made.seq: charges.EVERY_STEP}


def test_a_charge_known_late_in_the_evening_is_known_on_the_tenants_day(connection: Connection) -> None:
    made = booked.charge(connection, now=datetime(2026, 12, 2, 1, 0, tzinfo=UTC))  # 22:00 in São Paulo
    assert made.known_on == TODAY


def test_a_payment_in_full_closes_the_charge_and_withdraws_its_messages(connection: Connection) -> None:
    one, other = booked.charge(connection), booked.charge(connection, "c2")
    planned, queued = booked.intent(connection, one, "l3"), booked.intent(connection, one, "v0", "queued")
    merged, others = booked.intent(connection, one, "a1", "merged"), booked.intent(connection, other)
    paid = pay(connection)
    assert (paid.was, paid.status, paid.left, sorted(paid.cancelled)) == (
        "open",
        "paid",
        0,
        sorted([planned, queued, merged]),
    )
    assert states(connection) == {
        planned: "cancelled paid", merged: "cancelled paid", queued: "queued", others: "planned",
    }  # fmt: skip
    assert flags(connection) == {queued: False}
    assert on_agenda(connection) == {other.seq: charges.EVERY_STEP}
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
