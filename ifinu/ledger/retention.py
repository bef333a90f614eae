"""
Upkeep of the ledger: purge old rows, erase a person's data, and mark missing receipts.

Each step is a transaction of limited size that alternates with the recorder's, so that neither waits long for the
other. Two processes that do it at once do no more than one.
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

ERASED = "erased:"  # prefix of the ids of anonymised notifications

_BATCH = 1000  # rows that a transaction writes
_READ = 20_000  # rows that a transaction reads
_BATCHES_AT_A_TIME = 10  # per table, which takes `tend` about a second
_PURGE_AT_HOUR = 3  # in São Paulo
# Older sent messages are not checked for receipts: without any receipts, each check would read all messages.
_UNCONFIRMED_NOT_BEFORE = timedelta(days=30)

# The columns that give the age of a row. Valid opt-outs and the states of instances are not purged.
_AGES: tuple[Column[datetime], ...] = (
    notifications.c.last_at,
    receipts.c.last_at,
    opt_outs.c.removed_at,
    gaps.c.found_at,
)
# The columns of an anonymised notification that change; the others stay.
_ANONYMOUS: dict[str, Any] = {
    "id": bindparam("becomes"), "phone": None, "phone_hash": None, "key_id": None, "error": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Numbers of rows of the three large tables."""

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
    The result of `tend`.

    Attributes:
        unconfirmed: Notifications marked as unconfirmed.
        more: Whether there is more to do at once.
    """

    unconfirmed: int = 0
    purged: RowCounts = RowCounts()
    more: bool = False


def tend(engine: Engine, settings: Settings, now: datetime) -> Tended:
    """
    Mark messages without a receipt, and between 3 and 4 at night (in São Paulo) delete old rows.

    Call it about once an hour, and again at once if it returns `more`. Additional calls do no harm.

    Args:
        settings: `retention_days` and `unconfirmed_after_s`.

    Raises:
        errors.LedgerUnavailable: The database is away; try again later.
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
    Mark sent messages without a receipt in time. A receipt that comes later removes the mark.

    Messages without a gateway id are left out, since no receipt can be joined to them.

    Args:
        older_than_s: Seconds that a receipt may take.
        now: The time of the mark, aware.
        batches: The most transactions; None for no limit.
        batch: The most rows per transaction.

    Returns:
        The number of messages marked, and whether there may be more.
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
            # Receipts that were recorded, and not joined yet.
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
    Delete rows older than `before`, the oldest first: notifications by their last event, receipts by the last one,
    events by their own time, lifted opt-outs, and gaps. Valid opt-outs are kept for ever.

    Args:
        batches: The most transactions per table; None for no limit.
        batch: The most rows per transaction, roughly.

    Returns:
        The numbers of rows deleted, and whether more are left.
    """
    deleted: dict[str, int] = {}
    more = False
    # The age of an event is the first part of its id, which is the primary key.
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
    """Delete a batch by a range of the index; rows of the same time may make it a little larger."""
    aged: ColumnElement[bool] = age < before
    last = connection.execute(select(age).where(aged).order_by(age).offset(batch - 1).limit(1)).scalar()
    count = connection.execute(delete(age.table).where(aged if last is None else age <= last)).rowcount
    return count, last is not None


def erase(engine: Engine, phone_hash: str, *, batch: int = _BATCH) -> RowCounts:
    """
    Erase a person's data, and keep the totals.

    The person's notifications are anonymised: tenant, kind, instance, state, tries and times stay. The id is replaced
    by `erased:` and a random one, since producers derive ids from personal data. Phone, pseudonym, WhatsApp's ids and
    error texts are set to NULL, and all events and receipts deleted.

    A valid opt-out is kept with its pseudonym, or the person would get messages again; a lifted one is deleted. A
    notification that is not finished, or whose events are still in the stream, is recorded again with its next event:
    erase again then.

    Args:
        batch: The most notifications per transaction.

    Returns:
        The numbers of notifications anonymised, and of events and receipts deleted.
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
        deleted = connection.execute(delete(events).where(events.c.notification_id.in_(ids))).rowcount
        deleted += connection.execute(delete(events).where(events.c.key_id.in_(keys))).rowcount
        deleted_receipts = connection.execute(delete(receipts).where(receipts.c.key_id.in_(keys))).rowcount
        connection.execute(
            update(notifications).where(notifications.c.id == bindparam("was")).values(_ANONYMOUS),
            [{"was": id_, "becomes": f"{ERASED}{uuid.uuid4().hex}"} for id_ in ids],
        )
    return RowCounts(len(ids), deleted, deleted_receipts)


def _erase_others(engine: Engine, phone_hash: str) -> int:
    """
    Delete events with the person's pseudonym outside their notifications: opt-outs, and ids used for two people.

    No index finds them, so this reads all events, a range at a time.
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
