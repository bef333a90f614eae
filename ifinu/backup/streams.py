"""Bytes on their way to and from a store: counted, hashed, and reported as progress."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from ifinu.backup.manifest import Part, StoredPart
from ifinu.backup.store import Sink, Store
from ifinu.errors import BackupFailed

CHUNK_BYTES = 256 * 1024

Progress = Callable[[str, int, int | None], None]  # a label, the bytes so far, and all bytes or None if unknown


def no_progress(_label: str, _done: int, _total: int | None) -> None: ...


class Counted:
    """
    A sink that counts and hashes the bytes it passes on.

    Args:
        label: Names the transfer in its progress.
    """

    def __init__(self, sink: Sink, label: str, progress: Progress) -> None:
        self.bytes = 0
        self._sink = sink
        self._label = label
        self._progress = progress
        self._digest = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self._sink.write(data)
        self._digest.update(data)
        self.bytes += len(data)
        self._progress(self._label, self.bytes, None)

    @property
    def sha256(self) -> str:
        """SHA-256 in hex of the bytes written so far."""
        return self._digest.hexdigest()


def chunks(store: Store, name: str, part: Part, stored: StoredPart, label: str, progress: Progress) -> Iterator[bytes]:
    """
    Read one part of a backup, and check its size and checksum at the end.

    Raises:
        BackupFailed: The store fails, or, after the last chunk, the size or checksum differs from the manifest.
    """
    digest, done = hashlib.sha256(), 0
    with store.reading(name, part.file) as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(label, done, stored.bytes)
            yield chunk
    if done != stored.bytes:
        raise BackupFailed(f"{name}: {part.file} is damaged: it has {done:,} bytes, not {stored.bytes:,}")
    if digest.hexdigest() != stored.sha256:
        raise BackupFailed(f"{name}: {part.file} is damaged: its checksum is not that of the manifest")
