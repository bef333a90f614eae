"""
The people that numbers wrote to lately, from the ledger into a Redis that may have lost them.

A claim counts them (`claim.lua`): the reminders to a person on a day, the people that a number wrote to first, and the
people that the numbers of a portfolio wrote to within 24 hours. An id or a person that is there already is not counted
twice. A claim also asks whether the number has written to the person in this month or the last.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import redis
from sqlalchemy import Engine

from ifinu.broker import clock
from ifinu.broker.keys import SENDERS_TTL_MS, contact_key, conversations_key, month_of, new_chats_key, senders_key
from ifinu.notification import Kind, is_answer
from ifinu.numbers import registry

_EPOCH = date(1970, 1, 1).toordinal()
_TTL_MS = 2 * 86_400_000
_PAGE = 500
_NUMBERS = 50  # of a query
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


def restore_senders(client: redis.Redis, engine: Engine) -> None:
    """
    Write which tenant last wrote to each person from each registered number, in this month and the last. A number that
    has lost this takes all its people for new ones. What is there already is newer, and stays.

    Raises:
        errors.LedgerUnavailable, redis.RedisError: As `restore`.
    """
    now = clock.now(client).astimezone(UTC)
    this = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = (this - timedelta(days=1)).replace(day=1)
    names = iter([one.name for one in registry.read(engine).numbers])
    while some := list(itertools.islice(names, _NUMBERS)):
        for since, until in ((this, now), (last, this)):
            people = iter(registry.last_tenants(engine, some, since, until).items())
            while page := list(itertools.islice(people, _PAGE)):
                pipe = client.pipeline(transaction=False)
                for (instance, pseudonym), tenant in page:
                    pipe.hsetnx(senders_key(instance, month_of(since)), pseudonym, tenant)
                for key in {senders_key(instance, month_of(since)) for (instance, _), _ in page}:
                    pipe.pexpire(key, SENDERS_TTL_MS)
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
