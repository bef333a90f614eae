"""Rotation of backups: keep those of the last days, and always the newest complete one."""

from __future__ import annotations

from datetime import datetime, timedelta

from ifinu.backup import manifest
from ifinu.backup.store import Store
from ifinu.errors import BackupFailed

_UNFINISHED_FOR = timedelta(days=1)  # a younger unfinished backup may be running


def whole(store: Store) -> list[str]:
    """
    Names of the complete backups, the oldest first.

    Raises:
        BackupFailed: The store failed.
    """
    return [name for name in store.names() if manifest.FILE in store.files(name)]


def prune(store: Store, now: datetime, keep_days: int) -> list[str]:
    """
    Delete backups that are too old, and the remains of unfinished ones.

    Args:
        store: The store.
        now: The present time, aware.
        keep_days: Age in days up to which a backup is kept.

    Returns:
        The names of the deleted backups.

    Raises:
        BackupFailed: The store failed; the next call deletes the rest.
    """
    there = store.names()
    kept = set(whole(store))
    newest = max(kept, default=None)
    gone = []
    for name in there:
        age = now - manifest.began(name)
        if name != newest and age > (timedelta(days=keep_days) if name in kept else _UNFINISHED_FOR):
            store.delete(name)
            gone.append(name)
    store.abandon(now - _UNFINISHED_FOR)
    return gone


def find(store: Store, name: str) -> manifest.Manifest:
    """
    The manifest of a backup.

    Args:
        store: The store.
        name: Name of the backup, or `latest`.

    Raises:
        BackupFailed: It does not exist, is not complete, or its manifest is damaged.
    """
    if name == "latest":
        found = whole(store)
        if not found:
            raise BackupFailed(f"there is no whole backup in {store.place}")
        name = found[-1]
    elif not manifest.is_name(name) or name not in store.names():
        raise BackupFailed(f"there is no backup {name!r} in {store.place}; see `ifinu backup list`")
    elif manifest.FILE not in store.files(name):
        raise BackupFailed(f"{name} is not whole: it was not finished, or is being taken")
    with store.reading(name, manifest.FILE) as source:
        content = b""
        while chunk := source.read(1 << 20):
            content += chunk
    return manifest.read(name, content)
