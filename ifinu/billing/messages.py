"""
The message of an intent, made of what the database says now.

    intent + charge + tenant + customer ──▶ Notification, or the reason why none goes (`notification.Stop`)

One message may speak of several charges of a person: its charge and those whose intents were merged into it. It has
those that are open; if only the merged ones are, it still goes, as theirs. A person may be several customers, as long
as these have one phone; then a charge also says whose it is.

A text says dates and weekdays, not "tomorrow": it is written when its message is pushed, and true on the day after.

What is due today, of each charge:

    left      amount - paid
    fine      left × fine_percent, once, from the first late day on
    interest  left × interest_percent_month / 30 for each late day
    discount  until the last day on which it is paid in time (`payable_on`)
    total     left + fine + interest - discount, each rounded to the cent before, so that the printed parts add up
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection, text

from ifinu import wire
from ifinu.billing.texts import Key, Line, Texts, supplier
from ifinu.errors import InvalidNotification
from ifinu.notification import Kind, Notification, Stop
from ifinu.payment_codes import spaced
from ifinu.render import br_date, money, plain

log = structlog.get_logger(__name__)

_CENT = Decimal("0.01")
_DAYS_OF_A_MONTH = 30
_GRAVEST_FIRST = (Kind.OVERDUE, Kind.DUE, Kind.REMINDER, Kind.CREATED, Kind.PAID)
_WEEKDAYS = ("segunda-feira", "terça-feira", "quarta-feira", "quinta-feira", "sexta-feira", "sábado", "domingo")
_GONE = ("skipped", "merged", "cancelled", "expired")  # states of an intent whose message must not go

_COLUMNS = """
        t.id AS tenant, t.legal_name, t.trade_name, t.document, t.address, t.signature, t.text_set, t.tz, t.window_spec,
        t.fine_percent, t.interest_percent_month, t.status AS tenant_status, t.active_until, t.paused_at,
        coalesce(s.name, u.name) AS name, u.phone, u.channels, u.active AS customer_active,
        u.hold_until AS customer_hold_until,
        c.seq, c.seq = own.seq AS leads, c.status, c.description, c.amount, c.paid, c.discount, c.waives_fees, c.id,
        c.due_date, c.payable_on, c.payment_link, c.pix_code, c.pix_expires_at, c.boleto_line, c.notify, c.hold_until,
        s.kind, s.text AS text_name,
        (SELECT max(version) FROM texts x WHERE x.tenant = t.id AND x.name = s.text) AS text_version,
        (SELECT max(version) FROM texts x WHERE x.tenant = t.id AND x.name = s.kind) AS kind_version
"""
_OWNERS = """
    JOIN billing_tenants t ON t.id = own.tenant
    JOIN customers u ON u.tenant = own.tenant AND u.id = own.customer_id
"""
# An intent whose recipient changed has the same stem, `c<seq>.<step>.<yymmdd>[.<n>]`, and another id.
_ROWS = text(f"""
    SELECT w.id AS message, w.id = i.id AS is_current, i.state, i.reason, i.valid_until, {_COLUMNS}
    FROM unnest(CAST(:seqs AS bigint[]), CAST(:ids AS text[])) WITH ORDINALITY AS w (seq, id, place)
    JOIN charges own ON own.seq = w.seq
    {_OWNERS}
    JOIN intents i ON i.charge_seq = w.seq AND split_part(i.id, '~', 1) = split_part(w.id, '~', 1)
    JOIN LATERAL (
        SELECT i.charge_seq, i.kind, i.text, NULL AS name
        UNION ALL
        SELECT m.*, person.name FROM customers person
        JOIN charges other ON other.tenant = person.tenant AND other.customer_id = person.id AND other.seq <> own.seq
            AND other.status IN ('open', 'overdue')
        CROSS JOIN LATERAL (
            SELECT m.charge_seq, m.kind, m.text FROM intents m
            WHERE m.charge_seq = other.seq AND m.leader = own.seq AND m.state = 'merged'
                AND m.planned_on = i.planned_on AND m.channel = i.channel
            LIMIT 1
        ) m
        -- Asked again, not taken from `u`: else this may run for each customer of the tenant while tables are new.
        WHERE person.tenant = own.tenant
            AND person.phone = (SELECT phone FROM customers WHERE tenant = own.tenant AND id = own.customer_id)
    ) s ON true
    JOIN charges c ON c.seq = s.charge_seq
    ORDER BY w.place, c.due_date, c.seq
""")  # noqa: S608 - constants of this module
_ONE = text(f"""
    SELECT {_COLUMNS} FROM charges own {_OWNERS} JOIN charges c ON c.seq = own.seq
    CROSS JOIN (SELECT CAST(:kind AS text) AS kind, CAST(:text AS text) AS text, NULL AS name) s
    WHERE own.seq = :seq
""")  # noqa: S608 - likewise


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
    connection: Connection, intents: Iterable[tuple[int, str]], now: datetime, texts: Texts | None = None
) -> dict[str, Notification | Stop]:
    """
    Make the messages of intents, in one query, and one more for texts that are new to `texts`.

    Args:
        connection: A connection to PostgreSQL.
        intents: `charge_seq` and `id` of each.
        now: The time.
        texts: The texts; keep them from call to call. By default those without `IFINU_TEMPLATES`.

    Returns:
        By id, the message or the reason why none may go. An id that the database does not know is left out.
    """
    wanted = list(intents)
    if not wanted:
        return {}
    texts = texts or _default_texts()
    seqs, ids = zip(*wanted, strict=True)
    rows = connection.execute(_ROWS, {"seqs": list(seqs), "ids": list(ids)}).all()
    texts.load(connection, itertools.chain.from_iterable(map(_texts_of, rows)))
    groups = itertools.groupby(rows, key=lambda row: str(row.message))
    return {message: _message(message, list(group), now, texts) for message, group in groups}


_default_texts = functools.cache(Texts)


def preview(
    connection: Connection, seq: int, kind: Kind, now: datetime, texts: Texts, *, text_name: str | None = None
) -> str:
    """
    Write the text of a charge as it would be now, whether or not a message may go.

    Args:
        text_name: The name of its text, as a step may give it.

    Raises:
        InvalidNotification: It cannot be written.
    """
    row = connection.execute(_ONE, {"seq": seq, "kind": kind.value, "text": text_name}).one()
    texts.load(connection, _texts_of(row))
    return _text("preview", row, [row], now, texts)[0]


def _message(message: str, rows: Sequence[Any], now: datetime, texts: Texts) -> Notification | Stop:
    own = next(row for row in rows if row.leads)
    today = now.astimezone(ZoneInfo(own.tz)).date()
    if (stop := _stop(own, now, today)) is not None:
        return stop
    silent = {row.seq: _silent(row, own, today) for row in rows}
    about = [row for row in rows if silent[row.seq] is None]
    if not about:
        return silent[own.seq] or Stop.PAID
    first = own if own in about else min(about, key=lambda row: _GRAVEST_FIRST.index(Kind(row.kind)))
    kind = Kind(first.kind)
    alone = len(about) == 1  # otherwise each code is in the text, beside its charge
    try:
        written, total = _text(message, first, about, now, texts)
        return wire.from_fields(
            {
                "id": message,
                "kind": kind,
                "phone": own.phone,
                "name": own.name,
                "amount": total,
                # What is due on a Saturday is a `vencimento` until Monday.
                "due_date": first.payable_on if kind is Kind.DUE else first.due_date,
                "description": first.description,
                "tenant": own.tenant,
                "payment_link": first.payment_link,
                "pix_code": _pix_code(first, now) if alone else None,
                "boleto_line": first.boleto_line if alone else None,
                "valid_until": own.valid_until,
                "text": written,
                "charge_ref": str(own.seq),
                "sending_window": own.window_spec,
            }
        )
    except InvalidNotification as exc:
        log.error("ifinu.charge.unsendable", id=message, error=str(exc))
        return Stop.INVALID


def _text(message: str, first: Any, about: Sequence[Any], now: datetime, texts: Texts) -> tuple[str, Decimal]:
    """The text about some charges of a customer, by the step of the first, and what they come to."""
    today = now.astimezone(ZoneInfo(first.tz)).date()
    lines = [_line(row, first, now, today, codes_apart=texts.codes_apart and len(about) == 1) for row in about]
    common = {"id": message, "nome": plain(first.name) or "", "hoje": br_date(today), **supplier(first)}
    written = texts.write(_texts_of(first), Kind(first.kind), first.tenant, first.text_set, common, lines)
    return written, sum((line.total for line in lines), Decimal(0))


def _texts_of(row: Any) -> list[Key]:
    """The tenant's texts for a step, the best first."""
    found = (row.text_name, row.text_version), (row.kind, row.kind_version)
    return [Key(row.tenant, name, version) for name, version in found if version is not None]


def _line(charge: Any, first: Any, now: datetime, today: date, *, codes_apart: bool) -> Line:
    """What a text may say of a charge beside the first of a message, without the values that the charge lacks."""
    parts, is_paid = fees(charge, first, today), charge.status == "paid"
    total = charge.paid if is_paid else parts.total
    codes = {
        "pix_copia_cola": _pix_code(charge, now),
        "linha_digitavel": charge.boleto_line and spaced(charge.boleto_line),
    }
    values: dict[str, object] = {
        "numero": charge.id,
        "cliente": plain(charge.name) if charge.name != first.name else None,
        "descricao": plain(charge.description),
        "vencimento": br_date(charge.due_date),
        "dia_do_vencimento": _WEEKDAYS[charge.due_date.weekday()],
        "vencimento_efetivo": br_date(charge.payable_on),
        "dia_do_vencimento_efetivo": _WEEKDAYS[charge.payable_on.weekday()],
        "dias_para_vencer": (charge.due_date - today).days,
        "dias_de_atraso": (today - charge.due_date).days,
        "atrasada": (not is_paid and parts.days_late > 0) or None,
        "valor": money(total),
        "valor_original": money(charge.amount),
        "valor_pago": charge.paid and money(charge.paid),
        "desconto": not is_paid and parts.discount and money(parts.discount),
        "multa": not is_paid and parts.fine and money(parts.fine),
        "juros": not is_paid and parts.interest and money(parts.interest),
        "link_pagamento": charge.payment_link,
        **({"codigos_a_seguir": sum(map(bool, codes.values()))} if codes_apart else codes),
    }
    always = ("dias_para_vencer", "dias_de_atraso")
    return Line({name: value for name, value in values.items() if value or name in always}, total)


def _pix_code(charge: Any, now: datetime) -> str | None:
    expired = charge.pix_expires_at is not None and charge.pix_expires_at <= now
    return None if expired else charge.pix_code


def _stop(own: Any, now: datetime, today: date) -> Stop | None:
    """Why nothing goes for this intent, whatever the state of its charges."""
    if not own.is_current:
        return Stop.CANCELLED
    if own.state in _GONE:
        return next((stop for stop in Stop if stop == own.reason), Stop.CANCELLED)
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
    if charge.kind == Kind.PAID:
        return None if charge.status == "paid" else Stop.UNDONE
    if charge.status == "cancelled":
        return Stop.CHARGE_CANCELLED
    if charge.status == "paid" or not fees(charge, rates, today).total:
        return Stop.PAID
    if charge.hold_until is not None and today < charge.hold_until:
        return Stop.ON_HOLD
    return None if charge.notify else Stop.MUTED


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(_CENT, ROUND_HALF_UP)
