"""Options and reports of the commands that read a file of records, and how to continue an interrupted one."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ifinu.cli import files, terminal
from ifinu.errors import InvalidBilling, InvalidNotification
from ifinu.tables import Format, Record, Table

_OVERWRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_REPORT_EVERY = 500  # records between two updates of the progress bar
_SHOWN = 10  # refusals in the output for people; JSON has them all

File = Annotated[str, typer.Argument(metavar="FILE|-", help="JSON, CSV or spreadsheet file; `-` reads stdin.")]
Form = Annotated[Format | None, typer.Option("--format", help="Format of the file; detected by default.")]
Sheet = Annotated[
    str | None, typer.Option("--sheet", help="Sheet to read; by default the first one that has the columns.")
]
Mapped = Annotated[
    list[str] | None, typer.Option("--map", metavar="COLUMN=FIELD", help="Read a column as this field; repeatable.")
]
Refusals = Annotated[
    Path | None,
    typer.Option("--refused", help="Copy refused lines, unchanged, to this file; correct them and take it again."),
]
FromLine = Annotated[int, typer.Option("--from-line", min=1, help="Start at this line, to continue after a stop.")]


@dataclass(frozen=True)
class RefusedRecord:
    """A refused record: its line, counted from 1, the wrong field in the file's spelling, and the reason."""

    line: int
    field: str
    reason: str


class Report:
    """
    Reports on a file: prints warnings to stderr at once, and the refused records at the end.

    Args:
        as_json: Print one document at the end, with all warnings and refusals, and nothing before.

    Attributes:
        line: First line of the record that is being read; 0 before the first record.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.line = self.refused = 0
        self._as_json = as_json
        self._kept: list[RefusedRecord] = []
        self._warnings: list[str] = []
        self._unit = "line"

    def over(self, table: Table, from_line: int) -> Iterator[Record]:
        """Yield the records of a table from a line on; warn of the file's encoding and columns."""
        self._unit = table.unit
        for note in table.notes:
            self.warn(note)
        for record in table:
            self.line = record.line
            if record.line >= from_line:
                yield record
        if table.encoding not in ("", "UTF-8"):
            self.warn(f"read as {table.encoding}, since it is not UTF-8")

    def warn(self, text: str) -> None:
        self._warnings.append(text)
        if not self._as_json:
            terminal.notes().print(terminal.plain(f"warning: {text}"), style="yellow", soft_wrap=True)

    def refuse(self, record: Record, error: InvalidNotification | InvalidBilling) -> None:
        self.refused += 1
        if self._as_json or self.refused <= _SHOWN:
            self._kept.append(RefusedRecord(record.line, error.field, error.reason))

    def print_json(self, counts: dict[str, Any]) -> None:
        refused = [asdict(one) for one in self._kept]
        terminal.print_json({**counts, "refused": refused, "warnings": self._warnings})

    def print(self, counts: str, more: str) -> None:
        """
        Print the counts and the first refused records.

        Args:
            more: Where to find the other refused records.
        """
        out = terminal.results()
        out.print(f"{counts}, {self.refused:,} refused")
        for one in self._kept:
            where = f"{one.field}: " if one.field else ""
            out.print(terminal.plain(f"  {self._unit} {one.line}: {where}{one.reason}"), soft_wrap=True)
        if self.refused > len(self._kept):
            out.print(f"  … and {self.refused - len(self._kept):,} more; {more}")


class RefusedCopy:
    """
    Copies refused records, unchanged and below the header, to a file.

    Args:
        file: The file; None copies nothing.
        header: The header of the records.
        again: Append to what an interrupted run copied.

    Raises:
        ConfigurationError: The file cannot be written.
    """

    def __init__(self, file: Path | None, header: bytes, *, again: bool = False) -> None:
        how = (_APPEND, "ab") if again else (_OVERWRITE, "wb")
        self._file = None if file is None else files.opened(file, *how)
        self._header = b"" if self._file is None or self._file.tell() else header

    def __enter__(self) -> RefusedCopy:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, record: Record) -> None:
        if self._file is not None:
            raw = record.raw if record.raw.endswith(b"\n") else record.raw + b"\n"
            self._file.write(self._header + raw)
            self._header = b""


def again(command: str, file: str, options: Sequence[tuple[str, object]], line: int) -> str:
    """The shell command that continues at a line."""
    given = [part for name, value in options if value is not None for part in (name, str(value))]
    return shlex.join(["ifinu", *command.split(), file, *given, "--from-line", str(line)])


def join_area_code(fields: dict[str, object], table: Table) -> None:
    """
    Join the area code of a separate column to the phone.

    Raises:
        InvalidNotification: The area code is not two digits, or differs from the one in the phone.
    """
    code, column = fields.pop("ddd", None), table.spelling.get("ddd", "ddd")
    name = next((name for name in ("telefone", "phone") if name in fields), "")
    if code is None or not name:
        return
    digits = re.sub(r"\D", "", str(code)).lstrip("0")
    if len(digits) != 2:
        raise InvalidNotification(column, "is not an area code of two digits")
    number = re.sub(r"\D", "", str(fields[name])).lstrip("0")
    if len(number) in (8, 9):
        fields[name] = f"({digits}) {fields[name]}"
    elif len(number) >= 10 and digits not in (number[:2], number[2:4] if number.startswith("55") else ""):
        raise InvalidNotification(column, f"differs from the area code in {table.spelling.get(name, name)}")


def _size(source: IO[bytes]) -> int | None:
    """Bytes left to read; None for a pipe."""
    if not source.seekable():
        return None
    here = source.tell()
    size = source.seek(0, os.SEEK_END) - here
    source.seek(here)
    return size


class Bar:
    """A progress bar by bytes; only a terminal shows it."""

    def __init__(self, source: IO[bytes], *, show: bool) -> None:
        console = terminal.notes()
        self._shown = show and console.is_terminal
        self._progress = Progress(
            TextColumn("{task.fields[count]:,} lines"), BarColumn(), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=_size(source), count=0)

    def __enter__(self) -> Bar:
        if self._shown:
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._shown:
            self._progress.stop()

    def over(self, records: Iterator[Record]) -> Iterator[Record]:
        """Yield the records and advance the bar."""
        read_bytes = 0
        for count, record in enumerate(records, 1):
            read_bytes += len(record.raw)
            if count % _REPORT_EVERY == 0:
                self._progress.update(self._task, completed=read_bytes, count=count)
            yield record
