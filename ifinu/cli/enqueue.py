"""`ifinu enqueue`: a file of notifications."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ifinu import names, producer, settings, window, wire
from ifinu.cli import connection, files, signals, terminal
from ifinu.cli.record_files import File, Form, FromLine, Mapped, Report, Sheet, again, join_area_code
from ifinu.errors import BrokerUnavailable, InvalidNotification
from ifinu.notification import Kind, Notification
from ifinu.tables import Fields, Record, Table

_OVERWRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_REPORT_EVERY = 500  # records between two looks at the progress bar
_MOST_TWICE = 10  # ids given again that are named
_NAMES = {**wire.NAMES, "ddd": "ddd"}


def enqueue(
    file: File,
    form: Form = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line; needs no Redis.")] = False,
    refused: Annotated[
        Path | None, typer.Option(help="Write the refused lines there as they were, to be corrected and given again.")
    ] = None,
    kind: Annotated[Kind | None, typer.Option(help="Of the lines that name none.")] = None,
    mapped: Mapped = None,
    sheet: Sheet = None,
    from_line: FromLine = 1,
    as_json: terminal.Json = False,
) -> None:
    """
    Enqueue a file, one notification a line.

    JSON holds the objects other languages push, or Python's field names, one a line
    or in an array. A CSV or a spreadsheet has a header with either names
    (tipo_notificacao, telefone, … or kind, phone, …); --map says what other
    columns are, and an area code may have a column, ddd. Encoding and delimiter
    are found out. A file is sent as it is read, so it may be of any size. A wrong
    line is refused with its number, and does not stop the others: then the exit
    code is 1.

    [bold]Examples[/bold]

    ifinu enqueue charges.csv --dry-run
    ifinu enqueue charges.csv --refused refused.csv
    ifinu enqueue charges.xlsx --kind lembrete --map "Cliente=nome" --map "Celular=telefone"
    psql --csv -c "select id, kind, phone, … from …" | ifinu enqueue -
    psql -AtX -c "select json_build_object(…) from …" | ifinu enqueue -
    """
    sandbox_number = settings.load().sandbox_number
    fields = _fields(mapped or (), kind, sandbox_number)
    report = Report(as_json=as_json)
    done = producer.Enqueued()
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.sigterm_interrupts())
        source = stack.enter_context(files.source(file))
        bar = stack.enter_context(_Bar(source, show=not as_json))
        table = Table(source, fields, name="stdin" if file == "-" else file, form=form, sheet=sheet)
        how = (_OVERWRITE, "wb") if from_line == 1 else (_APPEND, "ab")
        copy = _Copy(stack.enter_context(files.opened(refused, *how)) if refused else None, table.header)
        reading = _Reading(table, kind, sandbox_number, report, copy)
        notifications = reading.notifications(bar.over(report.over(table, from_line)))
        if dry_run:
            done.accepted = sum(1 for _ in notifications)
        else:
            client = stack.enter_context(connection.broker())
            options = [("--format", form), ("--refused", refused), ("--kind", kind), ("--sheet", sheet)]
            options += [("--map", one) for one in mapped or ()]
            try:
                producer.enqueue_many(notifications, client=client, done=done)
            except BaseException as exc:  # Ctrl-C and SIGTERM too
                so_far = reading.so_far(done.accepted, lambda line: again("enqueue", file, options, line))
                if isinstance(exc, producer.PartlyEnqueued):
                    raise BrokerUnavailable(f"Redis went away ({type(exc.__cause__).__name__}): {so_far}") from exc
                terminal.notes().print(terminal.plain(so_far), soft_wrap=True)
                raise
        reading.warn_of_what_was_accepted()
    if as_json:
        report.print_json({"accepted": done.accepted, "dry_run": dry_run})
    else:
        verb = "would be accepted" if dry_run else "accepted"
        report.print(f"{done.accepted:,} {verb}", "--refused FILE keeps them, --json lists them")
    if report.refused:
        raise typer.Exit(1)


def _fields(mapped: Sequence[str], kind: Kind | None, sandbox_number: str | None) -> Fields:
    given = {"tipo_notificacao": kind, "telefone": sandbox_number}
    return Fields(
        names=_NAMES,
        needed=[(one,) for one in ("id", "tipo_notificacao", "telefone") if not given.get(one)],
        otherwise={"tipo_notificacao": f"--kind KIND, which is one of {', '.join(Kind)}"},
        guards=wire.GUARDS,
        likely=names.likely,
        mapped=Fields.mapping(mapped, _NAMES),
    )


class _Copy:
    """A copy of what was refused, as it was, below the header."""

    def __init__(self, file: IO[bytes] | None, header: bytes) -> None:
        self._file = file
        self._header = b"" if file is None or file.tell() else header

    def add(self, record: Record) -> None:
        """One more."""
        if self._file is not None:
            raw = record.raw if record.raw.endswith(b"\n") else record.raw + b"\n"
            self._file.write(self._header + raw)
            self._header = b""


class _Reading:
    """
    Records -> notifications, and where that stands.

    Args:
        table: Whose records they are.
        kind: Of those that name none.
        sandbox_number: As for `wire.decode`.
        report: Hears what is refused.
        copy: Keeps it.
    """

    def __init__(
        self, table: Table, kind: Kind | None, sandbox_number: str | None, report: Report, copy: _Copy
    ) -> None:
        self._table = table
        self._kind = kind
        self._sandbox_number = sandbox_number
        self._report = report
        self._copy = copy
        self._lines = array("Q")  # of those handed over
        self._ids = _Ids()
        self._twice: list[str] = []
        self._times_twice = 0
        self._ignored: dict[str, int] = {}
        self._now = datetime.now(UTC)
        self._doubts: dict[Kind, tuple[str, int]] = {}  # of each kind the first, and how many

    def notifications(self, records: Iterator[Record]) -> Iterator[Notification]:
        """Those that can be sent."""
        for record in records:
            try:
                notification = self._notification(record)
                self._doubt(notification, record)
            except InvalidNotification as exc:
                self._report.refuse(record, exc)
                self._copy.add(record)
                continue
            if not self._ids.add(notification.id):
                self._times_twice += 1
                if len(self._twice) < _MOST_TWICE:
                    self._twice.append(f"{notification.id} ({self._table.unit} {record.line})")
            self._lines.append(record.line)
            yield notification

    def so_far(self, accepted: int, command: Callable[[int], str]) -> str:
        """How many went in, and how to go on."""
        unsure = len(self._lines) - accepted
        line = self._lines[accepted] if unsure else max(self._report.line, 1)
        may_be = f", the next {unsure:,} may be" if unsure else ""
        refused = f"; {self._report.refused:,} were refused" if self._report.refused else ""
        return f"{accepted:,} notifications are on the queue{may_be}{refused}. Go on with: {command(line)}"

    def warn_of_what_was_accepted(self) -> None:
        """At the end: what was accepted and is probably not meant so."""
        if self._times_twice:
            more = f" and {self._times_twice - len(self._twice):,} more" if self._times_twice > len(self._twice) else ""
            self._report.warn(f"given again: {', '.join(self._twice)}{more}; of each id the first alone is sent")
        for field, times in self._ignored.items():
            self._report.warn(f"a key that looks like {field}, and is not spelled so, was ignored; lines: {times:,}")
        for first, times in self._doubts.values():
            self._report.warn(first + (f" (and {times - 1:,} more of this kind)" if times > 1 else ""))

    def _doubt(self, notification: Notification, record: Record) -> None:
        """
        Keep what a person should know of a kind that does not fit its due date.

        Raises:
            InvalidNotification: A worker would make a dead letter of it.
        """
        try:
            found = window.doubt(notification, self._now)
        except InvalidNotification as exc:
            raise InvalidNotification(self._table.spelling.get(exc.field, exc.field), exc.reason) from exc
        if found is not None:
            first = f"{notification.kind} in {self._table.unit} {record.line}: {found}"
            first, times = self._doubts.get(notification.kind, (first, 0))
            self._doubts[notification.kind] = first, times + 1

    def _notification(self, record: Record) -> Notification:
        fields = self._table.read(record)
        join_area_code(fields, self._table)
        in_python = record.cells is None and not wire.is_wire(fields)
        name = "kind" if in_python else "tipo_notificacao"
        if self._kind is not None and not fields.get(name):
            fields[name] = self._kind.value
        if in_python:
            return wire.from_fields(fields)
        return wire.decode(
            fields, sandbox_number=self._sandbox_number, spelling=self._table.spelling, ignored=self._ignore
        )

    def _ignore(self, field: str) -> None:
        self._ignored[field] = self._ignored.get(field, 0) + 1


class _Ids:
    """Ids that were seen, 16 to 32 bytes each: a hash table of their digests."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 10))
        self._count = 0

    def add(self, text: str) -> bool:
        """Whether an id is new."""
        if 2 * self._count >= len(self._slots):
            full, self._slots = self._slots, array("Q", bytes(16 * len(self._slots)))
            for digest in full:
                if digest:
                    self._slots[self._place(digest)] = digest
        digest = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") or 1  # 0 is an empty slot
        place = self._place(digest)
        if self._slots[place]:
            return False
        self._slots[place] = digest
        self._count += 1
        return True

    def _place(self, digest: int) -> int:
        """Where a digest stands, or belongs."""
        last = len(self._slots) - 1
        place = digest & last
        while self._slots[place] not in (0, digest):
            place = (place + 1) & last
        return place


def _size(source: IO[bytes]) -> int | None:
    """Bytes that are left to read; None of a pipe."""
    if not source.seekable():
        return None
    here = source.tell()
    size = source.seek(0, os.SEEK_END) - here
    source.seek(here)
    return size


class _Bar:
    """A progress bar by bytes, on a terminal; nothing elsewhere."""

    def __init__(self, source: IO[bytes], *, show: bool) -> None:
        console = terminal.notes()
        self._shown = show and console.is_terminal
        self._progress = Progress(
            TextColumn("{task.fields[count]:,} lines"), BarColumn(), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=_size(source), count=0)

    def __enter__(self) -> _Bar:
        if self._shown:
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._shown:
            self._progress.stop()

    def over(self, records: Iterator[Record]) -> Iterator[Record]:
        """Pass them on, counting."""
        read_bytes = 0
        for count, record in enumerate(records, 1):
            read_bytes += len(record.raw)
            if count % _REPORT_EVERY == 0:
                self._progress.update(self._task, completed=read_bytes, count=count)
            yield record
