"""Stores of backups: the interface, and the store of a setting."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from ifinu.errors import ConfigurationError


class Sink(Protocol):
    """A file being written."""

    def write(self, data: bytes, /) -> object:
        """Append bytes."""


class Source(Protocol):
    """A file being read."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty at the end."""


class Store(Protocol):
    """Folders of files, one folder per backup. All methods raise BackupFailed when the store fails."""

    place: str  # its location, for messages

    def begin(self, name: str) -> bool:
        """Create a folder; False if it exists."""

    def writing(self, name: str, file: str) -> AbstractContextManager[Sink]:
        """A new file, which exists, complete, once the block has ended. If the block raises it does not exist."""

    def reading(self, name: str, file: str) -> AbstractContextManager[Source]:
        """An existing file."""

    def names(self) -> list[str]:
        """The folders with a backup's name, the oldest first."""

    def files(self, name: str) -> dict[str, int]:
        """The sizes in bytes of a backup's files, by name; other files are left out."""

    def delete(self, name: str) -> None:
        """Delete a backup's files, the manifest first, and the folder if it is empty then. The folder may be gone."""

    def abandon(self, before: datetime) -> None:
        """Drop unfinished files that began before this time and are in no folder."""


def open_store(where: str | None) -> Store:
    """
    The store of `IFINU_BACKUP_STORE`.

    Args:
        where: A directory, or `s3://bucket/prefix`.

    Raises:
        ConfigurationError: It is not set, or boto3 is not installed.
    """
    if where is None:
        raise ConfigurationError("IFINU_BACKUP_STORE is not set: name a directory, or s3://bucket/prefix")
    if where.startswith("s3://"):
        from ifinu.backup.s3 import Bucket

        bucket, _, prefix = where.removeprefix("s3://").partition("/")
        return Bucket(bucket, prefix.strip("/"))
    from ifinu.backup.directory import Directory

    return Directory(Path(where))
