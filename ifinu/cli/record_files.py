"""Options and reports of the commands that read a file of records, and how to continue an interrupted one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from ifinu.cli import terminal
from ifinu.errors import InvalidNotification
from ifinu.tables import Format, Record, Table

_SHOWN = 10  # refusals in the output for people; JSON has them all

File = Annotated[str, typer.Argument(metavar="FILE|-", help="JSON, CSV or spreadsheet file; `-` reads stdin.")]
Form = Annotated[Format | None, typer.Option("--format", help="Format of the file; detected by default.")]
Sheet = Annotated[
    str | None, typer.Option("--sheet", help="Sheet to read; by default the first one that has the columns.")
]
Mapped = Annotated[
    list[str] | None, typer.Option("--map", metavar="COLUMN=FIELD", help="Read a column as this field; repeatable.")
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

    def refuse(self, record: Record, error: InvalidNotification) -> None:
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
