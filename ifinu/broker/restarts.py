"""
Restarts of Redis, and failovers to another server.

With `appendfsync everysec` the last second before a crash may be missing, and after a failover more: then a number's
gap, which a send has just begun, is gone, and its counts are too low. So on a server that was not seen before, numbers
pause. The first process that sees the server writes that, and the others find it done. Meanwhile the process that has
the ledger counts there what was sent (`numbers/upkeep.py`).
"""

from __future__ import annotations

import redis

from ifinu.broker.keys import NUMBERS, SERVER, SINCE, script

LEAST_MS = 8_000  # by then the ledger has, most likely, what was sent before, and its counts are in Redis


def server(client: redis.Redis) -> str:
    """
    The id of the server, another one after each start; empty if it has none, or this user may not ask for it.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    try:
        return str(client.info("server").get("run_id", ""))
    except redis.exceptions.NoPermissionError:
        return ""


def pause_numbers(client: redis.Redis) -> bool:
    """
    Let the registered numbers pause if this is not the server that was seen last. Call it before anything is fetched.

    Returns:
        Whether this call did it.

    Raises:
        redis.RedisError: Redis does not answer, or refuses it.
    """
    id_ = server(client)
    return bool(id_) and bool(script("restarted")(client, (NUMBERS, SERVER, SINCE), (id_, LEAST_MS)))
