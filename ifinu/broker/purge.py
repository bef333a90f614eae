"""Purging a queue, and ending the claims of its retries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import redis

from ifinu.broker import intake, lanes
from ifinu.broker.dead_letters import identity
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, UNKNOWN, Keys, claim_key, script

_PAGE = 50  # messages per call, which takes Redis about a millisecond


class Purged(NamedTuple):
    """
    The result of a purge.

    Attributes:
        deleted: Messages deleted.
        in_doubt: Ids that may have been sent and are not looked up any more: a person has to decide (`unknown.py`).
    """

    deleted: int
    in_doubt: int


def purge(client: redis.Redis, keys: Keys, *, delayed: bool) -> Purged:
    """
    Delete the ready messages, and those that wait for their number, for good; messages in flight and dead letters stay.

    A retry's claim waits for days. Once the retry is deleted nothing would ever be sent for its id, so the claim is
    deleted too, and the event `unqueued` is written for the ledger. An id that may have been sent stays in doubt.

    A purge that crashes leaves the messages it had set aside; the next one deletes them.

    Args:
        delayed: Whether to delete delayed messages too.

    Raises:
        redis.RedisError: Redis is away; the next purge deletes what is left.
    """
    deleted, in_doubt = 0, set[bytes]()
    for key in (keys.ready, keys.delayed) if delayed else (keys.ready,):
        # Set aside in one step: messages pushed meanwhile are not deleted, and no worker takes those that are.
        aside = f"{key}:purga"
        is_set_aside = False
        while not is_set_aside:
            is_set_aside = _set_aside(client, key, aside)
            deleted += _delete(client, aside, keys.ready, in_doubt)
    aside = f"{keys.ready}:purga"
    for lane in lanes.counts(client, (keys.ready,)):
        is_set_aside = False
        while not is_set_aside:
            is_set_aside = lanes.set_aside(client, lane, aside)
            deleted += _delete(client, aside, keys.ready, in_doubt)
    return Purged(deleted, len(in_doubt))


def _set_aside(client: redis.Redis, key: str, aside: str) -> bool:
    """Rename the key of the messages; False while another purge's messages are still set aside."""
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
        claims, arguments = _page_arguments(page, queue)
        count, *doubts = script("purge")(client, (aside, EVENTS, UNKNOWN, *claims), arguments)
        deleted += count
        in_doubt.update(doubts)
    return deleted


def _page_arguments(messages: Iterable[bytes], queue: str) -> tuple[list[str], list[str]]:
    """The claim keys and the arguments of `purge.lua` for a page of messages."""
    claims: list[str] = []
    arguments: list[str] = []
    for message in messages:
        id_, kind = identity(message)
        fields = {"kind": kind, "queue": queue} if kind else {"queue": queue}
        if id_:
            claims.append(claim_key(id_))
        _, _, data = Event(Name.UNQUEUED, id_ or "", {**fields, "reason": "purged"}).arguments()
        digest = hashlib.sha1(message, usedforsecurity=False).hexdigest()  # as Redis' `sha1hex`
        arguments += (digest, id_ or "", intake.token_of(message), data)
    return claims, arguments
