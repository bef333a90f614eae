"""
Dramatiq on Redis, for `bench/peers.py`.

At least once as it comes: a message is acknowledged after its actor has ended, and returns when its worker's heartbeat
has stopped (dramatiq.io/best_practices.html, "Retriable Actors").
"""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from senders import gateway

dramatiq.set_broker(RedisBroker(url=gateway.REDIS_URL))


@dramatiq.actor
def send(message: dict[str, Any]) -> None:
    gateway.post(message)


def publish(messages: list[dict[str, Any]]) -> None:
    for message in messages:
        send.send(message)
