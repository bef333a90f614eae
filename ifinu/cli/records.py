"""Files of notifications and the like, record by record: JSON lines and CSV."""

from __future__ import annotations

import csv
import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from ifinu import wire
from ifinu.errors import ConfigurationError, InvalidNotification

_BOM = b"\xef\xbb\xbf"
_KIND_NAMES = ("kind", "tipo_notificacao")


class Format(enum.StrEnum):
    """What a file holds."""

    JSONL = "jsonl"  # a JSON object a line
    CSV = "csv"  # a header and rows; comma or semicolon


@dataclass(frozen=True)
class Refused:
    """A record that is not accepted: its line, from 1, the field at fault as the file spells it, and why."""

    line: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """
    One record as it stands in the file, such as a notification.

    Attributes:
        line: Where it begins, from 1.
        raw: Its bytes.
        header: The file's header, where it has one.
        columns: The names in it.
        cells: What stands under them; None for JSON.
    """

    line: int
    raw: bytes
    header: bytes = b""
    columns: tuple[str, ...] = ()
    cells: Sequence[str] | None = None

    def read(self) -> Mapping[str, object]:
        """
        Its fields, by either set of names.

        Raises:
            InvalidNotification: It cannot be read.
        """
        if self.cells is None:
            return wire.parse(self.raw)
        try:
            self.raw.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise InvalidNotification("", f"is not UTF-8, at byte {exc.start}") from None
        if len(self.cells) != len(self.columns):
            reason = f"has {len(self.cells)} cells, and the header has {len(self.columns)}"
            raise InvalidNotification("", reason)
        return {name: cell for name, cell in zip(self.columns, self.cells, strict=True) if name and cell.strip()}


def read(source: IO[bytes], form: Format, *, needed: Sequence[str] = _KIND_NAMES) -> Iterator[Record]:
    """
    The records of a file, one at a time; blank lines are passed over.

    Args:
        source: The file.
        form: What it holds.
        needed: Columns of which a CSV must have one.

    Raises:
        ConfigurationError: The header of a CSV does not name what is needed.
    """
    lines = _without_bom(source)
    match form:
        case Format.JSONL:
            for number, raw in enumerate(lines, 1):
                if raw.strip():
                    yield Record(number, raw)
        case Format.CSV:
            yield from _rows(lines, needed)


def _rows(lines: Iterator[bytes], needed: Sequence[str]) -> Iterator[Record]:
    header = next(lines, b"")
    text = _text(header)
    delimiter = max(",;", key=text.count)
    columns = tuple(name.strip().lower() for name in next(csv.reader([text], delimiter=delimiter), ()))
    if not set(needed) & set(columns):
        raise ConfigurationError(f"the first line must name the columns, {' or '.join(needed)} among them")
    if len(set(columns)) != len(columns):
        raise ConfigurationError("the first line names a column twice")
    taken: list[bytes] = []
    number = 1
    for cells in csv.reader(_noted(lines, taken), delimiter=delimiter):
        raw, begins = b"".join(taken), number + 1
        number += len(taken)
        taken.clear()
        if raw.strip():
            yield Record(begins, raw, header, columns, cells)


def _noted(lines: Iterable[bytes], taken: list[bytes]) -> Iterator[str]:
    for raw in lines:
        taken.append(raw)
        yield _text(raw)


def _text(raw: bytes) -> str:
    # A bad byte is told with its record; here it must not end the file.
    return raw.decode("utf-8", "replace")


def _without_bom(source: IO[bytes]) -> Iterator[bytes]:
    first = source.readline()
    if first:
        yield first.removeprefix(_BOM)
    yield from source
