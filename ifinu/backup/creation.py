"""Creation of a backup: part by part in a new folder, and the manifest last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime

from ifinu import __version__
from ifinu.backup import fingerprints, manifest, replica
from ifinu.backup.manifest import Kept, Manifest, Part
from ifinu.backup.postgres import Database
from ifinu.backup.rdb import Outline
from ifinu.backup.store import Store
from ifinu.backup.streams import Counted, Watch, unwatched
from ifinu.errors import BackupFailed

_TRIES = 10
_CANCEL_AGAIN_S = 0.2


@dataclass(frozen=True)
class Sources:
    """
    The servers to back up; None for a part that is left out.

    Attributes:
        redis_url: Redis.
        ledger: The ledger's database.
        evolution: The gateway's database.
    """

    redis_url: str | None
    ledger: Database | None
    evolution: Database | None


def create(
    store: Store,
    sources: Sources,
    *,
    watch: Watch = unwatched,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Manifest:
    """
    Create a backup.

    Args:
        store: The store that it is written to.
        sources: The servers to back up.
        watch: Called with the progress of each part.
        clock: Returns the present time, aware.

    Returns:
        The manifest of the backup.

    Raises:
        BackupFailed: No backup was created, and its folder has no manifest.
        LedgerUnavailable: As `BackupFailed`; a database is away.
        redis.RedisError: As `BackupFailed`; Redis is away.
    """
    name, created_at = _begin(store, clock)
    try:
        parts = {}
        # Redis first: see the package.
        if sources.redis_url is not None:
            parts[Part.REDIS] = _redis(store, name, sources.redis_url, watch)
        for part, database in ((Part.LEDGER, sources.ledger), (Part.EVOLUTION, sources.evolution)):
            if database is not None:
                parts[part] = _database(store, name, part, database, watch)
        created = Manifest(
            format=manifest.FORMAT,
            name=name,
            created_at=created_at,
            finished_at=clock(),
            ifinu=__version__,
            parts=parts,
        )
        with store.writing(name, manifest.FILE) as sink:
            sink.write(created.write())
    except BaseException:
        with contextlib.suppress(BackupFailed):  # `rotation.prune` deletes a folder without a manifest later
            store.delete(name)
        raise
    return created


def _begin(store: Store, clock: Callable[[], datetime]) -> tuple[str, datetime]:
    for _ in range(_TRIES):
        now = clock()
        name = manifest.name_of(now)
        if store.begin(name):
            return name, now
        time.sleep(1.0 - now.microsecond / 1_000_000)  # another backup began in this second
    raise BackupFailed(f"{store.place} has a backup of every second")


def _redis(store: Store, name: str, url: str, watch: Watch) -> Kept:
    outline = Outline()
    with replica.snapshot(url) as snapshot, store.writing(name, Part.REDIS.file) as sink:
        counted = Counted(sink, Part.REDIS.value, watch)
        for chunk in snapshot.chunks:
            outline.feed(chunk)
            counted.write(chunk)
        outline.check()
    return Kept(
        bytes=counted.bytes, sha256=counted.sha256, server=snapshot.server, at=snapshot.at, keys=outline.keys()
    )  # fmt: skip


def _database(store: Store, name: str, part: Part, database: Database, watch: Watch) -> Kept:
    # The rows are counted and hashed while they are dumped, in the same snapshot.
    with database.viewed() as view, ThreadPoolExecutor(1) as pool:
        counting = pool.submit(fingerprints.tables, view.connection)
        try:
            with store.writing(name, part.file) as sink:
                counted = Counted(sink, part.value, watch)
                database.dump(view, counted)
                tables = counting.result()
        except BaseException:
            while not counting.done():  # else the pool waits until all tables are counted
                view.cancel()  # the present statement, if there is one; again for the next table's
                wait((counting,), _CANCEL_AGAIN_S)
            raise
    return Kept(bytes=counted.bytes, sha256=counted.sha256, server=view.server, at=view.at, tables=tables)
