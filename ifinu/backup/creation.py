"""Creation of a backup: each part into a new folder, then the manifest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime

from ifinu import __version__
from ifinu.backup import fingerprints, manifest, replica
from ifinu.backup.manifest import Manifest, Part, StoredPart
from ifinu.backup.postgres import Database
from ifinu.backup.rdb import Outline
from ifinu.backup.store import Store
from ifinu.backup.streams import Counted, Progress, no_progress
from ifinu.errors import BackupFailed

_TRIES = 10
_CANCEL_AGAIN_S = 0.2


@dataclass(frozen=True)
class Sources:
    """The servers to back up; None for a part that is left out."""

    redis_url: str | None
    ledger: Database | None
    evolution: Database | None


def create(
    store: Store,
    sources: Sources,
    *,
    progress: Progress = no_progress,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Manifest:
    """
    Create a backup.

    If it raises, the store holds no manifest of it, and usually no folder.

    Args:
        clock: Returns the current time, aware.

    Raises:
        BackupFailed: The store, `pg_dump` or a snapshot failed.
        LedgerUnavailable: A database is away.
        redis.RedisError: Redis is away.
    """
    name, created_at = _begin(store, clock)
    try:
        parts = {}
        # Redis first: the docstring of the package says why.
        if sources.redis_url is not None:
            parts[Part.REDIS] = _redis(store, name, sources.redis_url, progress)
        for part, database in ((Part.LEDGER, sources.ledger), (Part.EVOLUTION, sources.evolution)):
            if database is not None:
                parts[part] = _database(store, name, part, database, progress)
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
        with contextlib.suppress(BackupFailed):  # `rotation.prune` deletes it later
            store.delete(name)
        raise
    return created


def _begin(store: Store, clock: Callable[[], datetime]) -> tuple[str, datetime]:
    for _ in range(_TRIES):
        now = clock()
        name = manifest.name_of(now)
        if store.begin(name):
            return name, now
        time.sleep(1.0 - now.microsecond / 1_000_000)  # another backup was begun in this second
    raise BackupFailed(f"{store.place}: {_TRIES} folder names in a row are taken by other backups")


def _redis(store: Store, name: str, url: str, progress: Progress) -> StoredPart:
    outline = Outline()
    with replica.snapshot(url) as snapshot, store.writing(name, Part.REDIS.file) as sink:
        counted = Counted(sink, Part.REDIS.value, progress)
        for chunk in snapshot.chunks:
            outline.feed(chunk)
            counted.write(chunk)
        outline.check()
    return StoredPart(
        bytes=counted.bytes, sha256=counted.sha256, server=snapshot.server, at=snapshot.at, keys=outline.keys()
    )  # fmt: skip


def _database(store: Store, name: str, part: Part, database: Database, progress: Progress) -> StoredPart:
    # A second thread counts and hashes the rows during the dump, in the same snapshot.
    with database.snapshot() as snapshot, ThreadPoolExecutor(1) as pool:
        counting = pool.submit(fingerprints.tables, snapshot.connection)
        try:
            with store.writing(name, part.file) as sink:
                counted = Counted(sink, part.value, progress)
                database.dump(snapshot, counted)
                tables = counting.result()
        except BaseException:
            while not counting.done():  # or the pool would wait until every table is counted
                snapshot.cancel()  # repeated, since it misses the thread between two statements
                wait((counting,), _CANCEL_AGAIN_S)
            raise
    return StoredPart(bytes=counted.bytes, sha256=counted.sha256, server=snapshot.server, at=snapshot.at, tables=tables)
