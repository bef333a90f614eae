"""
Whether a server holds only the data of a fresh install, before its first message.

A restore may overwrite such a server without `--replace`. The lists here name the data that is allowed; any other table
or key makes a server not empty. Findings are phrases for people, without the content of a row and without the ids,
phones and pseudonyms in the names of keys.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import redis
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - a class with a lower-case name

from ifinu.backup.manifest import Part
from ifinu.billing.billing_schema import bank_days, billing_epoch
from ifinu.billing.billing_schema import metadata as billing
from ifinu.broker import pseudonyms
from ifinu.broker.keys import (
    CONTROL,
    EPOCH,
    EVENTS,
    GENERATION,
    LOADING,
    NEW_REPLIES,
    NUMBERS,
    QUEUES,
    RECORDER,
    REPLIES,
    SERVER,
    SINCE,
    TASK_EVENTS,
    TENANTS,
    UNKNOWN,
    Keys,
    in_lanes_key,
    instance_key,
    number_key,
    tenant_key,
    turns_key,
)
from ifinu.broker.locations import SHARD
from ifinu.ledger.migrate import VERSION_TABLE
from ifinu.ledger.schema import metadata, recorder

_MOST_COUNTED = 1000
_MOST_LISTED = 8  # findings in one sentence


class DatabaseObject(NamedTuple):
    """
    An object that `pg_dump` would dump.

    Attributes:
        kind: Keyword that follows DROP, as in `TABLE`.
        name: Name with its schema, quoted by PostgreSQL.
    """

    kind: str
    name: str

    @property
    def bare(self) -> str:
        """Name without its schema; a name that needs quotes keeps them, and so equals no plain name."""
        return self.name.rpartition(".")[2]


class FreshInstall(NamedTuple):
    """
    The content of a database right after its migrations.

    Attributes:
        versions: Table that records the migrations; its rows are ignored.
        names: Allowed tables and sequences; None allows any.
        kinds: Allowed kinds of objects.
        own: By table, an SQL condition for the rows that are there before the first message.
    """

    versions: str
    names: Collection[str] | None
    kinds: Collection[str]
    own: Mapping[str, str]


_SEQUENCES_OF_BILLING = ("calendars_id_seq", "charges_seq_seq", "imports_id_seq", "rules_id_seq")

FRESH = {
    Part.LEDGER: FreshInstall(
        VERSION_TABLE,
        {VERSION_TABLE, *metadata.tables, *billing.tables, "gaps_id_seq", *_SEQUENCES_OF_BILLING},
        {"TABLE", "SEQUENCE"},
        # A scheduler fills the last two as soon as it runs.
        {recorder.name: "id = 1 AND ms = 0 AND seq = 0", billing_epoch.name: "true", bank_days.name: "true"},
    ),
    # Other tables change with the gateway's version; this one is where its ORM, Prisma, records its migrations.
    Part.EVOLUTION: FreshInstall("_prisma_migrations", None, {"TABLE", "SEQUENCE", "TYPE"}, {}),
}

# Bindings of Celery's remote control, its replies and its events, which a killed process leaves behind.
_EXCHANGES = (f"{CONTROL}.pidbox", f"reply.{CONTROL}.pidbox", TASK_EVENTS)
_ALLOWED = {
    **dict.fromkeys((f"_kombu.binding.{exchange}".encode() for exchange in _EXCHANGES), b"set"),
    b"_kombu.binding_deadlines": b"zset",
    RECORDER.encode(): b"string",
    pseudonyms.KEY.encode(): b"string",  # the key that hashes phones; without phones it is worth nothing
    # The copy of the registry: the recorder writes it as soon as it finds a Redis without one.
    **{key.encode(): b"set" for key in (NUMBERS, TENANTS)},
    **{key.encode(): b"string" for key in (GENERATION, LOADING, SERVER, SINCE)},
    EPOCH.encode(): b"hash",  # a scheduler writes it when it starts
    # About lanes, which are counted themselves.
    **{turns_key(queue).encode(): b"zset" for queue in QUEUES},
    **{in_lanes_key(queue).encode(): b"string" for queue in QUEUES},
}
_COPIED = re.compile(f"{number_key('')}[^:]+|{tenant_key('')}.+".encode(), re.DOTALL)
_LANE = re.compile(f"((?:{'|'.join(QUEUES)}):espera):.*".encode(), re.DOTALL)
_LOCATIONS = instance_key("").encode()
_OURS = {key.encode() for key in (*(k for q in QUEUES for k in Keys.of(q)), EVENTS, UNKNOWN, REPLIES, NEW_REPLIES)}
_SIZES = {b"list": "llen", b"zset": "zcard", b"hash": "hlen", b"set": "scard", b"stream": "xlen"}


def in_database(cursor: Cursor, objects: Sequence[DatabaseObject], fresh: FreshInstall) -> list[str]:
    """
    Find the data of a database that a fresh install would not have.

    Returns:
        Phrases such as `3 rows of public.events`; empty if the database may be overwritten.

    Raises:
        psycopg2.Error: The server failed, or the role may not read all rows.
    """
    if objects and fresh.versions not in {found.bare for found in objects if found.kind == "TABLE"}:
        return _shortened([f"{found.kind.lower()} {found.name}" for found in objects])
    unknown = [
        f"{found.kind.lower()} {found.name}"
        for found in objects
        if found.kind not in fresh.kinds or (fresh.names is not None and found.bare not in fresh.names)
    ]
    cursor.execute("SET LOCAL row_security = off")  # so that a policy that hides rows makes the query fail
    filled = []
    for table in (found for found in objects if found.kind == "TABLE" and found.bare != fresh.versions):
        own = fresh.own.get(table.bare, "false")
        cursor.execute(
            f"SELECT count(*) FROM (SELECT FROM ONLY {table.name} WHERE NOT ({own}) LIMIT {_MOST_COUNTED + 1}) AS found"  # noqa: S608 - PostgreSQL quoted the name
        )
        (rows,) = cursor.fetchone() or (0,)
        if rows:
            filled.append(f"{_counted(rows, 'row')} of {table.name}")
    return _shortened([*filled, *unknown])


def in_redis(client: redis.Redis) -> list[str]:
    """
    Find the data in all databases of a Redis server that a fresh install would not have.

    Returns:
        Phrases such as `2 entries of ifinu:fila:whatsapp:dlq` and `3 keys ifinu:claim:…`; empty if the data may be
        replaced.
    """
    database = client.connection_pool.connection_kwargs.get("db") or 0
    keyspace: Any = client.info("keyspace")
    found: collections.Counter[str] = collections.Counter()
    for name, figures in keyspace.items():
        if name != f"db{database}":
            found[f"key in its database {name.removeprefix('db')}"] = figures["keys"]
    for key in client.scan_iter(count=_MOST_COUNTED):
        if found.total() > _MOST_COUNTED:
            break
        if size := _size(client, key):
            found[_noun(key)] += size
    return _shortened([_counted(size, noun) for noun, size in sorted(found.items())])


def _size(client: redis.Redis, key: bytes) -> int:
    """Number of entries at a key that a fresh install would not have; 1 for a key whose entries are not counted."""
    type_: Any = client.type(key)
    if type_ == b"none" or _ALLOWED.get(key) == type_:
        return 0
    if key.startswith(_LOCATIONS) and type_ == b"hash":
        fields: Any = client.hkeys(key)
        return int(set(fields) != {SHARD.encode()})
    if _COPIED.fullmatch(key) and type_ == b"hash":
        return 0
    if key == EVENTS.encode() and type_ == b"stream":
        return int(client.xlen(key))  # the recorder deletes the events it has read
    if (key in _OURS or _LANE.fullmatch(key)) and type_ in _SIZES:
        return int(getattr(client, _SIZES[type_])(key))
    return 1


def _noun(key: bytes) -> str:
    """Noun for the entries of a key, in the singular."""
    if key in _OURS:
        return f"entry of {key.decode()}"
    if lane := _LANE.fullmatch(key):
        return f"entry of {lane[1].decode()}"
    ours, colon, rest = key.decode(errors="replace").partition(":")
    if (ours, colon) == ("ifinu", ":"):
        return f"key ifinu:{rest.partition(':')[0]}:…"
    return "key of another application"


def _counted(count: int, phrase: str) -> str:
    noun, _, rest = phrase.partition(" ")
    number = f"more than {_MOST_COUNTED:,}" if count > _MOST_COUNTED else f"{count:,}"
    plural = noun if count == 1 else {"entry": "entries"}.get(noun, f"{noun}s")
    return f"{number} {plural} {rest}".rstrip()


def _shortened(found: list[str]) -> list[str]:
    rest = len(found) - _MOST_LISTED
    return [*found[:_MOST_LISTED], f"and {rest} more"] if rest > 0 else found
