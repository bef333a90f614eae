"""`ifinu enqueue`: a file of notifications."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ifinu import producer, settings
from ifinu.cli import connection, files, terminal
from ifinu.cli.records import Format, Record, Refused, read
from ifinu.errors import BrokerUnavailable, InvalidNotification
from ifinu.notification import Notification

_OVERWRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_SHOWN = 10  # refusals that a person is told
_REPORT_EVERY = 500  # records between two looks at the progress bar


def enqueue(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="JSON lines or CSV; `-` reads stdin.")],
    form: Annotated[
        Format | None, typer.Option("--format", help="Else by the file's ending: .csv is CSV, all else JSON lines.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line; needs no Redis.")] = False,
    refused: Annotated[
        Path | None, typer.Option(help="Write the refused lines there as they were, to be mended and given again.")
    ] = None,
    from_line: Annotated[int, typer.Option(min=1, help="Go on at this line, after an interruption.")] = 1,
    as_json: terminal.Json = False,
) -> None:
    """
    Enqueue a file, one notification a line.

    JSON lines hold the objects other languages push, or Python's field names. A
    CSV has a header with either names (tipo_notificacao, telefone, … or kind,
    phone, …) and commas or semicolons. It is sent as it is read, so it may be
    of any size. What is wrong is refused, told with its line, and does not stop
    the rest: then the exit code is 1.

    [bold]Examples[/bold]

    ifinu enqueue charges.csv --dry-run
    ifinu enqueue charges.csv --refused refused.csv
    psql -c "copy (…) to stdout" | ifinu enqueue -
    """
    chosen_form = form or (Format.CSV if file.lower().endswith(".csv") else Format.JSONL)
    sandbox_number = settings.load().sandbox_number
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(files.source(file))
        keep = _Keep(stack.enter_context(files.opened(refused, _OVERWRITE, "wb")) if refused else None)
        bar = stack.enter_context(_Bar(source, show=not as_json))
        records = (record for record in read(source, chosen_form) if record.line >= from_line)
        lines = array("Q")  # of those handed to the producer, to tell where it stopped
        notifications = _notifications(bar.over(records), sandbox_number, keep, lines)
        if dry_run:
            accepted = sum(1 for _ in notifications)
        else:
            client = stack.enter_context(connection.broker())
            try:
                accepted = producer.enqueue_many(notifications, client=client).accepted
            except producer.PartlyEnqueued as exc:
                raise BrokerUnavailable(_how_to_go_on(exc, lines, file)) from exc
    _tell(accepted, keep.refused, dry_run=dry_run, as_json=as_json)
    if keep.refused:
        raise typer.Exit(1)


class _Keep:
    """What was refused, and a copy of it as it was."""

    def __init__(self, copy: IO[bytes] | None) -> None:
        self.refused: list[Refused] = []
        self._copy = copy

    def add(self, record: Record, refusal: Refused) -> None:
        """One more."""
        if self._copy is not None:
            if not self.refused:
                self._copy.write(record.header)
            self._copy.write(record.raw if record.raw.endswith(b"\n") else record.raw + b"\n")
        self.refused.append(refusal)


def _notifications(
    records: Iterator[Record], sandbox_number: str | None, keep: _Keep, lines: array[int]
) -> Iterator[Notification]:
    for record in records:
        try:
            notification = producer.notification_of(record.read(), sandbox_number=sandbox_number)
        except InvalidNotification as exc:
            keep.add(record, Refused(record.line, exc.field, exc.reason))
            continue
        lines.append(record.line)
        yield notification


def _how_to_go_on(exc: producer.PartlyEnqueued, lines: array[int], file: str) -> str:
    line = lines[exc.done.accepted]
    return (
        f"{exc.done.accepted:,} notifications are on the queue, the next {exc.unsure:,} may be; then Redis went away "
        f"({type(exc.__cause__).__name__}). When it is back: ifinu enqueue {file} --from-line {line}"
    )


def _tell(accepted: int, refused: list[Refused], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        terminal.print_json({"accepted": accepted, "refused": [asdict(one) for one in refused], "dry_run": dry_run})
        return
    out = terminal.results()
    verb = "would be accepted" if dry_run else "accepted"
    out.print(f"{accepted:,} {verb}, {len(refused):,} refused")
    for one in refused[:_SHOWN]:
        where = f"{one.field}: " if one.field else ""
        out.print(terminal.plain(f"  line {one.line}: {where}{one.reason}"), soft_wrap=True)
    if len(refused) > _SHOWN:
        out.print(f"  … and {len(refused) - _SHOWN:,} more; --refused FILE keeps them, --json lists them")


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
