"""Streams to and from a store, with size, checksum and progress."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from ifinu.backup.manifest import Kept, Part
from ifinu.backup.store import Sink, Store
from ifinu.errors import BackupFailed

CHUNK_BYTES = 256 * 1024

Watch = Callable[[str, int, int | None], None]  # description, bytes so far, total bytes if known


def unwatched(_what: str, _done: int, _total: int | None) -> None:
    """Ignore the progress."""


class Counted:
    """
    A sink that passes bytes on, and computes their number and digest.

    Args:
        sink: The next sink.
        what: Description for `watch`.
        watch: Called with the progress.
    """

    def __init__(self, sink: Sink, what: str, watch: Watch) -> None:
        self.bytes = 0
        self._sink = sink
        self._what = what
        self._watch = watch
        self._digest = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self._sink.write(data)
        self._digest.update(data)
        self.bytes += len(data)
        self._watch(self._what, self.bytes, None)

    @property
    def sha256(self) -> str:
        """Digest of all bytes so far, in hex."""
        return self._digest.hexdigest()


def chunks(store: Store, name: str, part: Part, kept: Kept, what: str, watch: Watch) -> Iterator[bytes]:
    """
    Read a part from the store, and check it against the manifest.

    Args:
        store: The store.
        name: Name of the backup.
        part: The part.
        kept: Its entry in the manifest.
        what: Description for `watch`.
        watch: Called with the progress.

    Raises:
        BackupFailed: The store failed; or, after the last piece, size or checksum differ from the manifest.
    """
    digest, done = hashlib.sha256(), 0
    with store.reading(name, part.file) as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            watch(what, done, kept.bytes)
            yield chunk
    if done != kept.bytes:
        raise BackupFailed(f"{name}: {part.file} is damaged: it has {done:,} bytes, not {kept.bytes:,}")
    if digest.hexdigest() != kept.sha256:
        raise BackupFailed(f"{name}: {part.file} is damaged: its checksum is not that of the manifest")
