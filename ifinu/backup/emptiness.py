"""
A check whether a server holds no more than a fresh install creates before its first message.

A restore may overwrite such a server without `--replace`. The lists below name everything that is allowed: any other
table or key makes a server not empty. The results name what was found, without the content of rows, and without the
ids, phones and pseudonyms in keys.
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
    An object that `pg_dump` would dump.

    Attributes:
        kind: Its kind, as DROP takes it: `TABLE`.
        name: Its name with the schema, quoted as PostgreSQL quotes it.
    """

    kind: str
    name: str

    @property
    def bare(self) -> str:
        """The name without its schema. It keeps necessary quotes, and so never equals a plain name."""
        return self.name.rpartition(".")[2]


class Fresh(NamedTuple):
    """
    A database right after its migrations.

    Attributes:
        versions: The table of the migrations, whose rows do not count.
        names: The tables and sequences allowed; None for any.
        kinds: The kinds of objects allowed.
        own: Table -> condition of the rows that the migrations insert.
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
    # Its tables change with its version, so the table in which its ORM, Prisma, records migrations identifies it.
    Part.EVOLUTION: Fresh("_prisma_migrations", None, {"TABLE", "SEQUENCE", "TYPE"}, {}),
}

# Celery's remote control, its replies, and its events while Flower or `inspect` runs: a killed process leaves these.
_EXCHANGES = (f"{CONTROL}.pidbox", f"reply.{CONTROL}.pidbox", TASK_EVENTS)
_ALLOWED = {
    **dict.fromkeys((f"_kombu.binding.{exchange}".encode() for exchange in _EXCHANGES), b"set"),
    b"_kombu.binding_deadlines": b"zset",
    RECORDER.encode(): b"string",
    pseudonyms.KEY.encode(): b"string",  # without phones, the key of pseudonyms protects nothing
}
_LOCATIONS = instance_key("").encode()
_OURS = {key.encode() for key in (*(k for q in QUEUES for k in Keys.of(q)), EVENTS, UNKNOWN, REPLIES, NEW_REPLIES)}
_SIZES = {b"list": "llen", b"zset": "zcard", b"hash": "hlen", b"set": "scard", b"stream": "xlen"}


def in_database(cursor: Cursor, things: Sequence[Thing], fresh: Fresh) -> list[str]:
    """
    What a database holds beyond a fresh install.

    Args:
        cursor: A cursor of the database.
        things: All objects in it.
        fresh: What a fresh install creates.

    Returns:
        Items such as `3 rows of public.events`; empty if the database may be dropped.
    """
    if things and fresh.versions not in {thing.bare for thing in things if thing.kind == "TABLE"}:
        return _few([f"{thing.kind.lower()} {thing.name}" for thing in things])
    strange = [
        f"{thing.kind.lower()} {thing.name}"
        for thing in things
        if thing.kind not in fresh.kinds or (fresh.names is not None and thing.bare not in fresh.names)
    ]
    cursor.execute("SET LOCAL row_security = off")  # rows hidden by a policy count too: the query fails instead
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
    What Redis holds beyond a fresh install, in all its databases.

    Args:
        client: A connection that returns bytes.

    Returns:
        Items such as `2 entries of ifinu:fila:whatsapp:dlq` or `3 keys ifinu:claim:…`; empty if the data may be
        replaced.

    Raises:
        redis.RedisError: Redis is away.
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
    """The number of entries at a key beyond a fresh install; 1 for a key whose entries are not counted."""
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
    """What a key's count is of, in the singular."""
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
