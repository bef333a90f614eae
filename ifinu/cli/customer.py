"""`ifinu customer`: who owes, and how they are reached."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ifinu.cli import billing_database, billing_view, terminal
from ifinu.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="Customers: how they are reached, and who is left alone for a while.")

_Id = Annotated[str, typer.Argument(metavar="ID", help="The tenant's id of the customer.")]
_Phone = Annotated[str | None, typer.Option("--phone", metavar="NUMBER", help="Any usual Brazilian spelling.")]
_Email = Annotated[str | None, typer.Option("--email", metavar="ADDRESS")]
_Document = Annotated[str | None, typer.Option("--document", metavar="CPF|CNPJ")]
_State = Annotated[
    str | None, typer.Option("--uf", metavar="UF", help="Whose holidays count; that of the phone by default.")
]
_Address = Annotated[str | None, typer.Option("--address", metavar="TEXT")]
_Notes = Annotated[str | None, typer.Option("--notes", metavar="TEXT", help="For yourself; no message has them.")]


@app.command()
def add(
    id: _Id,  # noqa: A002 - the argument's name
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="As messages address them.")],
    tenant: billing_database.TenantId = None,
    phone: _Phone = None,
    email: _Email = None,
    document: _Document = None,
    uf: _State = None,
    address: _Address = None,
    notes: _Notes = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Add a customer.

    [bold]Examples[/bold]

    ifinu customer add k-9 --name "Maria Silva" --phone "(11) 98765-4321"
    ifinu customer add k-9 --tenant u1 --name "Maria Silva" --phone 11987654321 --document 529.982.247-25
    """
    from ifinu.billing import customers

    with billing_database.database() as engine, engine.begin() as database:
        of = billing_database.tenant_of(database, tenant).id
        given = customers.Customer(
            of, id, name=name, phone=phone, email=email, document=document, uf=uf, address=address, notes=notes
        )
        made = customers.add(database, given, datetime.now(UTC))
    words = f"Customer {made.id} added." + ("" if made.phone else " There is no phone, so nothing is sent.")
    document_ = billing_view.customer_document(made, reveal=False)
    terminal.answer(document_, terminal.plain(words), as_json=as_json)


@app.command("list")
def list_(
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="TEXT", help="Part of id, name or e-mail; or a whole phone or document."),
    ] = None,
    tenant: billing_database.TenantId = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The most customers.")] = 50,
    reveal: billing_view.Reveal = False,
    as_json: terminal.Json = False,
) -> None:
    """
    List customers by name; names and phones are masked.

    [bold]Examples[/bold]

    ifinu customer list --search maria --reveal
    ifinu customer list --tenant u1 --json | jq -r '.[] | select(.phone == null).id'
    """
    from ifinu.billing import customers

    with billing_database.database() as engine, engine.connect() as database:
        of = billing_database.tenant_of(database, tenant)
        found = customers.find(database, of.id, search=search, limit=limit)
    documents = [billing_view.customer_document(customer, reveal=reveal) for customer in found]
    if as_json:
        terminal.print_json(documents)
        return
    out = terminal.results()
    if not found:
        out.print("No customer was found.")
        return
    today = of.today(datetime.now(UTC))
    table = terminal.columns("customer", "name", "phone", "uf", "state", whole=("customer", "phone"))
    for customer, shown in zip(found, documents, strict=True):
        held = f"held until {billing_view.written(customer.hold_until)}" if customer.is_held(today) else ""
        state = held if customer.active else "inactive"
        cells = customer.id, shown["name"], shown["phone"] or "–", customer.uf or "–", state
        table.add_row(*map(terminal.plain, cells))
    out.print(table)


@app.command()
def show(
    id: _Id,  # noqa: A002 - the argument's name
    tenant: billing_database.TenantId = None,
    reveal: billing_view.Reveal = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Show a customer; personal data are masked or left out.

    [bold]Examples[/bold]

    ifinu customer show k-9
    ifinu customer show k-9 --reveal --json | jq -r .phone
    """
    from ifinu.billing import customers

    with billing_database.database() as engine, engine.connect() as database:
        of = billing_database.tenant_of(database, tenant)
        customer = customers.get(database, of.id, id)
    document = billing_view.customer_document(customer, reveal=reveal)
    if as_json:
        terminal.print_json(document)
        return
    lines = document | {"last_notice_on": customer.last_notice_on}
    if customer.is_held(of.today(datetime.now(UTC))):
        lines["hold_until"] = customer.hold_until
    else:  # what is over explains steps of the past, and nothing that follows
        del lines["hold_until"], lines["hold_reason"]
    billing_view.print_lines(lines, of.zone)


@app.command()
def change(
    id: _Id,  # noqa: A002 - the argument's name
    tenant: billing_database.TenantId = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME")] = None,
    phone: _Phone = None,
    email: _Email = None,
    document: _Document = None,
    uf: _State = None,
    address: _Address = None,
    notes: _Notes = None,
    active: Annotated[
        bool | None, typer.Option("--active/--inactive", help="Nothing is sent to an inactive one.")
    ] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Change a customer. What you leave out stays; '' clears it.

    What is queued for a former phone is cancelled, and goes to the new one.

    [bold]Examples[/bold]

    ifinu customer change k-9 --phone "(11) 91234-5678"
    ifinu customer change k-9 --inactive
    """
    from ifinu.billing import customers

    options: dict[str, Any] = {
        "name": name, "phone": phone, "email": email, "document": document, "uf": uf, "address": address,
        "notes": notes, "active": active,
    }  # fmt: skip
    given = {
        field: value or (value if value is False else None) for field, value in options.items() if value is not None
    }
    if not given:
        raise ConfigurationError("say what is to change, such as --phone")
    with billing_database.database() as engine:
        with engine.begin() as database:
            of = billing_database.tenant_of(database, tenant).id
            changed = customers.change(database, of, id, datetime.now(UTC), **given)
        billing_database.cancel_in_redis(engine)
    shown = billing_view.customer_document(changed, reveal=False)
    terminal.answer(shown, terminal.plain(f"Customer {id} changed."), as_json=as_json)


@app.command()
def hold(
    id: _Id,  # noqa: A002 - the argument's name
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Such as acordo or férias; without names.")],
    until: billing_view.Until = None,
    tenant: billing_database.TenantId = None,
    as_json: terminal.Json = False,
) -> None:  # fmt: skip
    """
    Send nothing to a customer for a while. What is planned or queued is withdrawn.

    [bold]Examples[/bold]

    ifinu customer hold k-9 --until 2026-12-20 --why acordo
    ifinu customer hold k-9 --why contestação
    """
    from ifinu.billing import customers

    with billing_database.database() as engine:
        with engine.begin() as database:
            of = billing_database.tenant_of(database, tenant).id
            ids = customers.hold(database, of, id, until=until, reason=why, now=datetime.now(UTC))
        billing_database.cancel_in_redis(engine)
    billing_view.print_hold(f"to {id}", id, until, ids, as_json=as_json)


@app.command()
def release(
    id: _Id,  # noqa: A002 - the argument's name
    tenant: billing_database.TenantId = None,
    as_json: terminal.Json = False,
) -> None:
    """
    End a hold. Messages go again from the next step on; those that were missed do not.

    [bold]Examples[/bold]

    ifinu customer release k-9
    ifinu customer release k-9 --tenant u1 --json
    """
    from ifinu.billing import customers

    with billing_database.database() as engine, engine.begin() as database:
        of = billing_database.tenant_of(database, tenant).id
        done = customers.release(database, of, id, now=datetime.now(UTC))
    billing_view.print_release(f"Customer {id}", id, done, as_json=as_json)
