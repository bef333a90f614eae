"""`ifinu charge`: what customers owe, what is sent about it, and that it was paid."""

from __future__ import annotations

import typer

from ifinu.cli.charge import changes, closure, holds, imports, recurrence, views

app = typer.Typer(no_args_is_help=True, help="Charges: add, import, look, pay, cancel, hold and edit.")
app.command()(changes.add)
app.command()(recurrence.repeat)
app.command()(recurrence.stop)
app.command("import")(imports.import_)
app.command("list")(views.list_)
app.command()(views.show)
app.command()(closure.pay)
app.command()(closure.reopen)
app.command()(closure.cancel)
app.command()(holds.hold)
app.command()(holds.release)
app.command()(changes.edit)
