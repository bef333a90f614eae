"""`ifinu`, the command line: one file a command group."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from ifinu.cli.demo import demo

app = typer.Typer(name="ifinu", rich_markup_mode="rich", no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(demo)


@app.callback()
def _root() -> None:
    """Billing notifications over WhatsApp."""


def main(arguments: Sequence[str] | None = None) -> int:
    app(arguments)
    return 0
