"""
Links from the gateway's message ids to traces, so that a receipt joins the trace of its message.

A webhook names a message by the gateway's id alone. So the worker stores the `traceparent` of each sent message whose
trace is recorded under that id, `ifinu:rastro:<key_id>`, for two days: most messages are read by then.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence

import redis
import redis.asyncio

from ifinu.broker.connections import connect_optional
from ifinu.broker.keys import trail_key
from ifinu.loop import in_thread
from ifinu.tracing import traceparent

TTL_S = 172_800


class TraceLinks:
    """
    Writes the links. A failure is ignored: the receipt then has no trace.

    Args:
        url: As `IFINU_REDIS_URL`.
    """

    def __init__(self, url: str) -> None:
        self._client = connect_optional(url)  # settling the message must not wait for it

    def leave(self, key_id: str, parent: str) -> None:
        """
        Store a link.

        Args:
            key_id: The gateway's id of the message.
            parent: The `traceparent` under which its receipts are recorded.
        """
        with contextlib.suppress(redis.RedisError):
            in_thread(functools.partial(self._client.set, trail_key(key_id), parent, ex=TTL_S))


async def follow(client: redis.asyncio.Redis, key_ids: Sequence[str]) -> list[str]:
    """
    The `traceparent` for each gateway id, in one round trip; empty for an id without a link.

    Args:
        key_ids: The ids, at least one.

    Raises:
        redis.RedisError, OSError: Redis did not answer.
    """
    found = await client.mget([trail_key(key_id) for key_id in key_ids])
    return [traceparent(one.decode("ascii", "replace")) if isinstance(one, bytes) else "" for one in found]
