"""
Output of the commands.

Results go to stdout; progress, questions and errors go to stderr. With `--json` stdout carries only JSON: one document,
or one a line.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from ifinu.errors import ConfigurationError
from ifinu.escapes import visible, visible_json

# Wide enough for the tables when stdout is not a terminal, as in a CI log.
_WIDTH_OFF_TERMINAL = 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def results() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OFF_TERMINAL, highlight=False, emoji=False)


def notes() -> Console:
    """The console on stderr, for progress, warnings and questions."""
    return Console(
        width=None if sys.stderr.isatty() else _WIDTH_OFF_TERMINAL, highlight=False, emoji=False, stderr=True
    )


def columns(*names: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """
    A table without lines.

    Args:
        right: Columns of numbers, aligned right.
        whole: Columns whose cells are never wrapped.
    """
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for name in names:
        figures = name in right
        table.add_column(name, justify="right" if figures else "left", no_wrap=figures or name in whole)
    return table


def plain(text: str, *, lines: bool = False) -> str:
    """
    Escape a text from outside: its brackets are not read as markup, and it cannot control the terminal.

    Args:
        lines: Keep its line ends; otherwise they are shown as escapes.
    """
    return escape(visible(text, lines=lines))


def print_json(document: Any) -> None:
    """Print a JSON document on one line; control characters and lone surrogates become escapes."""
    sys.stdout.write(visible_json(json.dumps(document, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def answer(document: Any, words: RenderableType, *, as_json: bool) -> None:
    """Print a command's result: the document with `--json`, otherwise the words, whose long lines are not wrapped."""
    if as_json:
        print_json(document)
    else:
        results().print(words, soft_wrap=isinstance(words, str))


def is_there_somebody() -> bool:
    """Whether stdin is a terminal, so that somebody can answer a question."""
    return sys.stdin.isatty()


def confirm(warning: str, word: str, *, yes: bool) -> None:
    """
    Ask for a confirmation: the user has to type a word.

    Args:
        warning: A sentence that says what is going to happen.

    Raises:
        ConfigurationError: stdin is not a terminal.
        typer.Exit: Something else was typed.
    """
    if yes:
        return
    if not is_there_somebody():
        raise ConfigurationError("this needs a confirmation and stdin is not a terminal: add --yes")
    notes().print(f"{plain(warning)} This cannot be undone.", style="yellow")
    if typer.prompt(f"Type {word} to continue", default="", show_default=False, err=True) != word:
        notes().print("Nothing was changed.")
        raise typer.Exit(1)
