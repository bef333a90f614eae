"""Tenants, customers and charges as the functions of `ifinu.billing` make them, and messages about them."""

from __future__ import annotations

import zlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, insert, select

from ifinu.billing import charges, customers, tenants
from ifinu.billing.billing_schema import cancel_flags, intents
from ifinu.billing.charges import Charge, NewCharge
from ifinu.billing.customers import Customer
from ifinu.billing.tenants import Tenant
from ifinu.ledger.schema import notifications
from ifinu.ledger.states import State, rank

NOW = datetime(2026, 12, 1, 13, 0, tzinfo=UTC)  # Tuesday, 10:00 in São Paulo
SOON = NOW + timedelta(minutes=1)  # when a planned message is due
TODAY = date(2026, 12, 1)
DUE = date(2026, 12, 10)  # Thursday
PHONE = "+5511987654321"  # of k1; each other customer has another one


def tenant(connection: Connection, id_: str = "t1", **columns: Any) -> Tenant:
    fields = {"legal_name": "Academia Fit LTDA", "uf": "SP"} | columns
    return tenants.add(connection, Tenant(id_, **fields), NOW)


def customer(connection: Connection, id_: str = "k1", of: str = "t1", **columns: Any) -> Customer:
    phone = PHONE if id_ == "k1" else f"+55119{zlib.crc32(id_.encode()) % 10**8:08}"
    fields = {"name": "Ana Souza", "phone": phone} | columns
    return customers.add(connection, Customer(of, id_, **fields), NOW)


def new_charge(id_: str = "c1", of: str = "t1", **columns: Any) -> NewCharge:
    fields = {"customer_id": "k1", "amount": Decimal("149.90"), "due_date": DUE} | columns
    return NewCharge(of, id_, **fields)


def charge(connection: Connection, id_: str = "c1", of: str = "t1", now: datetime = NOW, **columns: Any) -> Charge:
    charges.add(connection, new_charge(id_, of, **columns), now)
    return charges.get(connection, of, id_)


def intent(connection: Connection, about: Charge, step: str = "l3", state: str = "planned", **columns: Any) -> str:
    """Insert a decided step of a charge, and return the id of its message."""
    row = {
        "id": f"c{about.seq}.{step}.{about.due_date:%y%m%d}", "due_date": about.due_date, "tenant": about.tenant,
        "customer_id": about.customer_id, "kind": "lembrete", "channel": "whatsapp", "planned_on": TODAY,
        "not_before": NOW, "valid_until": NOW + timedelta(days=3),
    }  # fmt: skip
    if state == "queued":
        row["queued_at"] = NOW
    elif state == "planned":
        row["not_before"] = SOON
    whole = row | columns
    connection.execute(insert(intents).values(whole | {"charge_seq": about.seq, "step": step, "state": state}))
    return str(whole["id"])


def recorded(connection: Connection, id_: str, state: State) -> None:
    """Let the ledger know the state of a message."""
    row = {"id": id_, "state": state, "state_rank": rank(state), "state_ms": 0, "state_seq": 0, "attempts": 1}
    times = dict.fromkeys(("first_at", "last_at"), NOW)
    connection.execute(insert(notifications).values(row | times))


def together(connection: Connection, leader: Charge, *others: Charge, state: str = "planned") -> list[str]:
    """Insert one message about several charges of a customer; return the ids, the leader's first."""
    ids = [intent(connection, leader, state=state, leader=leader.seq)]
    for other in others:
        ids.append(intent(connection, other, state="merged", leader=leader.seq, reason="merged"))
    return ids


def states(connection: Connection) -> dict[str, str]:
    """State of each message by its id, with the reason where there is one: `cancelled paid`; without receipts."""
    query = select(intents.c.id, intents.c.state, intents.c.reason).where(intents.c.step != "pago")
    rows = connection.execute(query)
    return {id_: f"{state} {reason}" if reason else state for id_, state, reason in rows}


def flags(connection: Connection) -> dict[str, bool]:
    """Ids that Redis has to cancel, and whether it has."""
    return {
        id_: done is not None for id_, done in connection.execute(select(cancel_flags.c.id, cancel_flags.c.done_at))
    }
