"""
The pace: a token bucket that decides when the next message may start.

Celery's limiter arms another timer for each message without a token, until its worker looks only once a second
(celery #5927). Its bucket holds a single token, so every late wake-up loses a fraction of one (celery #2988). This
bucket has one timer, holds `burst` tokens, and keeps the tokens that come while a late wake-up is awaited.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

_WINDOW_S = 1.0


class TokenBucket:
    """
    The messages that wait to start, and the tokens that let them.

    In any one second at most `rate_per_s + burst` tokens are taken. While messages wait for tokens alone, the average
    is `rate_per_s`: a late wake-up finds the tokens of the time it was late, and takes them as far as the limit of a
    second allows.

    Args:
        rate_per_s: Tokens added per second.
        burst: Most tokens that it holds, and most messages that one wake-up waits for.
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
        self._awaited = False  # whether a wake-up is awaited for tokens alone
        self._most = math.floor(rate_per_s * _WINDOW_S + burst)
        self._taken: deque[float] = deque(maxlen=self._most)  # when the last tokens were taken

    def take(self) -> bool:
        """Take a token; False if there is none."""
        now = self._fill()
        if self._level < 1.0 or self._window_s(now) > 0:
            return False
        self._level -= 1.0
        self._taken.append(now)
        return True

    def put_back(self) -> None:
        """Return an unused token."""
        self._level += 1.0
        if self._taken:
            self._taken.pop()
        if not self._awaited:
            self._level = min(self.burst, self._level)

    def wait_s(self) -> float:
        """
        Seconds until the next wake-up: until there are tokens for the messages that wait, or for a burst of them.

        From now on the bucket also keeps the tokens that come after this wake-up was due, up to those of a second.
        """
        now = self._fill()
        self._awaited = True
        wanted = max(1.0, min(self.burst, len(self.contents)))
        return max(0.0, (wanted - self._level) / self.rate_per_s, self._window_s(now))

    def pause(self) -> None:
        """Something else than a token is waited for: tokens beyond a burst are dropped, and no more are kept."""
        self._fill()
        self._awaited = False
        self._level = min(self.burst, self._level)

    def clear_pending(self) -> None:
        """Drop the waiting messages; Celery calls this when it loses its connection."""
        self.contents.clear()
        self.pause()

    def _fill(self) -> float:
        now = self._clock()
        if self._awaited and not self.contents:
            self._awaited = False
        most = self.burst + (self.rate_per_s * _WINDOW_S if self._awaited else 0.0)
        self._level = min(most, self._level + (now - self._at) * self.rate_per_s)
        self._at = now
        return now

    def _window_s(self, now: float) -> float:
        """Seconds until another token may be taken without exceeding a second's limit."""
        if len(self._taken) < self._most:
            return 0.0
        return max(0.0, self._taken[0] + _WINDOW_S - now)
