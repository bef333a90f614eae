"""`ifinu charge hold` and `release`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from ifinu.cli import billing_database, billing_view, terminal
from ifinu.cli.charge import fields


def hold(
    id: fields.Id,  # noqa: A002 - the argument's name
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Such as acordo or contestação; without names.")],
    until: billing_view.Until = None,
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
    billing_view.print_hold(f"about {id}", id, until, ids, as_json=as_json)


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
    billing_view.print_release(f"Charge {id}", id, done, as_json=as_json)
