"""`ifinu charge list` and `show`."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ifinu.cli import billing_database, billing_view, terminal
from ifinu.cli.billing_view import REASONS, brl, written
from ifinu.cli.charge import fields
from ifinu.cli.sentences import clock
from ifinu.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from ifinu.billing.charges import Charge
    from ifinu.billing.step_history import Decided


def list_(
    status: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="STATUS", help="open, overdue, paid or cancelled. Repeatable."),
    ] = None,
    late: Annotated[
        Any,
        typer.Option(
            "--late", parser=billing_view.days, metavar="DAYS", help="Days since the last day in time: 7..30."
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="TEXT", help="Part of id, description or name; or a whole phone or document."),
    ] = None,
    customer: Annotated[str | None, typer.Option("--customer", metavar="ID", help="Only this customer's.")] = None,
    tenant: billing_database.TenantId = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The most charges.")] = 50,
    reveal: billing_view.Reveal = False,
    as_json: terminal.Json = False,
) -> None:
    """
    List charges by due date; names and phones are masked.

    [bold]Examples[/bold]

    ifinu charge list --status overdue --late 7..30
    ifinu charge list --search maria --reveal
    ifinu charge list --status open --json | jq -r '.[].id'
    """
    from ifinu.billing import charges

    if wrong := set(status or ()) - set(charges.STATUSES):
        raise ConfigurationError(f"--status {wrong.pop()!r}: write {', '.join(charges.STATUSES)}")
    now = datetime.now(UTC)
    with billing_database.database() as engine, engine.connect() as database:
        of = billing_database.tenant_of(database, tenant)
        found = charges.find(
            database, of.id, now=now, status=status or (), late=late, search=search, customer=customer, limit=limit
        )
    documents = [billing_view.charge_document(charge, whose, reveal=reveal) for charge, whose in found]
    if as_json:
        terminal.print_json(documents)
        return
    out = terminal.results()
    if not found:
        out.print("No charge was found.")
        return
    today = of.today(now)
    table = terminal.columns("charge", "customer", "name", "left", "due", "state", right=("left",), whole=("due",))
    for (charge, whose), document in zip(found, documents, strict=True):
        held = charge.is_open and (charge.is_held(today) or whose.is_held(today))
        state = _state(charge) + (", held" if held else "")
        cells = (
            charge.id,
            whose.id,
            document["customer"]["name"] or "–",
            brl(_left(charge)),
            written(charge.due_date),
            state,
        )
        table.add_row(*map(terminal.plain, cells))
    out.print(table)


def show(
    id: fields.Id,  # noqa: A002 - the argument's name
    tenant: billing_database.TenantId = None,
    days: Annotated[int, typer.Option("--days", min=0, max=366, help="How far to look ahead; 0 not at all.")] = 60,
    reveal: billing_view.Reveal = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Show a charge: what was sent about it, what will be sent and when, and why something was not.

    What will be sent is a trial of the rule as things are now; payments, holds and
    other charges of the customer change it.

    [bold]Examples[/bold]

    ifinu charge show inv-42
    ifinu charge show inv-42 --days 120 --json | jq '.ahead[]'
    """
    from ifinu.billing import charges, customers, planner, step_history

    now = datetime.now(UTC)
    with billing_database.database() as engine, engine.connect() as database:
        of = billing_database.tenant_of(database, tenant)
        charge = charges.get(database, of.id, id)
        whose = customers.get(database, of.id, charge.customer_id)
        history = step_history.of_charge(database, charge.seq)
        ahead = planner.simulate(database, charge.seq, days, now) if charge.is_open and days else []
        database.rollback()  # the trial
    document = billing_view.charge_document(charge, whose, reveal=reveal)
    if as_json:
        known = [each._asdict() | {"day": each.day.isoformat(), "at": billing_view.iso(each.at)} for each in history]
        trial = [
            {
                "day": each.goes_on.isoformat(), "step": each.step, "kind": each.kind, "state": each.state,
                "reason": each.reason, "not_before": billing_view.iso(each.not_before),
            }
            for each in ahead
        ]  # fmt: skip
        terminal.print_json(document | {"history": known, "ahead": trial})
        return
    out = terminal.results()
    today = of.today(now)
    out.print(terminal.plain(_headline(charge, of.zone)), soft_wrap=True)
    name, phone = document["customer"]["name"], document["customer"]["phone"]
    out.print(terminal.plain(f"customer {whose.id}: {name or '–'}, {phone or 'no phone'}"), soft_wrap=True)
    for held, words in ((charge, "held"), (whose, "customer held")):
        if charge.is_open and held.is_held(today):
            reason = f": {held.hold_reason}" if held.hold_reason else ""
            out.print(
                terminal.plain(f"{words} until {written(held.hold_until)}{reason}"), style="yellow", soft_wrap=True
            )
    if history:
        out.print()
        out.print(_history(history, of.zone))
    if ahead:
        table = terminal.columns("ahead", "step", "kind", "what", whole=("ahead",))
        for each in ahead:
            what = (
                f"goes from {clock(each.not_before, of.zone)}"
                if each.state == "planned"
                else _why(each.state, each.reason)
            )
            table.add_row(*map(terminal.plain, (written(each.goes_on), each.step, each.kind, what)))
        out.print()
        out.print(table)
    elif charge.is_open and days:
        out.print(f"Nothing will be sent in the next {days} days.", style="dim")


def _headline(charge: Charge, zone: ZoneInfo) -> str:
    what = f"{charge.id}: {_state(charge)}, {brl(charge.amount)}"
    paid = f", {brl(charge.paid)} paid" if charge.paid and charge.status != "paid" else ""
    due = f", due {written(charge.due_date)}"
    last = f" (in time until {written(charge.payable_on)})" if charge.payable_on != charge.due_date else ""
    when = (
        f", paid {clock(charge.paid_at, zone)} ({charge.paid_via})"
        if charge.status == "paid" and charge.paid_at
        else ""
    )
    return what + paid + due + last + when


def _history(history: list[Decided], zone: ZoneInfo) -> Table:
    table = terminal.columns("day", "step", "kind", "what became of it", "id", whole=("day", "id"))
    for each in history:
        if each.at is not None:
            verb = "goes from" if each.state == "planned" else each.state
            what = f"{verb} {clock(each.at, zone)}"
        elif each.leader is not None:
            what = f"the message about {each.leader} speaks of it"
        else:
            what = _why(each.state, each.reason)
        table.add_row(*map(terminal.plain, (written(each.day), each.step, each.kind, what, each.id)))
    return table


def _why(state: str, reason: str | None) -> str:
    return state if reason is None else f"{state}: {REASONS.get(reason, reason)}"


def _state(charge: Charge) -> str:
    return charge.status + ("" if charge.notify else ", silent")


def _left(charge: Charge) -> Decimal:
    return max(charge.amount - charge.paid, Decimal(0)) if charge.is_open else Decimal(0)
