"""Backups in a directory, readable by their owner alone: they hold phones, names and WhatsApp sessions."""

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


class Folder:
    """
    A store in a file system; `Store` documents the methods.

    Args:
        root: The directory; `begin` creates it.
    """

    def __init__(self, root: Path) -> None:
        self.place = str(root)
        self._root = root

    def begin(self, name: str) -> bool:
        with self._errors():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                (self._root / name).mkdir(mode=0o700)
            except FileExistsError:
                return False
            _sync(self._root)
        return True

    @contextlib.contextmanager
    def writing(self, name: str, file: str) -> Iterator[Sink]:
        """Write a new file. It gets its name once all of it is synced to disk."""
        folder = self._root / name
        unfinished = folder / f".{file}.part"
        with self._errors():
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
        with self._errors(), (self._root / name / file).open("rb") as content:
            yield content

    def names(self) -> list[str]:
        with self._errors():
            if not self._root.exists():
                return []
            return sorted(
                entry.name for entry in os.scandir(self._root)
                if manifest.is_name(entry.name) and entry.is_dir(follow_symlinks=False)
            )  # fmt: skip

    def files(self, name: str) -> dict[str, int]:
        with self._errors():
            return {
                entry.name: entry.stat().st_size
                for entry in os.scandir(self._root / name)
                if entry.name in manifest.FILES and entry.is_file(follow_symlinks=False)
            }

    def delete(self, name: str) -> None:
        folder = self._root / name
        with self._errors():
            (folder / manifest.FILE).unlink(missing_ok=True)
            for file in manifest.FILES:
                (folder / file).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                for entry in list(os.scandir(folder)):
                    if _UNFINISHED.fullmatch(entry.name):
                        Path(entry).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files are in it, or it is gone
                folder.rmdir()

    def abandon(self, before: datetime) -> None:
        """Do nothing: unfinished files are in their backup's folder, and `delete` removes them."""

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise BackupFailed(f"the store {self.place}: {exc.strerror or type(exc).__name__}") from exc


def _sync(folder: Path) -> None:
    """Make new names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
