"""`ifinu template`: check and preview the message templates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ifinu import settings
from ifinu.cli import terminal
from ifinu.notification import Kind

app = typer.Typer(no_args_is_help=True, help="Check and preview the message templates.")

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
    templates: _Directory = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Preview the text of a sample notification, as it would be sent today.

    With [bold]--bare[/bold] the sample has no description, link or codes. If a template needs
    one of them, the command fails: a message without it would become a dead letter.
    To preview a real notification, use [bold]ifinu send --dry-run[/bold].

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
        out.print(f"{len(problems):,} problems: no worker starts with these templates")
        return
    table = terminal.columns("tenant", "kind", "from")
    for one in found:
        table.add_row(*(terminal.plain(one[name] or "–") for name in ("tenant", "kind", "file")))
    out.print(table)
