"""
The people that numbers wrote to lately, from the ledger into a Redis that may have lost them.

A claim counts them (`claim.lua`): the reminders to a person on a day, the people that a number wrote to first, and the
people that the numbers of a portfolio wrote to within 24 hours. An id or a person that is there already is not counted
twice. A claim also asks whether the number has written to the person in this month or the last.

There may be millions. They are read and written in parts, and the log says how far that is.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import Any, NamedTuple

import redis
import structlog
from sqlalchemy import Engine

from ifinu.broker import clock
from ifinu.broker.keys import (
    PEOPLE,
    SENDERS_TTL_MS,
    SINCE,
    contact_key,
    conversations_key,
    month_of,
    new_chats_key,
    script,
    senders_key,
)
from ifinu.notification import Kind, is_answer
from ifinu.numbers import registry

log = structlog.get_logger(__name__)

_EPOCH = date(1970, 1, 1).toordinal()
_TTL_MS = 2 * 86_400_000
_PAGE = 1_000  # that a script writes: a few milliseconds
_NUMBERS = 100  # of a query
_CONVERSATION_MS = 86_400_000
_CLOSED_MS = 12_000  # longer than the database may take for the next part (`ledger.engine.STATEMENT_S`)
_LONGEST_CLOSED_S = 60.0
_SAYS_EVERY_S = 10.0


class _Entry(NamedTuple):
    """A member of a key: of a set, or, where it has a time, of a sorted set that keeps the earliest."""

    key: str
    member: str
    at_ms: int | None = None


class _Progress:
    """Logs how many people were restored, every ten seconds and at the end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0
        self._began = self._said_at = monotonic()

    def add(self, count: int) -> None:
        self._count += count
        if monotonic() - self._said_at >= _SAYS_EVERY_S:
            self._said_at = monotonic()
            self._say(done=False)

    def end(self) -> None:
        if self._count:
            self._say(done=True)

    def _say(self, *, done: bool) -> None:
        took_s = round(monotonic() - self._began, 1)
        log.info("ifinu.numbers.people_restored", what=self._what, count=self._count, done=done, took_s=took_s)


def restore(client: redis.Redis, engine: Engine, *, closed: bool = False) -> None:
    """
    Write the people of today.

    Args:
        closed: Whether no number may send until that is done, since none of them is there.

    Raises:
        errors.LedgerUnavailable: The database does not answer, or is not migrated.
        redis.RedisError: Redis does not answer.
    """
    if not (numbers := registry.read(engine).numbers):
        return
    hold_ms, progress = _CLOSED_MS if closed else 0, _Progress("today")
    _add(client, (), hold_ms)
    entries = _entries(engine, {one.name: one for one in numbers}, clock.now(client))
    while page := list(itertools.islice(entries, _PAGE)):
        _add(client, [entry for entry in page if entry.at_ms is None], hold_ms)
        _talk(client, ((key, member, at_ms) for key, member, at_ms in page if at_ms is not None))
        progress.add(len(page))
    progress.end()


def _add(client: redis.Redis, entries: Iterable[_Entry], hold_ms: int) -> None:
    keys, members = [], []
    for key, member, _ in entries:
        keys.append(key)
        members.append(member)
    if keys or hold_ms:
        script("add_people")(client, [SINCE, *keys], [_TTL_MS, hold_ms, *members])


def _talk(client: redis.Redis, entries: Iterable[tuple[str, str, int]]) -> None:
    by_key: dict[str, dict[Any, Any]] = defaultdict(dict)
    for key, member, at_ms in entries:
        by_key[key][member] = min(at_ms, by_key[key].get(member, at_ms))
    for key, people in by_key.items():
        client.zadd(key, people, lt=True)
        client.pexpire(key, _TTL_MS)


def restore_senders(client: redis.Redis, engine: Engine, *, closed: bool = False) -> None:
    """
    Write which tenant last wrote to each person from each registered number, in this month and the last. A number that
    has lost this takes all its people for new ones. What is there already is newer, and stays. At the end Redis has
    `PEOPLE`, which says that nothing is missing.

    Args:
        closed: As for `restore`, but for a minute at most: months of a large ledger take longer.

    Raises:
        errors.LedgerUnavailable, redis.RedisError: As `restore`.
    """
    opens_at = monotonic() + _LONGEST_CLOSED_S
    now = clock.now(client).astimezone(UTC)
    this = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = (this - timedelta(days=1)).replace(day=1)
    numbers, progress = registry.read(engine).numbers, _Progress("two months")
    if not numbers:
        return
    names = iter([one.name for one in numbers])
    while some := list(itertools.islice(names, _NUMBERS)):
        _add(client, (), _CLOSED_MS if closed and monotonic() < opens_at else 0)
        for since, until in ((this, now), (last, this)):
            people = registry.wrote_to(engine, some, since, until)
            for name, of_one in itertools.groupby(people, key=lambda each: each[0]):
                key = senders_key(name, month_of(since))
                while page := list(itertools.islice(of_one, _PAGE)):
                    pairs = itertools.chain.from_iterable((person, tenant) for _, person, tenant in page)
                    script("add_senders")(client, [key], [SENDERS_TTL_MS, *pairs])
                    progress.add(len(page))
    client.set(PEOPLE, round(now.timestamp() * 1000))
    progress.end()


def _entries(engine: Engine, numbers: dict[str, registry.Number], now: datetime) -> Iterator[_Entry]:
    midnights = {name: one.midnight(now) for name, one in numbers.items()}
    begins = [*midnights.values()]
    if any(one.portfolio for one in numbers.values()):
        begins.append(now - timedelta(milliseconds=_CONVERSATION_MS))
    days = {name: at.date().toordinal() - _EPOCH for name, at in midnights.items()}
    begin_ms = {name: at.timestamp() * 1000 for name, at in midnights.items()}
    talks_from_ms = now.timestamp() * 1000 - _CONVERSATION_MS
    for sent in registry.sent_to(engine, min(begins)):
        if (number := numbers.get(sent.instance)) is None:
            continue
        counts = not is_answer(sent.id)
        if number.portfolio is not None and sent.at_ms > talks_from_ms and counts:
            yield _Entry(conversations_key(number.portfolio), sent.pseudonym, sent.at_ms)
        if sent.at_ms < begin_ms[sent.instance]:
            continue
        day = days[sent.instance]
        if sent.kind != Kind.PAID and counts:
            yield _Entry(contact_key(sent.tenant, sent.pseudonym, day), sent.id)
        if sent.new:
            yield _Entry(new_chats_key(sent.instance, day), sent.pseudonym)
