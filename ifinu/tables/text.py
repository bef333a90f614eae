"""
Bytes of a file -> lines of text; the encoding is detected while they are read.

A byte-order mark decides. Without one, NUL bytes indicate UTF-16, and the first lines that are not ASCII decide between
UTF-8 and Windows-1252. UTF-16 is converted to UTF-8 first, so that all later steps handle bytes that contain ASCII
unchanged. Memory use is a chunk and a line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import IO

from ifinu.errors import InvalidNotification

LONGEST = 1 << 20  # bytes of a line or of a JSON object
_CHUNK = 1 << 16
_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),  # before UTF-16, whose mark is the first half of it
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_WINDOWS = "Windows-1252"
_SAMPLE = 1000  # bytes that are searched for NUL
_ANY_END = re.compile(rb"\r\n|\r|\n")
# Portuguese in code page 850, which DOS programs export, looks like this when read as Windows-1252: "Concei‡Æo".
_OF_DOS = re.compile("[A-Za-z][ƒ‡†ˆ‚„…¡¢£€¥¤¦¬¯¶¸Æ]|[ƒ‡†ˆ‚„¡¢£€¥¤¦¬¯¶¸Æ][A-Za-z]")


class Text:
    """
    The text of a file.

    Args:
        beginning: Bytes that were read from the file already.

    Attributes:
        head: The first bytes; those of UTF-16 as UTF-8.
        encoding: Name of the encoding, for messages; empty as long as all text was ASCII.
    """

    def __init__(self, source: IO[bytes], beginning: bytes = b"") -> None:
        self._source = source
        raw = beginning + source.read(_CHUNK)
        self.encoding, codec = "", ""
        for mark, codec_of, name in _MARKS:
            if raw.startswith(mark):
                raw, codec, self.encoding = raw[len(mark) :], codec_of, name
                break
        else:
            if codec := _without_mark(raw):
                self.encoding = "UTF-16"
        self._decoder = codecs.getincrementaldecoder(codec)("surrogatepass") if codec not in ("", "utf-8") else None
        self.head = self._as_utf8(raw)
        if not self.encoding:
            self._decide(self.head.splitlines()[: None if len(raw) < _CHUNK else -1])
        self._old_macintosh = _ends_by_carriage_returns(self.head)

    def chunks(self) -> Iterator[bytes]:
        yield self.head
        while raw := self._source.read(_CHUNK):
            yield self._as_utf8(raw)
        if self._decoder is not None:
            yield self._as_utf8(b"", last=True)

    def lines(self) -> Iterator[bytes]:
        """The lines with their ends; a line longer than `LONGEST` is cut to one byte more than that."""
        rest, cut = b"", False
        for chunk in self.chunks():
            *whole, rest = self._split(rest + chunk)
            for line in whole:
                if not cut:
                    yield line[: LONGEST + 1]
                cut = False
            if len(rest) > LONGEST:
                if not cut:
                    yield rest[: LONGEST + 1]
                rest, cut = b"", True
        if rest and not cut:
            yield rest

    def decode(self, raw: bytes) -> str:
        """
        Decode a line, or a part of one.

        Raises:
            InvalidNotification: It is not in the encoding of the lines before.
        """
        if raw.isascii():
            return raw.decode("ascii")
        if not self.encoding:
            self._decide([raw])
        if self.encoding != _WINDOWS:
            try:
                return raw.decode()
            except UnicodeDecodeError as exc:
                raise InvalidNotification("", f"is not {self.encoding}, at byte {exc.start}") from None
        if _is_utf8(raw):
            raise InvalidNotification("", f"is UTF-8, while the lines above are {_WINDOWS}")
        if (text := _windows(raw)) is None:
            raise InvalidNotification("", f"is neither UTF-8 nor {_WINDOWS}")
        return text

    def _decide(self, lines: list[bytes]) -> None:
        foreign = [line for line in lines if not line.isascii()]
        if not foreign:
            return
        utf8 = sum(map(_is_utf8, foreign))
        windows = sum(_windows(line) is not None for line in foreign if not _is_utf8(line))
        self.encoding = _WINDOWS if windows > utf8 else "UTF-8"

    def _as_utf8(self, raw: bytes, *, last: bool = False) -> bytes:
        if self._decoder is None:
            return raw
        try:
            # Half of a surrogate pair becomes invalid UTF-8, so that its line is refused.
            return self._decoder.decode(raw, last).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self._decoder.reset()
            return b"\xff"

    def _split(self, raw: bytes) -> list[bytes]:
        if not self._old_macintosh:
            *whole, rest = raw.split(b"\n")
            return [*(line + b"\n" for line in whole), rest]
        ends = [match.end() for match in _ANY_END.finditer(raw) if match.end() < len(raw) or match[0] != b"\r"]
        return [raw[start:end] for start, end in zip([0, *ends], [*ends, len(raw)], strict=True)]


def _without_mark(raw: bytes) -> str:
    sample = raw[:_SAMPLE]
    half = len(sample) // 2
    first, second = sample[0::2].count(0), sample[1::2].count(0)
    if second > half * 0.6 and not first:
        return "utf-16-le"
    if first > half * 0.6 and not second:
        return "utf-16-be"
    return ""


def _ends_by_carriage_returns(head: bytes) -> bool:
    """Whether the first line ends by a bare carriage return outside quotes, as on an old Macintosh."""
    for match in _ANY_END.finditer(head):
        if head.count(b'"', 0, match.start()) % 2 == 0:
            return match[0] == b"\r" and match.end() < len(head)
    return False


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _windows(raw: bytes) -> str | None:
    try:
        text = raw.decode("cp1252")
    except UnicodeDecodeError:
        return None
    return None if _OF_DOS.search(text) else text
