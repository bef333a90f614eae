"""
The beginning and the end of a Redis snapshot file (RDB), which is all that a backup reads of it.

    REDIS0011 or VALKEY080         magic and version, then opcodes up to the first key: the server that wrote the file,
                                   and the number and key count of the first database that is not empty
    …
    0xFF, CRC-64 in 8 bytes        the end; the server that loads the file checks the sum

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
    """Checks a snapshot by its beginning and its end, while all of it is fed in pieces."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        if len(self._head) < _HEAD_BYTES:
            self._head += chunk[: _HEAD_BYTES - len(self._head)]
        self._tail = (self._tail + chunk)[-_END_BYTES:]

    def check(self) -> None:
        """
        Check that the file begins and ends as an RDB file does.

        Raises:
            BackupFailed: The beginning or the end is wrong.
        """
        if _MAGIC.fullmatch(bytes(self._head[:_MAGIC_BYTES])) is None:
            raise BackupFailed("the data is not a Redis snapshot")
        if len(self._tail) < _END_BYTES or self._tail[0] != _END:
            raise BackupFailed("the Redis snapshot has no end mark: it is cut off")

    def keys(self) -> dict[int, int]:
        """
        Number of keys in the first database that is not empty, by its number; empty if the file does not say.

        The counts of other databases follow after keys, which only a server can parse.
        """
        database = 0
        reader = _Reader(memoryview(bytes(self._head))[_MAGIC_BYTES:])
        try:
            for opcode in reader.opcodes():
                match opcode:
                    case _ if opcode == _AUX:
                        reader.skip_string()
                        reader.skip_string()
                    case _ if opcode == _FUNCTION:
                        reader.skip_string()
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
    """Parses bytes from first to last; IndexError at the end of them."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def opcodes(self) -> Iterator[int]:
        while True:
            yield self._byte()

    def length(self) -> int:
        length, encoding = self._length()
        if encoding is not None:
            raise IndexError("an encoded string in place of a length")
        return length

    def skip_string(self) -> None:
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
        """A length and None, or 0 and the encoding of a string."""
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
