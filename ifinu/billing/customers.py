"""Customers of a tenant: who owes, how they are reached, and whether they are left alone for a while."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, func, insert, or_, select, text, tuple_, update

from ifinu import damage
from ifinu import phone as phones
from ifinu.billing import planner, tenants, withdrawals
from ifinu.billing.billing_schema import IS_OPEN, charges, customers, recurrences
from ifinu.billing.identifiers import checked_id, checked_line, like, not_found
from ifinu.billing.tenants import Tenant, checked_uf, known_fields
from ifinu.errors import InvalidBilling

FOREVER = date.max  # a hold without an end
CHUNK = 10_000  # rows a statement
PERSONAL = ("name", "document", "phone", "email", "address", "notes")
# What may name the customer in a charge.
_NAMING = ("description", "payment_link", "pix_code", "boleto_line", "boleto_pdf", "hold_reason")

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_CHANNELS = ("whatsapp", "email")
_LONGEST_NOTES = 2000


@dataclass(frozen=True, slots=True)
class Customer:
    """
    A customer; each field is the column of that name in `billing_schema.customers`.

    A phone is accepted in any usual Brazilian spelling, a document with or without marks.

    Raises:
        InvalidBilling: A field is wrong.
    """

    tenant: str
    id: str
    name: str | None = None  # None only after an erasure
    phone: str | None = None
    email: str | None = None
    document: str | None = None
    uf: str | None = None
    address: str | None = None
    notes: str | None = None
    channels: tuple[str, ...] | None = None  # None in a new one: WhatsApp
    rule_id: int | None = None
    hold_until: date | None = None
    hold_reason: str | None = None
    active: bool = True
    last_notice_on: date | None = None
    last_overdue_on: date | None = None
    version: int = 1

    def __post_init__(self) -> None:
        fixed: dict[str, Any] = {
            "id": checked_id("id", self.id),
            "name": checked_line("name", self.name, refuse=damage.refuse_in_name),
            "address": checked_line("address", self.address),
            "notes": checked_line("notes", self.notes, _LONGEST_NOTES),
            "phone": _checked_phone(self.phone),
            "email": _checked_email(self.email),
            "document": _checked_document(self.document),
            "uf": checked_uf(self.uf) if self.uf else None,
            "channels": _checked_channels(self.channels),
        }
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    def is_held(self, today: date) -> bool:
        return self.hold_until is not None and self.hold_until > today


_COLUMNS = tuple(customers.c[each.name] for each in fields(Customer))
# What `upsert` changes, with its type.
_IMPORTED = {
    **dict.fromkeys(("name", "phone", "email", "document", "uf", "address", "notes"), "text"),
    "channels": "text[]", "rule_id": "int",
}  # fmt: skip
_FIXED = ("tenant", "id", "version", "hold_until", "hold_reason", "last_notice_on", "last_overdue_on")


class Upserted(NamedTuple):
    """Numbers of rows by what an upsert did with them."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0

    def __add__(self, other: Upserted) -> Upserted:  # type: ignore[override]
        return Upserted(*(one + two for one, two in zip(self, other, strict=True)))


def add(connection: Connection, customer: Customer, now: datetime) -> Customer:
    """
    Register a customer.

    Raises:
        NotFound: There is no such tenant.
        InvalidBilling: The id is taken, or there is no name.
    """
    tenant = tenants.get(connection, customer.tenant)
    if customer.name is None:
        raise InvalidBilling("name", "is empty")
    if connection.execute(_query(customer.tenant, customer.id)).one_or_none() is not None:
        raise InvalidBilling("id", f"there is a customer {customer.id!r} already")
    whole = replace(customer, channels=customer.channels or ("whatsapp",), version=1)
    values = {column.name: getattr(whole, column.name) for column in _COLUMNS} | {
        "channels": list(whole.channels or ())
    }
    calendar = tenants.calendar_of(connection, tenant, _uf(whole, tenant), now)
    connection.execute(insert(customers).values(values | {"calendar_id": calendar, "created_at": now}))
    return whole


def get(connection: Connection, tenant: str, id_: str) -> Customer:
    """
    Read a customer.

    Raises:
        NotFound: There is none.
    """
    row = connection.execute(_query(tenant, id_)).one_or_none()
    if row is None:
        tenants.get(connection, tenant)  # the better error
        raise not_found(connection, "customer", id_, customers.c.id, customers.c.tenant == tenant)
    return of(row)


def find(connection: Connection, tenant: str, *, search: str | None = None, limit: int = 50) -> Sequence[Customer]:
    """
    Find a tenant's customers, by name.

    Args:
        search: A part of the id, the name or the e-mail address, or a whole phone or document.
    """
    query = select(*_COLUMNS).where(customers.c.tenant == tenant).order_by(func.lower(customers.c.name)).limit(limit)
    if search:
        query = query.where(matches(search))
    return [of(row) for row in connection.execute(query)]


def matches(search: str) -> ColumnElement[bool]:
    """The condition on `customers` of `find`."""
    c = customers.c
    found: list[ColumnElement[bool]] = [func.lower(column).like(like(search)) for column in (c.id, c.name, c.email)]
    with contextlib.suppress(ValueError):
        found.append(c.phone == phones.normalize(search))
    if digits := re.sub(r"[\W_]", "", search):
        found.append(c.document == digits.upper())
    return or_(*found)


def change(connection: Connection, tenant: str, id_: str, now: datetime, **columns: Any) -> Customer:
    """
    Change some fields of a customer. What is queued for a former phone is cancelled, and goes to the new one. Of a new
    rule the last step that still makes sense goes, as after an outage.

    Raises:
        NotFound: There is none.
        InvalidBilling: A field is unknown or wrong.
    """
    seqs = _lock(connection, tenant, id_)
    old = get(connection, tenant, id_)
    new = replace(old, **known_fields(Customer, columns, fixed=_FIXED))
    if "name" in columns and new.name is None:
        raise InvalidBilling("name", "is empty")
    values = {name: getattr(new, name) for name in columns}
    if "channels" in columns:
        values["channels"] = list(new.channels or ("whatsapp",))
    if (new.uf, new.phone) != (old.uf, old.phone):
        whose = tenants.get(connection, tenant)
        values["calendar_id"] = tenants.calendar_of(connection, whose, _uf(new, whose), now)
    _update(connection, tenant, id_, **values)
    if new.rule_id != old.rule_id:
        planner.reopen(connection, seqs)
    if not new.active:
        withdrawals.withdraw(connection, seqs, "customer_inactive", now)
    elif new.phone is None:
        withdrawals.withdraw(connection, seqs, "no_phone", now)
    elif "whatsapp" not in (new.channels or ("whatsapp",)):
        withdrawals.withdraw(connection, seqs, "email_only", now)
    elif new.phone != old.phone:
        withdrawals.readdress(connection, seqs, now)
    return replace(new, version=old.version + 1)


def hold(connection: Connection, tenant: str, id_: str, *, until: date | None, reason: str, now: datetime) -> list[str]:
    """
    Send nothing about any charge of a customer before a day.

    Args:
        until: The first day on which something may be sent again; None for no end.

    Returns:
        The ids of the messages that were withdrawn.

    Raises:
        NotFound: There is none.
        InvalidBilling: The day has come already, or the reason is empty.
    """
    seqs = _lock(connection, tenant, id_)
    get(connection, tenant, id_)
    day = checked_end(until, tenants.get(connection, tenant).today(now))
    _update(connection, tenant, id_, hold_until=day, hold_reason=checked_reason(reason))
    return withdrawals.withdraw(connection, seqs, "on_hold", now)


def release(connection: Connection, tenant: str, id_: str, *, now: datetime) -> bool:
    """
    End a hold. Steps that it stopped are not made up for.

    Returns:
        Whether there was one.

    Raises:
        NotFound: There is none.
    """
    _lock(connection, tenant, id_)
    today = tenants.get(connection, tenant).today(now)
    if not get(connection, tenant, id_).is_held(today):
        return False
    # The end stays: a step of an earlier day that no scheduler has seen yet was stopped all the same.
    _update(connection, tenant, id_, hold_until=today)
    return True


def checked_end(until: date | None, today: date) -> date:
    """
    The first day after a hold.

    Raises:
        InvalidBilling: It has come already.
    """
    if until is None:
        return FOREVER
    if until <= today:
        raise InvalidBilling("until", f"{until} has come already; a hold ends on a later day")
    return until


def checked_reason(reason: str) -> str:
    """
    Why something is held.

    Raises:
        InvalidBilling: It is empty or too long.
    """
    if (line := checked_line("reason", reason)) is None:
        raise InvalidBilling("reason", "is empty; say why, such as acordo or contestação")
    return line


def upsert(connection: Connection, tenant: str, rows: Iterable[Customer], now: datetime) -> Upserted:
    """
    Add customers, and change those that are there. A field that is None stays as it is. A customer is made inactive by
    this, but never active again.

    Raises:
        NotFound: There is no such tenant.
        InvalidBilling: A new one has no name, or a row is another tenant's.
    """
    whose, total, given = tenants.get(connection, tenant), Upserted(), iter(rows)
    calendars: dict[str, int] = {}
    while chunk := {customer.id: customer for customer in islice(given, CHUNK)}:
        if any(customer.tenant != tenant for customer in chunk.values()):
            raise InvalidBilling("tenant", f"a row is not of tenant {tenant!r}")
        known = {row.id: row.uf for row in _known(connection, tenant, list(chunk))}
        documents = []
        for id_, customer in chunk.items():
            if id_ not in known and customer.name is None:
                raise InvalidBilling("name", f"customer {id_!r} is new and has no name")
            uf = _uf(replace(customer, uf=customer.uf or known.get(id_)), whose)
            if uf not in calendars:
                calendars[uf] = tenants.calendar_of(connection, whose, uf, now)
            document = {name: getattr(customer, name) for name in ("id", "active", *_IMPORTED)}
            # Without a phone and a state the calendar of a known customer stays, as these do.
            documents.append(document | {"calendar_id": calendars[uf], "moves": bool(customer.phone or customer.uf)})
        total += _upsert(connection, tenant, documents, now)
    return total


def erase(connection: Connection, phone: str, now: datetime) -> int:
    """
    Erase what is personal about the customers with a phone. Their charges stay, without what may name them, and nothing
    is sent about them any more; their recurrences end.

    Args:
        phone: E.164.

    Returns:
        The number of customers.
    """
    theirs = connection.execute(select(customers.c.tenant, customers.c.id).where(customers.c.phone == phone)).all()
    if not theirs:
        return 0
    keys = [tuple(row) for row in theirs]
    of_them = tuple_(charges.c.tenant, charges.c.customer_id).in_(keys)
    seqs = connection.scalars(select(charges.c.seq).where(of_them)).all()
    withdrawals.withdraw(connection, seqs, "no_phone", now)
    later = {"version": customers.c.version + 1, "active": False}
    connection.execute(
        update(customers)
        .where(tuple_(customers.c.tenant, customers.c.id).in_(keys))
        .values(dict.fromkeys((*PERSONAL, "hold_reason")) | later)
    )
    connection.execute(
        update(charges)
        .where(of_them)
        .values(dict.fromkeys(_NAMING) | {"version": charges.c.version + 1, "updated_at": now})
    )
    connection.execute(
        update(recurrences)
        .where(tuple_(recurrences.c.tenant, recurrences.c.customer_id).in_(keys))
        .values(description=None, active=False, version=recurrences.c.version + 1)
    )
    return len(keys)


def count_of(connection: Connection, phone: str) -> int:
    """The number of customers with a phone (E.164)."""
    return connection.execute(select(func.count()).where(customers.c.phone == phone)).scalar_one()


def of(row: Sequence[Any]) -> Customer:
    """The customer in a row of `columns()`, which was checked before it was stored."""
    customer = object.__new__(Customer)
    for column, value in zip(_COLUMNS, row, strict=True):
        object.__setattr__(customer, column.name, tuple(value) if isinstance(value, list) else value)
    return customer


def columns() -> tuple[Any, ...]:
    return _COLUMNS


def _query(tenant: str, id_: str) -> Select[Any]:
    return select(*_COLUMNS).where(customers.c.tenant == tenant, customers.c.id == id_)


def _lock(connection: Connection, tenant: str, id_: str) -> Sequence[int]:
    """
    The customer's open charges.

    Their messages are locked before the customer, as the push does, which notes the day of the last notice there.
    """
    open_ = select(charges.c.seq).where(charges.c.tenant == tenant, charges.c.customer_id == id_, IS_OPEN)
    seqs = connection.scalars(open_).all()
    withdrawals.lock(connection, seqs)
    connection.execute(_query(tenant, id_).with_for_update(key_share=True))
    return seqs


def _update(connection: Connection, tenant: str, id_: str, **values: Any) -> None:
    which = update(customers).where(customers.c.tenant == tenant, customers.c.id == id_)
    connection.execute(which.values(values | {"version": customers.c.version + 1}))


def _uf(customer: Customer, tenant: Tenant) -> str:
    """The customer's state, else that of their phone, else the tenant's."""
    return customer.uf or (phones.state(customer.phone) if customer.phone else tenant.uf)


def _known(connection: Connection, tenant: str, ids: list[str]) -> Sequence[Row[Any]]:
    query = text("SELECT id, uf FROM customers WHERE tenant = :tenant AND id = ANY(:ids)")
    return connection.execute(query, {"tenant": tenant, "ids": ids}).all()


_INCOMING = f"""json_to_recordset(CAST(:rows AS json)) AS i(id text, calendar_id int, moves boolean, active boolean,
    {", ".join(f"{name} {type_}" for name, type_ in _IMPORTED.items())})"""
_KEPT = (*_IMPORTED, "calendar_id", "active")
_ADDED = ", ".join("coalesce(channels, '{whatsapp}')" if name == "channels" else name for name in _KEPT)
_INSERT = text(f"""
    INSERT INTO customers (tenant, id, {", ".join(_KEPT)}, created_at)
    SELECT :tenant, id, {_ADDED}, :now FROM {_INCOMING} ON CONFLICT DO NOTHING RETURNING id""")
_CHANGED = {name: f"coalesce(i.{name}, k.{name})" for name in _IMPORTED} | {
    "calendar_id": "CASE WHEN i.moves THEN i.calendar_id ELSE k.calendar_id END",
    "active": "k.active AND i.active",
}
# OFFSET 0 makes PostgreSQL look up each row by the key, whatever it believes of a table that it has not analysed yet.
_DIFFERENT = f"""{_INCOMING}
     CROSS JOIN LATERAL (
        SELECT ctid AS place, * FROM customers WHERE tenant = :tenant AND id = i.id OFFSET 0) k
     WHERE ({", ".join(_CHANGED.values())}) IS DISTINCT FROM ({", ".join(f"k.{name}" for name in _CHANGED)})"""
_FIND_CHANGED = text(f"SELECT k.id FROM {_DIFFERENT}")
_LOCK = text("SELECT FROM customers WHERE tenant = :tenant AND id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE")
_CHANGE = text(f"""
    UPDATE customers c SET {", ".join(f"{name} = new.{name}" for name in _CHANGED)}, version = c.version + 1
    FROM (SELECT k.place, k.phone AS was, k.active AS was_active,
            {", ".join(f"{value} AS {name}" for name, value in _CHANGED.items())}
            FROM {_DIFFERENT}) new
    WHERE c.ctid = new.place
    RETURNING c.id, new.was IS DISTINCT FROM c.phone AND new.was IS NOT NULL AS moved,
              new.was_active AND NOT c.active AS ended""")
_OPEN_OF = text("""
    SELECT seq FROM charges WHERE tenant = :tenant AND customer_id = ANY(:ids) AND status IN ('open', 'overdue')""")


def _upsert(connection: Connection, tenant: str, rows: list[dict[str, Any]], now: datetime) -> Upserted:
    given = {"tenant": tenant, "rows": json.dumps(rows), "now": now}
    added = len(connection.execute(_INSERT, given).all())
    changed = _change(connection, given) if added < len(rows) else []
    if moved := [row.id for row in changed if row.moved]:
        seqs = connection.scalars(_OPEN_OF, {"tenant": tenant, "ids": moved}).all()
        withdrawals.readdress(connection, seqs, now)
    if ended := [row.id for row in changed if row.ended]:
        seqs = connection.scalars(_OPEN_OF, {"tenant": tenant, "ids": ended}).all()
        withdrawals.withdraw(connection, seqs, "customer_inactive", now)
    return Upserted(added, len(changed), len(rows) - added - len(changed))


def _change(connection: Connection, given: dict[str, Any]) -> Sequence[Row[Any]]:
    """Change the customers that differ."""
    ids = connection.scalars(_FIND_CHANGED, given).all()
    if not ids:
        return []
    connection.execute(_LOCK, {"tenant": given["tenant"], "ids": list(ids)})
    return connection.execute(_CHANGE, given).all()


def _checked_phone(phone: str | None) -> str | None:
    if phone is None or not phone.strip():
        return None
    try:
        return phones.normalize(phone)
    except ValueError as exc:
        raise InvalidBilling("phone", str(exc)) from None


def _checked_email(email: str | None) -> str | None:
    line = checked_line("email", email, 254)
    if line is not None and not _EMAIL.fullmatch(line):
        raise InvalidBilling("email", "is no e-mail address")
    return line


def _checked_document(document: str | None) -> str | None:
    """A CPF or CNPJ without its marks; the CNPJ may have letters since 2026."""
    if (line := checked_line("document", document)) is None:
        return None
    bare = re.sub(r"[\s./-]", "", line).upper()
    if len(bare) not in (11, 14) or not bare.isalnum() or not bare.isascii():
        raise InvalidBilling("document", "is neither a CPF (11 digits) nor a CNPJ (14 characters)")
    return bare


def _checked_channels(channels: Iterable[str] | None) -> tuple[str, ...] | None:
    if channels is None:
        return None
    given = tuple(channels)
    if not given or not set(given) <= set(_CHANNELS):
        raise InvalidBilling("channels", f"must be some of {', '.join(_CHANNELS)}")
    return given
