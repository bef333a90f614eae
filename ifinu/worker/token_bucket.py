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
_SOON_S = 0.01  # while all that may go in a second has started, and has not gone


class TokenBucket:
    """
    The messages that wait to start, and the tokens that let them.

    In any one second at most `rate_per_s + burst` messages go to the gateway: a message that has started and not gone
    counts as one that goes now. While messages wait for tokens alone, the average is `rate_per_s`: a late wake-up finds
    the tokens of the time it was late, and takes them as far as the limit of a second allows.

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
        self._started: set[str] = set()  # tags of messages that have a token and have not gone
        self._gone: deque[float] = deque(maxlen=self._most)  # when the last ones went

    def take(self, tag: str) -> bool:
        """Take a token for a message that starts, by its delivery tag; False without one. `ended` has to follow."""
        now = self._fill()
        if self._level < 1.0 or self._window_s(now) > 0:
            return False
        self._level -= 1.0
        self._started.add(tag)
        return True

    def goes(self, tag: str) -> None:
        """A message goes to the gateway now."""
        self._started.discard(tag)
        self._gone.append(self._clock())

    def ended(self, tag: str) -> None:
        """A message that has started ended; it may have gone."""
        self._started.discard(tag)

    def follow(self, old: TokenBucket) -> None:
        """Go on in the place of a bucket with another rate: with its messages, and after what it has let go."""
        self.contents.extend(old.contents)
        old.contents.clear()
        self._started = old._started.copy()
        self._gone.extend(old._gone)
        self._level = 0.0  # its last token may just have been used

    def put_back(self) -> None:
        """Return an unused token."""
        self._level += 1.0
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
        """Seconds until another message may go without exceeding a second's limit."""
        while self._gone and self._gone[0] <= now - _WINDOW_S:
            self._gone.popleft()
        excess = len(self._gone) + len(self._started) + 1 - self._most
        if excess <= 0:
            return 0.0
        return self._gone[excess - 1] + _WINDOW_S - now if excess <= len(self._gone) else _SOON_S
