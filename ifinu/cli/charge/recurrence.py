"""`ifinu charge repeat` and `stop`."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ifinu.cli import billing_database, billing_view, terminal
from ifinu.cli.charge import fields


class Unit(enum.StrEnum):
    """The unit of an interval."""

    DAYS = "days"
    WEEKS = "weeks"
    MONTHS = "months"
    YEARS = "years"


_Id = Annotated[str, typer.Argument(metavar="ID", help="The tenant's id of the recurrence.")]


def repeat(
    id: _Id,  # noqa: A002 - the argument's name
    customer: fields.Customer,
    amount: fields.Amount,
    due: Annotated[
        Any, typer.Option("--due", parser=billing_view.day, metavar="DATE", help="When the first charge is due.")
    ],
    tenant: billing_database.TenantId = None,
    every: Annotated[int, typer.Option("--every", min=1, help="The interval, in --unit.")] = 1,
    unit: Annotated[Unit, typer.Option("--unit")] = Unit.MONTHS,
    until: Annotated[
        Any, typer.Option("--until", parser=billing_view.day, metavar="DATE", help="No charge is due after this day.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="How many charges there are.")] = None,
    description: fields.Description = None,
    method: fields.Method = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Add a charge that repeats. The scheduler makes each one 35 days before it is due.

    Due dates count from the first one: a monthly charge of 31 January is due on 28
    February and on 31 March. The charges are called ID#1, ID#2 and so on.

    [bold]Examples[/bold]

    ifinu charge repeat plano-7 --customer k-9 --amount 149,90 --due 2026-12-10
    ifinu charge repeat seguro-3 --customer k-9 --amount 600 --due 10/01/2027 --every 3 --count 4
    """
    from ifinu.billing import recurrences

    with billing_database.database() as engine, engine.begin() as database:
        of = billing_database.tenant_of(database, tenant).id
        made = recurrences.Recurrence(
            of, id, customer, amount, every, unit.value, due,
            description=description, method=method or "other", until=until, count=count,
        )  # fmt: skip
        recurrences.add(database, made, datetime.now(UTC))
    days = [day for n in range(4) if (day := made.due_on(n)) is not None]
    document = {"id": made.id, "tenant": of, "due": [day.isoformat() for day in days]}
    more = " and so on" if made.due_on(len(days)) is not None else ""
    words = f"Charge {made.id} is due on {', '.join(map(billing_view.written, days))}{more}."
    terminal.answer(document, terminal.plain(words), as_json=as_json)


def stop(
    id: _Id,  # noqa: A002 - the argument's name
    tenant: billing_database.TenantId = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Stop a charge that repeats. The charges that were made stay; cancel them one by one.

    [bold]Examples[/bold]

    ifinu charge stop plano-7
    """
    from ifinu.billing import recurrences

    with billing_database.database() as engine, engine.begin() as database:
        of = billing_database.tenant_of(database, tenant).id
        recurrences.stop(database, of, id)
    terminal.answer(
        {"id": id, "tenant": of, "active": False}, terminal.plain(f"{id} repeats no more."), as_json=as_json
    )
