"""
A backup is brought back into the servers that are in use: the databases first, Redis last, so that Redis can be told
what the ledger knows. Each step may be repeated; none leaves a database half restored.
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
from ifinu.backup.reconciliation import Reconciled, recall
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

Tell = Callable[[str], None]


def check(store: Store, manifest: Manifest, parts: set[Part], watch: Watch) -> None:
    """
    Read what is going to be restored.

    Raises:
        BackupFailed: It is damaged, or lacks a part; nothing was touched.
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
    Look at all servers before any of them is touched.

    Args:
        databases: Those that are restored into.
        client: A connection to Redis that returns bytes; None where that is not restored into.

    Raises:
        BackupFailed: One holds something that a fresh install does not.
        LedgerUnavailable: A database is away.
        redis.RedisError: Redis is.
    """
    held = [_held(into, found) for part, into in databases.items() if (found := into.found(emptiness.FRESH[part]))]
    if client is not None and (found := emptiness.in_redis(client)):
        held.append(_redis_held(found))
    if held:
        raise BackupFailed(f"{'; '.join(held)}. {_HOW}")


def database(
    store: Store, manifest: Manifest, part: Part, into: Database, *, replace: bool, watch: Watch, tell: Tell
) -> None:
    """
    Restore a database.

    Args:
        store: Where the backup is.
        manifest: Of it.
        part: Which of it.
        into: Where to.
        replace: Whether what is there may be dropped.
        watch: Is told how far it is.
        tell: Is told each step.

    Raises:
        BackupFailed: It is not empty, beyond what a fresh install puts there; or is not as it was in the backup.
        LedgerUnavailable: It is away.
    """
    if not into.is_empty():
        tell(f"dropping what is in {into.what}{'' if replace else ': the tables of a fresh install, without rows'}")
        if found := into.empty(None if replace else emptiness.FRESH[part]):
            raise BackupFailed(f"{_held(into, found)}. {_HOW}")
    tell(f"restoring {into.what}")
    if found := load.database(store, manifest, part, into, watch):
        raise BackupFailed(f"{into.what} was restored and is not as it was: {'; '.join(found)}")
    tell(f"{into.what} is as it was at {manifest.parts[part].at:%Y-%m-%d %H:%M:%S} UTC, compared row by row")


def catch_up(ledger: Engine) -> None:
    """
    Bring a restored ledger to the form that this version needs, and note in it that what happened since is missing.

    Raises:
        LedgerUnavailable: It is away.
    """
    migrate(ledger)
    with writing(ledger) as connection:
        ms, seq = upserts.position(connection)
        connection.execute(insert(gaps).values(found_at=datetime.now(UTC), ms=ms, seq=seq, cause="restored"))


def stop_following(client: redis.Redis, tell: Tell) -> None:
    """
    Redis may follow us, as we were in a restore that was killed: now it follows nobody.

    Raises:
        BackupFailed: It follows a server that is there.
        redis.RedisError: It is away.
    """
    told: Any = client.info("replication")
    if told["role"] == "master":
        return
    if told.get("master_link_status") == "up":
        raise BackupFailed(f"Redis is a replica of {told.get('master_host')}: restore into the primary")
    tell("Redis follows a server that is gone, as an interrupted restore leaves it: it follows nobody now")
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
    tell: Tell,
) -> Reconciled:
    """
    Restore Redis, and tell it what the ledger knows. All queues are paused from its first moment.

    Args:
        store: Where the backup is.
        manifest: Of it.
        client: A connection to Redis that returns bytes.
        ledger: The ledger, as it is by now.
        replace: Whether what is there may be replaced, in all its databases.
        resend: Whether what the gateway does not have may be sent again.
        claim_ttl_s: How long an id is remembered, in seconds.
        address: Where Redis finds us.
        watch: Is told how far it is.
        tell: Is told each step.

    Raises:
        BackupFailed: It is not empty, beyond what a fresh install puts there; or could not be restored.
        LedgerUnavailable: The ledger is away. Where Redis was restored by then, its queues are paused; do it again.
        redis.RedisError: Redis is away; likewise.
    """

    def look_again() -> None:
        if not replace and (found := emptiness.in_redis(client)):
            raise BackupFailed(f"{_redis_held(found)}. {_HOW}")

    tell("restoring Redis, all queues paused")
    commands = list(_pauses(client, f"the restore of {manifest.name} was not finished"))
    if found := load.snapshot(store, manifest, client, watch, address=address, commands=commands, last=look_again):
        raise BackupFailed(f"Redis was restored and is not as it was: {'; '.join(found)}")
    at = manifest.parts[Part.REDIS].at
    tell(f"Redis is as it was at {at:%Y-%m-%d %H:%M:%S} UTC, and on its disk")
    tell("telling Redis what the ledger knows")
    recalled = recall(client, ledger, at, claim_ttl_s=claim_ttl_s, resend=resend)
    for keys in map(Keys.of, QUEUES):
        client.set(keys.paused, datetime.now(UTC).isoformat(timespec="seconds"))
    return recalled


def _held(into: Database, found: list[str]) -> str:
    return f"{into.what} at {into.host} is not empty: it holds {', '.join(found)}"


def _redis_held(found: list[str]) -> str:
    return f"Redis is not empty: it holds {', '.join(found)}"


def _pauses(client: redis.Redis, since: str) -> Iterator[tuple[str, ...]]:
    yield "SELECT", str(client.connection_pool.connection_kwargs.get("db") or 0)
    for queue in QUEUES:
        yield "SET", Keys.of(queue).paused, since
