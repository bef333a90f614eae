"""Command lines of ifinu, checked by its real parser."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import typer.main


@functools.cache
def root() -> Any:
    """`ifinu` with all its commands, cached since building them takes Typer longer than parsing."""
    from ifinu import cli

    return typer.main.get_command(cli.app)


def refuse_unknown(arguments: Sequence[str]) -> None:
    """
    Raise the parser's error for an unknown command or option, or an invalid value.

    Args:
        arguments: The words after `ifinu`.
    """
    command = root()
    rest = list(arguments)
    while rest and rest[0] in (inner := getattr(command, "commands", {})):
        command = inner[rest.pop(0)]
    assert not hasattr(command, "commands") or getattr(command, "invoke_without_command", False), arguments
    command.make_context("ifinu", rest).close()
