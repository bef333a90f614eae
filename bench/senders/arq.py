"""
The arq library, for `bench/peers.py`.

At least once as it comes: a job stays in the queue until it has succeeded or failed (arq-docs.helpmanual.io, "Usage":
pessimistic execution). Successful jobs keep no result (`keep_result = 0`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from senders import gateway

_REDIS = RedisSettings.from_dsn(gateway.REDIS_URL or "redis://localhost")


async def send(context: dict[str, Any], message: dict[str, Any]) -> None:
    await gateway.post_by(context["session"], message)


async def _start(context: dict[str, Any]) -> None:
    context["session"] = await gateway.session()


async def _stop(context: dict[str, Any]) -> None:
    await context["session"].close()


class WorkerSettings:
    """What `arq senders.arq.WorkerSettings` reads."""

    functions = (send,)
    redis_settings = _REDIS
    on_startup = _start
    on_shutdown = _stop
    max_jobs = 10
    keep_result = 0


def publish(messages: list[dict[str, Any]]) -> None:
    asyncio.run(_publish(messages))


async def _publish(messages: list[dict[str, Any]]) -> None:
    pool = await create_pool(_REDIS)
    for message in messages:
        await pool.enqueue_job("send", message)
    await pool.aclose()
