"""Loading of one part of a backup into a server, and its comparison with the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import redis

from ifinu.backup import fingerprints, primary
from ifinu.backup.manifest import Manifest, Part
from ifinu.backup.postgres import Database
from ifinu.backup.store import Store
from ifinu.backup.streams import Progress, chunks


def database(store: Store, manifest: Manifest, part: Part, into: Database, progress: Progress) -> list[str]:
    """
    Load a dump into an empty database.

    Args:
        into: The empty database.

    Returns:
        Differences between the database and the manifest, one sentence each; empty if they agree.

    Raises:
        BackupFailed: The dump could not be loaded; the database is still empty.
        LedgerUnavailable: The database is away.
    """
    stored = manifest.parts[part]
    into.restore(chunks(store, manifest.name, part, stored, f"restoring {part}", progress))
    return fingerprints.differences(stored.tables or {}, into.tables())


def snapshot(
    store: Store,
    manifest: Manifest,
    client: redis.Redis,
    progress: Progress,
    *,
    address: primary.Address,
    commands: Sequence[Sequence[str]] = (),
    last_check: Callable[[], None] = lambda: None,
) -> list[str]:
    """
    Load a Redis snapshot into a server, in place of everything it holds.

    Args:
        address: The address at which the server can reach this process.
        commands: Commands that the server runs after loading, before it accepts other writes.
        last_check: Called while writes are paused, before the server drops its data; an exception cancels the load.

    Returns:
        Differences between the server and the manifest, one sentence each; empty if they agree.

    Raises:
        BackupFailed: The snapshot could not be loaded; the load may be repeated.
        redis.RedisError: The server is away.
    """
    stored = manifest.parts[Part.REDIS]
    found: dict[int, int] = {}

    def count() -> None:
        found.update(keys(client))

    rdb = chunks(store, manifest.name, Part.REDIS, stored, "restoring redis", progress)
    primary.replace_data(
        client, rdb, stored.bytes, address=address, commands=commands, last_check=last_check, loaded=count
    )
    primary.wait_until_on_disk(client)
    return [
        f"database {number} of Redis has {found.get(number, 0):,} keys, not {expected:,}"
        for number, expected in (stored.keys or {}).items()
        if found.get(number, 0) != expected
    ]


def keys(client: redis.Redis) -> dict[int, int]:
    """Count the keys of a Redis server, by database number; empty databases are left out."""
    keyspace: Any = client.info("keyspace")
    return {int(name.removeprefix("db")): database["keys"] for name, database in keyspace.items()}
