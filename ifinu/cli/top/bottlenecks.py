"""The numbers that messages wait for, those with the most first."""

from __future__ import annotations

from dataclasses import dataclass

import redis

from ifinu.broker import clock, lanes, obstacles
from ifinu.broker.obstacles import Obstacle
from ifinu.numbers.directory import UNTIL_RELEASED

_MOST = 20
_RELEASED_MS = UNTIL_RELEASED.timestamp() * 1000


@dataclass(frozen=True)
class WaitingRow:
    """
    A number that messages wait for.

    Attributes:
        messages: In its lanes, of all queues.
        obstacle: Why it sends nothing now; None if it may send.
        reason: The reason of its hold, or empty.
        left_s: Seconds until the obstacle ends; None if that is not known, or a person has to end it.
    """

    number: str
    messages: int
    obstacle: Obstacle | None
    reason: str
    left_s: float | None


def waiting(client: redis.Redis) -> list[WaitingRow]:
    """
    Read which numbers most messages wait for.

    Raises:
        redis.RedisError: Redis is away.
    """
    most = [(name, count) for name, count in lanes.waiting(client).most_common(_MOST) if count]
    states = obstacles.read(client, [name for name, _ in most])
    now_ms = clock.now(client).timestamp() * 1000
    rows = []
    for (name, count), state in zip(most, states, strict=True):
        is_known = state.until_ms is not None and state.until_ms < _RELEASED_MS
        left_s = max(0.0, (state.until_ms - now_ms) / 1000) if is_known and state.until_ms else None
        rows.append(WaitingRow(name, count, state.obstacle, state.reason, left_s))
    return rows
