"""`ifinu enqueue`: enqueue a file of notifications."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated

import typer

from ifinu import names, producer, settings, window, wire
from ifinu.cli import connection, files, signals, terminal
from ifinu.cli.record_files import (
    Bar,
    File,
    Form,
    FromLine,
    Mapped,
    Refusals,
    RefusedCopy,
    Report,
    Sheet,
    again,
    join_area_code,
)
from ifinu.errors import BrokerUnavailable, InvalidNotification
from ifinu.notification import Kind, Notification
from ifinu.tables import Fields, Record, Table

_MAX_DUPLICATES_SHOWN = 10
_NAMES = {**wire.NAMES, "ddd": "ddd"}


def enqueue(
    file: File,
    form: Form = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every line and enqueue nothing; needs no Redis.")
    ] = False,
    refused: Refusals = None,
    kind: Annotated[Kind | None, typer.Option(help="Kind for lines that have none.")] = None,
    mapped: Mapped = None,
    sheet: Sheet = None,
    from_line: FromLine = 1,
    as_json: terminal.Json = False,
) -> None:
    """
    Enqueue a file of notifications: JSON, CSV or a spreadsheet.

    JSON has one object a line, or an array of objects. Their keys are those that
    other languages push (tipo_notificacao, telefone, …) or Python's field names
    (kind, phone, …). A CSV or a spreadsheet has a header with the same names;
    --map names other columns, and the area code may have its own column, ddd.
    Encoding and delimiter are detected. The file is read as a stream and may have
    any size. Invalid lines are refused with their number and do not stop the rest;
    the exit code is then 1.

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
        bar = stack.enter_context(Bar(source, show=not as_json))
        table = Table(source, fields, name="stdin" if file == "-" else file, form=form, sheet=sheet)
        copy = stack.enter_context(RefusedCopy(refused, table.header, again=from_line > 1))
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
        reading.report_suspects()
    if as_json:
        report.print_json({"accepted": done.accepted, "dry_run": dry_run})
    else:
        verb = "would be accepted" if dry_run else "accepted"
        report.print(f"{done.accepted:,} {verb}", "--refused FILE keeps them all, --json lists them")
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


class _Reading:
    """
    Turns records into notifications, and keeps count.

    Args:
        kind: The kind of records that have none.
        sandbox_number: As for `wire.decode`.
    """

    def __init__(
        self, table: Table, kind: Kind | None, sandbox_number: str | None, report: Report, copy: RefusedCopy
    ) -> None:
        self._table = table
        self._kind = kind
        self._sandbox_number = sandbox_number
        self._report = report
        self._copy = copy
        self._lines = array("Q")  # of the notifications yielded
        self._ids = _Ids()
        self._duplicates: list[str] = []
        self._duplicate_count = 0
        self._ignored: dict[str, int] = {}
        self._now = datetime.now(UTC)
        self._date_warnings: dict[Kind, tuple[str, int]] = {}  # the first warning of each kind, and their number

    def notifications(self, records: Iterator[Record]) -> Iterator[Notification]:
        """Yield the valid notifications; refuse the other records."""
        for record in records:
            try:
                notification = self._notification(record)
                self._check_date(notification, record)
            except InvalidNotification as exc:
                self._report.refuse(record, exc)
                self._copy.add(record)
                continue
            if not self._ids.add(notification.id):
                self._duplicate_count += 1
                if len(self._duplicates) < _MAX_DUPLICATES_SHOWN:
                    self._duplicates.append(f"{notification.id} ({self._table.unit} {record.line})")
            self._lines.append(record.line)
            yield notification

    def so_far(self, accepted: int, command: Callable[[int], str]) -> str:
        """How many notifications were enqueued, and the command that continues."""
        unsure = len(self._lines) - accepted
        line = self._lines[accepted] if unsure else max(self._report.line, 1)
        may_be = f", the next {unsure:,} may be" if unsure else ""
        refused = f"; {self._report.refused:,} were refused" if self._report.refused else ""
        return f"{accepted:,} notifications are on the queue{may_be}{refused}. Continue with: {command(line)}"

    def report_suspects(self) -> None:
        """Warn, after the last record, of accepted records that look like a mistake."""
        if self._duplicate_count:
            left = self._duplicate_count - len(self._duplicates)
            more = f" and {left:,} more" if left else ""
            self._report.warn(f"duplicate ids: {', '.join(self._duplicates)}{more}; only the first of each id is sent")
        for field, times in self._ignored.items():
            self._report.warn(f"ignored a key that looks like a misspelt {field}; lines: {times:,}")
        for first, times in self._date_warnings.values():
            self._report.warn(first + (f" (and {times - 1:,} more of this kind)" if times > 1 else ""))

    def _check_date(self, notification: Notification, record: Record) -> None:
        """
        Keep a warning if the due date does not fit the kind.

        Raises:
            InvalidNotification: A worker would make it a dead letter.
        """
        try:
            found = window.doubt(notification, self._now)
        except InvalidNotification as exc:
            raise InvalidNotification(self._table.spelling.get(exc.field, exc.field), exc.reason) from exc
        if found is not None:
            first = f"{notification.kind} in {self._table.unit} {record.line}: {found}"
            first, times = self._date_warnings.get(notification.kind, (first, 0))
            self._date_warnings[notification.kind] = first, times + 1

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
    """A set of ids that takes 16 to 32 bytes for each: a hash table of their digests."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 10))
        self._count = 0

    def add(self, text: str) -> bool:
        """Add an id; return whether it is new."""
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
        """The slot of a digest, whether it is taken or free."""
        last = len(self._slots) - 1
        place = digest & last
        while self._slots[place] not in (0, digest):
            place = (place + 1) & last
        return place
