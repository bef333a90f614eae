"""
What commands print, and where.

Results go to stdout; progress, questions and errors go to stderr. With `--json` stdout carries one JSON document, or one
a line, and nothing else.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console

# Wide enough for the tables where there is no terminal to measure, as in a CI log.
_WIDTH_OFF_TERMINAL = 120

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]


def results() -> Console:
    """Where results go."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OFF_TERMINAL, highlight=False)


def progress() -> Console:
    """Where progress, warnings and questions go."""
    return Console(width=None if sys.stderr.isatty() else _WIDTH_OFF_TERMINAL, highlight=False, stderr=True)


def print_json(document: Any) -> None:
    """One JSON document on one line."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")


def span(length: timedelta | float) -> str:
    """A length of time in its two largest units: `2 d 3 h`, `1 min 30 s`, `0.4 s`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    for size, unit, smaller, name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit} {rest // smaller} {name}"
    return f"{seconds:.0f} s"
