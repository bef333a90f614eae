"""`ifinu tenant`: who bills, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ifinu.cli import billing_database, billing_view, terminal
from ifinu.errors import ConfigurationError

if TYPE_CHECKING:
    from ifinu.billing.tenants import Tenant

app = typer.Typer(no_args_is_help=True, help="Tenants that bill: what texts say about them, and their limits.")

_Id = Annotated[str, typer.Argument(metavar="ID", help="The tenant's id (usuario_id).")]
_TradeName = Annotated[str | None, typer.Option("--trade-name", metavar="NAME", help="The name that people know.")]
_Document = Annotated[str | None, typer.Option("--document", metavar="CNPJ", help="CNPJ or CPF, as texts print it.")]
_Address = Annotated[
    str | None, typer.Option("--address", metavar="TEXT", help="As texts about late charges print it.")
]
_Signature = Annotated[str | None, typer.Option("--signature", metavar="TEXT", help="How texts end.")]
_Window = Annotated[
    str | None,
    typer.Option("--window", metavar="SPEC", help="lei-sp (the default), comercial, or 'mon-fri 09:00-18:00'."),
]
_Zone = Annotated[str | None, typer.Option("--tz", metavar="ZONE", help="America/Sao_Paulo by default.")]
_TextSet = Annotated[str | None, typer.Option("--text-set", metavar="NAME", help="A set of texts, such as ifinu.")]
_Fine = Annotated[
    Any, typer.Option("--fine", parser=billing_view.amount, metavar="PERCENT", help="Fine of a late charge; 2.")
]
_Interest = Annotated[
    Any, typer.Option("--interest", parser=billing_view.amount, metavar="PERCENT", help="Interest a month; 1.")
]
_Cap = Annotated[int | None, typer.Option("--daily-cap", metavar="N", help="Notices to a customer a day; 1.")]
_Gap = Annotated[
    int | None, typer.Option("--overdue-gap", metavar="DAYS", help="Days between two notices of late charges; 3.")
]
_Spread = Annotated[int | None, typer.Option("--spread", metavar="SECONDS", help="Spreads a morning's messages; 7200.")]
_Consolidate = Annotated[
    bool | None, typer.Option("--consolidate/--one-by-one", help="One message about all charges of a customer.")
]
_Receipts = Annotated[
    str | None, typer.Option("--receipts", metavar="WHEN", help="When pagamento goes: always, after_notice, never.")
]
_Status = Annotated[
    str | None, typer.Option("--status", metavar="STATUS", help="trial, active, lifetime or suspended.")
]
_ActiveUntil = Annotated[
    Any, typer.Option("--active-until", parser=billing_view.moment, metavar="DATE", help="End of the subscription.")
]
_LegalName = Annotated[
    Any, typer.Option("--legal-name", parser=str, metavar="NAME", help="The company's name in its register.")
]
_UF = Annotated[Any, typer.Option("--uf", parser=str, metavar="UF", help="The state, whose holidays count.")]
_ClosedOn = Annotated[
    list[str] | None,
    typer.Option("--closed-on", metavar="DATE", help="Its own holidays, all of them; '' for none. Repeatable."),
]


@app.command()
def add(
    id: _Id,  # noqa: A002 - the argument's name
    legal_name: _LegalName,
    uf: _UF,
    trade_name: _TradeName = None,
    document: _Document = None,
    address: _Address = None,
    signature: _Signature = None,
    window: _Window = None,
    tz: _Zone = None,
    text_set: _TextSet = None,
    fine: _Fine = None,
    interest: _Interest = None,
    daily_cap: _Cap = None,
    overdue_gap: _Gap = None,
    spread: _Spread = None,
    consolidate: _Consolidate = None,
    receipts: _Receipts = None,
    status: _Status = None,
    active_until: _ActiveUntil = None,
    closed_on: _ClosedOn = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Add a tenant. It has the default rule until [bold]ifinu rules apply[/bold] gives it another one.

    A text about a late charge needs the name, the document and the address of the
    company (CDC, art. 42-A).

    [bold]Examples[/bold]

    ifinu tenant add u1 --legal-name "Academia Fit LTDA" --uf SP --document 12.345.678/0001-95
    ifinu tenant add u2 --legal-name "Escola Sol LTDA" --uf AM --tz America/Manaus --window comercial
    """
    from ifinu.billing import tenants

    given = _given(
        trade_name=trade_name, document=document, address=address, signature=signature, window_spec=window, tz=tz,
        text_set=text_set, fine_percent=fine, interest_percent_month=interest, daily_cap=daily_cap,
        overdue_gap_days=overdue_gap, spread_s=spread, consolidate=consolidate, receipts=receipts, status=status,
    )  # fmt: skip
    tenant = tenants.Tenant(id, legal_name, uf, **given)
    if active_until is not None:
        tenant = replace(tenant, active_until=billing_view.at(active_until, tenant.tz))
    with billing_database.database() as engine, engine.begin() as database:
        made = tenants.add(database, tenant, datetime.now(UTC))
        if closed_on is not None:
            tenants.rest(database, id, _holidays(closed_on), datetime.now(UTC))
    terminal.answer(_document(made), terminal.plain(f"Tenant {made.id} added."), as_json=as_json)


@app.command("list")
def list_(as_json: terminal.Json = False) -> None:
    """
    List the tenants.

    [bold]Examples[/bold]

    ifinu tenant list
    ifinu tenant list --json | jq -r '.[] | select(.paused_at).id'
    """
    from ifinu.billing import tenants

    with billing_database.database() as engine, engine.connect() as database:
        found = tenants.every(database)
    if as_json:
        terminal.print_json([_document(tenant) for tenant in found])
        return
    out = terminal.results()
    if not found:
        out.print("There are no tenants yet; `ifinu tenant add` adds one.")
        return
    table = terminal.columns("tenant", "name", "uf", "window", "status", whole=("tenant",))
    for tenant in found:
        state = "paused" if tenant.paused_at else tenant.status
        cells = tenant.id, tenant.trade_name or tenant.legal_name, tenant.uf, tenant.window_spec, state
        table.add_row(*map(terminal.plain, cells))
    out.print(table)


@app.command()
def show(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="You may leave it out if there is only one.")] = None,  # noqa: A002 - the argument's name
    as_json: terminal.Json = False,
) -> None:
    """
    Show a tenant.

    [bold]Examples[/bold]

    ifinu tenant show
    ifinu tenant show u1 --json | jq .window_spec
    """
    from ifinu.billing import calendars, rules

    with billing_database.database() as engine, engine.connect() as database:
        found = billing_database.tenant_of(database, id)
        rule = rules.of_tenant(database, found.id).name
        closed = calendars.own_days(database, found.id)
    if as_json:
        terminal.print_json(_document(found) | {"rule": rule, "closed_on": [day.isoformat() for day in closed]})
        return
    lines = {**asdict(found), "rule_id": rule, "closed_on": ", ".join(map(billing_view.written, closed)) or None}
    lines["rule"] = lines.pop("rule_id")
    billing_view.print_lines(lines, found.zone)


@app.command()
def change(
    id: _Id,  # noqa: A002 - the argument's name
    legal_name: _LegalName = None,
    uf: _UF = None,
    trade_name: _TradeName = None,
    document: _Document = None,
    address: _Address = None,
    signature: _Signature = None,
    window: _Window = None,
    tz: _Zone = None,
    text_set: _TextSet = None,
    fine: _Fine = None,
    interest: _Interest = None,
    daily_cap: _Cap = None,
    overdue_gap: _Gap = None,
    spread: _Spread = None,
    consolidate: _Consolidate = None,
    receipts: _Receipts = None,
    status: _Status = None,
    active_until: _ActiveUntil = None,
    closed_on: _ClosedOn = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Change a tenant. What you leave out stays.

    Another window and own holidays hold from the next step on; messages that are
    planned already keep their times.

    [bold]Examples[/bold]

    ifinu tenant change u1 --window comercial --daily-cap 2
    ifinu tenant change u1 --closed-on 2026-12-24 --closed-on 2026-12-31
    ifinu tenant change u1 --status suspended
    """
    from ifinu.billing import tenants

    given = _given(
        legal_name=legal_name, uf=uf, trade_name=trade_name, document=document, address=address, signature=signature,
        window_spec=window, tz=tz, text_set=text_set, fine_percent=fine, interest_percent_month=interest,
        daily_cap=daily_cap, overdue_gap_days=overdue_gap, spread_s=spread, consolidate=consolidate, receipts=receipts,
        status=status,
    )  # fmt: skip
    now = datetime.now(UTC)
    with billing_database.database() as engine, engine.begin() as database:
        if active_until is not None:
            given["active_until"] = billing_view.at(active_until, tenants.get(database, id).tz)
        if not given and closed_on is None:
            raise ConfigurationError("say what is to change, such as --window comercial")
        changed = tenants.change(database, id, now, **given) if given else tenants.get(database, id)
        if closed_on is not None:
            tenants.rest(database, id, _holidays(closed_on), now)
    terminal.answer(_document(changed), terminal.plain(f"Tenant {id} changed."), as_json=as_json)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _holidays(days: Sequence[str]) -> dict[date, str]:
    return {billing_view.day(text): "closed" for text in days if text}


def _document(tenant: Tenant) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Decimal) else value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(tenant).items()
    }
