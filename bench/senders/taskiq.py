"""
Taskiq on a Redis stream, for `bench/peers.py`.

At least once: `RedisStreamBroker` is the one of its Redis brokers that supports acknowledgement (taskiq-redis' README),
and its worker runs with `--ack-type when_executed` (taskiq-python.github.io, "CLI").
"""

from __future__ import annotations

import asyncio
from typing import Any

from senders import gateway
from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(gateway.REDIS_URL or "redis://localhost", consumer_id="0")


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def _start(state: TaskiqState) -> None:
    state.session = await gateway.session()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def _stop(state: TaskiqState) -> None:
    await state.session.close()


@broker.task
async def send(message: dict[str, Any], context: Context = TaskiqDepends()) -> None:  # noqa: B008 - as Taskiq wants it
    await gateway.post_by(context.state.session, message)


def publish(messages: list[dict[str, Any]]) -> None:
    asyncio.run(_publish(messages))


async def _publish(messages: list[dict[str, Any]]) -> None:
    await broker.startup()
    for message in messages:
        await send.kiq(message)
    await broker.shutdown()
