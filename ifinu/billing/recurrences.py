"""
Charges that repeat: every so many days, weeks, months or years.

    due date of the nth = anchor + n times the interval, counted from the anchor
    anchor 31 January, monthly:  31 January, 28 February, 31 March, 30 April

Counted from the charge before, it would stay on the 28th for good. A charge is made `ahead_days` before it is due, so
that its reminder finds it. Each has its number (`occurrence`), which makes it once, however many schedulers run.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy.exc
import structlog
from sqlalchemy import Connection, Date, Row, bindparam, func, insert, select, tuple_, update

from ifinu.billing import charges, customers, tenants
from ifinu.billing.billing_schema import billing_tenants, recurrences
from ifinu.billing.billing_schema import charges as rows_of_charges
from ifinu.billing.charges import NewCharge
from ifinu.billing.identifiers import checked_id, not_found
from ifinu.errors import InvalidBilling, NotFound

log = structlog.get_logger(__name__)

UNITS = ("days", "weeks", "months", "years")

_AT_A_TIME = 1_000  # recurrences of a transaction
_MOST_AT_ONCE = 12  # charges of one recurrence
_LAST_YEAR = 2099
_LONGEST_ID = 110  # and the number of the charge after it


@dataclass(frozen=True, slots=True)
class Recurrence:
    """
    A charge that repeats; each field is the column of that name in `billing_schema.recurrences`.

    Attributes:
        every: The interval, in `unit`.
        anchor: The due date of the first charge.
        until: The last day on which one may be due; None for no end.
        count: How many there are; None for no end.
        ahead_days: How long before its due date a charge is made.
        next_n: Number of the next one, from 0.

    Raises:
        InvalidBilling: A field is wrong.
    """

    tenant: str
    id: str
    customer_id: str
    amount: Decimal
    every: int
    unit: str
    anchor: date
    description: str | None = None
    method: str = "other"
    until: date | None = None
    count: int | None = None
    ahead_days: int = 35
    next_n: int = 0
    active: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", checked_id("id", self.id))
        if len(self.id) > _LONGEST_ID:
            raise InvalidBilling("id", f"must have at most {_LONGEST_ID} characters")
        if self.unit not in UNITS:
            raise InvalidBilling("unit", f"is none of {', '.join(UNITS)}")
        if not 1 <= self.every <= 366:
            raise InvalidBilling("every", "must be 1 to 366")
        if self.method not in charges.METHODS:
            raise InvalidBilling("method", f"is none of {', '.join(charges.METHODS)}")
        if self.count is not None and self.count < 1:
            raise InvalidBilling("count", "must be at least 1")
        if self.until is not None and self.until < self.anchor:
            raise InvalidBilling("until", "is before the first due date")
        if not 0 <= self.ahead_days <= 366:
            raise InvalidBilling("ahead_days", "must be 0 to 366")
        first = self.charge(0, self.anchor)  # which checks what they share
        object.__setattr__(self, "description", first.description)

    def due_on(self, n: int) -> date | None:
        """The due date of the nth, from 0; None beyond the end."""
        if self.count is not None and n >= self.count:
            return None
        day = due_on(self.anchor, self.every, self.unit, n)
        return None if day.year > _LAST_YEAR or (self.until is not None and day > self.until) else day

    def charge(self, n: int, due: date) -> NewCharge:
        return NewCharge(
            tenant=self.tenant, id=f"{self.id}#{n + 1}", customer_id=self.customer_id, amount=self.amount, due_date=due,
            description=self.description, method=self.method, recurrence_id=self.id, occurrence=n,
        )  # fmt: skip


_COLUMNS = tuple(recurrences.c[each.name] for each in fields(Recurrence))
_CHARGE_ID = rows_of_charges.c.tenant, rows_of_charges.c.id
_WRONG = (InvalidBilling, NotFound, sqlalchemy.exc.DataError, sqlalchemy.exc.IntegrityError)


def due_on(anchor: date, every: int, unit: str, n: int) -> date:
    """The due date of the nth charge, from 0. A month that is too short has its last day."""
    if unit in ("days", "weeks"):
        return anchor + timedelta(**{unit: every * n})
    months = anchor.month - 1 + every * n * (12 if unit == "years" else 1)
    year, month = anchor.year + months // 12, months % 12 + 1
    return date(year, month, min(anchor.day, calendar.monthrange(year, month)[1]))


def add(connection: Connection, recurrence: Recurrence, now: datetime) -> None:
    """
    Add a recurrence, and make the charges that are near.

    Raises:
        NotFound: There is no such tenant or customer.
        InvalidBilling: Its id is taken.
    """
    customers.get(connection, recurrence.tenant, recurrence.customer_id)
    query = select(recurrences.c.id).filter_by(tenant=recurrence.tenant, id=recurrence.id)
    if connection.execute(query).scalar() is not None:
        raise InvalidBilling("id", f"there is a recurrence {recurrence.id!r} already")
    row = {each.name: getattr(recurrence, each.name) for each in fields(Recurrence)}
    connection.execute(insert(recurrences).values({**row, "next_on": recurrence.anchor, "created_at": now}))
    _make(connection, [recurrence], now)


def stop(connection: Connection, tenant: str, id_: str) -> None:
    """
    Make no more charges of a recurrence. Those that are there stay.

    Raises:
        NotFound: There is none.
    """
    stopped = {"active": False, "version": recurrences.c.version + 1}
    changed = update(recurrences).filter_by(tenant=tenant, id=id_).values(stopped)
    if not connection.execute(changed).rowcount:
        raise not_found(connection, "recurrence", id_, recurrences.c.id, recurrences.c.tenant == tenant)


def generate(connection: Connection, now: datetime) -> int:
    """
    Make the charges that are near enough, of some recurrences. Call it until it returns 0.

    Several processes may do so at once. After an outage a recurrence gets those that it missed, a dozen at a time.

    One that cannot be charged, as `add` accepts none, is logged, and tried again a day later.

    Returns:
        The number of charges.
    """
    here = (billing_tenants.c.id == recurrences.c.tenant) & (billing_tenants.c.status != "suspended")
    today = func.timezone(billing_tenants.c.tz, bindparam("now", now)).cast(Date)
    query = (
        select(*_COLUMNS)
        .join(billing_tenants, here)
        .where(recurrences.c.active, recurrences.c.next_on <= today)
        .order_by(recurrences.c.next_on)
        .limit(_AT_A_TIME)
        .with_for_update(skip_locked=True, of=recurrences)
    )
    due = connection.execute(query).all()
    try:
        with connection.begin_nested():
            return _make(connection, [Recurrence(**row._mapping) for row in due], now)
    except _WRONG:
        return sum(_make_one(connection, row, now) for row in due)


def _make_one(connection: Connection, row: Row[Any], now: datetime) -> int:
    try:
        with connection.begin_nested():
            return _make(connection, [Recurrence(**row._mapping)], now)
    except _WRONG as exc:
        log.error("ifinu.recurrence.failed", tenant=row.tenant, recurrence=row.id, error=str(exc))
    tomorrow = tenants.get(connection, row.tenant).today(now) + timedelta(days=1)
    connection.execute(update(recurrences).filter_by(tenant=row.tenant, id=row.id).values(next_on=tomorrow))
    return 0


def _make(connection: Connection, due: Sequence[Recurrence], now: datetime) -> int:
    todays = {each.id: each.today(now) for each in tenants.every(connection)} if due else {}
    made: list[NewCharge] = []
    changes = []
    for recurrence in due:
        n, last = recurrence.next_n, todays[recurrence.tenant] + timedelta(days=recurrence.ahead_days)
        while (day := recurrence.due_on(n)) is not None and day <= last and n < recurrence.next_n + _MOST_AT_ONCE:
            made.append(recurrence.charge(n, day))
            n += 1
        next_on = None if day is None else day - timedelta(days=recurrence.ahead_days)
        changes.append({"of": recurrence.tenant, "which": recurrence.id, "next_n": n, "next_on": next_on})
    if changes:
        ids = [(charge.tenant, charge.id) for charge in made]
        query = select(*_CHARGE_ID).where(tuple_(*_CHARGE_ID).in_(ids))
        taken = {(row.tenant, row.id) for row in connection.execute(query)}
        for charge in made:
            if (charge.tenant, charge.id) in taken:
                of = {"tenant": charge.tenant, "recurrence": charge.recurrence_id, "charge": charge.id}
                log.warning("ifinu.recurrence.id_taken", **of)
        made = [charge for charge in made if (charge.tenant, charge.id) not in taken]
        charges.upsert(connection, made, now)
        which = (recurrences.c.tenant == bindparam("of")) & (recurrences.c.id == bindparam("which"))
        change = {"next_n": bindparam("next_n"), "next_on": bindparam("next_on"), "version": recurrences.c.version + 1}
        connection.execute(update(recurrences).where(which).values(change), changes)
    return len(made)
