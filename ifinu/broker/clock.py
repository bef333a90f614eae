"""
Redis' clock, by which everything is decided: due times, grace periods, sending windows, expiry.

A machine's own clock may be wrong, may jump, and differs from the next machine's. So waits are sent to Redis as
durations, the scripts add them to `TIME`, and decisions by the time of day ask Redis. The machine's clock is only
compared with Redis': a large difference means that one of the two is wrong, without showing which.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import redis
import structlog

log = structlog.get_logger(__name__)

OFF_S = 1.0  # a larger difference is logged
TOO_FAR_OFF_S = 30.0  # with a larger one, nothing is sent a second time


class Question:
    """A request for Redis' time; remembers when it was made, by this machine's clocks."""

    def __init__(self) -> None:
        self._asked_s = time.time()
        self._began_s = time.monotonic()

    def off_s(self, redis_s: float) -> float:
        """
        Seconds that this machine's clock is ahead of Redis'; negative when it is behind.

        Args:
            redis_s: The answer, in seconds since the epoch. Redis gave it at some moment between the request and now;
                a difference that such a moment explains counts as 0.
        """
        answered_s = self._asked_s + max(0.0, time.monotonic() - self._began_s)
        return self._asked_s - redis_s if redis_s < self._asked_s else min(0.0, answered_s - redis_s)


def now(client: redis.Redis) -> datetime:
    """
    Redis' time, in UTC.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    seconds, micros = client.time()
    return datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(micros))


class Difference:
    """
    The difference between this machine's clock and Redis', as last measured.

    Attributes:
        off_s: Seconds that this machine's clock is ahead of Redis'; negative when it is behind.
    """

    def __init__(self) -> None:
        self.off_s = 0.0

    def measure(self, client: redis.Redis) -> float:
        """
        Measure the difference, log when it becomes too large or small again, and return it in seconds.

        Raises:
            redis.RedisError: Redis does not answer.
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
        """Redis' time, estimated from this machine's clock and the last measurement."""
        return datetime.now(UTC) - timedelta(seconds=self.off_s)
