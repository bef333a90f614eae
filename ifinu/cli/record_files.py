"""Commands that read a file of records: their options, what they report, and how to go on after an interruption."""

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

_SHOWN = 10  # refusals that a person sees

File = Annotated[str, typer.Argument(metavar="FILE|-", help="JSON, CSV or a spreadsheet; `-` reads stdin.")]
Form = Annotated[Format | None, typer.Option("--format", help="Else by what is in it.")]
Sheet = Annotated[str | None, typer.Option("--sheet", help="Of a spreadsheet; else the first with the columns.")]
Mapped = Annotated[
    list[str] | None, typer.Option("--map", metavar="COLUMN=FIELD", help="What a column is; may be given again.")
]
FromLine = Annotated[int, typer.Option("--from-line", min=1, help="Go on at this line, after an interruption.")]


@dataclass(frozen=True)
class RefusedRecord:
    """A record that is not accepted: its line, from 1, the field at fault as the file spells it, and why."""

    line: int
    field: str
    reason: str


class Report:
    """
    What a command says about a file: warnings on stderr at once, and the refused lines at its end.

    Args:
        as_json: Nothing is said before the end, and everything is kept for it.

    Attributes:
        line: Where the record begins that is read now; 0 before the first.
        refused: How many records were refused.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.line = self.refused = 0
        self._as_json = as_json
        self._kept: list[RefusedRecord] = []
        self._warnings: list[str] = []
        self._unit = "line"

    def over(self, table: Table, from_line: int) -> Iterator[Record]:
        """The records of a table from a line on; what there is to say about the file is said."""
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
        """Say what may be wrong although it is accepted."""
        self._warnings.append(text)
        if not self._as_json:
            terminal.notes().print(terminal.plain(f"warning: {text}"), style="yellow", soft_wrap=True)

    def refuse(self, record: Record, error: InvalidNotification) -> None:
        """One more record is not accepted."""
        self.refused += 1
        if self._as_json or self.refused <= _SHOWN:
            self._kept.append(RefusedRecord(record.line, error.field, error.reason))

    def print_json(self, counts: dict[str, Any]) -> None:
        """All of it as one document."""
        refused = [asdict(one) for one in self._kept]
        terminal.print_json({**counts, "refused": refused, "warnings": self._warnings})

    def print(self, counts: str, more: str) -> None:
        """
        The counts, and the first refused lines.

        Args:
            counts: In words.
            more: Where the other refused lines are to be found.
        """
        out = terminal.results()
        out.print(f"{counts}, {self.refused:,} refused")
        for one in self._kept:
            where = f"{one.field}: " if one.field else ""
            out.print(terminal.plain(f"  {self._unit} {one.line}: {where}{one.reason}"), soft_wrap=True)
        if self.refused > len(self._kept):
            out.print(f"  … and {self.refused - len(self._kept):,} more; {more}")


def again(command: str, file: str, options: Sequence[tuple[str, object]], line: int) -> str:
    """The command that goes on at a line, for a shell."""
    given = [part for name, value in options if value is not None for part in (name, str(value))]
    return shlex.join(["ifinu", *command.split(), file, *given, "--from-line", str(line)])


def join_area_code(fields: dict[str, object], table: Table) -> None:
    """
    Put an area code that has a column to itself before its phone.

    Raises:
        InvalidNotification: It is none, or the phone has another one.
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
        raise InvalidNotification(column, f"is another area code than the one in {table.spelling.get(name, name)}")
