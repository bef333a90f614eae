"""
The parts of a Redis snapshot file (RDB) that a backup reads: its beginning and its end.

    REDIS0011                      and other opcodes up to the first key: the server's version; number and number of
    VALKEY080                      keys of the first database that is not empty
    …
    0xFF, CRC-64 in 8 bytes        the end; the server that loads it checks the sum

Opcodes and lengths are those of `rdb.h` in Redis 7 and Valkey 9.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ifinu.errors import BackupFailed

_MAGIC = re.compile(rb"(REDIS|VALKEY)\d+", re.ASCII)
_MAGIC_BYTES = 9
_END = 0xFF
_END_BYTES = 9
_HEAD_BYTES = 64 * 1024
_AUX, _FUNCTION, _SELECT, _RESIZE, _SLOT = 0xFA, 0xF5, 0xFE, 0xFB, 0xF4


class Outline:
    """The beginning and the end of a snapshot, which is fed in pieces."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Add the next piece."""
        if len(self._head) < _HEAD_BYTES:
            self._head += chunk[: _HEAD_BYTES - len(self._head)]
        self._tail = (self._tail + chunk)[-_END_BYTES:]

    def check(self) -> None:
        """
        Check that it is a Redis snapshot, and complete.

        Raises:
            BackupFailed: It is not.
        """
        if _MAGIC.fullmatch(bytes(self._head[:_MAGIC_BYTES])) is None:
            raise BackupFailed("it is no Redis snapshot")
        if len(self._tail) < _END_BYTES or self._tail[0] != _END:
            raise BackupFailed("the Redis snapshot has no end")

    def keys(self) -> dict[int, int]:
        """
        The number of keys of the first database that is not empty, by its number; empty if the file does not say so.

        The counts of other databases come after keys, which only a server can skip.
        """
        database = 0
        reader = _Reader(memoryview(bytes(self._head))[_MAGIC_BYTES:])
        try:
            for opcode in reader.opcodes():
                match opcode:
                    case _ if opcode == _AUX:
                        reader.skip_text()
                        reader.skip_text()
                    case _ if opcode == _FUNCTION:
                        reader.skip_text()
                    case _ if opcode == _SELECT:
                        database = reader.length()
                    case _ if opcode == _SLOT:
                        for _ in range(3):
                            reader.length()
                    case _ if opcode == _RESIZE:
                        return {database: reader.length()}
                    case _:
                        return {}
        except IndexError:
            pass
        return {}


class _Reader:
    """Reads bytes in order; IndexError at their end."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def opcodes(self) -> Iterator[int]:
        while True:
            yield self._byte()

    def length(self) -> int:
        length, encoding = self._length()
        if encoding is not None:
            raise IndexError("an encoded text in place of a length")
        return length

    def skip_text(self) -> None:
        length, encoding = self._length()
        match encoding:
            case None:
                self._at += length
            case 0 | 1 | 2:  # an integer of 1, 2 or 4 bytes
                self._at += 1 << encoding
            case _:  # compressed
                length = self.length()
                self.length()
                self._at += length

    def _length(self) -> tuple[int, int | None]:
        """A length, or the encoding of the text in its place."""
        first = self._byte()
        match first >> 6:
            case 0:
                return first & 0x3F, None
            case 1:
                return (first & 0x3F) << 8 | self._byte(), None
            case 2:
                return self._number(8 if first & 1 else 4), None
            case _:
                return 0, first & 0x3F

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _number(self, size: int) -> int:
        self._at += size
        if self._at > len(self._data):
            raise IndexError("the end")
        return int.from_bytes(self._data[self._at - size : self._at], "big")
