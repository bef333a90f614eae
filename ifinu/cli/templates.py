"""`ifinu template`: the texts that people read, checked and looked at before anybody does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ifinu import settings
from ifinu.cli import terminal
from ifinu.notification import Kind

app = typer.Typer(no_args_is_help=True, help="The texts that people read.")

_Directory = Annotated[
    Path | None, typer.Option("--templates", metavar="DIRECTORY", help="In place of IFINU_TEMPLATES.")
]


@app.command()
def check(templates: _Directory = None, as_json: terminal.Json = False) -> None:
    """
    Check the templates in IFINU_TEMPLATES, as a worker does when it starts.

    It says what is wrong, with file and line, and which file each kind is taken from.
    The exit code is 1 where something is wrong: no worker would start.

    [bold]Examples[/bold]

    ifinu template check
    ifinu template check --templates ./texts --json
    """
    from ifinu.render import Renderer
    from ifinu.render.template_sets import BrokenTemplates

    config = settings.load(templates=templates)
    found, problems = [], list[str]()
    try:
        renderer = Renderer(config.templates, codes_apart=config.pix_separate)
        found = [{"tenant": tenant, "kind": kind.value, "file": file} for tenant, kind, file in renderer.sources()]
    except BrokenTemplates as exc:
        problems += exc.problems
    if as_json:
        directory = config.templates and str(config.templates)
        terminal.print_json({"directory": directory, "templates": found, "problems": problems})
    else:
        _print(found, problems)
    if problems:
        raise typer.Exit(1)


@app.command()
def preview(
    kind: Annotated[Kind, typer.Argument(help="Whose text.")],
    tenant: Annotated[str | None, typer.Option(help="Of this tenant, where it has templates.")] = None,
    bare: Annotated[bool, typer.Option("--bare", help="With what the kind requires, and nothing else.")] = False,
    templates: _Directory = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Show the text of a made-up notification, as it would be sent today.

    With [bold]--bare[/bold] it has neither description, link nor codes: a template
    that cannot do without one of them is told, as a message without it would
    become a dead letter. Of a notification of yours: [bold]ifinu send --dry-run[/bold].

    [bold]Examples[/bold]

    ifinu template preview lembrete
    ifinu template preview atraso --tenant u1 --bare
    ifinu template preview pagamento --templates ./texts --json
    """
    from ifinu.delivery import today_in_brazil
    from ifinu.render import Renderer, sample

    config = settings.load(templates=templates)
    renderer = Renderer(config.templates, reference=config.reference, codes_apart=config.pix_separate)
    today = today_in_brazil()
    text = renderer.render(sample(kind, today, tenant=tenant, bare=bare), today=today)
    file = renderer.source(kind, tenant)
    if as_json:
        terminal.print_json({"kind": kind.value, "tenant": tenant, "file": file, "text": text})
        return
    terminal.notes().print(f"From {terminal.plain(file)}:", style="dim", soft_wrap=True)
    terminal.results().print(terminal.plain(text, lines=True), soft_wrap=True)


def _print(found: list[dict[str, str | None]], problems: list[str]) -> None:
    out = terminal.results()
    for problem in problems:
        out.print(terminal.plain(problem), soft_wrap=True)
    if problems:
        out.print(f"{len(problems):,} wrong: no worker starts with these templates")
        return
    table = terminal.columns("tenant", "kind", "from")
    for one in found:
        table.add_row(*(terminal.plain(one[name] or "–") for name in ("tenant", "kind", "file")))
    out.print(table)
