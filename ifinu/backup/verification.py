"""Verification of a backup: in its store, and, in a drill, by restoring it into empty servers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis

from ifinu.backup import load, streams
from ifinu.backup.manifest import Manifest, Part
from ifinu.backup.postgres import Database, entries
from ifinu.backup.primary import Address
from ifinu.backup.rdb import Outline
from ifinu.backup.store import Store
from ifinu.backup.streams import Progress, no_progress
from ifinu.broker import connections
from ifinu.errors import BackupFailed


@dataclass(frozen=True)
class Checked:
    """
    The result of checking one part.

    Attributes:
        took_s: Duration of the check, in seconds.
        problems: What is wrong with the part, one sentence each; empty if it is sound.
    """

    part: Part
    took_s: float
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Targets:
    """
    Empty servers for a drill; None for a part that it does not restore.

    Attributes:
        address: The address at which that server can reach this process.
    """

    ledger: Database | None = None
    evolution: Database | None = None
    redis_url: str | None = None
    address: Address = field(default_factory=Address)

    @property
    def parts(self) -> set[Part]:
        there = {Part.LEDGER: self.ledger, Part.EVOLUTION: self.evolution, Part.REDIS: self.redis_url}
        return {part for part, target in there.items() if target is not None}


def verify(store: Store, manifest: Manifest, progress: Progress = no_progress) -> list[Checked]:
    """
    Read a whole backup and check sizes, checksums, and that dumps and snapshot can be read.

    A damaged part, or a missing `pg_restore`, is reported in the result and not raised.
    """
    return [_timed(part, _problems, store, manifest, part, progress) for part in manifest.parts]


def drill(store: Store, manifest: Manifest, targets: Targets, progress: Progress = no_progress) -> list[Checked]:
    """
    Restore a backup into empty servers, and compare them with the manifest.

    A part that could not be restored is reported in the result and not raised.

    Raises:
        BackupFailed: A server is not empty, or the backup lacks a part; nothing was restored.
        LedgerUnavailable: A database is away.
        redis.RedisError: Redis is away.
    """
    if missing := targets.parts - manifest.parts.keys():
        raise BackupFailed(f"{manifest.name} has no part {', '.join(sorted(missing))}")
    databases = {Part.LEDGER: targets.ledger, Part.EVOLUTION: targets.evolution}
    client = None if targets.redis_url is None else connections.connect(targets.redis_url)
    try:
        _refuse_filled(databases, client)
        checked = []
        for part in manifest.parts:
            into = databases.get(part)
            if into is not None:
                checked.append(_timed(part, load.database, store, manifest, part, into, progress))
            elif part is Part.REDIS and client is not None:
                snapshot = functools.partial(load.snapshot, address=targets.address)
                checked.append(_timed(part, snapshot, store, manifest, client, progress))
        return checked
    finally:
        if client is not None:
            client.close()


def _refuse_filled(databases: dict[Part, Database | None], client: redis.Redis | None) -> None:
    for part, into in databases.items():
        if into is not None and not into.is_empty():
            raise BackupFailed(f"the database for {part} at {into.host} is not empty: a drill needs an empty one")
    if client is not None and load.keys(client):
        raise BackupFailed("the Redis for the drill is not empty: a drill needs an empty one")


def _problems(store: Store, manifest: Manifest, part: Part, progress: Progress) -> list[str]:
    chunks = streams.chunks(store, manifest.name, part, manifest.parts[part], f"checking {part}", progress)
    if part is not Part.REDIS:
        return [] if entries(chunks, f"{manifest.name}: {part.file}") else [f"{part.file} is an empty dump"]
    outline = Outline()
    for chunk in chunks:
        outline.feed(chunk)
    try:
        outline.check()
    except BackupFailed as exc:
        return [f"{part.file}: {exc}"]
    return []


def _timed(part: Part, check: Callable[..., list[str]], *arguments: Any) -> Checked:
    began = time.monotonic()
    try:
        problems = check(*arguments)
    except BackupFailed as exc:
        problems = [str(exc)]
    return Checked(part, time.monotonic() - began, problems)
