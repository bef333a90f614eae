"""Emptying a queue, and what its retries had claimed with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import redis

from ifinu.broker import intake
from ifinu.broker.dead_letters import identity
from ifinu.broker.keys import Keys, claim_key

_PAGE = 1000


class Purged(NamedTuple):
    """
    What a purge did.

    Attributes:
        deleted: How many messages it deleted.
        in_doubt: How many of these were to look up whether their notification had been sent: nobody does that now, and
            a person has to say (`unknown.py`).
    """

    deleted: int
    in_doubt: int


def purge(client: redis.Redis, keys: Keys, *, delayed: bool) -> Purged:
    """
    Delete what is ready, for good; what is in flight and the dead letters stay.

    A retry's id stays claimed for days, waiting for the retry; once that is deleted nothing would ever be sent for the
    id, so it is set free. An id that may have been sent stays in doubt.

    Args:
        client: A connection that returns bytes.
        keys: The queue's.
        delayed: Also what waits for its time.
    """
    deleted = in_doubt = 0
    for key in (keys.ready, keys.delayed) if delayed else (keys.ready,):
        # Set aside in one step: what is pushed meanwhile is not deleted, and no worker takes from what is.
        aside = f"{key}:purga:{uuid.uuid4().hex}"
        try:
            client.rename(key, aside)
        except redis.ResponseError:  # there is no such key
            continue
        for message in _messages(client, aside):
            deleted += 1
            if intake.token_of(message) and (claimed := identity(message)[0]) is not None:
                state, cancelled = client.hmget(claim_key(claimed), "state", "cancelled")
                in_doubt += state == b"unknown"
                if state == b"waiting" and cancelled:
                    client.hset(claim_key(claimed), "state", "cancelled")  # what is pushed again is not wanted either
                elif state == b"waiting":
                    client.delete(claim_key(claimed))
        client.unlink(aside)
    return Purged(deleted, in_doubt)


def _messages(client: redis.Redis, key: str) -> Iterator[bytes]:
    read: Any = client.zrange if client.type(key) == b"zset" else client.lrange
    start = 0
    while page := read(key, start, start + _PAGE - 1):
        start += len(page)
        yield from page
