"""
The people that numbers wrote to lately, from the ledger into a Redis that may have lost them.

A claim counts them (`claim.lua`): the reminders to a person on a day, the people that a number wrote to first, and the
people that the numbers of a portfolio wrote to within 24 hours. An id or a person that is there already is not counted
twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import NamedTuple

import redis
from sqlalchemy import Engine

from ifinu.broker import clock
from ifinu.broker.keys import contact_key, conversations_key, new_chats_key
from ifinu.notification import Kind, is_answer
from ifinu.numbers import registry

_EPOCH = date(1970, 1, 1).toordinal()
_TTL_MS = 2 * 86_400_000
_PAGE = 500
_CONVERSATION = timedelta(hours=24)


class _Entry(NamedTuple):
    """A member of a key: of a set, or, where it has a time, of a sorted set that keeps the earliest."""

    key: str
    member: str
    at: datetime | None = None


def restore(client: redis.Redis, engine: Engine) -> None:
    """
    Write them.

    Raises:
        errors.LedgerUnavailable: The database does not answer, or is not migrated.
        redis.RedisError: Redis does not answer.
    """
    entries = _entries(client, engine)
    while page := list(itertools.islice(entries, _PAGE)):
        pipe = client.pipeline(transaction=False)
        for key, member, at in page:
            if at is None:
                pipe.sadd(key, member)
            else:
                pipe.zadd(key, {member: round(at.timestamp() * 1000)}, lt=True)
            pipe.pexpire(key, _TTL_MS)
        pipe.execute()


def _entries(client: redis.Redis, engine: Engine) -> Iterator[_Entry]:
    now = clock.now(client)
    numbers = {one.name: one for one in registry.read(engine).numbers}
    if not numbers:
        return
    begins = [one.midnight(now) for one in numbers.values()]
    if any(one.portfolio for one in numbers.values()):
        begins.append(now - _CONVERSATION)
    for sent in registry.sent_to(engine, min(begins)):
        if (number := numbers.get(sent.instance)) is None:
            continue
        if number.portfolio is not None and sent.at > now - _CONVERSATION and not is_answer(sent.id):
            yield _Entry(conversations_key(number.portfolio), sent.pseudonym, sent.at)
        midnight = number.midnight(now)
        if sent.at < midnight:
            continue
        day = midnight.date().toordinal() - _EPOCH
        if sent.kind != Kind.PAID and not is_answer(sent.id):
            yield _Entry(contact_key(sent.tenant, sent.pseudonym, day), sent.id)
        if sent.new:
            yield _Entry(new_chats_key(sent.instance, day), sent.pseudonym)
