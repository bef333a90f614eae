"""
How many people write to a number: the answers to what it sends.

The webhook counts each person once a day (`hear.lua`), in a HyperLogLog: a few hundred bytes, from which no person can
be read, and which a webhook that comes twice does not change. Its count is an estimate, 1 % off where it is large.

A number is counted from the time on at which its webhook is known to report messages: a person's message has come, or
`ifinu instance` has set the webhook. Redis alone knows that time. After a `FLUSHALL` nothing is known of a number until
a message comes, so a count that was lost is not taken for silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import redis

from ifinu.broker import clock
from ifinu.broker.keys import answers_key, number_key

_DAY_MS = 86_400_000
_A_WEEK = timedelta(days=7)


def listen(client: redis.Redis, name: str) -> None:
    """
    Count a number's people from now on, if it is registered, since its webhook reports what they write.

    Raises:
        redis.RedisError: It may not be counted before the first message.
    """
    if client.hexists(number_key(name), "par"):
        client.hsetnx(number_key(name), "ouve", round(clock.now(client).timestamp() * 1000))


def people(client: redis.Redis, since: Mapping[str, datetime]) -> dict[str, int]:
    """
    How many people wrote to each number since the beginning of a day.

    Args:
        since: By the names of numbers: a time on that day, of a week ago at most.

    Returns:
        By name, without the numbers that have not been counted since then.

    Raises:
        redis.RedisError: Redis is away.
    """
    pipe: Any = client.pipeline(transaction=False)
    pipe.time()
    for name in since:
        pipe.hmget(number_key(name), "fuso", "ouve")
    (seconds, _), *found = pipe.execute()
    counted = []
    for (name, begin), (zone, heard) in zip(since.items(), found, strict=True):
        if heard is not None and float(heard) <= begin.timestamp() * 1000:
            counted.append(name)
            pipe.pfcount(*_days(name, begin.timestamp(), seconds, float(zone or 0)))
    return dict(zip(counted, pipe.execute(), strict=True))


def lately(client: redis.Redis, name: str, now: datetime) -> int | None:
    """
    How many people wrote to a number in the last week; None if its webhook is not known to report them.

    Raises:
        redis.RedisError: Redis is away.
    """
    zone, heard = client.hmget(number_key(name), ["fuso", "ouve"])
    if heard is None:
        return None
    return int(client.pfcount(*_days(name, (now - _A_WEEK).timestamp(), now.timestamp(), float(zone or 0))))


def _days(name: str, since_s: float, now_s: float, zone_ms: float) -> list[str]:
    """The keys of the local days from one time to another."""
    first, last = (int((at_s * 1000 + zone_ms) // _DAY_MS) for at_s in (since_s, now_s))
    return [answers_key(name, day) for day in range(first, last + 1)]
