"""
The message of an intent, made of what the database says now.

    intent + charge + tenant + customer ──▶ Notification, or the reason why none goes (`notification.Stop`)

One message may speak of several charges of a customer: its charge's and those whose intents were merged into it. The
ones that are open are in it; if only others are, it still goes, about those.

What is due today, of each charge:

    left      amount - paid
    fine      left × fine_percent, once, from the first late day on
    interest  left × interest_percent_month / 30 for each late day
    discount  until the last day on which it is paid in time (`payable_on`)
    total     left + fine + interest - discount, each rounded to the cent before, so that the printed parts add up
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection, text

from ifinu import wire
from ifinu.errors import InvalidNotification
from ifinu.notification import Kind, Notification, Stop

log = structlog.get_logger(__name__)

_CENT = Decimal("0.01")
_DAYS_OF_A_MONTH = 30
_GONE = ("skipped", "merged", "cancelled", "expired")  # states of an intent whose message must not go

# An intent whose recipient changed has the same stem, `c<seq>.<step>.<yymmdd>[.<n>]`, and another id.
_ROWS = text("""
    SELECT w.id AS message, w.id = i.id AS is_current, i.kind, i.text AS text_name, i.state, i.valid_until,
        t.id AS tenant, t.legal_name, t.trade_name, t.document, t.address, t.signature, t.text_set, t.tz,
        t.fine_percent, t.interest_percent_month, t.status AS tenant_status, t.active_until, t.paused_at,
        u.name, u.phone, u.channels, u.active AS customer_active, u.hold_until AS customer_hold_until,
        c.seq, c.seq = w.seq AS leads, c.status, c.description, c.amount, c.paid, c.discount, c.waives_fees,
        c.due_date, c.payable_on, c.payment_link, c.pix_code, c.pix_expires_at, c.boleto_line, c.notify, c.hold_until
    FROM unnest(CAST(:seqs AS bigint[]), CAST(:ids AS text[])) WITH ORDINALITY AS w (seq, id, place)
    JOIN charges own ON own.seq = w.seq
    JOIN billing_tenants t ON t.id = own.tenant
    JOIN customers u ON u.tenant = own.tenant AND u.id = own.customer_id
    JOIN intents i ON i.charge_seq = w.seq AND split_part(i.id, '~', 1) = split_part(w.id, '~', 1)
    JOIN LATERAL (
        SELECT own.*
        UNION ALL
        SELECT other.* FROM charges other
        WHERE other.tenant = own.tenant AND other.customer_id = own.customer_id AND other.seq <> own.seq
            AND other.status IN ('open', 'overdue')
            AND EXISTS (
                SELECT FROM intents m WHERE m.charge_seq = other.seq AND m.leader = own.seq
                    AND m.state = 'merged' AND m.planned_on = i.planned_on AND m.channel = i.channel
            )
    ) c ON true
    ORDER BY w.place, c.due_date, c.seq
""")


class Owed(Protocol):
    """What `fees` has to know of a charge: a row of `charges` has it."""

    @property
    def amount(self) -> Decimal: ...
    @property
    def paid(self) -> Decimal: ...
    @property
    def discount(self) -> Decimal: ...
    @property
    def waives_fees(self) -> bool: ...
    @property
    def payable_on(self) -> date: ...


class Rates(Protocol):
    """What `fees` has to know of a tenant: a row of `billing_tenants` has it."""

    @property
    def fine_percent(self) -> Decimal: ...
    @property
    def interest_percent_month(self) -> Decimal: ...


class Fees(NamedTuple):
    """
    What a charge costs on a day, each part to the cent; `left + fine + interest - discount` is `total`.

    Attributes:
        left: What is left of its amount.
        fine: The fine for being late.
        interest: The interest of the late days.
        discount: What is taken off.
        total: What is to be paid.
        days_late: Days since the last one on which it could be paid in time, or 0.
    """

    left: Decimal
    fine: Decimal
    interest: Decimal
    discount: Decimal
    total: Decimal
    days_late: int


def fees(charge: Owed, tenant: Rates, today: date) -> Fees:
    """What a charge costs on a day, by the tenant's percentages."""
    left = max(charge.amount - charge.paid, Decimal(0))
    days_late = max((today - charge.payable_on).days, 0)
    late = bool(days_late) and not charge.waives_fees
    fine = _cents(left * tenant.fine_percent / 100) if late else Decimal(0)
    interest = (
        _cents(left * tenant.interest_percent_month * days_late / (100 * _DAYS_OF_A_MONTH)) if late else Decimal(0)
    )
    discount = Decimal(0) if days_late else min(charge.discount, left)
    return Fees(left, fine, interest, discount, left + fine + interest - discount, days_late)


def compose(
    connection: Connection, intents: Iterable[tuple[int, str]], now: datetime
) -> dict[str, Notification | Stop]:
    """
    Make the messages of intents, in one query.

    Args:
        connection: A connection to PostgreSQL.
        intents: `charge_seq` and `id` of each.
        now: The time.

    Returns:
        By id, the message or the reason why none may go. An id that the database does not know is left out.
    """
    wanted = list(intents)
    if not wanted:
        return {}
    seqs, ids = zip(*wanted, strict=True)
    rows = connection.execute(_ROWS, {"seqs": list(seqs), "ids": list(ids)})
    made = {}
    for message, group in itertools.groupby(rows, key=lambda row: str(row.message)):
        made[message] = _message(message, list(group), now)
    return made


def _message(message: str, rows: Sequence[Any], now: datetime) -> Notification | Stop:
    own = next(row for row in rows if row.leads)
    today = now.astimezone(ZoneInfo(own.tz)).date()
    kind = Kind(own.kind)
    if (stop := _stop(own, now, today)) is not None:
        return stop
    if kind is Kind.PAID:
        about = [own] if own.status == "paid" else []
        if not about:
            return Stop.UNDONE
    else:
        reasons = [_silent(row, own, today) for row in rows]
        about = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
        if not about:
            return next(reason for row, reason in zip(rows, reasons, strict=True) if row.leads and reason is not None)
    first = own if own in about else about[0]
    total = sum((fees(row, own, today).total for row in about), Decimal(0))
    try:
        return wire.from_fields(
            {
                "id": message,
                "kind": kind,
                "phone": own.phone,
                "name": own.name,
                "amount": own.paid if kind is Kind.PAID else total,
                # What is due on a Saturday is a `vencimento` until Monday.
                "due_date": first.payable_on if kind is Kind.DUE else first.due_date,
                "description": first.description,
                "tenant": own.tenant,
                "payment_link": first.payment_link,
                "pix_code": first.pix_code if first.pix_expires_at is None or first.pix_expires_at > now else None,
                "boleto_line": first.boleto_line,
                "valid_until": own.valid_until,
                "charge_ref": str(own.seq),
            }
        )
    except InvalidNotification as exc:
        log.error("ifinu.charge.unsendable", id=message, error=str(exc))
        return Stop.INVALID


def _stop(own: Any, now: datetime, today: date) -> Stop | None:
    """Why nothing goes for this intent, whatever the state of its charges."""
    if not own.is_current or own.state in _GONE:
        return Stop.CANCELLED
    if own.tenant_status == "suspended" or (
        own.tenant_status != "lifetime" and own.active_until is not None and own.active_until <= now
    ):
        return Stop.TENANT_INACTIVE
    if own.paused_at is not None:
        return Stop.TENANT_PAUSED
    if not own.customer_active:
        return Stop.CUSTOMER_INACTIVE
    if own.phone is None:
        return Stop.NO_PHONE
    if "whatsapp" not in own.channels:
        return Stop.EMAIL_ONLY
    if own.kind != Kind.PAID and own.customer_hold_until is not None and today < own.customer_hold_until:
        return Stop.ON_HOLD
    return None


def _silent(charge: Any, rates: Rates, today: date) -> Stop | None:
    """Why a message says nothing of a charge."""
    if charge.status == "cancelled":
        return Stop.CHARGE_CANCELLED
    if charge.status == "paid" or not fees(charge, rates, today).total:
        return Stop.PAID
    if charge.hold_until is not None and today < charge.hold_until:
        return Stop.ON_HOLD
    return None if charge.notify else Stop.MUTED


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(_CENT, ROUND_HALF_UP)
