"""The interface of a backup store, and the store that a setting names."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from ifinu.errors import ConfigurationError


class Sink(Protocol):
    """A file that is being written."""

    def write(self, data: bytes, /) -> object: ...


class Source(Protocol):
    """A file that is being read."""

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes; b"" at the end of the file."""


class Store(Protocol):
    """Folders of files. Every method raises BackupFailed if the store fails."""

    place: str  # the path or URL shown in messages

    def begin(self, name: str) -> bool:
        """Create a folder; False if one of this name exists."""

    def writing(self, name: str, file: str) -> AbstractContextManager[Sink]:
        """Write a new file. It appears, complete, when the block ends; if the block raises, there is no file."""

    def reading(self, name: str, file: str) -> AbstractContextManager[Source]:
        """Read an existing file."""

    def names(self) -> list[str]:
        """Names of the folders that may be backups, oldest first."""

    def files(self, name: str) -> dict[str, int]:
        """Sizes in bytes of the backup files in a folder; other files are left out."""

    def delete(self, name: str) -> None:
        """Delete the backup files in a folder, manifest first, and the empty folder; a missing folder is no error."""

    def abandon(self, before: datetime) -> None:
        """Discard uploads that were begun before this time and never finished."""


def open_store(where: str | None) -> Store:
    """
    Open the store that `IFINU_BACKUP_STORE` names: a directory, or `s3://bucket/prefix`.

    Raises:
        ConfigurationError: The setting is missing, or boto3 is not installed, or the S3 client cannot be configured.
    """
    if where is None:
        raise ConfigurationError("IFINU_BACKUP_STORE is not set: set it to a directory or s3://bucket/prefix")
    if where.startswith("s3://"):
        from ifinu.backup.s3 import Bucket

        bucket, _, prefix = where.removeprefix("s3://").partition("/")
        return Bucket(bucket, prefix.strip("/"))
    from ifinu.backup.folder import Folder

    return Folder(Path(where))
