"""`ifinu rules`: a tenant's rule, what it does about a charge, and what a changed one would do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ifinu import settings
from ifinu.cli import billing_database, files, templates, terminal
from ifinu.cli.billing_view import written
from ifinu.notification import Kind

if TYPE_CHECKING:
    from ifinu.billing.planner import Decision
    from ifinu.billing.rules import Difference, Rule

app = typer.Typer(no_args_is_help=True, help="Show and change which message goes on which day.")

File = Annotated[str, typer.Argument(metavar="FILE", help="The rule in YAML; - for stdin.")]


@app.command()
def show(tenant: billing_database.TenantId = None, as_json: terminal.Json = False) -> None:
    """
    Print a tenant's rule as YAML, as [bold]ifinu rules apply[/bold] reads it.

    [bold]Examples[/bold]

    ifinu rules show > regua.yaml
    ifinu rules show --tenant u1 --json
    """
    from ifinu.billing import rules

    with billing_database.database() as engine, engine.connect() as connection:
        which = billing_database.tenant_of(connection, tenant).id
        rule = rules.of_tenant(connection, which)
    if as_json:
        terminal.print_json({"tenant": which, **rules.as_data(rule)})
    else:
        typer.echo(rules.dump(rule), nl=False)


@app.command()
def apply(file: File, tenant: billing_database.TenantId = None, as_json: terminal.Json = False) -> None:
    """
    Give a tenant the rule of a file.

    What is due today is decided by the old rule. A step that is new or falls on other
    days decides nothing before tomorrow, so no old charge is written to again.

    [bold]Examples[/bold]

    ifinu rules diff regua.yaml && ifinu rules apply regua.yaml
    ifinu rules apply regua.yaml --tenant u1
    """
    from ifinu.billing import rules

    rule = _read(file)
    with billing_database.database() as engine, engine.begin() as connection:
        which = billing_database.tenant_of(connection, tenant).id
        version = rules.apply(connection, which, rule, datetime.now(UTC))
    words = f"{terminal.plain(which)} has rule {terminal.plain(rule.name)}, version {version}"
    terminal.answer({"tenant": which, "rule": rule.name, "version": version}, words, as_json=as_json)


@app.command()
def diff(file: File, tenant: billing_database.TenantId = None, as_json: terminal.Json = False) -> None:
    """
    Show whom the rule of a file would write to tomorrow, and whom no longer.

    Nothing is changed. Messages that are the same by both rules are not listed.

    [bold]Examples[/bold]

    ifinu rules diff regua.yaml
    ifinu rules diff regua.yaml --tenant u1 --json | jq '.differences | length'
    """
    from ifinu.billing import rules

    rule = _read(file)
    with billing_database.database() as engine, engine.connect() as connection:
        which = billing_database.tenant_of(connection, tenant).id
        found = rules.diff(connection, which, rule, datetime.now(UTC))
        connection.rollback()
    if as_json:
        terminal.print_json({"tenant": which, "differences": [each._asdict() for each in found]})
        return
    out = terminal.results()
    if not found:
        out.print("Tomorrow the same messages go.")
        return
    table = terminal.columns("charge", "customer", "as it is", "as in the file")
    for each in found:
        table.add_row(*map(terminal.plain, (each.charge, each.customer, _step(each.before), _step(each.after))))
    out.print(table)
    out.print(_sum(found), style="dim")


@app.command()
def simulate(
    charge: Annotated[str, typer.Argument(metavar="CHARGE", help="The charge's id.")],
    tenant: billing_database.TenantId = None,
    days: Annotated[int, typer.Option(min=1, max=1000, help="How many days, today among them.")] = 60,
    as_json: terminal.Json = False,
) -> None:
    """
    Show the days to come of a charge, if it stays unpaid.

    Holds, caps and closed days count; what does not go has its reason. Nothing is changed.

    [bold]Examples[/bold]

    ifinu rules simulate inv-42
    ifinu rules simulate inv-42 --days 120 --json
    """
    from ifinu.billing import charges, planner

    with billing_database.database() as engine, engine.connect() as connection:
        which = billing_database.tenant_of(connection, tenant)
        about = charges.get(connection, which.id, charge)
        found = planner.simulate(connection, about.seq, days, datetime.now(UTC))
        connection.rollback()
    zone = ZoneInfo(which.tz)
    if as_json:
        terminal.print_json({"tenant": which.id, "charge": charge, "steps": [_as_json(each, zone) for each in found]})
        return
    out = terminal.results()
    if not found:
        out.print(f"Nothing follows: the charge is {about.status}, or every step is decided.")
        return
    table = terminal.columns("day", "step", "kind", "goes", "why not")
    for each in found:
        repeat = f" ({each.n + 1})" if each.n else ""
        goes = "" if each.not_before is None else f"{each.not_before.astimezone(zone):%d/%m/%Y %H:%M}"
        state = f"with another charge, {goes[:10]}" if each.state == "merged" else goes
        table.add_row(*map(terminal.plain, (written(each.day), each.step + repeat, each.kind, state, _why(each))))
    out.print(table)


@app.command()
def preview(
    kind: Annotated[Kind, typer.Argument(help="Kind of message.")],
    charge: Annotated[str, typer.Option(metavar="ID", help="The charge's id.")],
    tenant: billing_database.TenantId = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Show the text of a charge as it would be sent now, whether or not a step of the rule sends one.

    [bold]Examples[/bold]

    ifinu rules preview atraso --charge inv-42
    ifinu rules preview lembrete --charge inv-42 --tenant u1 --json
    """
    from ifinu.render import Renderer

    config = settings.load()
    renderer = Renderer(config.templates, reference=config.reference, codes_apart=config.pix_separate)
    document = templates.of_charge(kind, charge, tenant, renderer)
    terminal.answer(document, terminal.plain(document["text"], lines=True), as_json=as_json)


def _read(file: str) -> Rule:
    from ifinu.billing import rules

    with files.source(file) as content:
        return rules.load(content.read().decode("utf-8", "replace"))


def _step(step: tuple[str, str] | None) -> str:
    return "–" if step is None else f"{step[0]} ({step[1]})"


def _sum(found: list[Difference]) -> str:
    more, less = sum(each.before is None for each in found), sum(each.after is None for each in found)
    return f"{more:,} more, {less:,} fewer, {len(found) - more - less:,} with another step"


def _why(each: Decision) -> str:
    return (each.reason or "") if each.state == "skipped" else ""


def _as_json(each: Decision, zone: ZoneInfo) -> dict[str, Any]:
    at = None if each.not_before is None else each.not_before.astimezone(zone).isoformat(timespec="seconds")
    return {
        "day": each.day.isoformat(), "step": each.step, "n": each.n, "kind": each.kind, "state": each.state,
        "reason": each.reason, "not_before": at,
    }  # fmt: skip
