"""Command lines of ifinu, held against the one that there is."""

from __future__ import annotations

from collections.abc import Sequence

import typer.main


def refuse_unknown(arguments: Sequence[str]) -> None:
    """
    Raise what the command line would: for a command, an option or a value that is none.

    Args:
        arguments: What follows `ifinu`.
    """
    from ifinu import cli

    command = typer.main.get_command(cli.app)
    rest = list(arguments)
    while rest and rest[0] in (inner := getattr(command, "commands", {})):
        command = inner[rest.pop(0)]
    assert not hasattr(command, "commands") or getattr(command, "invoke_without_command", False), arguments
    command.make_context("ifinu", rest).close()
