"""
Restoration of a backup into the servers in use: the databases first, then Redis, then its reconciliation with the
ledger. Each step may be repeated, and none leaves a database half restored.
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
from ifinu.backup.store import Store
from ifinu.backup.streams import Progress
from ifinu.backup.verification import verify
from ifinu.broker.keys import QUEUES, Keys
from ifinu.errors import BackupFailed
from ifinu.ledger import upserts
from ifinu.ledger.engine import writing
from ifinu.ledger.migrate import migrate
from ifinu.ledger.reconciliation import Reconciled, reconcile
from ifinu.ledger.schema import gaps
from ifinu.numbers import cache, contacts

_ADVICE = (
    "Restore into other servers, or leave this one out with --only; "
    "--replace deletes all its data, in Redis that of every database"
)

Report = Callable[[str], None]  # takes one sentence about a step


def check(store: Store, manifest: Manifest, parts: set[Part], progress: Progress) -> None:
    """
    Verify the parts that are going to be restored.

    Raises:
        BackupFailed: A part is damaged or missing from the backup.
    """
    if missing := parts - manifest.parts.keys():
        raise BackupFailed(f"{manifest.name} has no part {', '.join(sorted(missing))}: leave it out with --only")
    wanted = manifest.model_copy(
        update={"parts": {part: manifest.parts[part] for part in manifest.parts if part in parts}}
    )
    problems = [problem for checked in verify(store, wanted, progress) for problem in checked.problems]
    if problems:
        raise BackupFailed("; ".join(problems))


def refuse_filled(databases: Mapping[Part, Database], client: redis.Redis | None) -> None:
    """
    Refuse servers that hold more than a fresh install.

    Args:
        client: A Redis client that returns bytes; None if Redis is not restored.

    Raises:
        BackupFailed: A server holds something that a fresh install does not; the error names it.
        LedgerUnavailable: A database is away.
        redis.RedisError: Redis is away.
    """
    held = [_held(into, found) for part, into in databases.items() if (found := into.beyond(emptiness.FRESH[part]))]
    if client is not None and (found := emptiness.in_redis(client)):
        held.append(_redis_held(found))
    if held:
        raise BackupFailed(f"{'; '.join(held)}. {_ADVICE}")


def database(
    store: Store, manifest: Manifest, part: Part, into: Database, *, replace: bool, progress: Progress, report: Report
) -> None:
    """
    Restore one database, and compare it with the backup.

    Args:
        replace: Drop its data, even if it holds more than a fresh install.

    Raises:
        BackupFailed: The database holds more than a fresh install, the dump could not be loaded, or the restored
            tables differ from the backup.
        LedgerUnavailable: The database is away.
    """
    if not into.is_empty():
        report(f"dropping {'the data' if replace else 'the empty tables of a fresh install'} in {into.label}")
        if found := into.empty(None if replace else emptiness.FRESH[part]):
            raise BackupFailed(f"{_held(into, found)}. {_ADVICE}")
    report(f"restoring {into.label}")
    if found := load.database(store, manifest, part, into, progress):
        raise BackupFailed(f"{into.label} was restored and differs from the backup: {'; '.join(found)}")
    report(f"{into.label} is as it was at {manifest.parts[part].at:%Y-%m-%d %H:%M:%S} UTC, compared row by row")


def catch_up(ledger: Engine) -> None:
    """
    Migrate a restored ledger to this version, and record the gap since the backup in it.

    Raises:
        LedgerUnavailable: The ledger is away.
    """
    migrate(ledger)
    with writing(ledger) as connection:
        ms, seq = upserts.position(connection)
        connection.execute(insert(gaps).values(found_at=datetime.now(UTC), ms=ms, seq=seq, cause="restored"))


def promote(client: redis.Redis, report: Report) -> None:
    """
    Make Redis a primary again, if a killed restore left it as a replica of a process that is gone.

    Raises:
        BackupFailed: Redis is a replica of a server that answers.
        redis.RedisError: Redis is away.
    """
    replication: Any = client.info("replication")
    if replication["role"] == "master":
        return
    if replication.get("master_link_status") == "up":
        raise BackupFailed(f"Redis is a replica of {replication.get('master_host')}: restore into the primary")
    report("Redis is a replica of a server that is gone, as an interrupted restore leaves it: making it a primary")
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
    progress: Progress,
    report: Report,
) -> Reconciled:
    """
    Restore Redis with all queues paused, and reconcile its claims, opt-outs and numbers with the ledger.

    Args:
        ledger: The current ledger.
        replace: Replace the data of every Redis database, even if there is more than in a fresh install.
        resend: Allow a message in doubt to be sent again if the gateway does not have it.
        claim_ttl_s: Lifetime of a claim, in seconds.
        address: The address at which Redis can reach this process.

    Raises:
        BackupFailed: Redis holds more than a fresh install, or could not be restored.
        LedgerUnavailable: The ledger is away. Repeat the restore; if Redis was restored already, its queues are paused.
        redis.RedisError: Redis is away. Repeat the restore.
    """

    def check_again() -> None:
        if not replace and (found := emptiness.in_redis(client)):
            raise BackupFailed(f"{_redis_held(found)}. {_ADVICE}")

    report("restoring Redis, all queues paused")
    commands = list(_pauses(client, f"the restore of {manifest.name} was not finished"))
    if found := load.snapshot(
        store, manifest, client, progress, address=address, commands=commands, last_check=check_again
    ):
        raise BackupFailed(f"Redis was restored and differs from the backup: {'; '.join(found)}")
    at = manifest.parts[Part.REDIS].at
    report(f"Redis is as it was at {at:%Y-%m-%d %H:%M:%S} UTC, and on its disk")
    report("reconciling Redis with the ledger")
    reconciled = reconcile(client, ledger, at, claim_ttl_s=claim_ttl_s, resend=resend)
    cache.load(client, ledger, recount=True)  # the snapshot does not know what its numbers have sent since
    contacts.restore(client, ledger)
    contacts.restore_senders(client, ledger)
    for keys in map(Keys.of, QUEUES):
        client.set(keys.paused, datetime.now(UTC).isoformat(timespec="seconds"))
    return reconciled


def _held(into: Database, found: list[str]) -> str:
    return f"{into.label} at {into.host} is not empty: it holds {', '.join(found)}"


def _redis_held(found: list[str]) -> str:
    return f"Redis is not empty: it holds {', '.join(found)}"


def _pauses(client: redis.Redis, since: str) -> Iterator[tuple[str, ...]]:
    yield "SELECT", str(client.connection_pool.connection_kwargs.get("db") or 0)
    for queue in QUEUES:
        yield "SET", Keys.of(queue).paused, since
