"""Rows of tenants, customers, charges and intents, with defaults that a test overrides."""

from __future__ import annotations

from datetime import date
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert

from ifinu.billing.billing_schema import billing_tenants, calendars, charges, customers, intents, rules
from ifinu.business_days import late_from, payable_until

DUE = date(2026, 12, 10)  # a Thursday
PHONE = "+5511987654321"


def tenant(connection: Connection, id: str = "u1", **columns: Any) -> str:  # noqa: A002 - the column's name
    """Add a tenant and return its id."""
    rule = connection.scalar(select(rules.c.id).where(rules.c.tenant == "", rules.c.name == "test"))
    if rule is None:
        rule = connection.scalar(insert(rules).values(name="test", version=1).returning(rules.c.id))
    given = {
        "legal_name": "Academia Fit LTDA",
        "document": "12.345.678/0001-95",
        "address": "Rua A, 1, São Paulo SP",
        "uf": "SP",
        "window_spec": "always",  # a worker of the tests sends at any hour, on holidays too
        "rule_id": rule,
        "spread_s": 0,
    }
    connection.execute(insert(billing_tenants).values(id=id, **given | columns))
    return id


def customer(connection: Connection, id: str = "k1", tenant: str = "u1", **columns: Any) -> str:  # noqa: A002
    """Add a customer and return the id."""
    where = {"window_spec": "lei-sp", "uf": "SP", "own": ""}
    connection.execute(upsert(calendars).values(**where).on_conflict_do_nothing())
    calendar = connection.scalar(select(calendars.c.id).filter_by(**where))
    given = {"name": "Maria Silva", "phone": PHONE, "uf": "SP", "calendar_id": calendar}
    connection.execute(insert(customers).values(tenant=tenant, id=id, **given | columns))
    return id


def charge(
    connection: Connection,
    id: str = "inv-1",  # noqa: A002
    customer: str = "k1",
    tenant: str = "u1",
    *,
    due: date = DUE,
    **columns: Any,
) -> int:
    """Add a charge and return its `seq`. `payable_on` and `late_from` follow from its due date."""
    given = {
        "amount": "100.00",
        "description": "Mensalidade",
        "payable_on": payable_until(due),
        "late_from": late_from(due),
        "known_on": date(2026, 1, 1),
    }
    row = {"tenant": tenant, "id": id, "customer_id": customer, "due_date": due, **given, **columns}
    return int(connection.execute(insert(charges).values(**row).returning(charges.c.seq)).scalar_one())


def intent(connection: Connection, seq: int, kind: str = "atraso", **columns: Any) -> tuple[int, str]:
    """Add the intent of a step of a charge and return its charge and its id."""
    of = connection.execute(select(charges).where(charges.c.seq == seq)).one()
    step, n, rev = columns.get("step", kind), columns.get("n", 0), columns.get("rev", 0)
    id_ = f"c{seq}.{step}.{of.due_date:%y%m%d}" + (f".{n}" if n else "") + (f"~{rev}" if rev else "")
    given = {
        "step": step,
        "due_date": of.due_date,
        "id": id_,
        "tenant": of.tenant,
        "customer_id": of.customer_id,
        "kind": kind,
        "channel": "whatsapp",
        "planned_on": date(2026, 12, 15),
        "state": "planned",
    }
    connection.execute(insert(intents).values(charge_seq=seq, **given | columns))
    return seq, str(columns.get("id", id_))


def row(engine: Engine, seq: int) -> Row[Any]:
    """A charge's row."""
    with engine.connect() as connection:
        return connection.execute(select(charges).where(charges.c.seq == seq)).one()
