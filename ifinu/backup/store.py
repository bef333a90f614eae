"""Where backups are kept: what a store has to do, and which one a setting means."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from ifinu.errors import ConfigurationError


class Sink(Protocol):
    """Takes the bytes of a file."""

    def write(self, data: bytes, /) -> object:
        """Take some more."""


class Source(Protocol):
    """Gives the bytes of a file."""

    def read(self, size: int, /) -> bytes:
        """At most so many; none at the end."""


class Store(Protocol):
    """Folders of files. All methods raise BackupFailed when the store cannot do it."""

    place: str  # for people

    def begin(self, name: str) -> bool:
        """Make a new folder; False when there is one of this name."""

    def writing(self, name: str, file: str) -> AbstractContextManager[Sink]:
        """A new file, which is there once the block has ended, whole. Where it raises there is none."""

    def reading(self, name: str, file: str) -> AbstractContextManager[Source]:
        """A file that is there."""

    def names(self) -> list[str]:
        """The folders that may be backups, the oldest first."""

    def files(self, name: str) -> dict[str, int]:
        """The files of a folder that are ours, and their bytes."""

    def delete(self, name: str) -> None:
        """Delete what is ours of a folder, the manifest first, and the folder if that was all. It may be gone."""

    def abandon(self, before: datetime) -> None:
        """Drop what was begun to be written before this time, and is in no folder."""


def open_store(where: str | None) -> Store:
    """
    The store that `IFINU_BACKUP_STORE` means.

    Raises:
        ConfigurationError: None is set, or what it needs is not installed.
    """
    if where is None:
        raise ConfigurationError("IFINU_BACKUP_STORE is not set: name a directory, or s3://bucket/prefix")
    if where.startswith("s3://"):
        from ifinu.backup.s3 import Bucket

        bucket, _, prefix = where.removeprefix("s3://").partition("/")
        return Bucket(bucket, prefix.strip("/"))
    from ifinu.backup.directory import Directory

    return Directory(Path(where))
