"""
Imports: each line once, wrong ones apart, and what is paid in the file is paid here.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import booked
import pytest
from sqlalchemy import Connection, func, select

from ifinu.billing import charges, tenants
from ifinu.billing.billing_schema import charges as rows_of
from ifinu.billing.charge_files import charge_import
from ifinu.billing.charge_files.bank_returns import Settlement
from ifinu.billing.charge_files.charge_import import Imported
from ifinu.billing.charge_files.charge_lines import ChargeLine
from ifinu.billing.customers import Customer
from ifinu.billing.payments import settlement
from ifinu.errors import InvalidBilling


@pytest.fixture(autouse=True)
def _tenant(connection: Connection) -> None:
    booked.tenant(connection)


def line(id_: str, state: str = "open", customer: Customer | None = None, **columns: Any) -> ChargeLine:
    customer = customer or Customer("t1", f"k-{id_}", name="Ana Souza", phone="+5511987654321")
    return ChargeLine(booked.new_charge(id_, customer_id=customer.id, **columns), customer, state, None)


def imported(connection: Connection, *lines: ChargeLine) -> tuple[Imported, dict[str, str]]:
    done, refused = Imported(), dict[str, str]()
    charge_import.apply(
        connection, "t1", lines, done, lambda line, exc: refused.update({line.charge.id: exc.reason}), now=booked.NOW
    )
    return done, refused


def counts(done: Imported) -> dict[str, int]:
    return {name: value for name, value in vars(done).items() if isinstance(value, int) and value}


def test_the_same_file_again_changes_nothing(connection: Connection):
    lines = [line("c1"), line("c2"), line("c3", due_date=booked.TODAY - timedelta(days=9))]
    assert counts(imported(connection, *lines)[0]) == {"added": 3, "late": 1}
    assert counts(imported(connection, *lines)[0]) == {"unchanged": 3}
    changed = [replace(lines[0], charge=replace(lines[0].charge, amount=Decimal(5))), *lines[1:]]
    assert counts(imported(connection, *changed)[0]) == {"changed": 1, "unchanged": 2}
    assert charges.get(connection, "t1", "c1").amount == Decimal(5)


def test_what_the_file_says_is_paid_or_cancelled_ends_here_and_is_not_added_if_it_is_not_known(connection: Connection):
    imported(connection, line("c1"), line("c2"), line("c3"))
    messages = [booked.intent(connection, charges.get(connection, "t1", id_), state="queued") for id_ in ("c1", "c2")]
    done, _ = imported(connection, line("c1", "paid"), line("c2", "cancelled"), line("c9", "paid"), line("c3"))
    assert counts(done) == {"paid": 1, "cancelled": 1, "skipped": 1, "unchanged": 1}
    assert sorted(done.withdrawn) == sorted(messages)
    states = dict(connection.execute(select(rows_of.c.id, rows_of.c.status)).all())  # type: ignore[arg-type]
    assert states == {"c1": "paid", "c2": "cancelled", "c3": "open"}
    assert counts(imported(connection, line("c1", "paid"), line("c2"))[0]) == {"skipped": 1, "unchanged": 1}


def test_lines_that_the_database_refuses_are_refused_alone(connection: Connection):
    nameless = Customer("t1", "k-none", phone="+5511987654321")
    lines = [line(f"c{n}") for n in range(50)]
    lines[7] = line("c7", customer=nameless)
    lines[31] = line("c31", provider="asaas", provider_id="pay_1")
    lines[44] = line("c44", provider="asaas", provider_id="pay_1")
    done, refused = imported(connection, *lines)
    assert refused.keys() == {"c7", "c44"}
    assert "no name" in refused["c7"]
    assert counts(done) == {"added": 48}
    assert connection.execute(select(func.count()).select_from(rows_of)).scalar() == 48


def test_open_charges_are_found_by_due_date(connection: Connection):
    imported(connection, line("c1"), line("c2", due_date=date(2026, 12, 9)), line("c3"), line("c4"))
    charges.pay(connection, "t1", "c4", via="test", now=booked.NOW)
    assert charge_import.open_ids(connection, "t1") == ["c2", "c1", "c3"]


def test_a_file_that_was_imported_before_is_recognised(connection: Connection):
    how = {"digest": "d1", "profile": None, "done": Imported(added=3)}
    assert charge_import.note(connection, "t1", **how, now=booked.NOW) is None  # type: ignore[arg-type]
    later = booked.NOW + timedelta(days=1)
    assert charge_import.note(connection, "t1", **how, now=later) == booked.NOW  # type: ignore[arg-type]


def test_a_payment_of_a_return_file_counts_once_and_waits_for_its_charge(connection: Connection):
    tenant = tenants.get(connection, "t1")
    imported(connection, line("c1", provider="cnab", provider_id="00012345"), line("c2"))

    def settle(*references: str, amount: str = "149.90") -> str:
        payment = Settlement(2, references, Decimal(amount), booked.TODAY, f"341:{references}")
        return charge_import.settle(connection, tenant, payment, booked.NOW)

    assert [settle("DOC1", "00012345"), settle("DOC1", "00012345")].count("applied") >= 1
    assert settle("c2", amount="50") == "applied"
    settle("c2", amount="50")
    assert [charges.get(connection, "t1", id_).status for id_ in ("c1", "c2")] == ["paid", "open"]
    assert charges.get(connection, "t1", "c2").paid == Decimal(50)
    assert settle("c9") == "unmatched"
    imported(connection, line("c9"))
    settlement.match(connection, "t1", ["c9"], booked.NOW)
    assert charges.get(connection, "t1", "c9").status == "paid"


def test_no_line_is_half_imported(connection: Connection):
    with pytest.raises(InvalidBilling):
        line("", customer=Customer("t1", "k"))
    _, refused = imported(connection, line("c1", customer=Customer("t1", "k-new")))
    assert list(refused) == ["c1"]
    assert connection.execute(select(func.count()).select_from(rows_of)).scalar() == 0
