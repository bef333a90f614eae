"""`ifinu template`: the message templates of IFINU_TEMPLATES, and the tenants' texts about charges in the database."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ifinu import settings
from ifinu.cli import billing_database, files, terminal
from ifinu.errors import ConfigurationError
from ifinu.notification import Kind

if TYPE_CHECKING:
    from ifinu.billing.tenants import Tenant
    from ifinu.render import Renderer

app = typer.Typer(no_args_is_help=True, help="Check and preview the message templates, and change a tenant's texts.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A kind, or a name that a step of the rule has.")]
_File = Annotated[str, typer.Argument(metavar="FILE", help="The text; - for stdin.")]
_Version = Annotated[int | None, typer.Option("--version", metavar="N", help="This version instead of the newest.")]
_Directory = Annotated[
    Path | None, typer.Option("--templates", metavar="DIRECTORY", help="Use these templates, not IFINU_TEMPLATES.")
]


@app.command()
def check(templates: _Directory = None, as_json: terminal.Json = False) -> None:
    """
    Check the templates in IFINU_TEMPLATES, as a worker does when it starts.

    It prints each problem with file and line, or the file that each kind's text comes
    from. The exit code is 1 if there is a problem: no worker would start.

    [bold]Examples[/bold]

    ifinu template check
    ifinu template check --templates ./texts --json
    """
    from ifinu.render import Renderer
    from ifinu.render.template_sets import BrokenTemplates

    config = settings.load(templates=templates)
    found, of_meta, problems = [], [], list[str]()
    try:
        renderer = Renderer(config.templates, codes_apart=config.pix_separate)
        found = [{"tenant": tenant, "kind": kind.value, "file": file} for tenant, kind, file in renderer.sources()]
        of_meta = [
            {"tenant": tenant, "kind": kind.value, "file": one.file, "name": one.name, "language": one.language}
            for tenant, kind, one in renderer.sources_of_meta()
        ]
    except BrokenTemplates as exc:
        problems += exc.problems
    if as_json:
        directory = config.templates and str(config.templates)
        document = {"directory": directory, "templates": found, "of_meta": of_meta, "problems": problems}
        terminal.print_json(document)
    else:
        _print([*found, *of_meta], problems)
    if problems:
        raise typer.Exit(1)


@app.command()
def preview(
    kind: Annotated[Kind, typer.Argument(help="Kind of notification.")],
    tenant: Annotated[str | None, typer.Option(help="Use this tenant's template, if it has one.")] = None,
    bare: Annotated[bool, typer.Option("--bare", help="Fill in only the fields that the kind requires.")] = False,
    charge: Annotated[str | None, typer.Option(metavar="ID", help="Of this charge in the database, as of now.")] = None,
    templates: _Directory = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Preview the text of a sample notification, as it would be sent today.

    With [bold]--bare[/bold] the sample has no description, link or codes. If a template needs
    one of them, the command fails: a message without it would become a dead letter.
    To preview a real notification, use [bold]ifinu send --dry-run[/bold], or, of a charge in the
    database, [bold]--charge[/bold]: the text as it would be sent now, whether or not one is planned.

    [bold]Examples[/bold]

    ifinu template preview lembrete
    ifinu template preview atraso --tenant u1 --bare
    ifinu template preview pagamento --templates ./texts --json
    ifinu template preview atraso --charge inv-42 --tenant u1
    """
    from ifinu.delivery import today_in_brazil
    from ifinu.render import Renderer, sample

    config = settings.load(templates=templates)
    renderer = Renderer(config.templates, reference=config.reference, codes_apart=config.pix_separate)
    if charge is not None:
        document = of_charge(kind, charge, tenant, renderer)
        terminal.answer(document, terminal.plain(document["text"], lines=True), as_json=as_json)
        return
    today = today_in_brazil()
    text = renderer.render(sample(kind, today, tenant=tenant, bare=bare), today=today)
    file = renderer.source(kind, tenant)
    if as_json:
        terminal.print_json({"kind": kind.value, "tenant": tenant, "file": file, "text": text})
        return
    terminal.notes().print(f"From {terminal.plain(file)}:", style="dim", soft_wrap=True)
    terminal.results().print(terminal.plain(text, lines=True), soft_wrap=True)


def of_charge(kind: Kind, charge: str, tenant: str | None, renderer: Renderer) -> dict[str, str]:
    """The text of a charge as it would be sent now, as JSON has it."""
    from ifinu.billing import charges, messages
    from ifinu.billing.texts import Texts

    with billing_database.database() as engine, engine.connect() as connection:
        which = billing_database.tenant_of(connection, tenant).id
        found = charges.get(connection, which, charge)
        text = messages.preview(connection, found.seq, kind, datetime.now(UTC), Texts(renderer))
    return {"kind": kind.value, "tenant": which, "charge": charge, "text": text}


@app.command("list")
def list_(tenant: billing_database.TenantId = None, as_json: terminal.Json = False) -> None:
    """
    List a tenant's texts about charges.

    Whose text a message has: the tenant's by the name in the step, the tenant's by its
    kind, the tenant's set, IFINU_TEMPLATES, ifinu's.

    [bold]Examples[/bold]

    ifinu template list
    ifinu template list --tenant u1 --json
    """
    from ifinu.billing import texts

    with billing_database.database() as engine, engine.connect() as connection:
        which = billing_database.tenant_of(connection, tenant)
        found = texts.every(connection, which.id)
    if as_json:
        listed = [{**text._asdict(), "created_at": text.created_at.isoformat()} for text in found]
        terminal.print_json({"tenant": which.id, "text_set": which.text_set, "texts": listed})
        return
    out = terminal.results()
    if which.text_set:
        out.print(f"Set: {terminal.plain(which.text_set)}")
    if not found:
        out.print("No texts of the tenant's own.")
        return
    table = terminal.columns("name", "version", "since", "characters", right=("version", "characters"))
    for text in found:
        size = f"{len(text.body):,}" if text.body else "–"
        table.add_row(terminal.plain(text.name), str(text.version), f"{text.created_at:%d/%m/%Y %H:%M}", size)
    out.print(table)


@app.command()
def show(
    name: _Name,
    tenant: billing_database.TenantId = None,
    version: _Version = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Print a tenant's text about charges; the one that comes with ifinu if the tenant has none.

    [bold]Examples[/bold]

    ifinu template show atraso > atraso.txt.j2
    ifinu template show atraso --tenant u1 --version 2
    """
    from ifinu.billing import texts

    with billing_database.database() as engine, engine.connect() as connection:
        which = billing_database.tenant_of(connection, tenant)
        found = texts.get(connection, which.id, name, version)
    if found is not None and found.body:
        body, source = found.body, f"version {found.version}"
    elif version is None and name in {*Kind}:
        body, source = texts.builtin(Kind(name), which.text_set), "ifinu"
    else:
        raise ConfigurationError(f"{which.id} has no text {name}" + (f", version {version}" if version else ""))
    if as_json:
        terminal.print_json({"tenant": which.id, "name": name, "from": source, "body": body})
        return
    terminal.notes().print(f"From {source}:", style="dim")
    terminal.results().print(terminal.plain(body, lines=True), soft_wrap=True)


@app.command("set")
def set_(
    name: _Name,
    file: _File,
    tenant: billing_database.TenantId = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Store it although lint finds something.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Give a tenant a new version of a text about charges. The next message has it.

    A text that cannot be used is never stored; one to which [bold]lint[/bold] objects only
    with [bold]--anyway[/bold]. An empty file puts the tenant back to the text without it.

    [bold]Examples[/bold]

    ifinu template set atraso atraso.txt.j2
    ifinu template set cobranca-amigavel - --tenant u1 < texto.txt.j2
    """
    from ifinu.billing import texts

    body = _read(file)
    with billing_database.database() as engine, engine.begin() as connection:
        which = billing_database.tenant_of(connection, tenant)
        kinds = texts.kinds_of(connection, which.id, name)
        problems = _problems(body, kinds, which) if body else []
        if problems and not anyway:
            _report(name, problems, as_json=as_json)
            raise typer.Exit(1)
        version = texts.put(connection, which.id, name, body, datetime.now(UTC))
    words = f"{terminal.plain(which.id)} has {terminal.plain(name)}, version {version}"
    if not kinds:
        words += "; no step of its rule names it yet"
    document = {"tenant": which.id, "name": name, "version": version, "problems": problems}
    terminal.answer(document, words, as_json=as_json)


@app.command()
def diff(
    name: _Name,
    file: _File,
    tenant: billing_database.TenantId = None,
    version: _Version = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Show what a file changes in a tenant's text about charges. The exit code is 1 if it changes something.

    [bold]Examples[/bold]

    ifinu template diff atraso atraso.txt.j2
    ifinu template diff atraso atraso.txt.j2 --version 2
    """
    from ifinu.billing import texts

    body = _read(file)
    with billing_database.database() as engine, engine.connect() as connection:
        which = billing_database.tenant_of(connection, tenant)
        found = texts.get(connection, which.id, name, version)
    if version is not None and found is None:
        raise ConfigurationError(f"{which.id} has no text {name}, version {version}")
    was, of = (found.body, f"{name}, version {found.version}") if found else ("", name)
    if not was and name in {*Kind}:
        was, of = texts.builtin(Kind(name), which.text_set), f"{name} of ifinu"
    lines = list(difflib.unified_diff(was.splitlines(), body.splitlines(), of, file, lineterm=""))
    if as_json:
        terminal.print_json({"tenant": which.id, "name": name, "diff": lines})
    else:
        for line in lines:
            terminal.results().print(terminal.plain(line), soft_wrap=True)
    if lines:
        raise typer.Exit(1)


@app.command()
def lint(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="A text; - for stdin.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="The kind of the file's text.")] = None,
    tenant: billing_database.TenantId = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Say what is wrong with a text about charges: with a file, or with all texts of a tenant.

    An [bold]atraso[/bold] needs the supplier's name, document and address (CDC, art. 42-A), and
    the parts that a text prints have to add up to its total. With --tenant a file is
    also checked with what the tenant has. The exit code is 1 if something is wrong.

    [bold]Examples[/bold]

    ifinu template lint atraso.txt.j2 --kind atraso
    ifinu template lint --tenant u1
    """
    from ifinu.billing import texts

    found: dict[str, list[str]] = {}
    if file is not None:
        if kind is None:
            raise ConfigurationError(f"say of which kind the text is: --kind, one of {', '.join(Kind)}")
        body, of = _read(file), None
        if tenant is not None:
            with billing_database.database() as engine, engine.connect() as connection:
                of = billing_database.tenant_of(connection, tenant)
        found[file] = texts.lint(body, kind, of)
    else:
        with billing_database.database() as engine, engine.connect() as connection:
            which = billing_database.tenant_of(connection, tenant)
            mine = {text.name: text for text in texts.every(connection, which.id) if text.body}
            for name in dict.fromkeys((*Kind, *mine)):
                kinds = texts.kinds_of(connection, which.id, name)
                body = mine[name].body if name in mine else texts.builtin(Kind(name), which.text_set)
                found[str(name)] = _problems(body, kinds, which)
    if as_json:
        terminal.print_json({"problems": found})
    else:
        for name, problems in found.items():
            _report(name, problems, as_json=False)
        if not any(found.values()):
            terminal.results().print("Nothing is wrong.")
    if any(found.values()):
        raise typer.Exit(1)


def _read(file: str) -> str:
    with files.source(file) as content:
        try:
            return content.read().decode("utf-8-sig").strip()
        except UnicodeDecodeError as exc:
            raise ConfigurationError(f"{file}: is not UTF-8, at byte {exc.start}") from exc


def _problems(body: str, kinds: list[Kind], tenant: Tenant) -> list[str]:
    from ifinu.billing import texts

    if not kinds:
        return texts.faults(body, None)
    return list(dict.fromkeys(problem for kind in kinds for problem in texts.lint(body, kind, tenant)))


def _report(name: str, problems: list[str], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json({"name": name, "problems": problems})
        return
    for problem in problems:
        terminal.results().print(terminal.plain(f"{name}: {problem}"), soft_wrap=True)


def _print(found: list[dict[str, str | None]], problems: list[str]) -> None:
    out = terminal.results()
    for problem in problems:
        out.print(terminal.plain(problem), soft_wrap=True)
    if problems:
        out.print(f"{len(problems):,} problems: no worker starts with these templates")
        return
    table = terminal.columns("tenant", "kind", "from")
    for one in found:
        table.add_row(*(terminal.plain(one[name] or "–") for name in ("tenant", "kind", "file")))
    out.print(table)
