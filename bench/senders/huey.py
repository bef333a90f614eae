"""
Huey on Redis, for `bench/peers.py`.

At most once: a worker takes a task off its list before running it (`RedisStorage.dequeue`), and Huey has no setting
that would keep it. Results are off (`results=False`, huey.readthedocs.io, "Huey object").
"""

from __future__ import annotations

from typing import Any

from huey import RedisHuey
from senders import gateway

huey = RedisHuey("bench", url=gateway.REDIS_URL, results=False)


@huey.task()
def send(message: dict[str, Any]) -> None:
    gateway.post(message)


def publish(messages: list[dict[str, Any]]) -> None:
    for message in messages:
        send(message)
