"""Emptying a queue, and what its retries had claimed with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import redis

from ifinu.broker import intake
from ifinu.broker.dead_letters import identity
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, UNKNOWN, Keys, claim_key, script

_PAGE = 50  # messages of one call, which Redis does in about a millisecond


class Purged(NamedTuple):
    """
    What a purge did.

    Attributes:
        deleted: How many messages it deleted.
        in_doubt: How many ids it leaves that may have been sent: nothing looks them up now, and a person has to say
            (`unknown.py`).
    """

    deleted: int
    in_doubt: int


def purge(client: redis.Redis, keys: Keys, *, delayed: bool) -> Purged:
    """
    Delete what is ready, for good; what is in flight and the dead letters stay.

    A retry's id stays claimed for days, waiting for the retry; once that is deleted nothing would ever be sent for the
    id, so it is set free, and the event `unqueued` tells the ledger. An id that may have been sent stays in doubt.

    A purge that dies leaves what it had set aside, and the next one deletes that.

    Args:
        client: A connection that returns bytes.
        keys: The queue's.
        delayed: Also what waits for its time.

    Raises:
        redis.RedisError: Redis is away; what is not deleted by then is deleted by the next purge.
    """
    deleted, in_doubt = 0, set[bytes]()
    for key in (keys.ready, keys.delayed) if delayed else (keys.ready,):
        # Set aside in one step: what is pushed meanwhile is not deleted, and no worker takes from what is.
        aside = f"{key}:purga"
        is_set_aside = False
        while not is_set_aside:
            is_set_aside = _set_aside(client, key, aside)
            deleted += _delete(client, aside, keys.ready, in_doubt)
    return Purged(deleted, len(in_doubt))


def _set_aside(client: redis.Redis, key: str, aside: str) -> bool:
    """Whether nothing more of the queue is to be set aside: not while another purge's messages are there."""
    try:
        return bool(client.renamenx(key, aside))
    except redis.ResponseError as exc:
        if "no such key" not in str(exc):
            raise
        return True


def _delete(client: redis.Redis, aside: str, queue: str, in_doubt: set[bytes]) -> int:
    read: Any = client.zrange if client.type(aside) == b"zset" else client.lrange
    deleted = 0
    while page := read(aside, 0, _PAGE - 1):
        claims, arguments = _told(page, queue)
        count, *doubts = script("purge")(client, (aside, EVENTS, UNKNOWN, *claims), arguments)
        deleted += count
        in_doubt.update(doubts)
    return deleted


def _told(messages: Iterable[bytes], queue: str) -> tuple[list[str], list[str]]:
    """Keys and arguments of the script, for a page."""
    claims: list[str] = []
    arguments: list[str] = []
    for message in messages:
        id_, kind = identity(message)
        about = {"kind": kind, "queue": queue} if kind else {"queue": queue}
        if id_:
            claims.append(claim_key(id_))
        _, _, data = Event(Name.UNQUEUED, id_ or "", {**about, "reason": "purged"}).arguments()
        digest = hashlib.sha1(message, usedforsecurity=False).hexdigest()  # as Redis' `sha1hex`
        arguments += (digest, id_ or "", intake.token_of(message), data)
    return claims, arguments
