"""
Redis' clock, by which everything is decided: due times, graces, windows, validities.

A machine's own clock may be wrong, may jump, and differs from the next machine's. So waits are sent to Redis as
durations, the scripts add them to `TIME`, and what depends on the time of day asks Redis. What is left for a machine's
own clock is to say how far it is off: a difference that is large means that one of the two is wrong, and nobody can say
which.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import redis
import structlog

log = structlog.get_logger(__name__)

OFF_S = 1.0  # from here on a difference is reported
TOO_FAR_OFF_S = 30.0  # and from here on nothing is sent a second time


class Question:
    """When Redis was asked for the time, by this machine's clocks."""

    def __init__(self) -> None:
        self._asked_s = time.time()
        self._began_s = time.monotonic()

    def off_s(self, redis_s: float) -> float:
        """
        How far this machine's clock is ahead of Redis', in seconds; negative where it is behind.

        Args:
            redis_s: The answer, in seconds since the epoch. Redis gave it at some moment between the question and now;
                only a difference that no such moment explains is one.
        """
        answered_s = self._asked_s + max(0.0, time.monotonic() - self._began_s)
        return self._asked_s - redis_s if redis_s < self._asked_s else min(0.0, answered_s - redis_s)


def now(client: redis.Redis) -> datetime:
    """
    Redis' time.

    Raises:
        redis.RedisError: Redis does not say.
    """
    seconds, micros = client.time()
    return datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(micros))


class Difference:
    """
    How far this machine's clock is off, as it was last seen.

    Attributes:
        off_s: Seconds that it is ahead of Redis'; negative where it is behind.
    """

    def __init__(self) -> None:
        self.off_s = 0.0

    def measure(self, client: redis.Redis) -> float:
        """
        Ask Redis, log when the difference becomes too large or is gone again, and return it.

        Raises:
            redis.RedisError: Redis does not say.
        """
        question = Question()
        seconds, micros = client.time()
        was_off, self.off_s = abs(self.off_s) > OFF_S, question.off_s(int(seconds) + int(micros) / 1e6)
        is_off = abs(self.off_s) > OFF_S
        if is_off and not was_off:
            log.error(
                "ifinu.clock.off",
                off_s=round(self.off_s, 3),
                hint="this machine's clock and Redis' differ: run NTP on both",
            )
        elif was_off and not is_off:
            log.info("ifinu.clock.right")
        return self.off_s

    def now(self) -> datetime:
        """Redis' time, as far as it is known."""
        return datetime.now(UTC) - timedelta(seconds=self.off_s)
