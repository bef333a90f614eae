"""`ifinu regua`: plan a day, look at today, and the stop button."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ifinu.cli import billing_database, billing_view, terminal
from ifinu.errors import ConfigurationError
from ifinu.window import BRASILIA

app = typer.Typer(no_args_is_help=True, help="Plan the messages of the régua, look at today, pause and resume.")

_COUNTS = ("kind", "state", "reason", "messages")


@app.command()
def run(
    tenant: billing_database.TenantId = None,
    day: Annotated[
        date | None,
        typer.Option("--day", parser=billing_view.day, metavar="DAY", help="As if it were this day; with --dry-run."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be decided, and change nothing.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Decide now what is due, as [bold]ifinu scheduler[/bold] does each minute.

    Without --tenant it is about all tenants; those that are paused are passed over.

    [bold]Examples[/bold]

    ifinu regua run --dry-run
    ifinu regua run --tenant u1 --day 2026-12-10 --dry-run
    ifinu regua run --json
    """
    from ifinu.billing import calendars, planner, tenants

    if day is not None and not dry_run:
        raise ConfigurationError("--day is for --dry-run: a day is planned when it comes, with what is known by then")
    with billing_database.database() as engine:
        total, counts = planner.Planned(), []
        with engine.connect() as connection:
            every = tenants.every(connection) if tenant is None else [tenants.get(connection, tenant)]
            now = datetime.now(UTC) if day is None else datetime.combine(day, time(), ZoneInfo(BRASILIA))
            which = None if tenant is None else [tenant]
            calendars.fill(connection, now.date())
            while True:
                found = planner.plan(connection, now, tenants=which)
                total += found
                if not found.charges:
                    break
                if not dry_run:
                    connection.commit()
            if dry_run:
                counts = planner.decided_at(connection, now, tenant=tenant)
                connection.rollback()
            else:
                connection.commit()
    paused = [each.id for each in every if each.paused_at is not None]
    document = {**total._asdict(), "dry_run": dry_run, "decisions": counts, "paused": paused}
    terminal.answer(document, _words(total, dry_run), as_json=as_json)
    if not as_json:
        if counts:
            _print(counts)
        _print_paused(paused)


@app.command()
def today(tenant: billing_database.TenantId = None, as_json: terminal.Json = False) -> None:
    """
    Show what was decided for today, and what waits, by kind and reason.

    [bold]Examples[/bold]

    ifinu regua today
    ifinu regua today --tenant u1 --json
    """
    from ifinu.billing import planner, tenants

    with billing_database.database() as engine, engine.connect() as connection:
        every = tenants.every(connection) if tenant is None else [tenants.get(connection, tenant)]
        counts = planner.decided_for_today(connection, datetime.now(UTC), tenant=tenant)
        behind = planner.undecided(connection, datetime.now(UTC), tenant=tenant)
    paused = [each.id for each in every if each.paused_at is not None]
    if as_json:
        terminal.print_json({"decisions": counts, "charges_to_decide": behind, "paused": paused})
        return
    if counts:
        _print(counts)
    else:
        terminal.results().print("Nothing was decided for today.")
    if behind:
        terminal.results().print(
            f"[yellow]charges with a step that is not decided yet: {behind:,}; is `ifinu scheduler` running?[/]"
        )
    _print_paused(paused)


@app.command()
def pause(tenant: billing_database.TenantId = None, as_json: terminal.Json = False) -> None:
    """
    Stop the messages of a tenant: nothing more is planned or queued.

    What is queued already is taken back, except for what is being sent at this moment. After
    [bold]resume[/bold] each charge gets one message, the last that still makes sense.

    [bold]Examples[/bold]

    ifinu regua pause --tenant u1
    """
    _switch(tenant, paused=True, as_json=as_json)


@app.command()
def resume(tenant: billing_database.TenantId = None, as_json: terminal.Json = False) -> None:
    """
    Let the messages of a paused tenant go again, two minutes later.

    What is no longer valid by then does not go; [bold]ifinu regua today[/bold] counts it as expired.

    [bold]Examples[/bold]

    ifinu regua resume --tenant u1
    """
    _switch(tenant, paused=False, as_json=as_json)


def _switch(tenant: str | None, *, paused: bool, as_json: bool) -> None:
    from ifinu.billing import tenants

    with billing_database.database() as engine:
        with engine.begin() as connection:
            which = billing_database.tenant_of(connection, tenant).id
            (tenants.pause if paused else tenants.resume)(connection, which, datetime.now(UTC))
        if paused:
            billing_database.cancel_in_redis(engine)
    word = "paused" if paused else "resumed"
    terminal.answer({"tenant": which, "paused": paused}, f"{terminal.plain(which)} is {word}", as_json=as_json)


def _words(total: Any, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    left = f"; in use and decided later: {total.left:,}" if total.left else ""
    merged = f"Steps {would}merged into another message: {total.merged:,}, {would}skipped: {total.skipped:,}."
    return f"Charges: {total.charges:,}{left}. Messages {would}planned: {total.planned:,}. {merged}"


def _print_paused(tenants: list[str]) -> None:
    if tenants:
        terminal.results().print(f"[yellow]paused: {terminal.plain(', '.join(tenants))}[/]")


def _print(counts: list[dict[str, Any]]) -> None:
    table = terminal.columns(*_COUNTS, right=("messages",))
    for row in counts:
        table.add_row(row["kind"], row["state"], row["reason"] or "", f"{row['messages']:,}")
    terminal.results().print(table)
