"""Command lines of ifinu, held against the one that there is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import typer.main


@functools.cache
def root() -> Any:
    """`ifinu` with all its commands, which takes Typer longer to build than to read."""
    from ifinu import cli

    return typer.main.get_command(cli.app)


def refuse_unknown(arguments: Sequence[str]) -> None:
    """
    Raise what the command line would: for a command, an option or a value that is none.

    Args:
        arguments: What follows `ifinu`.
    """
    command = root()
    rest = list(arguments)
    while rest and rest[0] in (inner := getattr(command, "commands", {})):
        command = inner[rest.pop(0)]
    assert not hasattr(command, "commands") or getattr(command, "invoke_without_command", False), arguments
    command.make_context("ifinu", rest).close()
