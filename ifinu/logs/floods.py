"""
Limits repeated lines: the first of each event in a window are written, the rest are counted, and the count is written.

An outage causes the same line for every message, and the first few say it all; the events and dead letters cover each
message. Every event has its own allowance, so that a flood hides nothing else, and errors are never silent: the first
ones are written, and then their number.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

WINDOW_S = 10.0
_SEVERE_SHARE = 10  # the share of warnings and errors: their tracebacks would fill a disk
QUIET = frozenset({"debug", "info"})
_MOST_KEYS = 200  # counted apart in one window; `reason` and libraries' events may take any number of values
_OTHERS = "(others)"


class Dropped(NamedTuple):
    """The lines of one event in one window that were counted but not written. `reason` is None if they had none."""

    event: str
    level: str
    reason: str | None
    lines: int


class Floods:
    """
    Admits a number of lines for each event, level and reason in ten seconds. Threads may share it.

    Args:
        limit_per_s: Lines a second, averaged over the window; a tenth of it for warnings and errors. 0: no limit.
        report: Called with each count of dropped lines: with the first line after the window, or at `flush`. It may
            log.
    """

    def __init__(
        self, limit_per_s: int, report: Callable[[Dropped], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = int(limit_per_s * WINDOW_S)
        self._most_severe = -(-self._most // _SEVERE_SHARE)
        self._report = report
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Reset the counts and the lock."""
        self._lock = threading.Lock()
        self._ends = 0.0
        self._seen: dict[tuple[str, str, str | None], int] = {}

    def admits(self, event: str, level: str, reason: Any = None) -> bool:
        """
        Whether a line is to be written.

        Args:
            level: In lower case.
            reason: Lines of one event for different reasons are counted apart, where it is a word.
        """
        if not self._most:
            return True
        now = self._clock()
        if now >= self._ends:
            self._turn(now)
        key = (event, level, reason if isinstance(reason, str) else None)
        with self._lock:
            if key in self._seen:
                seen = self._seen[key] = self._seen[key] + 1
            else:
                if len(self._seen) >= _MOST_KEYS:
                    key = (_OTHERS, level, None)
                seen = self._seen[key] = self._seen.get(key, 0) + 1
        return seen <= self._allowance(level)

    def flush(self) -> None:
        """Report the lines dropped so far."""
        with self._lock:
            over, self._seen = self._seen, {}
            self._ends = 0.0
        self._report_all(over)

    def _allowance(self, level: str) -> int:
        return self._most if level in QUIET else self._most_severe

    def _turn(self, now: float) -> None:
        with self._lock:
            if now < self._ends:
                return  # another thread did it
            self._ends = now + WINDOW_S
            over, self._seen = self._seen, {}
        self._report_all(over)

    def _report_all(self, over: dict[tuple[str, str, str | None], int]) -> None:
        for (event, level, reason), seen in over.items():
            if (dropped := seen - self._allowance(level)) > 0:
                self._report(Dropped(event, level, reason, dropped))
