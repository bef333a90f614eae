"""Rotation: backups of the last days are kept, and always the newest complete one."""

from __future__ import annotations

from datetime import datetime, timedelta

from ifinu.backup import manifest
from ifinu.backup.store import Store
from ifinu.errors import BackupFailed

_UNFINISHED_FOR = timedelta(days=1)  # a younger one may still be running


def complete(store: Store) -> list[str]:
    """
    List the complete backups, oldest first.

    Raises:
        BackupFailed: The store fails.
    """
    return [name for name in store.names() if manifest.FILE in store.files(name)]


def prune(store: Store, now: datetime, keep_days: int) -> list[str]:
    """
    Delete old backups, and the remains of unfinished ones.

    Args:
        keep_days: Age in days up to which a backup is kept.

    Raises:
        BackupFailed: The store fails; the next call deletes the rest.
    """
    there = store.names()
    kept = set(complete(store))
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
    Read the manifest of a backup.

    Args:
        name: Name of the backup, or `latest`.

    Raises:
        BackupFailed: The backup does not exist, is not complete, or has a damaged manifest.
    """
    if name == "latest":
        found = complete(store)
        if not found:
            raise BackupFailed(f"there is no complete backup in {store.place}")
        name = found[-1]
    elif not manifest.is_name(name) or name not in store.names():
        raise BackupFailed(f"there is no backup {name!r} in {store.place}; see `ifinu backup list`")
    elif manifest.FILE not in store.files(name):
        raise BackupFailed(f"{name} is incomplete: it was interrupted, or is still being created")
    with store.reading(name, manifest.FILE) as source:
        content = b""
        while chunk := source.read(1 << 20):
            content += chunk
    return manifest.read(name, content)
