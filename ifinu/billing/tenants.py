"""Tenants: who bills, with what the texts say about them, their rule, calendar and limits."""

from __future__ import annotations

import difflib
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, exists, insert, select, update

from ifinu.billing import calendars, rules, withdrawals
from ifinu.billing.billing_schema import billing_tenants, customers, intents, own_holidays
from ifinu.billing.billing_schema import calendars as calendar_rows
from ifinu.billing.identifiers import checked_id, checked_line, not_found
from ifinu.errors import InvalidBilling
from ifinu.window import BRASILIA, STATES

STATUSES = ("trial", "active", "lifetime", "suspended")
RECEIPTS = ("always", "after_notice", "never")

_PLAN_FIRST = timedelta(minutes=2)  # a scheduler plans each minute
_LINES = ("trade_name", "document", "address", "signature", "text_set")


@dataclass(frozen=True, slots=True)
class Tenant:
    """
    A tenant; each field is the column of that name in `billing_schema.billing_tenants`.

    Raises:
        InvalidBilling: A field is wrong.
    """

    id: str
    legal_name: str
    uf: str
    rule_id: int | None = None  # None in a new one: that of the default rule
    trade_name: str | None = None
    document: str | None = None
    address: str | None = None
    signature: str | None = None
    tz: str = BRASILIA
    window_spec: str = "lei-sp"
    text_set: str | None = None
    spread_s: int = 7200
    consolidate: bool = True
    daily_cap: int = 1
    overdue_gap_days: int = 3
    fine_percent: Decimal = Decimal(2)
    interest_percent_month: Decimal = Decimal(1)
    receipts: str = "after_notice"
    status: str = "active"
    active_until: datetime | None = None
    paused_at: datetime | None = None
    version: int = 1

    def __post_init__(self) -> None:
        fixed = {
            "id": checked_id("id", self.id),
            "legal_name": checked_line("legal_name", self.legal_name),
            "uf": checked_uf(self.uf),
            **{name: checked_line(name, getattr(self, name)) for name in _LINES},
        }
        for name, value in fixed.items():
            object.__setattr__(self, name, value)
        if self.legal_name is None:
            raise InvalidBilling("legal_name", "is empty")
        _one_of("status", self.status, STATUSES)
        _one_of("receipts", self.receipts, RECEIPTS)
        if self.tz not in zoneinfo.available_timezones():
            raise InvalidBilling("tz", f"{self.tz!r} is no time zone; write America/Sao_Paulo or another of its kind")
        for name, least, most in (("spread_s", 0, 43_200), ("daily_cap", 1, 10), ("overdue_gap_days", 0, 30)):
            if not least <= getattr(self, name) <= most:
                raise InvalidBilling(name, f"must be from {least} to {most}")
        for name in ("fine_percent", "interest_percent_month"):
            if not 0 <= getattr(self, name) <= 100:
                raise InvalidBilling(name, "must be from 0 to 100")

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.tz)

    def today(self, now: datetime) -> date:
        """The tenant's local day."""
        return now.astimezone(self.zone).date()


_COLUMNS = tuple(billing_tenants.c[each.name] for each in fields(Tenant))


def add(connection: Connection, tenant: Tenant, now: datetime) -> Tenant:
    """
    Register a tenant.

    Raises:
        InvalidBilling: Its id is taken.
    """
    if connection.execute(select(billing_tenants.c.id).where(billing_tenants.c.id == tenant.id)).scalar():
        raise InvalidBilling("id", f"there is a tenant {tenant.id!r} already")
    calendar_of(connection, tenant, tenant.uf, now)  # refuses an unknown window
    whole = replace(tenant, rule_id=tenant.rule_id or rules.default(connection), version=1)
    values = {column.name: getattr(whole, column.name) for column in _COLUMNS}
    connection.execute(insert(billing_tenants).values(values | {"created_at": now}))
    return whole


def get(connection: Connection, id_: str) -> Tenant:
    """
    Read a tenant.

    Raises:
        NotFound: There is none.
    """
    return _read(connection, id_, lock=False)


def every(connection: Connection) -> Sequence[Tenant]:
    """All tenants, by id."""
    rows = connection.execute(select(*_COLUMNS).order_by(billing_tenants.c.id))
    return [Tenant(*row) for row in rows]


def change(connection: Connection, id_: str, now: datetime, **columns: Any) -> Tenant:
    """
    Change some fields of a tenant.

    Raises:
        NotFound: There is none.
        InvalidBilling: A field is unknown or wrong.
    """
    old = _read(connection, id_, lock=True)
    new = replace(old, **known_fields(Tenant, columns, fixed=("id", "version")))
    values = {name: getattr(new, name) for name in columns}
    table = billing_tenants
    connection.execute(update(table).where(table.c.id == id_).values(values | {"version": table.c.version + 1}))
    if new.window_spec != old.window_spec:
        _move_calendars(connection, new, now)
    if new.status == "suspended" != old.status:
        withdrawals.withdraw_all(connection, id_, "tenant_inactive", now)
    return replace(new, version=old.version + 1)


def pause(connection: Connection, id_: str, now: datetime) -> Tenant:
    """Push nothing for this tenant until `resume`, and plan again what is queued: Redis has to cancel that."""
    # This lock waits for a push that has begun; the next one passes the tenant over.
    if (tenant := _read(connection, id_, lock=True)).paused_at is not None:
        return tenant
    paused = change(connection, id_, now, paused_at=now)
    withdrawals.take_back(connection, id_, now)
    return paused


def resume(connection: Connection, id_: str, now: datetime) -> Tenant:
    """Push again for this tenant what is still valid."""
    resumed = change(connection, id_, now, paused_at=None)
    # First the planner decides the days of the pause: a later step may go in the place of one that was taken back.
    waiting = (intents.c.tenant == id_, intents.c.state == "planned", intents.c.not_before < now + _PLAN_FIRST)
    connection.execute(update(intents).where(*waiting).values(not_before=now + _PLAN_FIRST))
    return resumed


def checked_uf(uf: str) -> str:
    """
    A state's letters in capitals.

    Raises:
        InvalidBilling: There is no such state.
    """
    if (letters := uf.strip().upper()) not in STATES:
        raise InvalidBilling("uf", f"{uf!r} is no state; write SP, AM and so on")
    return letters


def known_fields(of: type[Any], columns: dict[str, Any], *, fixed: tuple[str, ...]) -> dict[str, Any]:
    """
    Refuse names that are no fields which may change.

    Args:
        of: The dataclass with the fields.
        fixed: Fields that never change.

    Raises:
        InvalidBilling: A field is unknown, or fixed.
    """
    names = {each.name for each in fields(of)}
    for name in columns:
        if name in fixed:
            raise InvalidBilling(name, "cannot be changed here")
        if name not in names:
            close = difflib.get_close_matches(name, names - set(fixed), n=1, cutoff=0.5)
            raise InvalidBilling(name, f"unknown field; did you mean {close[0]}?" if close else "unknown field")
    return columns


def rest(connection: Connection, id_: str, days: Mapping[date, str], now: datetime) -> None:
    """
    Replace the days on which a tenant sends nothing, beside the holidays of each state.

    Args:
        days: Their names by day.

    Raises:
        NotFound: There is no such tenant.
    """
    tenant = _read(connection, id_, lock=True)
    calendars.close(connection, id_, days, tenant.today(now))
    _move_calendars(connection, tenant, now)


def calendar_of(connection: Connection, tenant: Tenant, uf: str, now: datetime) -> int:
    """The id of the calendar of the tenant's customers in a state."""
    has_own = connection.execute(select(exists().where(own_holidays.c.tenant == tenant.id))).scalar_one()
    return calendars.calendar_id(
        connection,
        window_spec=tenant.window_spec,
        uf=uf,
        own=tenant.id if has_own else "",
        today=tenant.today(now),
    )


def _move_calendars(connection: Connection, tenant: Tenant, now: datetime) -> None:
    """Give its customers the calendars that it uses by now, one statement a state."""
    theirs = customers.c.tenant == tenant.id
    used = select(calendar_rows.c.id, calendar_rows.c.uf).where(
        exists().where(theirs, customers.c.calendar_id == calendar_rows.c.id)
    )
    for old, uf in connection.execute(used).all():
        new = calendar_of(connection, tenant, uf, now)
        connection.execute(
            update(customers)
            .where(theirs, customers.c.calendar_id == old, customers.c.calendar_id != new)
            .values(calendar_id=new, version=customers.c.version + 1)
        )


def _read(connection: Connection, id_: str, *, lock: bool) -> Tenant:
    query = select(*_COLUMNS).where(billing_tenants.c.id == id_)
    row = connection.execute(query.with_for_update(key_share=True) if lock else query).one_or_none()
    if row is None:
        raise not_found(connection, "tenant", id_, billing_tenants.c.id)
    return Tenant(*row)


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidBilling(field, f"{value!r} is none of {', '.join(allowed)}")
