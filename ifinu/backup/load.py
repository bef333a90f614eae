"""A part of a backup is brought into a server, and compared with what the manifest says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import redis

from ifinu.backup import fingerprints, primary
from ifinu.backup.manifest import Manifest, Part
from ifinu.backup.postgres import Database
from ifinu.backup.store import Store
from ifinu.backup.streams import Watch, chunks


def database(store: Store, manifest: Manifest, part: Part, into: Database, watch: Watch) -> list[str]:
    """
    Restore a dump.

    Args:
        store: Where the backup is.
        manifest: Of it.
        part: Which of it.
        into: An empty database.
        watch: Is told how far it is.

    Returns:
        What is not as it was, a line each; nothing where all is.

    Raises:
        BackupFailed: It could not be restored; the database is as empty as it was.
        LedgerUnavailable: The database is away.
    """
    kept = manifest.parts[part]
    into.restore(chunks(store, manifest.name, part, kept, f"restoring {part}", watch))
    return fingerprints.differences(kept.tables or {}, into.tables())


def snapshot(
    store: Store,
    manifest: Manifest,
    client: redis.Redis,
    watch: Watch,
    *,
    address: primary.Address,
    commands: Sequence[Sequence[str]] = (),
    last: Callable[[], None] = lambda: None,
) -> list[str]:
    """
    Restore a Redis snapshot; what the server held before is gone.

    Args:
        store: Where the backup is.
        manifest: Of it.
        client: A connection to the server.
        watch: Is told how far it is.
        address: Where the server finds us.
        commands: What it runs with it, before anybody else can write.
        last: Called while writes already wait, and the server still has what it held; what it raises ends it all.

    Returns:
        What is not as it was, a line each; nothing where all is.

    Raises:
        BackupFailed: It could not be restored, and may be tried again.
        redis.RedisError: The server is away.
    """
    kept = manifest.parts[Part.REDIS]
    found: dict[int, int] = {}

    def count() -> None:
        found.update(keys(client))

    given = chunks(store, manifest.name, Part.REDIS, kept, "restoring redis", watch)
    with primary.following(client, given, kept.bytes, address=address, commands=commands, last=last, loaded=count):
        pass
    primary.settle(client)
    return [
        f"database {number} of Redis has {found.get(number, 0):,} keys, not {expected:,}"
        for number, expected in (kept.keys or {}).items()
        if found.get(number, 0) != expected
    ]


def keys(client: redis.Redis) -> dict[int, int]:
    """
    How many keys each database of a Redis server has that has any.

    Raises:
        redis.RedisError: It is away.
    """
    told: Any = client.info("keyspace")
    return {int(name.removeprefix("db")): about["keys"] for name, about in told.items()}
