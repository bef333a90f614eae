"""
Restoring a backup into the servers in use: the databases first, Redis last, since it is reconciled with the ledger.
Each step may be repeated, and no step leaves a database half restored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import redis
from sqlalchemy import Engine, insert

from ifinu.backup import emptiness, load
from ifinu.backup.manifest import Manifest, Part
from ifinu.backup.postgres import Database
from ifinu.backup.primary import Address
from ifinu.backup.reconciliation import Reconciled, reconcile
from ifinu.backup.store import Store
from ifinu.backup.streams import Watch
from ifinu.backup.verification import verify
from ifinu.broker.keys import QUEUES, Keys
from ifinu.errors import BackupFailed
from ifinu.ledger import upserts
from ifinu.ledger.engine import writing
from ifinu.ledger.migrate import migrate
from ifinu.ledger.schema import gaps

_HOW = (
    "Restore into other servers, or leave this one out by --only; "
    "--replace deletes all that it holds, in Redis in all its databases"
)

Report = Callable[[str], None]  # called with the description of each step


def check(store: Store, manifest: Manifest, parts: set[Part], watch: Watch) -> None:
    """
    Verify the parts to restore, before any server is touched.

    Raises:
        BackupFailed: The backup is damaged, or lacks a part.
    """
    if missing := parts - manifest.parts.keys():
        raise BackupFailed(f"{manifest.name} has no part {', '.join(sorted(missing))}: leave it out by --only")
    wanted = manifest.model_copy(
        update={"parts": {part: manifest.parts[part] for part in manifest.parts if part in parts}}
    )
    problems = [problem for checked in verify(store, wanted, watch) for problem in checked.problems]
    if problems:
        raise BackupFailed("; ".join(problems))


def refuse_filled(databases: Mapping[Part, Database], client: redis.Redis | None) -> None:
    """
    Check that all servers are empty, before any of them is touched.

    Args:
        databases: The databases to restore into.
        client: A Redis client that returns bytes; None if Redis is not restored.

    Raises:
        BackupFailed: A server holds more than a fresh install does.
        LedgerUnavailable: A database is away.
        redis.RedisError: Redis is away.
    """
    held = [_held(into, found) for part, into in databases.items() if (found := into.found(emptiness.FRESH[part]))]
    if client is not None and (found := emptiness.in_redis(client)):
        held.append(_redis_held(found))
    if held:
        raise BackupFailed(f"{'; '.join(held)}. {_HOW}")


def database(
    store: Store, manifest: Manifest, part: Part, into: Database, *, replace: bool, watch: Watch, report: Report
) -> None:
    """
    Restore a database.

    Args:
        store: The backup's store.
        manifest: The backup's manifest.
        part: The part to restore.
        into: The database to restore into.
        replace: Whether its data may be dropped.
        watch: Called with the progress.
        report: Called with each step.

    Raises:
        BackupFailed: The database holds more than a fresh install does, or differs from the backup afterwards.
        LedgerUnavailable: The database is away.
    """
    if not into.is_empty():
        report(f"dropping all tables of {into.what}{'' if replace else ': those of a fresh install, without rows'}")
        if found := into.empty(None if replace else emptiness.FRESH[part]):
            raise BackupFailed(f"{_held(into, found)}. {_HOW}")
    report(f"restoring {into.what}")
    if found := load.database(store, manifest, part, into, watch):
        raise BackupFailed(f"{into.what} was restored and is not as it was: {'; '.join(found)}")
    report(f"{into.what} is as it was at {manifest.parts[part].at:%Y-%m-%d %H:%M:%S} UTC, compared row by row")


def catch_up(ledger: Engine) -> None:
    """
    Migrate a restored ledger, and record a gap in it: the events since the backup are missing.

    Raises:
        LedgerUnavailable: The ledger is away.
    """
    migrate(ledger)
    with writing(ledger) as connection:
        ms, seq = upserts.position(connection)
        connection.execute(insert(gaps).values(found_at=datetime.now(UTC), ms=ms, seq=seq, cause="restored"))


def stop_following(client: redis.Redis, report: Report) -> None:
    """
    Make Redis a primary again, if a restore that was killed has left it as a replica.

    Raises:
        BackupFailed: It replicates a living server.
        redis.RedisError: Redis is away.
    """
    info: Any = client.info("replication")
    if info["role"] == "master":
        return
    if info.get("master_link_status") == "up":
        raise BackupFailed(f"Redis is a replica of {info.get('master_host')}: restore into the primary")
    report("Redis was a replica of a server that is gone, as an interrupted restore leaves it: it is a primary again")
    client.replicaof("NO", "ONE")


def queue(
    store: Store,
    manifest: Manifest,
    client: redis.Redis,
    ledger: Engine,
    *,
    replace: bool,
    resend: bool,
    claim_ttl_s: float,
    address: Address,
    watch: Watch,
    report: Report,
) -> Reconciled:
    """
    Restore Redis, and reconcile it with the ledger. All queues are paused from its first moment.

    Args:
        store: The backup's store.
        manifest: The backup's manifest.
        client: A Redis client that returns bytes.
        ledger: The restored or surviving ledger.
        replace: Whether the data of all databases of Redis may be replaced.
        resend: Whether messages that the gateway does not have may be sent again.
        claim_ttl_s: Seconds for which an id is remembered.
        address: The address at which Redis connects to this process.
        watch: Called with the progress.
        report: Called with each step.

    Raises:
        BackupFailed: Redis holds more than a fresh install does, or could not be restored.
        LedgerUnavailable: The ledger is away. If Redis was restored by then, its queues are paused; restore again.
        redis.RedisError: Redis is away; as for `LedgerUnavailable`.
    """

    def look_again() -> None:
        if not replace and (found := emptiness.in_redis(client)):
            raise BackupFailed(f"{_redis_held(found)}. {_HOW}")

    report("restoring Redis, all queues paused")
    commands = list(_pauses(client, f"the restore of {manifest.name} was not finished"))
    if found := load.snapshot(store, manifest, client, watch, address=address, commands=commands, last=look_again):
        raise BackupFailed(f"Redis was restored and is not as it was: {'; '.join(found)}")
    at = manifest.parts[Part.REDIS].at
    report(f"Redis is as it was at {at:%Y-%m-%d %H:%M:%S} UTC, and on its disk")
    report("reconciling Redis with the ledger")
    reconciled = reconcile(client, ledger, at, claim_ttl_s=claim_ttl_s, resend=resend)
    for keys in map(Keys.of, QUEUES):
        client.set(keys.paused, datetime.now(UTC).isoformat(timespec="seconds"))
    return reconciled


def _held(into: Database, found: list[str]) -> str:
    return f"{into.what} at {into.host} is not empty: it holds {', '.join(found)}"


def _redis_held(found: list[str]) -> str:
    return f"Redis is not empty: it holds {', '.join(found)}"


def _pauses(client: redis.Redis, since: str) -> Iterator[tuple[str, ...]]:
    yield "SELECT", str(client.connection_pool.connection_kwargs.get("db") or 0)
    for queue in QUEUES:
        yield "SET", Keys.of(queue).paused, since
