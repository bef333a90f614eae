"""How far a long transfer is: a line that moves on a terminal, a line now and then elsewhere."""

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
    from ifinu.backup.streams import Watch

_EVERY_S = 5.0
_REDRAWN_EVERY_S = 0.1


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """What to tell of each chunk: what is transferred, the bytes so far, and in all where they are known."""
    if not sys.stderr.isatty():
        yield _Meter(lambda line: terminal.notes().print(line, highlight=False), _EVERY_S).tell
        return
    with Live(console=terminal.notes(), auto_refresh=False, transient=True) as live:
        yield _Meter(lambda line: live.update(Text(line), refresh=True), _REDRAWN_EVERY_S).tell


class _Meter:
    """
    Says it now and then.

    Args:
        say: Shows a line.
        every_s: How often at most, in seconds.
    """

    def __init__(self, say: Callable[[str], object], every_s: float) -> None:
        self._say = say
        self._every_s = every_s
        self._what = ""
        self._began_at = self._said_at = 0.0

    def tell(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began_at, self._said_at = what, now, now
        elif now - self._said_at >= self._every_s:
            self._said_at = now
            of = "" if total is None else f" of {decimal(total)}"
            self._say(f"{what}: {decimal(done)}{of}, {decimal(round(done / (now - self._began_at)))}/s")
