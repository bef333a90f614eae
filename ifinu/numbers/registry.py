"""
The registry of WhatsApp numbers and tenants, in the ledger's database.

A number is the instance of the same name at the gateway, with a pace. Redis has a copy (`cache.py`), which workers read
(`directory.py`). What workers route by (numbers, their tenants, bans, weights) has a generation; a change of it gives
the registry another one, by which a worker notices. A change of pace, hold or brake does not.

What a number has sent is counted from the ledger's notifications, and stored nowhere else.
"""

from __future__ import annotations

import contextlib
import enum
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine, case, delete, func, insert, inspect, or_, select, update

from ifinu.broker.events import Name
from ifinu.errors import ConfigurationError
from ifinu.escapes import CONTROLS
from ifinu.ledger.engine import writing
from ifinu.ledger.schema import events, instances, notifications, numbers, portfolios, registry, tenants
from ifinu.ledger.states import State
from ifinu.names import did_you_mean
from ifinu.numbers import presets
from ifinu.numbers.directory import UNTIL_RELEASED as UNTIL_RELEASED
from ifinu.numbers.presets import Preset
from ifinu.window import BRASILIA

GONE_AFTER = 3  # answers in a row that the gateway has no such instance
GONE_FOR = timedelta(minutes=10)  # from the first of them to the last

_NOT_IN_NAMES = re.compile(f"[:{CONTROLS}]")
_HOUR_MS = 3_600_000
_PART = 5_000  # rows that are read at once
_MOST_CONVERSATIONS = 1_000_000
_MAYBE_SENT = or_(notifications.c.sent_at.is_not(None), notifications.c.state == State.UNKNOWN)
_OF_THE_DIRECTORY = frozenset({"tenant", "channel", "banned_at"})


class Channel(enum.StrEnum):
    """The service that a number's instance connects to; `gateway.Integration` without its prefix."""

    BAILEYS = "BAILEYS"  # WhatsApp Web, paired with a QR code
    BUSINESS = "BUSINESS"  # Meta's Cloud API
    EVOLUTION = "EVOLUTION"  # none; for tests


class Policy(enum.StrEnum):
    """Which of its numbers a tenant's message is sent from."""

    STICKY = "fixo"  # always the same one for a person
    IN_TURNS = "rodizio"  # one after another


@dataclass(frozen=True, slots=True)
class Number:
    """A registered number; each field is the column of that name in `schema.numbers`."""

    name: str
    registered_at: datetime
    tenant: str | None = None
    channel: Channel = Channel.BAILEYS
    phone: str | None = None
    phone_hash: str | None = None
    zone: str = BRASILIA
    preset: Preset = Preset.CONSERVATIVE
    overrides: Mapping[str, int | None] = field(default_factory=dict)
    paired_at: datetime | None = None
    warm_up: bool = True
    warm_up_from: date | None = None
    risk: int = 0
    brake: float = 1.0
    held_until: datetime | None = None
    held_reason: str | None = None
    no_new_chats_until: datetime | None = None
    guard: Mapping[str, Any] = field(default_factory=dict)
    banned_at: datetime | None = None
    missing_since: datetime | None = None
    missing_count: int = 0
    portfolio: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel", Channel(self.channel))
        object.__setattr__(self, "preset", Preset(self.preset))

    def local(self, now: datetime) -> datetime:
        """A time in the number's zone."""
        return now.astimezone(ZoneInfo(self.zone))

    def midnight(self, now: datetime) -> datetime:
        """The beginning of its local day."""
        return self.local(now).replace(hour=0, minute=0, second=0, microsecond=0)

    def pace(self, now: datetime) -> presets.Pace:
        """Its pace on its local day, without brake and holds. Before its pairing is known it is that of a first day."""
        pace = presets.pace(self._begun(now)._shared(), self.local(now).date())
        closed = self.no_new_chats_until is not None and self.no_new_chats_until > now
        return replace(pace, new_chats=0) if closed else pace

    def warm_up_day(self, now: datetime) -> int | None:
        """As `presets.warm_up_day`, on its local day."""
        return presets.warm_up_day(self._begun(now), self.local(now).date())

    def _begun(self, now: datetime) -> Number:
        """It as if its warm-up had begun yesterday, where it begins with a pairing that is not known yet."""
        waits = self.paired_at is None and self.warm_up and self.preset.warms_up and self.channel is Channel.BAILEYS
        if self.warm_up_from is not None or not waits:
            return self
        return replace(self, warm_up_from=self.local(now).date() - timedelta(days=1))

    def _shared(self) -> Number:
        """It without a limit where that of its portfolio counts."""
        if self.portfolio is None or self.preset is not Preset.CLOUD:
            return self
        return replace(self, overrides={**presets.IN_A_PORTFOLIO, **self.overrides})

    def is_gone(self, now: datetime) -> bool:
        """Whether the gateway has said often and long enough that it has no such instance."""
        since = self.missing_since
        return since is not None and self.missing_count >= GONE_AFTER and now - since >= GONE_FOR


_NUMBER = tuple(numbers.c[each.name] for each in fields(Number))


@dataclass(frozen=True, slots=True)
class Tenant:
    """How a tenant uses its numbers; `weight` is its turns where it shares a number."""

    name: str
    policy: Policy = Policy.STICKY
    weight: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", Policy(self.policy))


@dataclass(frozen=True, slots=True)
class Portfolio:
    """
    A business portfolio at Meta, by which its limits count.

    Attributes:
        conversations: How many people its numbers may write to in 24 hours, together; None for any number.
    """

    name: str
    conversations: int | None = presets.LOWEST_TIER


@dataclass(frozen=True, slots=True)
class Registry:
    """All that is registered; `generation` is empty if nothing ever was."""

    generation: str
    numbers: tuple[Number, ...]
    tenants: tuple[Tenant, ...]
    portfolios: tuple[Portfolio, ...] = ()


@dataclass(frozen=True, slots=True)
class Activity:
    """
    What a number has done since a time.

    Attributes:
        sent: Messages that the gateway took.
        failed: Those that WhatsApp could not deliver, and dead letters.
        last_at: Time of its last event.
    """

    sent: int
    failed: int
    last_at: datetime | None


class SentTo(NamedTuple):
    """
    A message that was sent, or may have been.

    Attributes:
        tenant: Its tenant, or empty.
        pseudonym: Its recipient.
        at_ms: When that was, in ms.
        new: Whether its number had not written to the recipient before.
    """

    id: str
    instance: str
    tenant: str
    kind: str | None
    pseudonym: str
    at_ms: int
    new: bool


def exists(engine: Engine) -> bool:
    """Whether the ledger has the registry's tables."""
    with engine.connect() as connection:
        return inspect(connection).has_table(numbers.name)


def read(engine: Engine) -> Registry:
    """Read the registry. Rows may be newer than the generation; the next one then has them read again."""
    with engine.connect() as connection:
        generation = connection.execute(select(registry.c.generation)).scalar() or ""
        found = tuple(Number(**row._mapping) for row in connection.execute(select(*_NUMBER).order_by(numbers.c.name)))
        of = connection.execute(select(tenants).order_by(tenants.c.name))
        shared = tuple(Portfolio(**row._mapping) for row in connection.execute(select(portfolios)))
        return Registry(generation, found, tuple(Tenant(**row._mapping) for row in of), shared)


def generation(engine: Engine) -> str:
    """The registry's generation; empty if nothing ever was registered."""
    with engine.connect() as connection:
        return connection.execute(select(registry.c.generation)).scalar() or ""


def number(engine: Engine, name: str) -> Number | None:
    """A registered number, or None."""
    with engine.connect() as connection:
        return find(connection, name)


def registered(engine: Engine, name: str) -> Number:
    """
    A registered number.

    Raises:
        ConfigurationError: There is none of this name.
    """
    with engine.connect() as connection:
        if (found := find(connection, name)) is None:
            raise _unknown(connection, name)
    return found


def check_name(name: str) -> None:
    """
    Check that an instance of this name can be registered. With a colon, two lanes could have the same key in Redis.

    Raises:
        ConfigurationError: It has a colon or a control character.
    """
    if found := _NOT_IN_NAMES.search(name):
        raise ConfigurationError(
            f"{name!r} cannot be registered: the name of a number has no colon and no control character, and this one "
            f"has {found[0]!r}; create an instance with another name"
        )


def register(engine: Engine, new: Number) -> None:
    """
    Add a number.

    Raises:
        ConfigurationError: The name is registered already or cannot be, or a value that replaces the preset's is wrong.
    """
    check_name(new.name)
    presets.checked(new.preset, new.overrides)
    _check_portfolio(new)
    with writing(engine) as connection:
        if find(connection, new.name) is not None:
            raise ConfigurationError(f"{new.name} is registered already")
        connection.execute(insert(numbers).values({each.name: getattr(new, each.name) for each in fields(Number)}))
        _know(connection, new.tenant)
        _know_portfolio(connection, new.portfolio)
        _changed(connection)


def change(engine: Engine, name: str, **values: Any) -> Number:
    """
    Change columns of a number, and return it as it is now.

    Raises:
        ConfigurationError: The number is not registered, or its pace would be wrong.
    """
    with writing(engine) as connection:
        before = find(connection, name)
        if before is None:
            raise _unknown(connection, name)
        presets.checked(Preset(values.get("preset", before.preset)), values.get("overrides", before.overrides))
        _check_portfolio(replace(before, **values))
        write(connection, before, values)
        after = find(connection, name)
    assert after is not None  # noqa: S101 - this transaction has just written it
    return after


def write(connection: Connection, before: Number, values: Mapping[str, Any]) -> None:
    """
    Write columns of a number.

    Args:
        connection: In a transaction of `engine.writing`.
        before: The number as it is.
        values: By the names of columns; they are not checked.
    """
    connection.execute(update(numbers).where(numbers.c.name == before.name).values(values))
    if "tenant" in values:
        _know(connection, values["tenant"])
    if "portfolio" in values:
        _know_portfolio(connection, values["portfolio"])
    if any(getattr(before, column) != values[column] for column in _OF_THE_DIRECTORY & values.keys()):
        _changed(connection)


def hold(engine: Engine, name: str, until: datetime, reason: str) -> Number:
    """Record that a number sends nothing before a time. The hold itself is in Redis, where workers see it at once."""
    return change(engine, name, held_until=until, held_reason=reason)


def release(engine: Engine, name: str) -> Number:
    """End a number's hold, its ban, and its time without new chats."""
    return change(engine, name, held_until=None, held_reason=None, no_new_chats_until=None, banned_at=None)


def paired(engine: Engine, name: str, at: datetime) -> Number:
    """Record a pairing of a number. The first one begins its warm-up."""
    known = registered(engine, name)
    if known.paired_at is not None:
        return known
    today = known.local(at).date()
    begins = presets.warm_up_start(known.preset, today, today) if known.warm_up else None
    return change(engine, name, paired_at=at, warm_up_from=known.warm_up_from or begins)


def note_pairings(engine: Engine) -> None:
    """Record the first pairing of the numbers whose connection a webhook has reported as open."""
    query = (
        select(numbers.c.name, instances.c.at)
        .join(instances, instances.c.name == numbers.c.name)
        .where(numbers.c.paired_at.is_(None), instances.c.state == "open")
    )
    with engine.connect() as connection:
        opened = connection.execute(query).all()
    for name, at in opened:
        with contextlib.suppress(ConfigurationError):  # it was removed meanwhile
            paired(engine, name, at)


def missing(engine: Engine, name: str, now: datetime) -> Number:
    """Record one more answer of the gateway that it has no such instance."""
    known = registered(engine, name)
    since = known.missing_since or now
    return change(engine, name, missing_since=since, missing_count=known.missing_count + 1)


def found(engine: Engine, name: str) -> Number:
    """Forget that the gateway had no such instance, since it has."""
    return change(engine, name, missing_since=None, missing_count=0)


def remove(engine: Engine, name: str) -> None:
    """
    Remove a number from the registry.

    Raises:
        ConfigurationError: It is not registered.
    """
    with writing(engine) as connection:
        if connection.execute(delete(numbers).where(numbers.c.name == name)).rowcount == 0:
            raise _unknown(connection, name)
        _changed(connection)


def set_tenant(engine: Engine, name: str, *, policy: Policy | None = None, weight: int | None = None) -> Tenant:
    """
    Set how a tenant uses its numbers; None leaves a value as it is.

    Raises:
        ConfigurationError: The weight is outside 1 to 100.
    """
    if weight is not None and not 1 <= weight <= 100:
        raise ConfigurationError(f"a tenant's weight is from 1 to 100, not {weight}")
    given = {"policy": policy, "weight": weight}
    values = {column: value for column, value in given.items() if value is not None}
    with writing(engine) as connection:
        _know(connection, name)
        if values:
            connection.execute(update(tenants).where(tenants.c.name == name).values(values))
        _changed(connection)
        row = connection.execute(select(tenants).where(tenants.c.name == name)).one()
    return Tenant(**row._mapping)


def portfolio(engine: Engine, name: str) -> Portfolio:
    """A portfolio; one that is not known has the lowest tier."""
    with engine.connect() as connection:
        row = connection.execute(select(portfolios).where(portfolios.c.name == name)).one_or_none()
    return Portfolio(name) if row is None else Portfolio(**row._mapping)


def set_tier(engine: Engine, name: str, conversations: int | None) -> Portfolio:
    """
    Set how many people a portfolio's numbers may write to in 24 hours.

    Raises:
        ConfigurationError: The name cannot be a portfolio's, or the tier is outside 0 to 1,000,000.
    """
    if conversations is not None and not 0 <= conversations <= _MOST_CONVERSATIONS:
        raise ConfigurationError(f"a tier is from 0 to {_MOST_CONVERSATIONS:,} people, or none, not {conversations:,}")
    with writing(engine) as connection:
        _know_portfolio(connection, name)
        connection.execute(update(portfolios).where(portfolios.c.name == name).values(conversations=conversations))
    return Portfolio(name, conversations)


def activity(engine: Engine, names: Iterable[str], since: datetime) -> dict[str, Activity]:
    """What numbers have done since a time; those that did nothing are left out."""
    row = notifications.c
    sent = func.sum(case((row.sent_at >= since, 1), else_=0))
    failed = func.sum(case((row.state.in_((State.FAILED, State.DEAD)), 1), else_=0))
    query = (
        select(row.instance, sent, failed, func.max(row.last_at))
        .where(row.last_at >= since, row.instance.in_(tuple(names)))
        .group_by(row.instance)
    )
    with engine.connect() as connection:
        return {name: Activity(int(a), int(b), last) for name, a, b, last in connection.execute(query)}


def sent_by_hour(engine: Engine, since: datetime) -> dict[str, dict[int, int]]:
    """
    How many messages each instance sent, or may have, since a time.

    Returns:
        By instance and hour, counted in hours since the epoch.
    """
    row = notifications.c
    hour = row.state_ms // _HOUR_MS  # of the send: no receipt changes it
    query = (
        select(row.instance, hour, func.count())
        .where(row.last_at >= since, row.state_ms >= round(since.timestamp() * 1000), _MAYBE_SENT)
        .group_by(row.instance, hour)
    )
    counted: dict[str, dict[int, int]] = {}
    with engine.connect() as connection:
        for name, at, count in connection.execute(query):
            counted.setdefault(name, {})[at] = count
    return counted


def sent_to(engine: Engine, since: datetime) -> Iterator[SentTo]:
    """What was sent, or may have been, since a time, with its recipient; read as it is asked for."""
    row, ms = notifications.c, round(since.timestamp() * 1000)
    # Joined, not asked for with IN: PostgreSQL would search a long answer once for each message.
    opened = (
        select(events.c.notification_id)
        .where(events.c.ms >= ms, events.c.name == Name.SENT.value, events.c.data["new"].as_boolean())
        .distinct()
        .subquery("opened")
    )
    query = (
        select(
            row.id,
            row.instance,
            row.tenant,
            row.kind,
            row.phone_hash,
            row.state_ms,
            opened.c.notification_id.is_not(None),
        )
        .outerjoin_from(notifications, opened, opened.c.notification_id == row.id)
        .where(row.last_at >= since, row.state_ms >= ms, row.phone_hash.is_not(None), _MAYBE_SENT)
    )
    with _streaming(engine) as connection:
        for id_, instance, tenant, kind, pseudonym, at_ms, new in connection.execute(query):
            yield SentTo(id_, instance, tenant or "", kind, pseudonym, at_ms, bool(new))


def wrote_to(engine: Engine, names: Sequence[str], since: datetime, until: datetime) -> Iterator[tuple[str, str, str]]:
    """
    The people to whom numbers have written between two times, read as they are asked for.

    Returns:
        Number, person and tenant, number by number, the last tenant of a person first.
    """
    row = notifications.c
    query = (
        select(row.instance, row.phone_hash, func.coalesce(row.tenant, ""))
        .where(row.instance.in_(names), row.sent_at >= since, row.sent_at < until, row.phone_hash.is_not(None))
        .group_by(row.instance, row.phone_hash, row.tenant)
        .order_by(row.instance, func.max(row.sent_at).desc())
    )
    with _streaming(engine) as connection:
        yield from ((name, person, tenant) for name, person, tenant in connection.execute(query))


@contextlib.contextmanager
def _streaming(engine: Engine) -> Iterator[Connection]:
    """A connection whose rows come in parts, so that they need not fit into memory."""
    with engine.connect() as connection:
        yield connection.execution_options(yield_per=_PART)


def first_sent(engine: Engine, name: str) -> datetime | None:
    """When an instance sent its first message that the ledger knows, or None. Scans all notifications."""
    with engine.connect() as connection:
        query = select(func.min(notifications.c.sent_at)).where(notifications.c.instance == name)
        return connection.execute(query).scalar()


def steps(engine: Engine, name: str, limit: int) -> list[tuple[datetime, dict[str, Any]]]:
    """The latest events of a number (holds, and the guard's steps), the newest first."""
    query = (
        select(events.c.at, events.c.data)
        .where(events.c.notification_id.is_(None), events.c.name == Name.NUMBER.value)
        .where(events.c.data["number"].as_string() == name)
        .order_by(events.c.ms.desc(), events.c.seq.desc())
        .limit(limit)
    )
    with engine.connect() as connection:
        return [(at, data) for at, data in connection.execute(query)]


def find(connection: Connection, name: str) -> Number | None:
    """A registered number, read within a transaction; or None."""
    row = connection.execute(select(*_NUMBER).where(numbers.c.name == name)).one_or_none()
    return None if row is None else Number(**row._mapping)


def _know(connection: Connection, tenant: str | None) -> None:
    """Add a tenant that has no row yet."""
    if tenant is None:
        return
    if connection.execute(select(tenants.c.name).where(tenants.c.name == tenant)).first() is None:
        connection.execute(insert(tenants).values(name=tenant, policy=Policy.STICKY, weight=1))


def _know_portfolio(connection: Connection, name: str | None) -> None:
    """Add a portfolio that has no row yet; ConfigurationError if its name cannot be one."""
    if name is None:
        return
    if not name or _NOT_IN_NAMES.search(name):
        raise ConfigurationError(f"{name!r} cannot be a portfolio: its name is not empty, and has no colon")
    if connection.execute(select(portfolios.c.name).where(portfolios.c.name == name)).first() is None:
        connection.execute(insert(portfolios).values(name=name, conversations=presets.LOWEST_TIER))


def _check_portfolio(number: Number) -> None:
    if number.portfolio is not None and number.channel is Channel.BAILEYS:
        raise ConfigurationError(
            f"{number.name} is paired with a phone ({number.channel.value}), and a portfolio is of Meta's Cloud API"
        )


def _changed(connection: Connection) -> None:
    """Give the registry another generation. It is random: after a restore, a number could come a second time."""
    values = {"generation": secrets.token_hex(8), "changed_at": datetime.now(UTC)}
    if connection.execute(update(registry).values(values)).rowcount == 0:
        connection.execute(insert(registry).values(id=1, **values))


def _unknown(connection: Connection, name: str) -> ConfigurationError:
    known = connection.execute(select(numbers.c.name)).scalars()
    return ConfigurationError(
        f"{name} is not registered: `ifinu instance assign` registers it{did_you_mean(name, known)}"
    )
