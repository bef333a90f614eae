"""
Queries on the ledger, for commands and checks. Results have a maximum size. Every function raises
errors.LedgerUnavailable when the database is away.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, Engine, and_, func, or_, select

from ifinu.broker.events import Name
from ifinu.ledger.schema import events, gaps, notifications, recorder
from ifinu.ledger.states import State
from ifinu.window import BRASILIA

ZONE = ZoneInfo(BRASILIA)  # its offset from UTC is always whole hours
_LONGEST_TIMELINE = 400  # events
_MOST_ROWS = 100
_MAYBE_SENT = or_(notifications.c.sent_at.is_not(None), notifications.c.state == State.UNKNOWN)
_MOST_KEYS = 50  # WhatsApp ids of one notification; it has two at most


@dataclass(frozen=True, slots=True)
class Known:
    """The present row of a notification; each field is the column of that name in `schema.notifications`."""

    id: str
    tenant: str | None
    kind: str | None
    instance: str | None
    queue: str | None
    phone: str | None
    state: State
    attempts: int
    key_id: str | None
    confirmed: bool | None
    reason: str | None
    error: str | None
    due_at: datetime | None
    first_at: datetime
    last_at: datetime
    sent_at: datetime | None
    server_ack_at: datetime | None
    delivered_at: datetime | None
    read_at: datetime | None
    failed_at: datetime | None
    unconfirmed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Happening:
    """One event of a notification; `name` and `data` are those of `broker.events`."""

    at: datetime
    name: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Timeline:
    """
    A notification from its first event to its last.

    Attributes:
        known: Its present row.
        happened: Its events and receipts, the oldest first. If there are too many, those in the middle are left out.
        left_off: How many were left out.
    """

    known: Known
    happened: tuple[Happening, ...]
    left_off: int = 0


@dataclass(frozen=True, slots=True)
class SentAs:
    """The notification of a WhatsApp message: id, tenant, and the phone's pseudonym and mask."""

    id: str
    tenant: str | None
    phone_hash: str | None
    phone: str | None


class By(enum.StrEnum):
    """Columns by which notifications are counted."""

    STATE = "state"
    KIND = "kind"
    TENANT = "tenant"
    INSTANCE = "instance"
    HOUR = "hour"  # in São Paulo


@dataclass(frozen=True, slots=True)
class Count:
    """
    The number of notifications with one value.

    Attributes:
        key: The state, kind, tenant or instance, or None; the start of an hour, as `2026-11-24T09:00:00-03:00`.
        states: Number in each state.
    """

    key: str | None
    total: int
    states: dict[str, int]


@dataclass(frozen=True, slots=True)
class Counts:
    """The largest counts (of hours: the latest), and the number of all notifications."""

    rows: tuple[Count, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Position:
    """Id of the last recorded entry of the stream (0-0 before the first), and when it was recorded."""

    ms: int
    seq: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Gap:
    """
    Events that were lost before they were recorded.

    Attributes:
        found_at: When the loss was noticed.
        after: Time of the last event recorded before it, or None.
        cause: `group_gone`, `went_back`, or `restored` from a backup.
    """

    found_at: datetime
    after: datetime | None
    cause: str


def timeline(engine: Engine, notification_id: str, limit: int = _LONGEST_TIMELINE) -> Timeline | None:
    """
    The present row and the events of one notification; None if the ledger does not have it.

    Receipts name only WhatsApp's id of a message. Those of every send of this notification are included.
    """
    with engine.connect() as connection:
        columns = [notifications.c[field.name] for field in fields(Known)]
        row = connection.execute(select(*columns).where(notifications.c.id == notification_id)).one_or_none()
        if row is None:
            return None
        values = row._asdict()
        known = Known(**(values | {"state": State(values["state"])}))
        mine = _events_of(connection, known)
        count = connection.execute(select(func.count()).select_from(events).where(mine)).scalar_one()
        first = _events(connection, mine, limit if count <= limit else limit // 2)
        last = [] if count <= limit else _events(connection, mine, limit - limit // 2, newest=True)
    return Timeline(known, (*first, *last), max(0, count - limit))


def id_of(engine: Engine, key_id: str) -> str | None:
    """Id of the notification that was sent, now or by an earlier send, as the WhatsApp message `key_id`; or None."""
    now = select(notifications.c.id).where(notifications.c.key_id == key_id).limit(1)
    before = select(events.c.notification_id).where(events.c.key_id == key_id, events.c.notification_id.is_not(None))
    with engine.connect() as connection:
        return connection.execute(now).scalar() or connection.execute(before.limit(1)).scalar()


def sent_as(engine: Engine, key_id: str) -> SentAs | None:
    """The notification that was sent as the WhatsApp message `key_id`, or None."""
    notification_id = id_of(engine, key_id)
    columns = (notifications.c.id, notifications.c.tenant, notifications.c.phone_hash, notifications.c.phone)
    with engine.connect() as connection:
        row = connection.execute(select(*columns).where(notifications.c.id == notification_id)).one_or_none()
    return None if row is None else SentAs(*row)


def writers(engine: Engine, phone_hash: str) -> list[tuple[str | None, str]]:
    """Pairs of instance and tenant (empty for none) that wrote to a phone, or may have, the latest first."""
    at = func.max(func.coalesce(notifications.c.sent_at, notifications.c.last_at))
    query = (
        select(notifications.c.instance, notifications.c.tenant)
        .where(notifications.c.phone_hash == phone_hash, _MAYBE_SENT)
        .group_by(notifications.c.instance, notifications.c.tenant)
        .order_by(at.desc())
        .limit(_MOST_ROWS)
    )
    with engine.connect() as connection:
        return [(instance, tenant or "") for instance, tenant in connection.execute(query)]


def tenants_of(engine: Engine, instance: str) -> list[str]:
    """Tenants (empty for none) for which an instance sent messages, or may have. Scans all notifications."""
    query = select(notifications.c.tenant).where(notifications.c.instance == instance, _MAYBE_SENT).distinct()
    with engine.connect() as connection:
        return sorted(tenant or "" for tenant in connection.execute(query).scalars())


def _events_of(connection: Connection, known: Known) -> ColumnElement[bool]:
    named = select(events.c.key_id).where(events.c.notification_id == known.id, events.c.key_id.is_not(None))
    keys = {known.key_id, *connection.execute(named.distinct().limit(_MOST_KEYS)).scalars()} - {None}
    return or_(
        events.c.notification_id == known.id,
        and_(events.c.notification_id.is_(None), events.c.key_id.in_(sorted(keys))),
    )


def _events(connection: Connection, which: ColumnElement[bool], limit: int, *, newest: bool = False) -> list[Happening]:
    order = (events.c.ms.desc(), events.c.seq.desc()) if newest else (events.c.ms, events.c.seq)
    rows = connection.execute(
        select(events.c.at, events.c.name, events.c.data).where(which).order_by(*order).limit(limit)
    ).all()
    return [Happening(*row) for row in (reversed(rows) if newest else rows)]


def counts(engine: Engine, by: By, since: datetime, limit: int = _MOST_ROWS) -> Counts:
    """Count notifications by a column. The time of a notification is that of its send, or else of its last event."""
    at = func.coalesce(notifications.c.sent_at, notifications.c.last_at)
    key = _hour(engine, at) if by is By.HOUR else notifications.c[by.value]
    grouped = (
        select(key.label("key"), notifications.c.state, func.count().label("n"))
        # `last_at` is never before `sent_at`, and has an index.
        .where(notifications.c.last_at >= since, at >= since)
        .group_by(key, notifications.c.state)
        .subquery()
    )
    total = func.sum(grouped.c.n).over(partition_by=grouped.c.key).label("total")
    overall = func.sum(grouped.c.n).over().label("overall")
    query = select(grouped.c.key, grouped.c.state, grouped.c.n, total, overall)
    order = (grouped.c.key.desc(),) if by is By.HOUR else (total.desc(), grouped.c.key.nulls_last())
    with engine.connect() as connection:
        # A key has at most one row per state, so that the first `limit` keys are complete.
        rows = connection.execute(query.order_by(*order).limit(limit * len(State))).all()
    found: dict[str | None, Count] = {}
    for name, state, count, of_key, _ in rows:
        found.setdefault(name, Count(name, int(of_key), {})).states[state] = count
    largest = [_named(count) if by is By.HOUR else count for count in list(found.values())[:limit]]
    return Counts(tuple(largest), int(rows[0].overall) if rows else 0)


def _hour(engine: Engine, at: ColumnElement[Any]) -> ColumnElement[Any]:
    """The hour in UTC, as `2026-11-24T12`."""
    if engine.dialect.name == "sqlite":
        return func.strftime("%Y-%m-%dT%H", at)
    return func.to_char(func.timezone("UTC", at), 'YYYY-MM-DD"T"HH24')


def _named(count: Count) -> Count:
    begins = datetime.fromisoformat(f"{count.key}:00").replace(tzinfo=UTC).astimezone(ZONE)
    return Count(begins.isoformat(), count.total, count.states)


def unconfirmed(engine: Engine, since: datetime, limit: int = _MOST_ROWS) -> dict[str | None, int]:
    """Number of sent messages without a receipt in time, by instance; see `retention.mark_unconfirmed`."""
    n = func.count().label("n")
    query = (
        select(notifications.c.instance, n)
        .where(
            notifications.c.state == State.SENT,  # a receipt would have changed it
            notifications.c.unconfirmed_at.is_not(None),
            notifications.c.last_at >= since,
            notifications.c.sent_at >= since,
        )
        .group_by(notifications.c.instance)
        .order_by(n.desc(), notifications.c.instance.nulls_last())
        .limit(limit)
    )
    with engine.connect() as connection:
        return {name: count for name, count in connection.execute(query)}  # noqa: C416 - rows are no tuples to mypy


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Number of messages dropped as duplicates, and number of their ids."""

    messages: int
    ids: int


def duplicates(engine: Engine, since: datetime) -> Duplicates:
    """Count the messages dropped as duplicates; second messages that became dead letters (with a `reason`) are not."""
    query = select(func.count(), func.count(events.c.notification_id.distinct())).where(
        events.c.ms >= round(since.timestamp() * 1000),  # of the primary key
        events.c.name == Name.DUPLICATE,
        events.c.data["reason"].as_string().is_(None),
    )
    with engine.connect() as connection:
        return Duplicates(*connection.execute(query).one())


def position(engine: Engine) -> Position | None:
    """The position up to which the stream was recorded; None before the first time."""
    query = select(recorder.c.ms, recorder.c.seq, recorder.c.updated_at).where(recorder.c.id == 1)
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else Position(*row)


def found_gaps(engine: Engine, since: datetime, limit: int = _MOST_ROWS) -> Sequence[Gap]:
    """Gaps found since a time, the latest first."""
    query = select(gaps.c.found_at, gaps.c.ms, gaps.c.cause).where(gaps.c.found_at >= since)
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(gaps.c.found_at.desc(), gaps.c.id.desc()).limit(limit)).all()
    return [Gap(at, datetime.fromtimestamp(ms / 1000, UTC) if ms else None, cause) for at, ms, cause in rows]
