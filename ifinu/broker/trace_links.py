"""
Where a receipt finds the trace of its message.

A webhook names a message by the gateway's id alone. So who sends one whose trace is recorded leaves its `traceparent`
under that id, `ifinu:rastro:<key_id>`, for two days: most messages are read by then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import redis
import redis.asyncio

from ifinu.broker.connections import connect_optional
from ifinu.broker.keys import trail_key
from ifinu.tracing import traceparent

TTL_S = 172_800


class TraceLinks:
    """
    Leaves trails.

    Args:
        url: As `IFINU_REDIS_URL`.
    """

    def __init__(self, url: str) -> None:
        self._client = connect_optional(url)  # settling the message must not wait for it

    def leave(self, key_id: str, parent: str) -> None:
        """
        Leave one, or none where Redis does not take it in time.

        Args:
            key_id: The gateway's id of what was sent.
            parent: The `traceparent` of what its receipts follow from.
        """
        with contextlib.suppress(redis.RedisError):
            self._client.set(trail_key(key_id), parent, ex=TTL_S)


async def follow(client: redis.asyncio.Redis, key_ids: Sequence[str]) -> list[str]:
    """
    What was left, for each of some ids (at least one), in one trip; empty where nothing was.

    Raises:
        redis.RedisError, OSError: Redis did not answer.
    """
    found = await client.mget([trail_key(key_id) for key_id in key_ids])
    return [traceparent(one.decode("ascii", "replace")) if isinstance(one, bytes) else "" for one in found]
