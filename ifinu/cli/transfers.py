"""Progress of long transfers: one moving line on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.live import Live
from rich.text import Text

from ifinu.cli import terminal

if TYPE_CHECKING:
    from ifinu.backup.streams import Progress

_EVERY_S = 5.0
_REDRAWN_EVERY_S = 0.1


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Show the progress of transfers on stderr during the block; yields the function to call with each chunk."""
    if not sys.stderr.isatty():
        yield _Meter(lambda line: terminal.notes().print(line, highlight=False), _EVERY_S).report
        return
    with Live(console=terminal.notes(), auto_refresh=False, transient=True) as live:
        yield _Meter(lambda line: live.update(Text(line), refresh=True), _REDRAWN_EVERY_S).report


class _Meter:
    """Shows the progress of transfers at intervals."""

    def __init__(self, show: Callable[[str], object], every_s: float) -> None:
        self._show = show
        self._every_s = every_s
        self._label = ""
        self._began_at = self._shown_at = 0.0

    def report(self, label: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if label != self._label:
            self._label, self._began_at, self._shown_at = label, now, now
        elif now - self._shown_at >= self._every_s:
            self._shown_at = now
            of = "" if total is None else f" of {decimal(total)}"
            self._show(f"{label}: {decimal(done)}{of}, {decimal(round(done / (now - self._began_at)))}/s")
