"""
Whether a server holds only what a fresh install puts there by itself, before its first message.

Such a server may be restored into without asking. The lists here name what is allowed, and all else counts: a table or
a key that nobody thought of makes a server not empty. What is found is named for people, without a row's content and
without the ids, phones and pseudonyms that keys carry.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import redis
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - a class that psycopg2 calls so

from ifinu.backup.manifest import Part
from ifinu.broker import pseudonyms
from ifinu.broker.keys import (
    CONTROL,
    EVENTS,
    NEW_REPLIES,
    QUEUES,
    RECORDER,
    REPLIES,
    TASK_EVENTS,
    UNKNOWN,
    Keys,
    instance_key,
)
from ifinu.broker.locations import SHARD
from ifinu.ledger.migrate import VERSION_TABLE
from ifinu.ledger.schema import metadata, recorder

_MANY = 1000  # where counting ends
_LISTED = 8  # tables or keys in one sentence


class Thing(NamedTuple):
    """
    What `pg_dump` would dump.

    Attributes:
        kind: As DROP takes it: `TABLE`.
        name: With its schema, quoted as PostgreSQL quotes it.
    """

    kind: str
    name: str

    @property
    def bare(self) -> str:
        """The name without its schema; with quotes, and so equal to no plain name, where it has to be quoted."""
        return self.name.rpartition(".")[2]


class Fresh(NamedTuple):
    """
    A database right after its migrations.

    Attributes:
        versions: The table of the migrations, whose rows do not count.
        names: All tables and sequences that there may be; None for any.
        kinds: Of things that there may be.
        own: A table -> which of its rows the migrations insert.
    """

    versions: str
    names: Collection[str] | None
    kinds: Collection[str]
    own: Mapping[str, str]


FRESH = {
    Part.LEDGER: Fresh(
        VERSION_TABLE,
        {VERSION_TABLE, *metadata.tables, "gaps_id_seq"},
        {"TABLE", "SEQUENCE"},
        {recorder.name: "id = 1 AND ms = 0 AND seq = 0"},
    ),
    # Its tables change with its version, so they are known by the one in which its ORM, Prisma, counts migrations.
    Part.EVOLUTION: Fresh("_prisma_migrations", None, {"TABLE", "SEQUENCE", "TYPE"}, {}),
}

# Celery's remote control, its answers, and its events while somebody watches: a process that is killed leaves these.
_EXCHANGES = (f"{CONTROL}.pidbox", f"reply.{CONTROL}.pidbox", TASK_EVENTS)
_ALLOWED = {
    **dict.fromkeys((f"_kombu.binding.{exchange}".encode() for exchange in _EXCHANGES), b"set"),
    b"_kombu.binding_deadlines": b"zset",
    RECORDER.encode(): b"string",
    pseudonyms.KEY.encode(): b"string",  # it hides phones, and here there are none
}
_LOCATIONS = instance_key("").encode()
_OURS = {key.encode() for key in (*(k for q in QUEUES for k in Keys.of(q)), EVENTS, UNKNOWN, REPLIES, NEW_REPLIES)}
_SIZES = {b"list": "llen", b"zset": "zcard", b"hash": "hlen", b"set": "scard", b"stream": "xlen"}


def in_database(cursor: Cursor, things: Sequence[Thing], fresh: Fresh) -> list[str]:
    """
    What a database holds beyond a fresh install's.

    Args:
        cursor: Of the database.
        things: All that is there.
        fresh: What a fresh install puts there.

    Returns:
        `3 rows of public.events`, and the like; nothing where it may be dropped.
    """
    if things and fresh.versions not in {thing.bare for thing in things if thing.kind == "TABLE"}:
        return _few([f"{thing.kind.lower()} {thing.name}" for thing in things])
    strange = [
        f"{thing.kind.lower()} {thing.name}"
        for thing in things
        if thing.kind not in fresh.kinds or (fresh.names is not None and thing.bare not in fresh.names)
    ]
    cursor.execute("SET LOCAL row_security = off")  # rows that a policy hides are rows, and asking for them fails
    filled = []
    for thing in things:
        if thing.kind == "TABLE" and thing.bare != fresh.versions:
            own = fresh.own.get(thing.bare, "false")
            cursor.execute(
                f"SELECT count(*) FROM (SELECT FROM ONLY {thing.name} WHERE NOT ({own}) LIMIT {_MANY + 1}) AS found"  # noqa: S608 - as PostgreSQL itself writes it
            )
            (rows,) = cursor.fetchone() or (0,)
            if rows:
                filled.append(f"{_counted(rows, 'row')} of {thing.name}")
    return _few([*filled, *strange])


def in_redis(client: redis.Redis) -> list[str]:
    """
    What Redis holds beyond a fresh install's, in all its databases.

    Args:
        client: A connection that returns bytes.

    Returns:
        `2 entries of ifinu:fila:whatsapp:dlq`, `3 keys ifinu:claim:…` and the like; nothing where it may be replaced.

    Raises:
        redis.RedisError: It is away.
    """
    database = client.connection_pool.connection_kwargs.get("db") or 0
    there: Any = client.info("keyspace")
    found: collections.Counter[str] = collections.Counter()
    for name, about in there.items():
        if name != f"db{database}":
            found[f"key in its database {name.removeprefix('db')}"] = about["keys"]
    for key in client.scan_iter(count=_MANY):
        if found.total() > _MANY:
            break
        if size := _holds(client, key):
            found[_named(key)] += size
    return _few([_counted(size, what) for what, size in sorted(found.items())])


def _holds(client: redis.Redis, key: bytes) -> int:
    """How many things that a fresh install has not are at a key; 1 for what is not counted."""
    type_: Any = client.type(key)
    if type_ == b"none" or _ALLOWED.get(key) == type_:
        return 0
    if key.startswith(_LOCATIONS) and type_ == b"hash":
        fields: Any = client.hkeys(key)
        return int(set(fields) != {SHARD.encode()})
    if key == EVENTS.encode() and type_ == b"stream":
        return int(client.xlen(key))  # recorded events are deleted
    if key in _OURS and type_ in _SIZES:
        return int(getattr(client, _SIZES[type_])(key))
    return 1


def _named(key: bytes) -> str:
    """What is counted at a key, in the singular."""
    if key in _OURS:
        return f"entry of {key.decode()}"
    ours, colon, rest = key.decode(errors="replace").partition(":")
    if (ours, colon) == ("ifinu", ":"):
        return f"key ifinu:{rest.partition(':')[0]}:…"
    return "key of another application"


def _counted(count: int, what: str) -> str:
    noun, _, rest = what.partition(" ")
    many = "more than 1,000" if count > _MANY else f"{count:,}"
    plural = noun if count == 1 else {"entry": "entries"}.get(noun, f"{noun}s")
    return f"{many} {plural} {rest}".rstrip()


def _few(found: list[str]) -> list[str]:
    return [*found[:_LISTED], f"and {len(found) - _LISTED} more"] if len(found) > _LISTED else found
