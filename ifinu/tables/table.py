"""A table: a record file with its detected format and columns, and its records one at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import IO

from ifinu import wire
from ifinu.errors import ConfigurationError, InvalidNotification
from ifinu.tables.columns import Columns, Fields, fold
from ifinu.tables.delimited import DELIMITERS, RawLine, RowReader, numbered
from ifinu.tables.objects import objects
from ifinu.tables.record import Format, Record
from ifinu.tables.sheets import OLE, ZIP, sheets
from ifinu.tables.text import Text

_SEARCHED = 20  # lines that are searched for the header
_HEADER = 10  # lines that a header with line breaks in its cells may have
_BEGINNING = 1 << 12
_SEP = re.compile(rb'"?sep=(.)"?\s*', re.IGNORECASE)
_JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
_CSV_ENDINGS = (".csv", ".tsv", ".txt")
_BETWEEN_OBJECTS = b", \t\r\n"
_MARKED_AS_TEXT = re.compile(r"'(?=[\d=+@(-])")  # an apostrophe that marks a cell as text
_COPIED = (
    r"has a line break or a quote that is spelled out, such as \n, as psql's `copy … to stdout` writes them; "
    "take psql -AtX -c 'select …', or psql --csv"
)
_FAILED = re.compile(r"#(?:N/[AD]|REF!|VALU?E!|VALOR!|DIV/0!|NOME\?|NAME\?|N[UÚ]M!|NUL[OL]!)", re.IGNORECASE)
_ESCAPED_BREAK = re.compile(r"\\[nrt]")
_NOTHING = ("", r"\N")  # PostgreSQL and MySQL write \N
_COPIED_TEXT = re.compile(rb'\\\\[nrtu"]')  # in JSON, where each backslash is doubled
_NOT_TABLES = {
    b"\x1f\x8b": "is compressed; unpack it first: gunzip -c FILE | ifinu … -",
    b"%PDF": "is a PDF; export the table behind it as CSV or as a spreadsheet",
    b"<": "is HTML or XML, which some programs name .xls; open it in Excel or LibreOffice and save it as .xlsx or CSV",
}


class Table:
    """
    A file of records: JSON, CSV or a spreadsheet.

    Args:
        source: The file, at its beginning.
        name: The file's name, for errors; its extension decides the format if the first bytes do not.
        form: The format; None to detect it. A spreadsheet is detected by its bytes in any case.
        sheet: Name of the sheet to read; None for the first one that has the columns.

    Attributes:
        unit: `line`, or `row` of a spreadsheet.
        header: The header's bytes; empty for JSON.
        spelling: Field -> its column, as the file spells it.
        guesses: Unused column -> the field that it may stand for.
        notes: Remarks to show before the file is read.

    Raises:
        ConfigurationError: The file cannot be read; the message says why and what to do.
    """

    def __init__(
        self,
        source: IO[bytes],
        fields: Fields,
        *,
        name: str,
        form: Format | None = None,
        sheet: str | None = None,
    ) -> None:
        self._fields = fields
        self._name = name
        self.unit, self.header, self.notes = "line", b"", list[str]()
        self.spelling: Mapping[str, str] = {}
        self.guesses: Mapping[str, str] = {}
        self._columns: Columns | None = None
        try:
            beginning = source.read(_BEGINNING)
            if beginning.startswith((ZIP, OLE)):
                self._records = self._of_sheets(source, beginning, sheet)
                return
            if form is Format.XLSX or sheet is not None:
                raise ConfigurationError(f"{name} is not a spreadsheet")
            for mark, what in _NOT_TABLES.items():
                if beginning.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(mark):
                    raise ConfigurationError(f"{name} {what}")
            self._text = Text(source, beginning)
            json = (form or _form(self._text.head, name)) is Format.JSONL
            self._records = objects(self._text) if json else self._of_rows()
        except OSError as exc:
            raise ConfigurationError(f"{name}: {exc.strerror}") from exc

    def __iter__(self) -> Iterator[Record]:
        try:
            yield from self._records
        except OSError as exc:
            raise ConfigurationError(f"{self._name}: {exc.strerror}") from exc

    @property
    def encoding(self) -> str:
        """The encoding of the text read so far; empty for a spreadsheet, and for plain ASCII."""
        return "" if self.unit == "row" else self._text.encoding

    def read(self, record: Record) -> dict[str, object]:
        """
        The non-empty fields of a record. JSON keeps its own keys, except mapped ones.

        Raises:
            InvalidNotification: The record cannot be read.
        """
        if record.fault:
            raise InvalidNotification("", record.fault)
        if record.cells is None or self._columns is None:
            return self._object(record.raw)
        return self._row(self._columns, record.cells)

    def _object(self, raw: bytes) -> dict[str, object]:
        try:
            body = wire.parse(self._text.decode(raw.strip(_BETWEEN_OBJECTS)))
        except InvalidNotification as exc:
            copied = _COPIED_TEXT.search(raw) is not None
            raise InvalidNotification("", f"{_COPIED}; so it {exc.reason}" if copied else exc.reason) from None
        for key, value in body.items():
            if isinstance(value, str) and key in self._fields.names and _ESCAPED_BREAK.search(value):
                raise InvalidNotification(key, _COPIED)
        for column, to in self._fields.mapped.items():
            for key in [key for key in body if fold(key) == fold(column)]:
                body[to] = body.pop(key)
        return body

    def _row(self, columns: Columns, cells: Sequence[str]) -> dict[str, object]:
        for to in columns.fields[len(cells) :]:
            if to in self._fields.guards:
                reason = f"is not in this row, which has {len(cells)} cells where the header has {len(columns.names)}"
                raise InvalidNotification(columns.spelling[to], reason)
        found: dict[str, object] = {}
        for to, cell in zip(columns.fields, cells, strict=False):
            text = cell.strip()
            if to is None or text in _NOTHING:
                continue
            if _FAILED.fullmatch(text):
                raise InvalidNotification(columns.spelling[to], f"is {text}: a formula of the spreadsheet failed")
            if _ESCAPED_BREAK.search(text):
                raise InvalidNotification(columns.spelling[to], _COPIED)
            found[to] = _MARKED_AS_TEXT.sub("", text, count=1)
        return found

    def _of_rows(self) -> Iterator[Record]:
        lines = numbered(self._text.lines())
        head = list(itertools.islice(lines, _SEARCHED + _HEADER))
        delimiters = DELIMITERS
        if head and (match := _SEP.fullmatch(head[0].raw)):
            delimiters = match[1].decode("latin-1")
            del head[0]
        search = _Search(self._fields)
        for place in range(min(_SEARCHED, len(head))):
            for delimiter in delimiters:
                row = next(iter(RowReader(self._text, iter(head[place:]), delimiter)), None)
                if row is not None and row.line == head[place].number:
                    search.look_at(row, delimiter)
            if search.found:
                break
        header, delimiter, columns = search.result(self._name, self.unit)
        self._take(header, columns)
        rest = itertools.chain(_after(head, header), lines)
        return iter(RowReader(self._text, rest, delimiter, len(columns.names)))

    def _of_sheets(self, source: IO[bytes], beginning: bytes, only: str | None) -> Iterator[Record]:
        self.unit = "row"
        search = _Search(self._fields)
        taken: tuple[str, Iterator[Record]] | None = None
        others = []
        for sheet, rows in sheets(beginning + source.read(), self._name, only):
            if taken is not None:
                others.append(sheet)
                continue
            for row in itertools.islice(rows, _SEARCHED):
                search.look_at(row, "")
                if search.found:
                    taken = sheet, rows
                    break
        header, _, columns = search.result(self._name, self.unit)
        assert taken is not None  # noqa: S101 - else there is no result
        if others:
            self.notes.append(f"the sheet {taken[0]!r} is read, not {', '.join(map(repr, others))}; --sheet chooses")
        self._take(header, columns)
        return taken[1]

    def _take(self, header: Record, columns: Columns) -> None:
        self.header, self.spelling, self._columns = header.raw, columns.spelling, columns
        if columns.unused:
            self.guesses = columns.guesses(self._fields)
            named = [
                f"{name!r} (did you mean {self.guesses[name]}?)" if name in self.guesses else repr(name)
                for name in columns.unused
            ]
            self.notes.append(f'columns not used: {", ".join(named)}; --map "Column=field" says what one is')


class _Search:
    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._best: tuple[tuple[int, int], Record, str, Columns] | None = None
        self._fault = ""
        self.found = False

    def look_at(self, row: Record, delimiter: str) -> None:
        if row.fault:
            self._fault = self._fault or f"{row.line} {row.fault}"
            return
        columns = Columns(row.cells or (), self._fields)
        found = not columns.missing(self._fields)
        rank = len(columns.spelling) + len(columns.guesses(self._fields)), len(columns.names)
        if found > self.found or (found == self.found and (self._best is None or rank > self._best[0])):
            self._best = rank, row, delimiter, columns
        self.found = self.found or found

    def result(self, name: str, unit: str) -> tuple[Record, str, Columns]:
        """
        The header, its delimiter and its columns.

        Raises:
            ConfigurationError: No header was found, or it names a field twice.
        """
        if self._best is None:
            if self._fault:
                raise ConfigurationError(f"{name} has no header that can be read: {unit} {self._fault}")
            needed = ", ".join(self._fields.spellings(one) for one in self._fields.needed)
            raise ConfigurationError(f"{name}: {unit} 1 must name the columns, {needed} among them")
        _, row, delimiter, columns = self._best
        if not self.found:
            raise ConfigurationError(self._refusal(name, unit, row, columns))
        if columns.twice:
            raise ConfigurationError(f"{name}: {unit} {row.line} names a column twice: {columns.twice}")
        return row, delimiter, columns

    def _refusal(self, name: str, unit: str, row: Record, columns: Columns) -> str:
        guesses = columns.guesses(self._fields)
        missing = ", ".join(columns.missing(self._fields))
        said = [f"{name}: no {unit} of the first {_SEARCHED} names all needed columns; missing: {missing}"]
        if columns.spelling or guesses:
            said.append(f"{unit} {row.line} has: {', '.join(name for name in columns.names if name)}")
        named = {*columns.spelling, *guesses.values()}
        options = [f'--map "{column}={to}"' for column, to in guesses.items()]
        options += [
            option for to, option in self._fields.otherwise.items() if to not in named and (to,) in self._fields.needed
        ]
        if options:
            said.append(f"perhaps: {' '.join(options)}")
        return "; ".join(said)


def _after(lines: list[RawLine], header: Record) -> Iterator[RawLine]:
    """The lines below a header; a header may span several lines."""
    left = len(header.raw)
    for line in lines:
        if line.number >= header.line:
            if left <= 0:
                yield line
            left -= len(line.raw)


def _form(head: bytes, name: str) -> Format:
    ending = PurePath(name).suffix.lower()
    if head.lstrip()[:1] in (b"{", b"[") or ending in _JSON_ENDINGS:
        return Format.JSONL
    return Format.CSV if head.strip() or ending in _CSV_ENDINGS else Format.JSONL
