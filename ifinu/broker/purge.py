"""Emptying a queue, and what its retries had claimed with it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import redis

from ifinu.broker import intake
from ifinu.broker.keys import Keys, claim_key

_PAGE = 1000


def purge(client: redis.Redis, keys: Keys, *, delayed: bool) -> int:
    """
    Delete what is ready, for good; what is in flight and the dead letters stay.

    A retry's id stays claimed for days, waiting for the retry; once that is deleted nothing would ever be sent for the
    id, so it is set free.

    Args:
        client: A connection that returns bytes.
        keys: The queue's.
        delayed: Also what waits for its time.

    Returns:
        How many messages were deleted.
    """
    deleted = 0
    for key in (keys.ready, keys.delayed) if delayed else (keys.ready,):
        # Set aside in one step: what is pushed meanwhile is not deleted, and no worker takes from what is.
        aside = f"{key}:purga:{uuid.uuid4().hex}"
        try:
            client.rename(key, aside)
        except redis.ResponseError:  # there is no such key
            continue
        for message in _messages(client, aside):
            deleted += 1
            if (waiting := _waiting_id(message)) is not None and client.hget(claim_key(waiting), "state") == b"waiting":
                client.delete(claim_key(waiting))
        client.unlink(aside)
    return deleted


def _messages(client: redis.Redis, key: str) -> Iterator[bytes]:
    read: Any = client.zrange if client.type(key) == b"zset" else client.lrange
    start = 0
    while page := read(key, start, start + _PAGE - 1):
        start += len(page)
        yield from page


def _waiting_id(message: bytes) -> str | None:
    """The notification id of a message that is a retry or a deferral."""
    if intake.TOKEN.encode() not in message:  # spares reading what producers pushed
        return None
    try:
        headers = json.loads(message)["headers"]
        found = headers["id"] if headers.get(intake.TOKEN) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
