"""
The pace: a token bucket that decides when the next message may start.

Celery's limiter arms another timer for each message without a token, until its worker looks only once a second
(celery #5927). Its bucket holds a single token, so every late wake-up loses a fraction of one (celery #2988). This
bucket has one timer, and holds `burst` tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any


class TokenBucket:
    """
    The messages that wait to start, and the tokens that let them.

    In any one second at most `rate_per_s + burst` tokens are taken. While messages wait, the average is exactly
    `rate_per_s`, as long as tokens are taken within `burst / rate_per_s` seconds.

    Args:
        rate_per_s: Tokens added per second.
        burst: Most tokens that it holds.
        level: Tokens at the start; 1, so that a restart does not burst.
        clock: Seconds that only go forward.
    """

    def __init__(
        self, rate_per_s: float, burst: int, *, level: float = 1.0, clock: Callable[[], float] = monotonic
    ) -> None:
        self.rate_per_s = rate_per_s
        self.burst = float(burst)
        self.contents: deque[Any] = deque()
        self._clock = clock
        self._level = min(level, self.burst)
        self._at = clock()

    def take(self) -> bool:
        """Take a token; False if there is none."""
        self._fill()
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def put_back(self) -> None:
        """Return an unused token."""
        self._level = min(self.burst, self._level + 1.0)

    def wait_s(self) -> float:
        """Seconds until there is a token."""
        self._fill()
        return max(0.0, 1.0 - self._level) / self.rate_per_s

    def clear_pending(self) -> None:
        """Drop the waiting messages; Celery calls this when it loses its connection."""
        self.contents.clear()

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self.burst, self._level + (now - self._at) * self.rate_per_s)
        self._at = now
