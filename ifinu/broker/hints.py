"""A connection for what helps and is not needed: it gives up soon, since nothing is worth a longer wait for it."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_ANSWER_S = 1.0


def connect(url: str) -> redis.Redis:
    """
    A client that tries once, for a second at most.

    Args:
        url: As `IFINU_REDIS_URL`.
    """
    return redis.Redis.from_url(
        url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 0)
    )
