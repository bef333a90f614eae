"""
Lines of a charge file -> the tables, a chunk of them in one transaction.

    open                added, or changed where it differs
    paid, cancelled     paid or cancelled if it is open here; else skipped, since nothing has to be sent about it

The same file again changes nothing. What a file does not name stays as it is, unless it is known to be complete
(`open_ids`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time

from sqlalchemy import Connection, insert, select, text

from ifinu.billing import charges, customers, tenants
from ifinu.billing.billing_schema import IS_OPEN, imports
from ifinu.billing.billing_schema import charges as rows_of
from ifinu.billing.charge_files.bank_returns import BANK, Settlement
from ifinu.billing.charge_files.charge_lines import ChargeLine
from ifinu.billing.payments import settlement
from ifinu.billing.payments.provider_events import Effect, PaymentEvent
from ifinu.billing.tenants import Tenant
from ifinu.errors import InvalidBilling

VIA = "import"  # what a payment says it was reported by


@dataclass
class Imported:
    """
    What an import did.

    Attributes:
        added: New charges.
        changed: Open charges that the file had differently.
        moved: Of these, those with another due date.
        unchanged: Charges that were there already.
        paid: Open charges that the file says are paid.
        cancelled: Open charges that it says are cancelled.
        skipped: Lines about charges that ended before they were known here.
        late: Of the new ones, those that were late already: nothing is sent about the days before today.
        withdrawn: Ids of the messages that are not sent any more.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    paid: int = 0
    cancelled: int = 0
    skipped: int = 0
    late: int = 0
    withdrawn: list[str] = field(default_factory=list)


def apply(
    connection: Connection,
    tenant: str,
    lines: Sequence[ChargeLine],
    done: Imported,
    refuse: Callable[[ChargeLine, InvalidBilling], None],
    *,
    now: datetime,
) -> None:
    """
    Import some lines. One that cannot be imported is refused, and the others are.

    Args:
        done: Counts up.
        refuse: Called with each refused line and the reason.
    """
    if not lines:
        return
    try:
        with connection.begin_nested():
            counted = _apply(connection, tenant, lines, now)
    except InvalidBilling as exc:
        if len(lines) == 1:
            refuse(lines[0], exc)
            return
        middle = len(lines) // 2
        for half in (lines[:middle], lines[middle:]):
            apply(connection, tenant, half, done, refuse, now=now)
        return
    for name, value in vars(counted).items():
        setattr(done, name, getattr(done, name) + value)


def settle(connection: Connection, tenant: Tenant, payment: Settlement, now: datetime) -> str:
    """
    Record a payment that a bank returned, once however often its file is read.

    Returns:
        applied, ignored or unmatched: no charge has one of its numbers yet.
    """
    event = PaymentEvent(
        provider=BANK,
        event_id=payment.event_id,
        event="liquidacao",
        effect=Effect.PAID,
        references=payment.references,
        payment_id=payment.event_id,
        amount=payment.amount,
        paid_at=datetime.combine(payment.paid_on, time(12), tenant.zone),
    )
    return settlement.apply(connection, tenant.id, event, now).state


def refresh_statistics(connection: Connection) -> None:
    """
    Let PostgreSQL count the rows of the tables that an import fills.

    While it believes that they are as small as before, it reads all rows of the tenant for each line.
    """
    connection.execute(text("ANALYZE customers, charges, agenda"))


def open_ids(connection: Connection, tenant: str) -> Sequence[str]:
    """The ids of a tenant's open charges, by due date."""
    query = select(rows_of.c.id).where(rows_of.c.tenant == tenant, IS_OPEN).order_by(rows_of.c.due_date, rows_of.c.seq)
    return connection.scalars(query).all()


def note(
    connection: Connection, tenant: str, *, digest: str, profile: str | None, done: Imported, now: datetime
) -> datetime | None:
    """
    Record that a file was imported.

    Args:
        digest: Of its bytes.

    Returns:
        When the same file was imported before; None if it was not.
    """
    query = select(imports.c.at).where(imports.c.tenant == tenant, imports.c.file_digest == digest)
    before: datetime | None = connection.execute(query.order_by(imports.c.at.desc()).limit(1)).scalar()
    counts = {name: value for name, value in vars(done).items() if isinstance(value, int)}
    row = {"tenant": tenant, "file_digest": digest, "profile": profile, "counts": counts, "at": now}
    connection.execute(insert(imports).values(row))
    return before


def _apply(connection: Connection, tenant: str, lines: Sequence[ChargeLine], now: datetime) -> Imported:
    ids = [line.charge.id for line in lines]
    query = select(rows_of.c.id, rows_of.c.status, rows_of.c.due_date)
    rows = connection.execute(query.where(rows_of.c.tenant == tenant, rows_of.c.id.in_(ids))).all()
    known = {row.id: row.status in ("open", "overdue") for row in rows}
    due = {row.id: row.due_date for row in rows if known[row.id]}
    done = Imported()
    owed = [line for line in lines if line.state == "open"]
    customers.upsert(connection, tenant, [line.customer for line in owed], now)
    upserted = charges.upsert(connection, [line.charge for line in owed], now)
    done.added, done.changed, done.unchanged = upserted
    today = tenants.get(connection, tenant).today(now)
    done.moved = sum(due.get(line.charge.id, line.charge.due_date) != line.charge.due_date for line in owed)
    done.late = sum(line.charge.id not in known and line.charge.due_date < today for line in owed)
    for line in lines:
        if line.state == "open":
            continue
        id_ = line.charge.id
        if not known.get(id_):
            done.skipped += 1
        elif line.state == "cancelled":
            done.withdrawn += charges.cancel(connection, tenant, id_, now=now)
            done.cancelled += 1
        else:
            done.withdrawn += charges.pay(connection, tenant, id_, at=line.paid_at, via=VIA, now=now).cancelled
            done.paid += 1
    return done
