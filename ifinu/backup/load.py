"""Loading a part of a backup into a server, and comparing it with the manifest."""

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
    Load a dump into a database.

    Args:
        store: The backup's store.
        manifest: The backup's manifest.
        part: The part to load.
        into: An empty database.
        watch: Called with the progress.

    Returns:
        Differences from the backup, a line each; empty if there are none.

    Raises:
        BackupFailed: The dump could not be loaded; the database is still empty.
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
    Load a snapshot into Redis, replacing all its data.

    Args:
        store: The backup's store.
        manifest: The backup's manifest.
        client: A client of the server.
        watch: Called with the progress.
        address: The address at which the server connects to this process.
        commands: Commands to run with it, before other clients can write.
        last: Called while writes are paused, and the server still has its data. An exception aborts the load.

    Returns:
        Differences from the backup, a line each; empty if there are none.

    Raises:
        BackupFailed: The snapshot could not be loaded; try again.
        redis.RedisError: The server is away.
    """
    kept = manifest.parts[Part.REDIS]
    found: dict[int, int] = {}

    def count() -> None:
        found.update(keys(client))

    content = chunks(store, manifest.name, Part.REDIS, kept, "restoring redis", watch)
    primary.replace_data(client, content, kept.bytes, address=address, commands=commands, last=last, loaded=count)
    primary.wait_until_on_disk(client)
    return [
        f"database {number} of Redis has {found.get(number, 0):,} keys, not {expected:,}"
        for number, expected in (kept.keys or {}).items()
        if found.get(number, 0) != expected
    ]


def keys(client: redis.Redis) -> dict[int, int]:
    """
    The number of keys in each database of a Redis server that is not empty.

    Raises:
        redis.RedisError: Redis is away.
    """
    keyspace: Any = client.info("keyspace")
    return {int(name.removeprefix("db")): fields["keys"] for name, fields in keyspace.items()}
