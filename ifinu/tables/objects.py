"""Bytes -> JSON objects: one per line, or in an array, or one after the other over several lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ifinu.errors import InvalidNotification
from ifinu.tables.delimited import numbered
from ifinu.tables.record import Record
from ifinu.tables.text import LONGEST, Text

_MARK = re.compile(rb'[{}"\\\n]')
_NEXT = re.compile(rb"\n[ \t\r]*(?=\{)")
_BETWEEN = b"[], \t\r"
_MOST_LINES = 200  # of one object
_TOO_LONG = f"is longer than {LONGEST:,} bytes"
_BROKEN = "is not JSON: a text in it has no second quote, or an object no second brace"


def objects(text: Text) -> Iterator[Record]:
    """The objects of a file; each line is one, unless the file begins with an array or an object over several lines."""
    first = next((line.strip() for line in text.head.splitlines() if line.strip()), b"")
    if first.startswith(b"[") or first == b"{":
        return _Scan(text).records()
    return _by_line(text)


def _by_line(text: Text) -> Iterator[Record]:
    for number, raw in numbered(text.lines()):
        if raw.strip():
            yield Record(number, raw, fault=_TOO_LONG if len(raw) > LONGEST else "")


class _Scan:
    """
    Finds objects by their braces, independently of lines.

    An invalid object is refused up to the next line that begins with a brace, so that a missing brace or quote does not
    swallow other objects.
    """

    def __init__(self, text: Text) -> None:
        self._text = text
        self._chunks = text.chunks()
        self._buffer = b""
        self._at = 0  # where the search for the next mark starts
        self._kept = 0  # where the object begins, or the text between two objects
        self._depth = 0
        self._quoted = False
        self._line = self._begins = 1
        self._lost = False  # whether the rest of a refused object is still to come

    def records(self) -> Iterator[Record]:
        while True:
            match = _MARK.search(self._buffer, self._at)
            if len(self._buffer) - self._kept > LONGEST and (match is None or match.end() - self._kept > LONGEST):
                yield from self._give_up(_TOO_LONG) if self._depth else self._between(len(self._buffer))
            elif self._depth and self._line - self._begins > _MOST_LINES:
                yield from self._give_up(_BROKEN)
            elif (match is None or match.end() == len(self._buffer)) and self._more():
                pass  # the character after a backslash may be in the next chunk
            elif match is not None:
                yield from self._step(match[0], match.start())
            elif self._depth:
                yield from self._give_up(_BROKEN)
            else:
                yield from self._between(len(self._buffer))
                return

    def _more(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._buffer = self._buffer[self._kept :] + chunk
        self._at -= self._kept
        self._kept = 0
        return True

    def _step(self, mark: bytes, place: int) -> Iterator[Record]:
        self._at = place + 1
        if mark == b"\n":
            self._line += 1
            if self._quoted:  # a string in JSON has no line break
                yield from self._give_up(_BROKEN)
            elif not self._depth:
                yield from self._between(place, self._line - 1)
        elif self._quoted:
            self._at += mark == b"\\"
            self._quoted = mark != b'"'
        elif mark == b'"':
            self._quoted = self._depth > 0
        elif mark == b"{":
            if not self._depth:
                yield from self._between(place)
                self._begins = self._line
            self._depth += 1
        elif mark == b"}" and self._depth:
            self._depth -= 1
            if not self._depth:
                yield from self._object(self._buffer[self._kept : self._at])

    def _object(self, raw: bytes) -> Iterator[Record]:
        if b"\n" in raw and not self._is_json(raw):
            yield from self._give_up(_BROKEN)
        else:
            yield Record(self._begins, raw)
            self._kept = self._at

    def _is_json(self, raw: bytes) -> bool:
        try:
            json.loads(self._text.decode(raw))
        except InvalidNotification:  # its encoding is wrong, for which it is refused later
            return True
        except (ValueError, RecursionError):
            return False
        return True

    def _give_up(self, fault: str) -> Iterator[Record]:
        following = _NEXT.search(self._buffer, self._kept)
        end = following.start() if following else len(self._buffer)
        yield Record(self._begins, self._buffer[self._kept : end][:LONGEST], fault=fault)
        self._line = self._begins + self._buffer.count(b"\n", self._kept, end)
        self._at = self._kept = end
        self._depth, self._quoted, self._lost = 0, False, following is None

    def _between(self, end: int, line: int | None = None) -> Iterator[Record]:
        """The text before the next object or the line's end, if it is more than a comma."""
        raw, lost, self._lost = self._buffer[self._kept : end], self._lost, False
        self._kept = end
        self._at = max(self._at, end)
        if not lost and raw.strip(_BETWEEN + b"\n"):
            yield Record(line or self._line, raw[:LONGEST], fault="is not a JSON object")
