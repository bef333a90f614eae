"""
Lines of text -> rows of cells.

Not Python's `csv`, which lets one stray quote swallow the rest of a file and ends at a bare carriage return. A quoted
cell may hold line breaks, if its closing quote comes within `_LONGEST_CELL` lines and ends the cell. Any other quote at
the start of a cell is stray: its line is refused, and the next one is read by itself.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from ifinu.errors import InvalidNotification
from ifinu.tables.record import Record
from ifinu.tables.text import LONGEST, Text

DELIMITERS = ";,\t|"
_BLANK = " \t\r\n\u00a0\x1a"  # the last one marks the end of a file in DOS
_LONGEST_CELL = 100  # lines
_STRAY = 'has a " that no other one closes; write a cell with quotes as "5"" pipe", or without any'


# Spreadsheets read a cell that begins so as a formula, unless an apostrophe precedes it (OWASP, "CSV Injection").
_FORMULA = re.compile(r"[=+\-@\t\r]")
_SHIELDED = re.compile(r"\A'(?=[=+\-@\t\r])")


def shielded(cell: object) -> str:
    """A cell for a CSV file that spreadsheets do not read as a formula; `RowReader` removes the apostrophe again."""
    text = "" if cell is None else str(cell)
    return f"'{text}" if _FORMULA.match(text) else text


class RawLine(NamedTuple):
    """A line of a file, numbered from 1."""

    number: int
    raw: bytes


class _Open(Exception):  # noqa: N818 - the cell may be closed by the next line
    """A quote is not closed yet."""


class RowReader:
    """
    The rows of a file.

    Args:
        lines: The lines; empty ones are skipped.
        width: Number of cells in the header; 0 if it is not known yet.
    """

    def __init__(self, text: Text, lines: Iterator[RawLine], delimiter: str, width: int = 0) -> None:
        self._text = text
        self._lines = lines
        self._again: deque[RawLine] = deque()
        self._delimiter = delimiter
        self._width = width

    def __iter__(self) -> Iterator[Record]:
        while (line := self._next()) is not None:
            row = self._row(line)
            if row.fault or any(cell.strip(_BLANK) for cell in row.cells or ()):
                yield row

    def _next(self) -> RawLine | None:
        return self._again.popleft() if self._again else next(self._lines, None)

    def _row(self, first: RawLine) -> Record:
        number, raw = first
        if len(raw) > LONGEST:
            return Record(number, raw, fault=f"is longer than {LONGEST:,} bytes")
        try:
            text = self._text.decode(raw)
            if "\0" in text:
                return Record(number, raw, fault="has NUL bytes: it is damaged, or no text")
            return self._within_width(Record(number, raw, self._cells(text)))
        except InvalidNotification as exc:
            return Record(number, raw, fault=exc.reason)
        except ValueError as exc:
            return Record(number, raw, fault=str(exc))
        except _Open:
            return self._over_lines(first)

    def _over_lines(self, first: RawLine) -> Record:
        """A row with a cell of several lines; or, if its quote is stray, the refused first line."""
        taken = [first]
        size = len(first.raw)
        while len(taken) < _LONGEST_CELL and size <= LONGEST and (line := self._next()) is not None:
            taken.append(line)
            size += len(line.raw)
            try:
                text = "".join(self._text.decode(each.raw) for each in taken)
                cells = self._cells(text)
            except _Open:
                continue
            except (InvalidNotification, ValueError):
                break
            if self._reads_as_rows(taken):  # a quote of one row and a quote of another
                break
            return self._within_width(Record(first.number, b"".join(each.raw for each in taken), cells))
        self._again.extendleft(reversed(taken[1:]))
        return Record(first.number, first.raw, fault=_STRAY)

    def _reads_as_rows(self, taken: list[RawLine]) -> bool:
        return self._width > 1 and all(
            self._text.decode(line.raw).count(self._delimiter) == self._width - 1 for line in taken
        )

    def _cells(self, text: str) -> list[str]:
        cells = self._split(text)
        return [_SHIELDED.sub("", cell) for cell in cells] if "'" in text else cells

    def _split(self, text: str) -> list[str]:
        """
        Raises:
            ValueError: The line is invalid; the message says why.
            _Open: A quote is not closed in the line.
        """
        text = text.rstrip("\r\n")
        if '"' not in text:
            if "\r" in text:
                raise ValueError("has a carriage return inside a cell; put that cell into quotes")
            return text.split(self._delimiter)
        opened, quoted = _patterns(self._delimiter)
        cells, at = [], 0
        while True:
            if opened.match(text, at):
                match = quoted.match(text, at)
                if match is None:
                    raise _Open
                end = match.end()
                if end < len(text) and text[end] != self._delimiter:
                    raise ValueError(_STRAY)
                cells.append(match[1].replace('""', '"'))
            else:
                end = text.find(self._delimiter, at)
                end = len(text) if end < 0 else end
                if "\r" in text[at:end] or "\n" in text[at:end]:
                    raise ValueError("has a carriage return inside a cell; put that cell into quotes")
                cells.append(text[at:end])
            if end == len(text):
                return cells
            at = end + 1

    def _within_width(self, record: Record) -> Record:
        cells = record.cells or ()
        if "".join(cells).strip(_BLANK) == "":
            return record
        if not self._width or len(cells) == self._width:
            return record
        if len(cells) < self._width and not record.raw.endswith((b"\n", b"\r")):
            fault = f"has {len(cells)} cells, and the header has {self._width}: the file is cut off here"
        elif any(cell.strip() for cell in cells[self._width :]):
            fault = (
                f"has {len(cells)} cells, and the header has {self._width}; put a cell with "
                f"{'a tab' if self._delimiter == chr(9) else repr(self._delimiter)} in it into quotes"
            )
        else:
            return record
        return Record(record.line, record.raw, fault=fault)


@functools.cache
def _patterns(delimiter: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    spaces = "[ \t]*" if delimiter != "\t" else " *"
    return re.compile(f'{spaces}"'), re.compile(f'{spaces}"((?:[^"]|"")*+)"{spaces}')


def numbered(lines: Iterator[bytes]) -> Iterator[RawLine]:
    return itertools.starmap(RawLine, enumerate(lines, 1))
