"""
The pace: how many messages may start, and when the next one may.

Celery's limiter arms one more timer for each message that finds no token, and its worker ends up looking once a second
(celery #5927); its bucket holds a single token, so that every late wake-up loses a fraction of one (celery #2988). Here
a bucket has one timer, and holds `burst` tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any


class TokenBucket:
    """
    Messages that wait for their turn, and the tokens that give it.

    In any one second at most `rate_per_s + burst` tokens are taken, and while messages wait exactly `rate_per_s` on
    average, as long as nobody is later than `burst / rate_per_s` seconds to take them.

    Args:
        rate_per_s: Tokens that come in per second.
        burst: Tokens that it can hold.
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
        """Take a token, if there is one."""
        self._fill()
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def put_back(self) -> None:
        """A token was not used after all."""
        self._level = min(self.burst, self._level + 1.0)

    def wait_s(self) -> float:
        """Seconds until there is a token."""
        self._fill()
        return max(0.0, 1.0 - self._level) / self.rate_per_s

    def clear_pending(self) -> None:
        """Forget who waits; Celery calls this when it loses its connection."""
        self.contents.clear()

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self.burst, self._level + (now - self._at) * self.rate_per_s)
        self._at = now
