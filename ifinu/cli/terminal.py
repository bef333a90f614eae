"""
What commands print, and where.

Results go to stdout; progress, questions and errors go to stderr. With `--json` stdout carries one JSON document, or
one a line, and nothing else.
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

# Wide enough for the tables where there is no terminal to measure, as in a CI log.
_WIDTH_OFF_TERMINAL = 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def results() -> Console:
    """Where results go."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OFF_TERMINAL, highlight=False, emoji=False)


def notes() -> Console:
    """Where progress, warnings and questions go."""
    return Console(
        width=None if sys.stderr.isatty() else _WIDTH_OFF_TERMINAL, highlight=False, emoji=False, stderr=True
    )


def columns(*names: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """
    A table without lines.

    Args:
        names: Of the columns.
        right: Those that hold figures.
        whole: Those that are never broken.
    """
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for name in names:
        figures = name in right
        table.add_column(name, justify="right" if figures else "left", no_wrap=figures or name in whole)
    return table


def plain(text: str, *, lines: bool = False) -> str:
    """
    A text from elsewhere: its brackets are no markup, and it cannot steer the terminal.

    Args:
        text: As it came.
        lines: Whether it may take several lines; else a line end is shown by its escape.
    """
    return escape(visible(text, lines=lines))


def print_json(document: Any) -> None:
    """One JSON document on one line; what a terminal would obey, or could not write, as its escape."""
    sys.stdout.write(visible_json(json.dumps(document, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def answer(document: Any, words: RenderableType, *, as_json: bool) -> None:
    """Print the result of a command: the document with `--json`, else the words, whose long lines are not broken."""
    if as_json:
        print_json(document)
    else:
        results().print(words, soft_wrap=isinstance(words, str))


def is_there_somebody() -> bool:
    """Whether a question would be answered."""
    return sys.stdin.isatty()


def confirm(what: str, word: str, *, yes: bool) -> None:
    """
    Go on only if somebody types a word.

    Args:
        what: What is going to happen.
        word: What to type.
        yes: It was said already.

    Raises:
        ConfigurationError: There is nobody to ask.
        typer.Exit: They typed something else.
    """
    if yes:
        return
    if not is_there_somebody():
        raise ConfigurationError("nobody is there to confirm it: add --yes")
    notes().print(f"{plain(what)} This cannot be undone.", style="yellow")
    if typer.prompt(f"Type {word} to go on", default="", show_default=False, err=True) != word:
        notes().print("Nothing was done.")
        raise typer.Exit(1)
