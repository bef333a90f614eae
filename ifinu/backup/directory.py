"""Backups in a directory that only its owner can read: they hold phones, names and WhatsApp sessions."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ifinu.backup import manifest
from ifinu.backup.store import Sink, Source
from ifinu.errors import BackupFailed

_UNFINISHED = re.compile(r"\.[a-z.]+\.part")


class Directory:
    """
    A store in a file system.

    Args:
        root: The directory; created with the first backup.
    """

    def __init__(self, root: Path) -> None:
        self.place = str(root)
        self._root = root

    def begin(self, name: str) -> bool:
        """Create a folder; False if it exists."""
        with self._ours():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                (self._root / name).mkdir(mode=0o700)
            except FileExistsError:
                return False
            _sync(self._root)
        return True

    @contextlib.contextmanager
    def writing(self, name: str, file: str) -> Iterator[Sink]:
        """A new file, which gets its name once it is complete and on the disk."""
        folder = self._root / name
        unfinished = folder / f".{file}.part"
        with self._ours():
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as out:
                    yield out
                    out.flush()
                    os.fsync(out.fileno())
                unfinished.rename(folder / file)
                _sync(folder)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise

    @contextlib.contextmanager
    def reading(self, name: str, file: str) -> Iterator[Source]:
        """An existing file."""
        with self._ours(), (self._root / name / file).open("rb") as content:
            yield content

    def names(self) -> list[str]:
        """The folders with a backup's name, the oldest first."""
        with self._ours():
            if not self._root.exists():
                return []
            return sorted(
                entry.name for entry in os.scandir(self._root)
                if manifest.is_name(entry.name) and entry.is_dir(follow_symlinks=False)
            )  # fmt: skip

    def files(self, name: str) -> dict[str, int]:
        """The sizes in bytes of a backup's files, by name; other files are left out."""
        with self._ours():
            return {
                entry.name: entry.stat().st_size
                for entry in os.scandir(self._root / name)
                if entry.name in manifest.FILES and entry.is_file(follow_symlinks=False)
            }

    def delete(self, name: str) -> None:
        """Delete a backup's files, the manifest first, and the folder if nothing else is in it."""
        folder = self._root / name
        with self._ours():
            (folder / manifest.FILE).unlink(missing_ok=True)
            for file in manifest.FILES:
                (folder / file).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                for entry in list(os.scandir(folder)):
                    if _UNFINISHED.fullmatch(entry.name):
                        Path(entry).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds other files, or is gone
                folder.rmdir()

    def abandon(self, before: datetime) -> None:
        """Do nothing: an unfinished file is in its folder, and deleted with it."""

    @contextlib.contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise BackupFailed(f"the store {self.place}: {exc.strerror or type(exc).__name__}") from exc


def _sync(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
