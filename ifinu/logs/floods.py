"""
Lines that repeat: the first of each event in a window are written, the rest is counted, and the count is written.

An outage makes the same line for every message, and what matters of it is in the first ones; who needs each message has
the events and the dead letters. Every event has its own allowance, so that a flood hides nothing else, and errors are
never silent: the first of them are there, and then how many.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

WINDOW_S = 10.0
_SEVERE_SHARE = 10  # warnings and errors get this part: they bring tracebacks, and a disk is filled by those
QUIET = frozenset({"debug", "info"})
_MOST_KEYS = 200  # that are told apart in one window: `reason` is anybody's, and so are events of libraries
_OTHERS = "(others)"


class Dropped(NamedTuple):
    """Of one event, in one window: what was counted and not written. `reason` is None where its lines had none."""

    event: str
    level: str
    reason: str | None
    lines: int


class Floods:
    """
    What is written of each event, level and reason: so much in ten seconds. Threads share it.

    Args:
        limit_per_s: Lines a second, on average over the window; of warnings and errors a tenth. 0: no limit.
        tell: Takes what was dropped, once a window; with the first line after it, whatever that is, or at `flush`.
            It may log.
        clock: Seconds that only go forward.
    """

    def __init__(
        self, limit_per_s: int, tell: Callable[[Dropped], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = int(limit_per_s * WINDOW_S)
        self._most_severe = -(-self._most // _SEVERE_SHARE)
        self._tell = tell
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin anew, as if nothing had been counted and nobody held the lock."""
        self._lock = threading.Lock()
        self._ends = 0.0
        self._seen: dict[tuple[str, str, str | None], int] = {}

    def admits(self, event: str, level: str, reason: Any = None) -> bool:
        """
        Whether a line is to be written.

        Args:
            event: Its name.
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
        return seen <= (self._most if level in QUIET else self._most_severe)

    def flush(self) -> None:
        """Tell now of what was dropped so far."""
        with self._lock:
            over, self._seen = self._seen, {}
            self._ends = 0.0
        self._tell_of(over)

    def _allowance(self, level: str) -> int:
        return self._most if level in QUIET else self._most_severe

    def _turn(self, now: float) -> None:
        with self._lock:
            if now < self._ends:
                return  # another thread did it
            self._ends = now + WINDOW_S
            over, self._seen = self._seen, {}
        self._tell_of(over)

    def _tell_of(self, over: dict[tuple[str, str, str | None], int]) -> None:
        for (event, level, reason), seen in over.items():
            if (dropped := seen - self._allowance(level)) > 0:
                self._tell(Dropped(event, level, reason, dropped))
