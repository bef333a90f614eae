"""`ifinu charge hold` and `release`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ifinu.cli import billing_database, billing_view, terminal
from ifinu.cli.charge import fields


def hold(
    id: fields.Id,  # noqa: A002 - the argument's name
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Such as acordo or contestação; without names.")],
    until: Annotated[
        Any,
        typer.Option(
            "--until", parser=billing_view.day, metavar="DATE",
            help="The first day on which messages go again; without it the hold has no end.",
        ),
    ] = None,
    tenant: billing_database.TenantId = None,
    as_json: terminal.Json = False,
) -> None:  # fmt: skip
    """
    Send nothing about a charge for a while. What is planned or queued is withdrawn.

    Steps of these days are not made up for.

    [bold]Examples[/bold]

    ifinu charge hold inv-42 --until 2026-12-20 --why promessa
    ifinu charge hold inv-42 --why contestação
    """
    from ifinu.billing import charges

    with billing_database.database() as engine:
        with engine.begin() as database:
            of = billing_database.tenant_of(database, tenant).id
            ids = charges.hold(database, of, id, until=until, reason=why, now=datetime.now(UTC))
        billing_database.cancel_in_redis(engine)
    end = "until it is released" if until is None else f"until {billing_view.written(until)}"
    words = f"Nothing is sent about {id} {end}; messages withdrawn: {len(ids)}."
    document = {"id": id, "hold_until": billing_view.iso(until) or "infinity", "withdrawn": ids}
    terminal.answer(document, terminal.plain(words), as_json=as_json)


def release(
    id: fields.Id,  # noqa: A002 - the argument's name
    tenant: billing_database.TenantId = None,
    as_json: terminal.Json = False,
) -> None:
    """
    End a hold. Messages go again from the next step on; those that were missed do not.

    [bold]Examples[/bold]

    ifinu charge release inv-42
    ifinu charge release inv-42 --tenant u1 --json
    """
    from ifinu.billing import charges

    with billing_database.database() as engine, engine.begin() as database:
        of = billing_database.tenant_of(database, tenant).id
        done = charges.release(database, of, id, now=datetime.now(UTC))
    words = f"Charge {id} is released." if done else f"Charge {id} was not held."
    terminal.answer({"id": id, "released": done}, terminal.plain(words), as_json=as_json)
