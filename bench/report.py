"""What every bench has in common: its command line, its progress, its table and its JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_LINE_EVERY_S = 5.0


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the bench's docstring and that takes `--json`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=_Help)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured to this file")
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the docstring's lines, and names the defaults that are values."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


class Progress:
    """A line on stderr that says how far a bench is: rewritten on a terminal, otherwise once in five seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._said_at = 0.0

    def step(self, text: str) -> None:
        """Say what begins now."""
        self._print(text)

    def show(self, text: str) -> None:
        """Say how far it is; may be called often."""
        if self._live or time.monotonic() - self._said_at >= _LINE_EVERY_S:
            self._print(text)

    def end(self) -> None:
        """Leave the terminal's line to what follows."""
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _print(self, text: str) -> None:
        self._said_at = time.monotonic()
        print(f"\r\033[K{text}" if self._live else text, end="" if self._live else "\n", file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Print it, the first column to the left and the others to the right; return it for the JSON."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        others = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join((row[0].ljust(widths[0]), *others)))
    return [dict(zip(header, row, strict=True)) for row in rows]


def write(given: argparse.Namespace, measured: dict[str, Any]) -> None:
    """Write what was measured, and under which conditions, to the file of `--json`, if there is one."""
    if given.json is None:
        return
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    document = {
        "bench": Path(sys.argv[0]).stem,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(), "python": platform.python_version(), "celery": version("celery"),
            "system": platform.platform(),
        },
        "options": options,
        **measured,
    }  # fmt: skip
    given.json.write_text(json.dumps(document, indent=2) + "\n")
