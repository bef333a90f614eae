"""Bytes on their way to a store and from it: counted, digested, and told to who watches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from ifinu.backup.manifest import Kept, Part
from ifinu.backup.store import Sink, Store
from ifinu.errors import BackupFailed

CHUNK_BYTES = 256 * 1024

Watch = Callable[[str, int, int | None], None]  # what is done, bytes so far, bytes in all where they are known


def unwatched(_what: str, _done: int, _total: int | None) -> None:
    """Nobody watches."""


class Counted:
    """
    A sink that counts and digests what goes through it.

    Args:
        sink: Where it goes.
        what: Is told to who watches.
        watch: Who watches.
    """

    def __init__(self, sink: Sink, what: str, watch: Watch) -> None:
        self.bytes = 0
        self._sink = sink
        self._what = what
        self._watch = watch
        self._digest = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        """Take some more."""
        self._sink.write(data)
        self._digest.update(data)
        self.bytes += len(data)
        self._watch(self._what, self.bytes, None)

    @property
    def sha256(self) -> str:
        """Of all so far, in hex."""
        return self._digest.hexdigest()


def chunks(store: Store, name: str, part: Part, kept: Kept, what: str, watch: Watch) -> Iterator[bytes]:
    """
    A part as it is in the store.

    Args:
        store: It.
        name: Of the backup.
        part: Which.
        kept: What the manifest says of it.
        what: Is told to who watches.
        watch: Who watches.

    Raises:
        BackupFailed: At the end, where it was not what the manifest says; or before, as the store fails.
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
