"""
What the portfolios at Meta have used of their tiers.

A portfolio's numbers write to so many people in any 24 hours, together (`claim.lua`). Redis has the people, and those
for whom there is no room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import redis

from ifinu.broker import clock
from ifinu.broker.keys import conversation_waits_key, conversations_key

_DAY_MS = 86_400_000


class Usage(NamedTuple):
    """
    What a portfolio has used of its tier.

    Attributes:
        name: The portfolio.
        used: How many people its numbers have written to in the last 24 hours.
        most: How many they may; None for any number.
        waiting: How many people there is no room for.
    """

    name: str
    used: int
    most: int | None
    waiting: int


def read(client: redis.Redis, tiers: Mapping[str, int | None]) -> list[Usage]:
    """
    What portfolios have used.

    Args:
        client: A client that returns bytes.
        tiers: How many people each may write to in 24 hours, by the names of the portfolios.

    Raises:
        redis.RedisError: Redis is away.
    """
    if not tiers:
        return []
    now_ms = int(clock.now(client).timestamp() * 1000)
    pipe: Any = client.pipeline(transaction=False)
    for name in tiers:
        pipe.zcount(conversations_key(name), now_ms - _DAY_MS, "+inf")
        pipe.zcount(conversation_waits_key(name), now_ms, "+inf")
    counts = pipe.execute()
    return [
        Usage(name, used, most, waiting)
        for (name, most), used, waiting in zip(tiers.items(), counts[::2], counts[1::2], strict=True)
    ]
