"""
What the ledger forgets, and what it stops waiting for.

Each step is a transaction of a bounded size that takes its turn with the recorder's, so that neither waits for the
other for long, and two that tend one ledger do everything once.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Engine, bindparam, delete, exists, func, select, update

from ifinu.ledger.engine import writing
from ifinu.ledger.queries import ZONE
from ifinu.ledger.schema import events, gaps, notifications, opt_outs, receipts
from ifinu.ledger.states import State
from ifinu.settings import Settings

ERASED = "erased:"  # what the ids of notifications begin with whose person was erased

_BATCH = 1000  # rows a transaction writes
_READ = 20_000  # rows one reads
_BATCHES_AT_A_TIME = 10  # of each table; with them `tend` is back within a second or so
_PURGE_AT_HOUR = 3  # in São Paulo
# A sent message older than this is not looked at any more: where no receipts come at all, every look would be at all of
# them.
_UNCONFIRMED_NOT_BEFORE = timedelta(days=30)

# By which time a row is old. What is neither here nor erased stays: opt-outs that stand, the state of the instances.
_AGES: tuple[Column[datetime], ...] = (
    notifications.c.last_at,
    receipts.c.last_at,
    opt_outs.c.removed_at,
    gaps.c.found_at,
)
# What is left of a notification whose person was erased: everything else.
_NOBODYS: dict[str, Any] = {
    "id": bindparam("becomes"), "phone": None, "phone_hash": None, "key_id": None, "error": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows of the three large tables."""

    notifications: int = 0
    events: int = 0
    receipts: int = 0

    def __add__(self, other: RowCounts) -> RowCounts:
        return RowCounts(
            self.notifications + other.notifications, self.events + other.events, self.receipts + other.receipts
        )


@dataclass(frozen=True, slots=True)
class Tended:
    """
    What `tend` did.

    Attributes:
        unconfirmed: Notifications that were marked as such.
        purged: Rows that were deleted for their age.
        more: There is more to do at once.
    """

    unconfirmed: int = 0
    purged: RowCounts = RowCounts()
    more: bool = False


def tend(engine: Engine, settings: Settings, now: datetime) -> Tended:
    """
    Do what is due: mark what got no receipt, and between 3 and 4 at night (in São Paulo) forget what is old.

    To be called about once an hour, and again at once where it says `more`; called twice, or by two, it does no more.

    Args:
        engine: The ledger.
        settings: `retention_days` and `unconfirmed_after_s`.
        now: Aware.

    Raises:
        errors.LedgerUnavailable: The database is away; nothing is lost by trying again later.
    """
    marked, more_to_mark = mark_unconfirmed(engine, settings.unconfirmed_after_s, now, batches=_BATCHES_AT_A_TIME)
    purged, more_to_purge = RowCounts(), False
    if now.astimezone(ZONE).hour == _PURGE_AT_HOUR:
        before = now - timedelta(days=settings.retention_days)
        purged, more_to_purge = purge(engine, before, batches=_BATCHES_AT_A_TIME)
    return Tended(marked, purged, more_to_mark or more_to_purge)


def mark_unconfirmed(
    engine: Engine, older_than_s: float, now: datetime, *, batches: int | None = None, batch: int = _BATCH
) -> tuple[int, bool]:
    """
    Mark sent messages for which no receipt came in time. A receipt that comes later takes the mark away.

    What the gateway gave no id for is left out: no receipt could ever be joined to it.

    Args:
        engine: The ledger.
        older_than_s: How long a receipt may take, in seconds.
        now: Aware; the time of the mark.
        batches: The most transactions; None for as many as it takes.
        batch: The most rows of each.

    Returns:
        How many were marked, and whether there may be more.
    """
    late = now - timedelta(seconds=older_than_s)
    waiting = (
        select(notifications.c.id)
        .where(
            notifications.c.state == State.SENT,
            notifications.c.unconfirmed_at.is_(None),
            notifications.c.key_id.is_not(None),
            notifications.c.sent_at <= late,
            notifications.c.last_at >= late - _UNCONFIRMED_NOT_BEFORE,
            # A receipt that is here before it was joined.
            ~exists().where(receipts.c.key_id == notifications.c.key_id),
        )
        .order_by(notifications.c.last_at)
        .limit(batch)
    )
    mark = update(notifications).where(notifications.c.id.in_(waiting.correlate(None))).values(unconfirmed_at=now)
    marked = done = 0
    while batches is None or done < batches:
        with writing(engine) as connection:
            count = connection.execute(mark).rowcount
        marked += count
        done += 1
        if count < batch:
            return marked, False
    return marked, True


def purge(
    engine: Engine, before: datetime, *, batches: int | None = None, batch: int = _BATCH
) -> tuple[RowCounts, bool]:
    """
    Delete what is older than `before`, the oldest first: notifications by their last event, receipts by the last one,
    events each by itself, opt-outs that were taken back, and notes on gaps. An opt-out that stands is kept for ever.

    Args:
        engine: The ledger.
        before: Aware.
        batches: The most transactions for each table; None for as many as it takes.
        batch: About the most rows of each.

    Returns:
        How many rows went, and whether more are left.
    """
    deleted: dict[str, int] = {}
    more = False
    # Of an event the id is the time, and has the index.
    old: list[tuple[Column[datetime] | Column[int], datetime | int]] = [(age, before) for age in _AGES]
    old.append((events.c.ms, int(before.timestamp() * 1000)))
    for age, limit in old:
        done, left = 0, True
        while left and (batches is None or done < batches):
            with writing(engine) as connection:
                count, left = _delete_oldest(connection, age, limit, batch)
            deleted[age.table.name] = deleted.get(age.table.name, 0) + count
            done += 1
        more = more or left
    return RowCounts(deleted["notifications"], deleted["events"], deleted["receipts"]), more


def _delete_oldest(
    connection: Connection, age: Column[datetime] | Column[int], before: datetime | int, batch: int
) -> tuple[int, bool]:
    """Delete a batch by ranges of its index; with rows of the very same time it may be a little larger."""
    aged: ColumnElement[bool] = age < before
    last = connection.execute(select(age).where(aged).order_by(age).offset(batch - 1).limit(1)).scalar()
    count = connection.execute(delete(age.table).where(aged if last is None else age <= last)).rowcount
    return count, last is not None


def erase(engine: Engine, phone_hash: str, *, batch: int = _BATCH) -> RowCounts:
    """
    Forget a person, and keep the counts true.

    Their notifications stay as rows that say of nobody what became of them: tenant, kind, instance, state, tries and
    times. The id goes too, since producers build it from what they know of a person; `erased:` and a random one take
    its place. Phone, pseudonym, WhatsApp's ids and error texts are emptied, and all events and receipts deleted.

    An opt-out that stands is kept with its pseudonym, or the person would be written to again; one that was taken back
    goes. What is still on its way, or waits in the stream, is recorded anew when its next event is: erase again then.

    Args:
        engine: The ledger.
        phone_hash: Pseudonym of the phone.
        batch: The most notifications a transaction.

    Returns:
        How many notifications were made nobody's, and how many events and receipts deleted.
    """
    total = RowCounts()
    while (done := _erase_batch(engine, phone_hash, batch)) is not None:
        total += done
    total += RowCounts(events=_erase_others(engine, phone_hash))
    with writing(engine) as connection:
        connection.execute(
            delete(opt_outs).where(opt_outs.c.phone_hash == phone_hash, opt_outs.c.removed_at.is_not(None))
        )
    return total


def of_person(engine: Engine, phone_hash: str) -> int:
    """How many notifications `erase` would make nobody's."""
    with engine.connect() as connection:
        return connection.execute(select(func.count()).where(notifications.c.phone_hash == phone_hash)).scalar_one()


def _erase_batch(engine: Engine, phone_hash: str, batch: int) -> RowCounts | None:
    theirs = select(notifications.c.id, notifications.c.key_id).where(notifications.c.phone_hash == phone_hash)
    with writing(engine) as connection:
        found = connection.execute(theirs.limit(batch)).all()
        if not found:
            return None
        ids = [row.id for row in found]
        named = select(events.c.key_id).where(events.c.notification_id.in_(ids), events.c.key_id.is_not(None))
        keys = sorted({row.key_id for row in found if row.key_id} | set(connection.execute(named).scalars()))
        told = connection.execute(delete(events).where(events.c.notification_id.in_(ids))).rowcount
        told += connection.execute(delete(events).where(events.c.key_id.in_(keys))).rowcount
        got = connection.execute(delete(receipts).where(receipts.c.key_id.in_(keys))).rowcount
        connection.execute(
            update(notifications).where(notifications.c.id == bindparam("was")).values(_NOBODYS),
            [{"was": id_, "becomes": f"{ERASED}{uuid.uuid4().hex}"} for id_ in ids],
        )
    return RowCounts(len(ids), told, got)


def _erase_others(engine: Engine, phone_hash: str) -> int:
    """
    Delete the events that name a person outside their notifications: an opt-out, or an id that was used for two people.

    There is no index to find them by, so all events are gone through, a range at a time.
    """
    deleted, after = 0, -1
    theirs = events.c.data["hash"].as_string() == phone_hash
    while True:
        later = select(events.c.ms).where(events.c.ms > after).order_by(events.c.ms)
        with writing(engine) as connection:
            last = connection.execute(later.offset(_READ - 1).limit(1)).scalar()
            within = events.c.ms > after if last is None else events.c.ms.between(after + 1, last)
            deleted += connection.execute(delete(events).where(within, theirs)).rowcount
        if last is None:
            return deleted
        after = last
