"""
The Python API: by a URL, each call is a transaction; with a caller's connection, the caller's decides.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import booked
import pytest
from sqlalchemy import Connection, Engine, text

from ifinu import billing
from ifinu.billing import charges
from ifinu.billing.customers import Customer
from ifinu.billing.tenants import Tenant
from ifinu.errors import ConfigurationError, InvalidBilling


def test_each_call_is_a_transaction(postgres_ledger: str) -> None:
    with billing.open(postgres_ledger) as books:
        books.tenants.add(Tenant("u1", "Academia Fit LTDA", "SP"))
        books.customers.add(Customer("u1", "k-9", name="Maria", phone="(11) 98765-4321"))
        seq = books.charges.add(booked.new_charge("inv-42", "u1", customer_id="k-9"))
        with pytest.raises(InvalidBilling, match="there is a charge 'inv-42' already"):
            books.charges.add(booked.new_charge("inv-42", "u1", customer_id="k-9"))
        before = datetime.now(UTC)
        assert books.charges.pay("u1", "inv-42", amount=Decimal(100), via="erp").left == Decimal("49.90")
        found = books.charges.get("u1", "inv-42")
        assert (found.seq, found.paid) == (seq, 100)
        assert before <= found.paid_at <= datetime.now(UTC)
        books.charges.pay("u1", "inv-42", via="erp", now=booked.NOW)
        assert books.charges.get("u1", "inv-42").paid_at == booked.NOW


def test_a_caller_who_rolls_back_has_changed_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        booked.tenant(connection)
        booked.customer(connection)
        message = booked.intent(connection, booked.charge(connection), state="queued")

    def in_the_erp(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE erp_invoices (id text)"))
        charges.pay(connection, "t1", "c1", via="erp", now=booked.NOW)
        charges.add(connection, booked.new_charge("c2"), booked.NOW)

    with engine.connect() as connection, connection.begin() as undone:
        in_the_erp(connection)
        assert charges.get(connection, "t1", "c1").status == "paid"
        undone.rollback()
    with engine.begin() as connection:
        found = charges.get(connection, "t1", "c1")
        assert (found.status, found.paid, found.version) == ("open", 0, 1)
        assert (booked.states(connection), booked.flags(connection)) == ({message: "queued"}, {})
        assert len(charges.find(connection, "t1", now=booked.NOW)) == 1
        assert connection.execute(text("SELECT to_regclass('erp_invoices')")).scalar() is None


def test_only_functions_of_a_connection_are_called_so(postgres_ledger: str) -> None:
    with billing.open(postgres_ledger) as books:
        for name in ("NewCharge", "_close", "date", "nothing"):
            with pytest.raises(AttributeError):
                getattr(books.charges, name)
        assert books.tenants.every() == []
        assert books.charges.mark_overdue(now=datetime(2026, 12, 1, tzinfo=UTC)) == 0


def test_charges_need_postgresql(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="charges need PostgreSQL"):
        billing.open(f"sqlite:///{tmp_path}/ledger.db")


def test_the_package_loads_nothing_before_it_is_opened() -> None:
    code = "import sys; from ifinu import billing; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_due_date_far_ahead_has_its_days(engine: Engine) -> None:
    with engine.begin() as connection:
        booked.tenant(connection)
        booked.customer(connection)
        made = booked.charge(connection, due_date=date(2037, 2, 14))  # the Saturday before Carnival
    assert (made.payable_on, made.late_from) == (date(2037, 2, 18), date(2037, 2, 19))
