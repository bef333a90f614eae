"""`ifinu charge pay`, `reopen` and `cancel`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ifinu.cli import billing_database, billing_view, terminal
from ifinu.cli.charge import fields
from ifinu.cli.sentences import clock
from ifinu.errors import ConfigurationError

if TYPE_CHECKING:
    from ifinu.billing.charges import Paid


def pay(
    id: fields.Id,  # noqa: A002 - the argument's name
    amount: Annotated[
        Any, typer.Option("--amount", parser=billing_view.amount, metavar="AMOUNT", help="All that is left by default.")
    ] = None,
    at: Annotated[
        Any, typer.Option("--at", parser=billing_view.moment, metavar="DATE", help="When it was paid; now by default.")
    ] = None,
    tenant: billing_database.TenantId = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Record a payment. From then on no message asks for it.

    What is planned or queued about the charge is withdrawn. A part of the amount
    keeps the charge open, and its messages say what is left. A charge that is paid
    already stays as it is.

    [bold]Examples[/bold]

    ifinu charge pay inv-42
    ifinu charge pay inv-42 --amount 100 --at 2026-11-27
    """
    from ifinu.billing import charges

    with billing_database.database() as engine:
        with engine.begin() as database:
            whose = billing_database.tenant_of(database, tenant)
            paid_at = None if at is None else billing_view.at(at, whose.tz)
            now = datetime.now(UTC)
            if paid_at is not None and paid_at > now:
                raise ConfigurationError(f"--at: {clock(paid_at, whose.zone)} has not come yet")
            paid = charges.pay(database, whose.id, id, amount=amount, at=paid_at, via="cli", now=now)
        billing_database.cancel_in_redis(engine)
    document = {
        "id": id, "was": paid.was, "status": paid.status, "left": str(paid.left), "over": str(paid.over),
        "withdrawn": paid.cancelled,
    }  # fmt: skip
    terminal.answer(document, terminal.plain(_words(id, paid)), as_json=as_json)


def reopen(
    id: fields.Id,  # noqa: A002 - the argument's name
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Such as estorno or engano; without names.")],
    amount: Annotated[
        Any,
        typer.Option("--amount", parser=billing_view.amount, metavar="AMOUNT", help="All that was paid by default."),
    ] = None,
    tenant: billing_database.TenantId = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Undo a payment that was recorded by mistake, or went back.

    The charge is owed again, and held: nothing is sent about it before
    [bold]ifinu charge release[/bold].

    [bold]Examples[/bold]

    ifinu charge reopen inv-42 --why engano
    ifinu charge reopen inv-42 --amount 100 --why estorno --json
    """
    from ifinu.billing import charges

    with billing_database.database() as engine:
        with engine.begin() as database:
            of = billing_database.tenant_of(database, tenant).id
            if not charges.get(database, of, id).paid:
                raise ConfigurationError(f"nothing was paid of charge {id}")
            charge = charges.undo_payment(database, of, id, amount=amount, reason=why, now=datetime.now(UTC))
        billing_database.cancel_in_redis(engine)
    left = charge.amount - charge.paid
    words = (
        f"Charge {id} is {charge.status} and held; {billing_view.brl(left)} are left. "
        "`ifinu charge release` ends the hold."
    )
    document = {"id": id, "status": charge.status, "left": str(left), "hold_reason": charge.hold_reason}
    terminal.answer(document, terminal.plain(words), as_json=as_json)


def cancel(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="The tenant's ids of the charges.")],
    tenant: billing_database.TenantId = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Cancel charges. What is planned or queued about them is withdrawn.

    With several ids, either all are cancelled or none.

    [bold]Examples[/bold]

    ifinu charge cancel inv-42
    ifinu charge cancel inv-42 inv-43 --tenant u1 --json
    """
    from ifinu.billing import charges

    withdrawn: list[str] = []
    with billing_database.database() as engine:
        with engine.begin() as database:
            of, now = billing_database.tenant_of(database, tenant).id, datetime.now(UTC)
            for id_ in sorted(set(ids)):
                withdrawn += charges.cancel(database, of, id_, now=now)
        billing_database.cancel_in_redis(engine)
    words = f"{len(set(ids))} cancelled; messages withdrawn: {len(withdrawn)}."
    terminal.answer({"ids": sorted(set(ids)), "withdrawn": withdrawn}, terminal.plain(words), as_json=as_json)


def _words(id_: str, paid: Paid) -> str:
    if paid.was == "paid":
        return f"Charge {id_} was paid already; nothing changed."
    was = " It had been cancelled." if paid.was == "cancelled" else ""
    if paid.status != "paid":
        return f"Recorded; {billing_view.brl(paid.left)} are left of charge {id_}.{was}"
    over = f" {billing_view.brl(paid.over)} more than was due." if paid.over else ""
    count = f" Messages withdrawn: {len(paid.cancelled)}." if paid.cancelled else ""
    return f"Charge {id_} is paid.{over}{was}{count}"
