"""How the commands about charges read and print what people write: amounts, days, names and states."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ifinu import phone as phones
from ifinu import values
from ifinu.cli import terminal
from ifinu.cli.sentences import clock

if TYPE_CHECKING:
    from ifinu.billing.charges import Charge
    from ifinu.billing.customers import Customer

Reveal = Annotated[bool, typer.Option("--reveal", help="Print names, phones, documents and addresses whole.")]

# Why a step has no message, or none any more.
REASONS: Mapping[str, str] = {
    "before_import": "its day was before the charge was known",
    "before_rule": "its day was before the rule applied",
    "superseded": "a later step took its place",
    "stale": "too late for it",
    "on_hold": "held",
    "muted": "the charge is not to be notified of",
    "tenant_inactive": "the tenant is not active",
    "customer_inactive": "the customer is not active",
    "no_phone": "the customer has no phone",
    "capped": "the customer got enough messages already",
    "closed": "the charge was closed",
    "email_only": "the customer is not reached by WhatsApp",
    "condition": "the step's condition does not hold",
    "merged": "the message about another charge speaks of it",
    "edited": "the due date changed",
    "paid": "it was paid",
    "payment_undone": "the payment was undone",
    "charge_cancelled": "the charge was cancelled",
    "rule_changed": "the rule changed",
    "no_trace": "no trace of it was found in time",
}

# Field of an error -> the option that sets it, where that has another name.
OPTIONS: Mapping[str, str] = {
    "amount": "--amount", "discount": "--discount", "due_date": "--due", "customer_id": "--customer",
    "payment_link": "--link", "pix_code": "--pix", "boleto_line": "--boleto", "boleto_pdf": "--boleto-pdf",
    "provider_id": "--provider-id", "fine_percent": "--fine", "interest_percent_month": "--interest",
    "spread_s": "--spread", "daily_cap": "--daily-cap", "overdue_gap_days": "--overdue-gap",
    "legal_name": "--legal-name", "trade_name": "--trade-name", "window_spec": "--window", "text_set": "--text-set",
    "reason": "--why", "until": "--until", "anchor": "--due",
}  # fmt: skip


def amount(text: str) -> Decimal:
    try:
        return values.amount(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} {exc}") from None


def day(text: str) -> date:
    found = _time(text)
    return found.date() if isinstance(found, datetime) else found


Until = Annotated[
    Any,
    typer.Option(
        "--until",
        parser=day,
        metavar="DATE",
        help="The first day on which messages go again; without it the hold has no end.",
    ),
]


def moment(text: str) -> date | datetime:
    """A day, or a time."""
    return _time(text)


def days(text: str) -> tuple[int, int | None]:
    """A range of days: `7..30`, `7..` or `7`."""
    least, dots, most = text.partition("..")
    try:
        found = int(least), (int(most) if most else None) if dots else int(least)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no range of days; write 7..30, or 30.. for 30 and more") from None
    return found


def written(day: date | None) -> str:
    """A day as people write it in Brazil; a dash for None."""
    return "–" if day is None else "no end" if day == date.max else f"{day:%d/%m/%Y}"


def masked(name: str | None) -> str:
    """A name of which only the initials are left."""
    return " ".join(f"{part[0]}***" for part in (name or "").split()) or "–"


def customer_document(customer: Customer, *, reveal: bool) -> dict[str, Any]:
    """A customer as JSON."""
    personal = {"name": customer.name, "phone": customer.phone}
    if reveal:
        personal |= {name: getattr(customer, name) for name in ("email", "document", "address", "notes")}
    else:
        personal = {"name": masked(customer.name), "phone": phones.mask(customer.phone) if customer.phone else None}
    return {
        "tenant": customer.tenant, "id": customer.id, **personal, "uf": customer.uf,
        "channels": list(customer.channels or ()), "active": customer.active,
        "hold_until": iso(customer.hold_until), "hold_reason": customer.hold_reason,
        "last_notice_on": iso(customer.last_notice_on),
    }  # fmt: skip


def charge_document(charge: Charge, customer: Customer, *, reveal: bool) -> dict[str, Any]:
    """A charge as JSON; amounts are texts, since a float cannot hold them."""
    return {
        "tenant": charge.tenant, "id": charge.id, "seq": charge.seq, "status": charge.status,
        "customer": {
            "id": customer.id, "name": customer.name if reveal else masked(customer.name),
            "phone": customer.phone if reveal or not customer.phone else phones.mask(customer.phone),
        },
        "description": charge.description if reveal else charge.description and "…",
        "amount": str(charge.amount), "paid": str(charge.paid),
        "discount": str(charge.discount), "waives_fees": charge.waives_fees, "due_date": iso(charge.due_date),
        "payable_on": iso(charge.payable_on), "late_from": iso(charge.late_from), "method": charge.method,
        "notify": charge.notify, "hold_until": iso(charge.hold_until), "hold_reason": charge.hold_reason,
        "known_on": iso(charge.known_on), "paid_at": iso(charge.paid_at), "paid_via": charge.paid_via,
        "provider": charge.provider, "provider_id": charge.provider_id, "version": charge.version,
    }  # fmt: skip


def print_hold(whom: str, id_: str, until: date | None, withdrawn: list[str], *, as_json: bool) -> None:
    """Print that a charge or a customer is held; `whom` is `about inv-42` or `to k-9`."""
    end = "until it is released" if until is None else f"until {written(until)}"
    words = f"Nothing is sent {whom} {end}; messages withdrawn: {len(withdrawn)}."
    document = {"id": id_, "hold_until": iso(until) or "infinity", "withdrawn": withdrawn}
    terminal.answer(document, terminal.plain(words), as_json=as_json)


def print_release(what: str, id_: str, done: bool, *, as_json: bool) -> None:
    """Print whether a hold was ended; `what` is `Charge inv-42` or `Customer k-9`."""
    words = f"{what} is released." if done else f"{what} was not held."
    terminal.answer({"id": id_, "released": done}, terminal.plain(words), as_json=as_json)


def print_lines(lines: Mapping[str, Any], zone: ZoneInfo) -> None:
    """Print a record as people read it, a line for each value."""
    table = terminal.columns("", "")
    for name, value in lines.items():
        table.add_row(name, terminal.plain(_shown(value, zone)))
    terminal.results().print(table)


def _shown(value: object, zone: ZoneInfo) -> str:
    match value:
        case None | "" | ():
            return "–"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return clock(value, zone)
        case date():
            return written(value)
        case Decimal():
            return f"{value.normalize():f}".replace(".", ",")
        case list() | tuple():
            return ", ".join(map(str, value))
    return str(value)


def iso(at: date | datetime | None) -> str | None:
    """A day or a time as JSON has it; `infinity` for a hold without an end."""
    return None if at is None else "infinity" if at == date.max else at.isoformat()


def brl(amount: Decimal) -> str:
    from ifinu.render import money  # loads Jinja

    return money(amount)


def _time(text: str) -> date | datetime:
    try:
        return values.day_or_time(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} {exc}") from None


def at(moment: date | datetime, tz: str) -> datetime:
    """A day or a time of a person in a zone as an aware time; a day begins at midnight."""
    zone = ZoneInfo(tz)
    if not isinstance(moment, datetime):
        return datetime.combine(moment, time(), zone)
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)
