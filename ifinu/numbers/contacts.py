"""
The people that numbers wrote to today, from the ledger into a Redis that may have lost them.

A claim counts them (`claim.lua`): the reminders to a person on a day, and the people that a number wrote to first. An
id or a person that is there already is not counted twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import date

import redis
from sqlalchemy import Engine

from ifinu.broker import clock
from ifinu.broker.keys import contact_key, new_chats_key
from ifinu.notification import Kind, is_answer
from ifinu.numbers import registry

_EPOCH = date(1970, 1, 1).toordinal()
_TTL_MS = 2 * 86_400_000
_PAGE = 500


def restore(client: redis.Redis, engine: Engine) -> None:
    """
    Write them.

    Raises:
        errors.LedgerUnavailable: The database does not answer, or is not migrated.
        redis.RedisError: Redis does not answer.
    """
    members = _members(client, engine)
    while page := list(itertools.islice(members, _PAGE)):
        pipe = client.pipeline(transaction=False)
        for key, member in page:
            pipe.sadd(key, member)
            pipe.pexpire(key, _TTL_MS)
        pipe.execute()


def _members(client: redis.Redis, engine: Engine) -> Iterator[tuple[str, str]]:
    """Keys of sets, and what belongs into them."""
    now = clock.now(client)
    midnights = {one.name: one.midnight(now) for one in registry.read(engine).numbers}
    if not midnights:
        return
    for sent in registry.sent_to(engine, min(midnights.values())):
        midnight = midnights.get(sent.instance)
        if midnight is None or sent.at < midnight:
            continue
        day = midnight.date().toordinal() - _EPOCH
        if sent.kind != Kind.PAID and not is_answer(sent.id):
            yield contact_key(sent.tenant, sent.pseudonym, day), sent.id
        if sent.new:
            yield new_chats_key(sent.instance, day), sent.pseudonym
