"""
Charges: what customers owe, and by when.

                 payable_on has passed
    open ───────────────────────────────▶ overdue
      │ ╲                                   │
      │  ╰───────── pay, in full ──────────▶│──▶ paid ── undo_payment ──▶ open or overdue, held without an end
      ╰──────────── cancel ────────────────▶╰──▶ cancelled ── pay, in full ──▶ paid

A charge is paid once what was paid reaches its amount, less its discount if that was in time. Its messages ask for fine
and interest, but no message goes about a fine alone. A hold lies over the state and has an end and a reason.

An open charge has a row in `agenda`. Payment and cancellation delete it, withdraw the messages that were not sent yet
(`withdrawals.py`), and change the charge, in one transaction. Each function locks the charge first, against another
payment or an edit at the same time, and then what belongs to it. The lock lets the planner, which has the agenda's row
locked, finish: its messages are withdrawn too.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import redis
import sqlalchemy.exc
from sqlalchemy import Connection, func, or_, select, text, update

from ifinu import damage, payment_codes, values
from ifinu.billing import calendars, customers, planner, tenants, withdrawals
from ifinu.billing.billing_schema import IS_OPEN, billing_tenants
from ifinu.billing.billing_schema import charges as rows_of
from ifinu.billing.billing_schema import customers as customer_rows
from ifinu.billing.customers import CHUNK, Customer, Upserted, checked_end, checked_reason
from ifinu.billing.identifiers import checked_id, checked_line, like, not_found
from ifinu.billing.tenants import known_fields
from ifinu.errors import InvalidBilling

METHODS = tuple(calendars.SETTLEMENT_DAYS)
STATUSES = ("open", "overdue", "paid", "cancelled")

_YEARS = range(2000, 2100)
_NOTHING = Decimal("0.00")
_MOST = Decimal("999999999999.99")
_OVERDUE_AT_A_TIME = 20_000
_CODES = {"pix_code": payment_codes.pix_code, "boleto_line": payment_codes.boleto_line}
_LINES = {"description": 500, "payment_link": 2048, "boleto_pdf": 2048, "provider": 40, "provider_id": 200}
_DAMAGE = {
    "description": damage.refuse_in_line,
    "payment_link": damage.refuse_in_link,
    "boleto_pdf": damage.refuse_in_link,
    "provider_id": damage.refuse_in_code,
}


@dataclass(frozen=True, slots=True)
class NewCharge:
    """
    A charge to add or, in `upsert`, to change. An optional field that is None has its default, or stays as it is.

    Attributes:
        id: The tenant's id of it.
        discount: Money off if it is paid by `payable_on`.
        waives_fees: No fine and no interest, however late.
        method: pix, boleto, card or other.
        notify: False: nothing is sent about it.
        known_on: Steps before this day are not sent; the tenant's today by default.

    Raises:
        InvalidBilling: A field is wrong.
    """

    tenant: str
    id: str
    customer_id: str
    amount: Decimal
    due_date: date
    description: str | None = None
    discount: Decimal | None = None
    waives_fees: bool | None = None
    method: str | None = None
    payment_link: str | None = None
    pix_code: str | None = None
    pix_expires_at: datetime | None = None
    boleto_line: str | None = None
    boleto_pdf: str | None = None
    provider: str | None = None
    provider_id: str | None = None
    recurrence_id: str | None = None
    occurrence: int | None = None
    notify: bool | None = None
    known_on: date | None = None

    def __post_init__(self) -> None:
        for name, value in _checked(_fields(self)).items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge; each field is the column of that name in `billing_schema.charges`."""

    seq: int
    tenant: str
    id: str
    customer_id: str
    description: str | None
    amount: Decimal
    paid: Decimal
    discount: Decimal
    waives_fees: bool
    due_date: date
    payable_on: date
    late_from: date
    status: str
    method: str
    payment_link: str | None
    pix_code: str | None
    pix_expires_at: datetime | None
    boleto_line: str | None
    boleto_pdf: str | None
    provider: str | None
    provider_id: str | None
    recurrence_id: str | None
    occurrence: int | None
    notify: bool
    hold_until: date | None
    hold_reason: str | None
    known_on: date
    paid_at: datetime | None
    paid_via: str | None
    version: int

    @property
    def is_open(self) -> bool:
        return self.status in ("open", "overdue")

    def is_held(self, today: date) -> bool:
        return self.hold_until is not None and self.hold_until > today

    def total(self, day: date) -> Decimal:
        """What has to be paid on a day for the charge to count as paid: no fees, and the discount if it is in time."""
        return self.amount - (self.discount if day <= self.payable_on else 0)


class Paid(NamedTuple):
    """
    What a payment did.

    Attributes:
        was: The charge's state before.
        left: What is still to be paid.
        over: What was paid beyond the total.
        cancelled: Ids of the messages that were withdrawn.
    """

    seq: int
    status: str
    left: Decimal
    cancelled: list[str]
    was: str
    over: Decimal


_COLUMNS = tuple(rows_of.c[each.name] for each in fields(Charge))
_EDITABLE = (
    "customer_id", "amount", "due_date", "description", "discount", "waives_fees", "method", "payment_link", "pix_code",
    "pix_expires_at", "boleto_line", "boleto_pdf", "provider", "provider_id", "notify",
)  # fmt: skip
_DAYS = ("due_date", "payable_on", "late_from")  # from which the days of the steps are counted
_FIXED = tuple(each.name for each in fields(Charge) if each.name not in _EDITABLE)
# What somebody pays, and by what.
_ASKED_FOR = ("amount", "discount", "waives_fees", "payment_link", "pix_code", "pix_expires_at", "boleto_line")


def add(connection: Connection, charge: NewCharge, now: datetime) -> int:
    """
    Add a charge.

    Returns:
        Its `seq`.

    Raises:
        NotFound: There is no such tenant or customer.
        InvalidBilling: Its id is taken.
    """
    if upsert(connection, [charge], now).added == 0:
        raise InvalidBilling("id", f"there is a charge {charge.id!r} already; edit it instead")
    return get(connection, charge.tenant, charge.id).seq


def get(connection: Connection, tenant: str, id_: str) -> Charge:
    """
    Read a charge.

    Raises:
        NotFound: There is none.
    """
    return _read(connection, tenant, id_)[0]


def find(
    connection: Connection,
    tenant: str,
    *,
    now: datetime,
    status: Sequence[str] = (),
    late: tuple[int, int | None] | None = None,
    search: str | None = None,
    customer: str | None = None,
    limit: int = 50,
) -> list[tuple[Charge, Customer]]:
    """
    Find a tenant's charges with their customers, by due date.

    Args:
        status: Of `STATUSES`; all if empty.
        late: The least and the most days since `payable_on`.
        search: A part of its id or its description, or as `customers.find`.
        customer: Id of the customer.
    """
    theirs = (customer_rows.c.tenant == rows_of.c.tenant) & (customer_rows.c.id == rows_of.c.customer_id)
    query = (
        select(*_COLUMNS, *customers.columns())
        .join(customer_rows, theirs)
        .where(rows_of.c.tenant == tenant)
        .order_by(rows_of.c.due_date, rows_of.c.seq)
        .limit(limit)
    )
    if status:
        query = query.where(rows_of.c.status.in_(status))
    if customer is not None:
        query = query.where(rows_of.c.customer_id == customer)
    if late is not None:
        least, most = late
        days = tenants.get(connection, tenant).today(now) - rows_of.c.payable_on
        query = query.where(IS_OPEN, days >= least, *([] if most is None else [days <= most]))
    if search:
        own = (func.lower(column).like(like(search)) for column in (rows_of.c.id, rows_of.c.description))
        query = query.where(or_(*own, customers.matches(search)))
    cut = len(_COLUMNS)
    return [(Charge(*row[:cut]), customers.of(row[cut:])) for row in connection.execute(query)]


def pay(
    connection: Connection,
    tenant: str,
    id_: str,
    *,
    amount: Decimal | None = None,
    at: datetime | None = None,
    via: str,
    now: datetime,
) -> Paid:
    """
    Record a payment. One of a charge that is paid already changes nothing.

    A payment of less than what is left keeps the charge as it is; its messages say what is left, and a queued one is
    replaced. A cancelled charge that is paid in full becomes `paid`.

    Args:
        amount: None for all that is left.
        at: When it was paid, aware; now by default.
        via: By what it was reported, such as `cli` or `asaas`.

    Raises:
        NotFound: There is no such charge.
        InvalidBilling: The amount or the time is wrong.
    """
    charge, zone = _read(connection, tenant, id_, lock=True)
    at = now if at is None else at
    if at.tzinfo is None:
        raise InvalidBilling("at", "has no time zone")
    given = None if amount is None else _money("amount", amount)
    if charge.status == "paid":
        return Paid(charge.seq, "paid", _NOTHING, [], "paid", _NOTHING)
    total = charge.total(at.astimezone(zone).date())
    left = max(total - charge.paid, _NOTHING)
    paid = charge.paid + (left if given is None else given)
    is_done = paid >= total
    status = "paid" if is_done else charge.status
    _update(connection, [charge.seq], now, paid=paid, paid_at=at, paid_via=via, status=status)
    cancelled: list[str] = []
    if is_done:
        cancelled = _close(connection, [charge.seq], "paid", now)
        planner.plan_event(connection, charge.seq, "payment", now)
    else:
        withdrawals.renew(connection, [charge.seq], now)
    return Paid(charge.seq, status, max(total - paid, _NOTHING), cancelled, charge.status, max(paid - total, _NOTHING))


def cancel(connection: Connection, tenant: str, id_: str, *, now: datetime) -> list[str]:
    """
    Cancel a charge, for example because it was replaced. One that is cancelled already stays so.

    Returns:
        The ids of the messages that were withdrawn.

    Raises:
        NotFound: There is no such charge.
        InvalidBilling: It is paid.
    """
    charge, _ = _read(connection, tenant, id_, lock=True)
    if charge.status == "paid":
        raise InvalidBilling("status", f"charge {id_!r} is paid; undo the payment first, as `ifinu charge reopen` does")
    if charge.status == "cancelled":
        return []
    _update(connection, [charge.seq], now, status="cancelled")
    return _close(connection, [charge.seq], "charge_cancelled", now)


def edit(connection: Connection, tenant: str, id_: str, *, now: datetime, **columns: Any) -> list[str]:
    """
    Change some fields of an open charge.

    Another due date withdraws the messages about the former one, and its steps are decided anew. Another customer gets
    the messages that are planned or queued. An amount that was paid already makes the charge paid. A queued message is
    replaced if what it asks for changes: the amount, the link, or a code.

    Returns:
        The ids of the messages that were withdrawn.

    Raises:
        NotFound: There is no such charge, or no such customer.
        InvalidBilling: A field is unknown or wrong, or the charge is paid or cancelled.
    """
    charge, zone = _read(connection, tenant, id_, lock=True)
    if not charge.is_open:
        raise InvalidBilling("status", f"charge {id_!r} is {charge.status}; only an open one can be edited")
    given = {name: getattr(charge, name) for name in ("tenant", "id", *_EDITABLE)}
    given |= known_fields(Charge, columns, fixed=_FIXED)
    for name in _DEFAULTS:
        if given[name] is None:
            raise InvalidBilling(name, "needs a value")
    new = replace(charge, **_checked(given))
    if new.customer_id != charge.customer_id:
        customers.get(connection, tenant, new.customer_id)
    today = now.astimezone(zone).date()
    payable_on = calendars.payable_on(new.due_date)
    found = {name: getattr(new, name) for name in ("due_date", *columns)} | {
        "payable_on": payable_on,
        "late_from": calendars.late_from(new.due_date, new.method),
        "status": "overdue" if payable_on < today else "open",
    }
    with _as_invalid():
        _update(connection, [charge.seq], now, **found)
    change = _Change(
        charge.seq,
        moved=new.due_date != charge.due_date,
        redated=any(found[name] != getattr(charge, name) for name in _DAYS),
        readdressed=new.customer_id != charge.customer_id,
        balanced=bool(new.paid) and new.paid >= new.amount,
        muted=charge.notify and not new.notify,
        repriced=any(getattr(new, name) != getattr(charge, name) for name in _ASKED_FOR),
    )
    return _follow(connection, [change], now)


def hold(connection: Connection, tenant: str, id_: str, *, until: date | None, reason: str, now: datetime) -> list[str]:
    """
    Send nothing about a charge before a day. Its steps meanwhile are recorded, and not made up for.

    Args:
        until: The first day on which something may be sent again; None for no end.

    Returns:
        The ids of the messages that were withdrawn.

    Raises:
        NotFound: There is no such charge.
        InvalidBilling: The day has come already, or the reason is empty.
    """
    charge, zone = _read(connection, tenant, id_, lock=True)
    end = checked_end(until, now.astimezone(zone).date())
    _update(connection, [charge.seq], now, hold_until=end, hold_reason=checked_reason(reason))
    return withdrawals.withdraw(connection, [charge.seq], "on_hold", now)


def release(connection: Connection, tenant: str, id_: str, *, now: datetime) -> bool:
    """
    End a hold; the next step is sent again.

    Returns:
        Whether there was one.

    Raises:
        NotFound: There is no such charge.
    """
    charge, zone = _read(connection, tenant, id_, lock=True)
    today = now.astimezone(zone).date()
    if not charge.is_held(today):
        return False
    # The end stays: a step of an earlier day that no scheduler has seen yet was stopped all the same.
    _update(connection, [charge.seq], now, hold_until=today)
    return True


def restore(connection: Connection, tenant: str, id_: str, *, now: datetime) -> bool:
    """
    Open a cancelled charge again. Its steps meanwhile are recorded, and not made up for.

    Returns:
        Whether it was cancelled.

    Raises:
        NotFound: There is no such charge.
    """
    charge, zone = _read(connection, tenant, id_, lock=True)
    if charge.status != "cancelled":
        return False
    today = now.astimezone(zone).date()
    status = "overdue" if charge.payable_on < today else "open"
    # As after a hold that ends today.
    _update(connection, [charge.seq], now, status=status, hold_until=max(charge.hold_until or today, today))
    planner.reopen(connection, [charge.seq])
    return True


def undo_payment(
    connection: Connection, tenant: str, id_: str, *, amount: Decimal | None = None, reason: str, now: datetime
) -> Charge:
    """
    Record a refund or a chargeback. The charge is open again and held without an end: a person decides what follows.

    Args:
        amount: What went back; None for all that was paid.
        reason: Why, such as `estorno`.

    Raises:
        NotFound: There is no such charge.
        InvalidBilling: The amount or the reason is wrong.
    """
    charge, zone = _read(connection, tenant, id_, lock=True)
    back = charge.paid if amount is None else min(_money("amount", amount), charge.paid)
    left = charge.paid - back
    found: dict[str, Any] = {"paid": left, "hold_until": customers.FOREVER, "hold_reason": checked_reason(reason)}
    if not left:
        found |= {"paid_at": None, "paid_via": None}
    if charge.status == "paid":
        overdue = charge.payable_on < now.astimezone(zone).date()
        found["status"] = "overdue" if overdue else "open"
    _update(connection, [charge.seq], now, **found)
    withdrawals.withdraw(connection, [charge.seq], "on_hold", now)
    if charge.status != "cancelled":
        planner.reopen(connection, [charge.seq])
    return get(connection, tenant, id_)


def mark_overdue(connection: Connection, now: datetime, limit: int = _OVERDUE_AT_A_TIME) -> int:
    """
    Mark as overdue what was payable until yesterday, by each tenant's clock.

    Returns:
        The number of charges; call it again until that is 0.
    """
    return connection.execute(_MARK_OVERDUE, {"now": now, "limit": limit}).rowcount


def apply_cancel_flags(connection: Connection, client: redis.Redis, limit: int, now: datetime) -> withdrawals.Applied:
    """As `withdrawals.apply_flags`."""
    return withdrawals.apply_flags(connection, client, limit, now)


def upsert(connection: Connection, rows: Iterable[NewCharge], now: datetime) -> Upserted:
    """
    Add charges, and change those that are there and open. Paid and cancelled ones stay as they are.

    What changes is followed as `edit` says. Of two rows with one id the later counts. Payments that were reported
    before their charge was known count now.

    Raises:
        NotFound: There is no such tenant or customer.
        InvalidBilling: Another charge has the provider's id or the occurrence.
    """
    from ifinu.billing.payments import settlement  # which pays charges

    total, given = Upserted(), iter(rows)
    while chunk := {(charge.tenant, charge.id): charge for charge in islice(given, CHUNK)}:
        total += _upsert(connection, chunk.values(), now)
        for tenant in {tenant for tenant, _ in chunk}:
            names = [name for each in chunk.values() if each.tenant == tenant for name in (each.id, each.provider_id)]
            settlement.match(connection, tenant, [name for name in names if name], now)
    return total


# -- upsert

_FIELDS = tuple(each.name for each in fields(NewCharge))
# Column of the JSON -> its type. NULL is the default of a new charge, and what is there for an old one.
_OPTIONAL = {
    "description": "text", "discount": "numeric", "waives_fees": "boolean", "method": "text", "payment_link": "text",
    "pix_code": "text", "pix_expires_at": "timestamptz", "boleto_line": "text", "boleto_pdf": "text",
    "provider": "text", "provider_id": "text", "notify": "boolean",
}  # fmt: skip
_GIVEN = {
    "tenant": "text", "id": "text", "customer_id": "text", "amount": "numeric", "due_date": "date",
    "recurrence_id": "text", "occurrence": "int", "known_on": "date", "payable_on": "date",
    "seq": "bigint", **{f"late_{method}": "date" for method in METHODS}, **_OPTIONAL,
}  # fmt: skip
_DEFAULTS = {"discount": "0", "waives_fees": "false", "method": "'other'", "notify": "true"}
_INCOMING = f"""incoming AS MATERIALIZED (
    SELECT i.*, (CAST(:now AS timestamptz) AT TIME ZONE t.tz)::date AS today
      FROM json_to_recordset(CAST(:rows AS json)) AS i({", ".join(f"{name} {of}" for name, of in _GIVEN.items())})
      JOIN billing_tenants t ON t.id = i.tenant)"""


def _late_from(method: str) -> str:
    days = " ".join(f"WHEN '{each}' THEN i.late_{each}" for each in METHODS)
    return f"CASE {method} {days} END"


_STATUS = "CASE WHEN i.payable_on < i.today THEN 'overdue' ELSE 'open' END"
_NEW = {
    **{name: f"i.{name}" for name in ("tenant", "id", "customer_id", "amount", "due_date", "payable_on")},
    **{name: f"i.{name}" for name in ("recurrence_id", "occurrence")},
    **{name: f"coalesce(i.{name}, {_DEFAULTS[name]})" if name in _DEFAULTS else f"i.{name}" for name in _OPTIONAL},
    "late_from": _late_from("coalesce(i.method, 'other')"),
    "status": _STATUS,
    "known_on": "coalesce(i.known_on, i.today)",
    "created_at": ":now",
    "updated_at": ":now",
}
_INSERT = text(f"""
    WITH {_INCOMING},
    made AS (
        INSERT INTO charges ({", ".join(_NEW)}) SELECT {", ".join(_NEW.values())} FROM incoming i
        ON CONFLICT (tenant, id) DO NOTHING RETURNING seq, tenant)
    INSERT INTO agenda (charge_seq, tenant, next_on) SELECT seq, tenant, :next_on FROM made RETURNING charge_seq""")

_CHANGED = {
    "customer_id": "i.customer_id", "amount": "i.amount", "due_date": "i.due_date",
    **{name: f"coalesce(i.{name}, c.{name})" for name in _OPTIONAL},
}  # fmt: skip
# OFFSET 0 makes PostgreSQL look up each row by the key, whatever it believes of tables that it has not analysed yet.
_DIFFERS = f"""c.status IN ('open', 'overdue')
       AND ({", ".join(f"c.{name}" for name in _CHANGED)}) IS DISTINCT FROM ({", ".join(_CHANGED.values())})"""
_FIND_CHANGED = text(f"""
    WITH {_INCOMING}
    SELECT c.tenant, c.id, c.seq FROM incoming i
     CROSS JOIN LATERAL (SELECT * FROM charges WHERE tenant = i.tenant AND id = i.id OFFSET 0) c
     WHERE {_DIFFERS} ORDER BY c.seq""")
_LOCK_CHANGED = text(f"""
    WITH {_INCOMING}
    SELECT c.seq, i.due_date <> c.due_date AS moved,
           (i.due_date, i.payable_on, {_late_from("coalesce(i.method, c.method)")})
               <> (c.due_date, c.payable_on, c.late_from) AS redated, i.customer_id <> c.customer_id AS readdressed,
           c.paid > 0 AND c.paid >= i.amount AS balanced, c.notify AND i.notify IS FALSE AS muted,
           ({", ".join(f"c.{name}" for name in _ASKED_FOR)})
               IS DISTINCT FROM ({", ".join(_CHANGED[name] for name in _ASKED_FOR)}) AS repriced
      FROM incoming i
     CROSS JOIN LATERAL (SELECT * FROM charges WHERE seq = i.seq OFFSET 0 FOR NO KEY UPDATE) c
     WHERE {_DIFFERS}""")
_CHANGE = text(f"""
    WITH {_INCOMING}
    UPDATE charges c SET {", ".join(f"{name} = {value}" for name, value in _CHANGED.items())},
        payable_on = i.payable_on, late_from = {_late_from("coalesce(i.method, c.method)")}, status = {_STATUS},
        updated_at = :now, version = c.version + 1
    FROM incoming i WHERE c.seq = i.seq AND i.seq = ANY(:seqs)""")
_FIND_MISSING = text(f"""
    WITH {_INCOMING}
    SELECT i.tenant, i.customer_id FROM incoming i
     WHERE NOT EXISTS (SELECT FROM customers k WHERE k.tenant = i.tenant AND k.id = i.customer_id) LIMIT 1""")


def _upsert(connection: Connection, chunk: Iterable[NewCharge], now: datetime) -> Upserted:
    documents = [_document(charge) for charge in chunk]
    for tenant in {document["tenant"] for document in documents}:
        tenants.get(connection, tenant)
    given = {"rows": json.dumps(documents), "now": now}
    for tenant, customer in connection.execute(_FIND_MISSING, given):
        customers.get(connection, tenant, customer)  # raises
    with _as_invalid():
        added = connection.scalars(_INSERT, given | {"next_on": planner.EVERY_STEP}).all()
    if added:
        planner.plan_events(connection, added, "creation", now)
    if len(added) == len(documents):
        return Upserted(len(added))
    with _as_invalid():
        changed = _change(connection, documents, now)
    _follow(connection, changed, now)
    return Upserted(len(added), len(changed), len(documents) - len(added) - len(changed))


def _change(connection: Connection, documents: list[dict[str, Any]], now: datetime) -> list[_Change]:
    """Change the charges that differ."""
    by_id = {(document["tenant"], document["id"]): document for document in documents}
    found = connection.execute(_FIND_CHANGED, {"rows": json.dumps(documents), "now": now}).all()
    if not found:
        return []
    # By `seq`, so that of two imports the one waits for the other.
    rows = json.dumps([by_id[row.tenant, row.id] | {"seq": row.seq} for row in found])
    changed = [_Change(**row._mapping) for row in connection.execute(_LOCK_CHANGED, {"rows": rows, "now": now})]
    connection.execute(_CHANGE, {"rows": rows, "now": now, "seqs": [each.seq for each in changed]})
    return changed


def _fields(charge: NewCharge) -> dict[str, Any]:
    return {name: getattr(charge, name) for name in _FIELDS}


def _document(charge: NewCharge) -> dict[str, Any]:
    payable_on, late = _days(charge.due_date)
    written = {name: value if value is None or isinstance(value, bool | int) else str(value)
               for name, value in _fields(charge).items()}  # fmt: skip
    return written | {"payable_on": payable_on} | late


@functools.lru_cache(maxsize=4096)
def _days(due: date) -> tuple[str, dict[str, str]]:
    late = {f"late_{method}": calendars.late_from(due, method).isoformat() for method in METHODS}
    return calendars.payable_on(due).isoformat(), late


# -- what follows a change

_CLOSE = text("DELETE FROM agenda WHERE charge_seq = ANY(:seqs)")
_MARK_OVERDUE = text("""
    UPDATE charges SET status = 'overdue', version = version + 1, updated_at = :now WHERE seq IN (
        SELECT c.seq FROM charges c JOIN billing_tenants t ON t.id = c.tenant
         WHERE c.status = 'open' AND c.payable_on < (CAST(:now AS timestamptz) AT TIME ZONE t.tz)::date
         ORDER BY c.seq LIMIT :limit FOR NO KEY UPDATE OF c SKIP LOCKED)""")


class _Change(NamedTuple):
    """
    What is different about a charge, a column of `_LOCK_CHANGED` each.

    Attributes:
        moved: Whether it has another due date.
        redated: Whether its steps have other days, by due date or by method.
        readdressed: Whether it has another customer.
        balanced: Whether its amount has been paid already.
        muted: Whether nothing is to be sent about it any more.
        repriced: Whether it has another amount, link or code.
    """

    seq: int
    moved: bool
    redated: bool
    readdressed: bool
    balanced: bool
    muted: bool
    repriced: bool


def _follow(connection: Connection, changes: Sequence[_Change], now: datetime) -> list[str]:
    """Let messages and agenda follow changed charges; return the ids of the messages that were withdrawn."""
    ids: list[str] = []
    # The new customer may have a rule of their own.
    if reopened := [each.seq for each in changes if each.redated or each.readdressed]:
        planner.reopen(connection, reopened)
    if moved := [each.seq for each in changes if each.moved]:
        ids += withdrawals.withdraw(connection, moved, "edited", now)
    if muted := [each.seq for each in changes if each.muted]:
        ids += withdrawals.withdraw(connection, muted, "muted", now)
    stayed = [each for each in changes if not (each.moved or each.muted)]
    if readdressed := [each.seq for each in stayed if each.readdressed]:
        ids += withdrawals.readdress(connection, readdressed, now)
    if stale := [each.seq for each in stayed if each.repriced and not (each.readdressed or each.balanced)]:
        withdrawals.renew(connection, stale, now)
    if balanced := [each.seq for each in changes if each.balanced]:
        _update(connection, balanced, now, status="paid", paid_at=func.coalesce(rows_of.c.paid_at, now))
        ids += _close(connection, balanced, "paid", now)
        planner.plan_events(connection, balanced, "payment", now)
    return ids


def _close(connection: Connection, seqs: list[int], reason: str, now: datetime) -> list[str]:
    connection.execute(_CLOSE, {"seqs": seqs})  # waits for a planner that has them
    return withdrawals.withdraw(connection, seqs, reason, now)


def _update(connection: Connection, seqs: list[int], now: datetime, **columns: Any) -> None:
    which = update(rows_of).where(rows_of.c.seq.in_(seqs))
    connection.execute(which.values(columns | {"version": rows_of.c.version + 1, "updated_at": now}))


def _read(connection: Connection, tenant: str, id_: str, *, lock: bool = False) -> tuple[Charge, ZoneInfo]:
    query = (
        select(*_COLUMNS, billing_tenants.c.tz)
        .join(billing_tenants, billing_tenants.c.id == rows_of.c.tenant)
        .where(rows_of.c.tenant == tenant, rows_of.c.id == id_)
    )
    row = connection.execute(query.with_for_update(key_share=True, of=rows_of) if lock else query).one_or_none()
    if row is None:
        tenants.get(connection, tenant)  # the better error
        raise not_found(connection, "charge", id_, rows_of.c.id, rows_of.c.tenant == tenant)
    *found, zone = row
    return Charge(*found), ZoneInfo(zone)


@contextlib.contextmanager
def _as_invalid() -> Iterator[None]:
    try:
        yield
    except sqlalchemy.exc.IntegrityError as exc:
        words = str(exc.orig)
        if "charges_provider_id_idx" in words:
            raise InvalidBilling("provider_id", "another charge has this id of the provider") from None
        if "charges_occurrence_idx" in words:
            raise InvalidBilling("occurrence", "another charge is this occurrence of the recurrence") from None
        raise


# -- checks


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    found = dict(given)
    for name in ("tenant", "id", "customer_id"):
        found[name] = checked_id(name, given[name])
    found["amount"] = _money("amount", given["amount"])
    if not isinstance(day := given["due_date"], date) or isinstance(day, datetime) or day.year not in _YEARS:
        raise InvalidBilling("due_date", f"must be a date in the years {_YEARS.start} to {_YEARS.stop - 1}")
    for name, longest in _LINES.items():
        found[name] = checked_line(name, given[name], longest, refuse=_DAMAGE.get(name))
    for name, check in _CODES.items():
        if (code := given[name]) is not None and str(code).strip():
            try:
                found[name] = check(str(code))
            except ValueError as exc:
                raise InvalidBilling(name, str(exc)) from None
        else:
            found[name] = None
    if given["discount"] is not None:
        found["discount"] = _money("discount", given["discount"], least=Decimal(0))
        if found["discount"] >= found["amount"]:
            raise InvalidBilling("discount", "must be less than the amount")
    if given["method"] is not None and given["method"] not in METHODS:
        raise InvalidBilling("method", f"{given['method']!r} is none of {', '.join(METHODS)}")
    if (at := given["pix_expires_at"]) is not None and (not isinstance(at, datetime) or at.tzinfo is None):
        raise InvalidBilling("pix_expires_at", "must be a time with a zone")
    if found["payment_link"] and not found["payment_link"].lower().startswith(("http://", "https://")):
        raise InvalidBilling("payment_link", "must be an http or https address")
    return found


def _money(field: str, amount: object, least: Decimal = Decimal("0.01")) -> Decimal:
    if isinstance(amount, bool) or not isinstance(amount, Decimal | int):
        raise InvalidBilling(field, "must be a Decimal")
    try:
        exact = values.exact(Decimal(amount))
    except ValueError as exc:
        raise InvalidBilling(field, str(exc)) from None
    if not exact.is_finite() or not least <= exact <= _MOST:
        raise InvalidBilling(field, "must be greater than 0" if least else "must not be negative")
    return exact
