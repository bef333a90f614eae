"""
The ledger's tables, one definition for PostgreSQL and SQLite.

    notifications  one row per id: its present state
    events         all events of the stream `ifinu:eventos`; append-only
    receipts       one row per WhatsApp message id: its receipts; it may exist before its notification is `sent`
    opt_outs       opt-outs of people from tenants; `removed_at` is set when one is lifted
    instances      the instances that the gateway reported, and the last state of their connection
    numbers        the registry: WhatsApp numbers with a pace; see `numbers/registry.py`
    tenants        the registry: how a tenant uses its numbers
    registry       one row once a number was registered: the generation of `numbers` and `tenants`
    recorder       one row: the position up to which the stream was recorded; locked by every writer of the ledger
    gaps           losses of the stream before it was recorded

Phones are masked (`phone`) and identified by a keyed hash (`phone_hash`); names and texts are not stored.
`notifications.state_rank` and the stream id (`state_ms`, `state_seq`) decide which of two states counts; see
`states.py`. `reason`, `error` and `due_at` change together with the state. The migrations create these tables, and a
test compares them with this module.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC. SQLite has no time zones, and stores it as UTC without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a value for the database; ValueError if it has no time zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time in the ledger needs a time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_JSON = JSON().with_variant(JSONB(), "postgresql")

# Indexes carry the names that PostgreSQL would give them.
metadata = MetaData(
    naming_convention={"pk": "%(table_name)s_pkey", "ix": "%(table_name)s_%(column_0_N_name)s_idx"},
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text),
    Column("kind", Text),
    Column("instance", Text),
    Column("queue", Text),
    Column("phone", Text),  # masked
    Column("phone_hash", Text),
    Column("state", Text, nullable=False),  # one of `states.State`
    Column("state_rank", SmallInteger, nullable=False),
    # The stream id of the event that set the state; a receipt does not change them.
    Column("state_ms", BigInteger, nullable=False),
    Column("state_seq", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),  # sends tried
    Column("key_id", Text),  # WhatsApp's id of the message
    Column("confirmed", Boolean),  # whether the gateway could store what it sent; NULL before
    Column("reason", Text),
    Column("error", Text),
    Column("due_at", UtcDateTime),  # time of the next try or look-up
    Column("first_at", UtcDateTime, nullable=False),  # first and last event
    Column("last_at", UtcDateTime, nullable=False),
    Column("sent_at", UtcDateTime),
    Column("server_ack_at", UtcDateTime),
    Column("delivered_at", UtcDateTime),
    Column("read_at", UtcDateTime),
    Column("failed_at", UtcDateTime),
    Column("unconfirmed_at", UtcDateTime),  # when the sweep found no receipt; NULL again when one comes
    Index(None, "phone_hash"),
    Index(None, "key_id"),
    Index(None, "state", "last_at"),
    Index(None, "tenant", "last_at"),
    Index(None, "last_at"),
)
# For the guard: the last messages of a number.
Index("notifications_instance_sent_at_idx", notifications.c.instance, notifications.c.sent_at)
# For the sweep for missing receipts: nearly empty while receipts come.
Index(
    "notifications_unconfirmed_idx",
    notifications.c.last_at,
    postgresql_where=(notifications.c.state == "sent") & notifications.c.unconfirmed_at.is_(None),
    sqlite_where=(notifications.c.state == "sent") & notifications.c.unconfirmed_at.is_(None),
)

events = Table(
    "events",
    metadata,
    Column("ms", BigInteger, primary_key=True, autoincrement=False),  # the entry's id in the stream
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),  # the same as `ms`
    Column("name", Text, nullable=False),  # one of `broker.events.Name`
    Column("notification_id", Text),  # NULL if the event belongs to no notification
    Column("key_id", Text),
    Column("data", _JSON, nullable=False),
    Index(None, "notification_id"),
    Index(None, "key_id"),
)

# For the guard: refusals because a number sends too fast.
Index(
    "events_trouble_idx",
    events.c.ms,
    postgresql_where=events.c.name.in_(("deferred", "retrying")),
    sqlite_where=events.c.name.in_(("deferred", "retrying")),
)

receipts = Table(
    "receipts",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("instance", Text),
    Column("status", Text, nullable=False),  # of the highest rank so far
    Column("rank", SmallInteger, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("server_ack_at", UtcDateTime),
    Column("delivered_at", UtcDateTime),
    Column("read_at", UtcDateTime),
    Column("failed_at", UtcDateTime),
    Index(None, "last_at"),
)

opt_outs = Table(
    "opt_outs",
    metadata,
    Column("tenant", Text, primary_key=True),  # empty for messages without a tenant
    Column("phone_hash", Text, primary_key=True),
    Column("phone", Text),  # masked
    Column("source", Text),
    Column("at", UtcDateTime),  # NULL if only the removal is known
    Column("removed_at", UtcDateTime),  # NULL while the opt-out is valid
    Column("ms", BigInteger, nullable=False),  # the last event's id in the stream
    Column("seq", BigInteger, nullable=False),
    Index(None, "phone_hash"),
)

instances = Table(
    "instances",
    metadata,
    Column("name", Text, primary_key=True),
    Column("state", Text),
    Column("code", Integer),  # the gateway's reason for a closed connection
    Column("at", UtcDateTime, nullable=False),
    Column("ms", BigInteger, nullable=False),  # the last event's id in the stream
    Column("seq", BigInteger, nullable=False),
)

numbers = Table(
    "numbers",
    metadata,
    Column("name", Text, primary_key=True),  # of its instance at the gateway
    Column("tenant", Text),  # NULL: all tenants may send from it
    Column("channel", Text, nullable=False),  # BAILEYS | BUSINESS | EVOLUTION
    Column("phone", Text),  # masked
    Column("phone_hash", Text),
    Column("zone", Text, nullable=False),  # time zone of its days, as `America/Sao_Paulo`
    Column("preset", Text, nullable=False),  # one of `numbers.presets.Preset`
    Column("overrides", _JSON, nullable=False),  # instead of the preset's, by the names of `numbers.presets.Pace`
    Column("paired_at", UtcDateTime),  # NULL before it was paired
    Column("warm_up", Boolean, nullable=False),  # whether it is warmed up when it is paired
    Column("warm_up_from", Date),  # its day 0; later by each day that was not calm; NULL: no warm-up
    Column("risk", Integer, nullable=False),  # the guard's estimate, 0 (calm) to 100
    Column("brake", Float, nullable=False),  # the guard's factor on its pace, 0.1 to 1
    Column("held_until", UtcDateTime),  # it sends nothing before this
    Column("held_reason", Text),
    Column("no_new_chats_until", UtcDateTime),  # it writes to nobody for the first time before this
    Column("guard", _JSON, nullable=False),  # what the guard remembers from one pass to the next
    Column("banned_at", UtcDateTime),
    Column("registered_at", UtcDateTime, nullable=False),
    Column("missing_since", UtcDateTime),  # first of the gateway's answers in a row that it has no such instance
    Column("missing_count", Integer, nullable=False),  # how many of them in a row
    Column("portfolio", Text),  # Meta's business portfolio; NULL: none, or not known
    Index(None, "tenant"),
)

portfolios = Table(
    "portfolios",
    metadata,
    Column("name", Text, primary_key=True),
    Column("conversations", Integer),  # people that its numbers may write to in 24 hours, together; NULL: any number
)

tenants = Table(
    "tenants",
    metadata,
    Column("name", Text, primary_key=True),
    Column("policy", Text, nullable=False),  # fixo | rodizio: one number for a person, or its numbers in turns
    Column("weight", Integer, nullable=False),  # turns it gets where tenants share a number
)

registry = Table(
    "registry",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("generation", Text, nullable=False),  # random, and another one after each change
    Column("changed_at", UtcDateTime, nullable=False),
)

recorder = Table(
    "recorder",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("ms", BigInteger, nullable=False),  # id of the last recorded entry; 0-0 before the first
    Column("seq", BigInteger, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

gaps = Table(
    "gaps",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("found_at", UtcDateTime, nullable=False),
    Column("ms", BigInteger, nullable=False),  # id of the last entry recorded before the gap
    Column("seq", BigInteger, nullable=False),
    Column("cause", Text, nullable=False),  # group_gone | went_back | restored
)
