"""The import of one file: its lines go to the tables, a chunk in a transaction."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import click
import typer
from sqlalchemy import text

from ifinu.billing import charges
from ifinu.billing.charge_files import bank_returns, charge_import
from ifinu.billing.charge_files.charge_import import Imported
from ifinu.billing.charge_files.charge_lines import ChargeLine, LineReader, NoCharge
from ifinu.billing.tenants import Tenant
from ifinu.cli import terminal
from ifinu.cli.charge.imports import Absent
from ifinu.cli.record_files import RefusedCopy, Report
from ifinu.errors import ConfigurationError, InvalidBilling, InvalidNotification, LedgerUnavailable
from ifinu.tables import Record, Table

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_CHUNK = 10_000  # lines a transaction
_STATEMENT_S = 60  # a statement about so many lines may take longer than others
_BEGINNING = 1_000  # bytes by which a return file is detected
_LISTED = 10  # absent charges that a question shows
_FEW = 10  # charges that are never too many
_SETTLED = {
    "applied": "payments {}recorded",
    "ignored": "payments known otherwise (`ifinu pay events`)",
    "repeated": "payments of a file that was read before",
    "unmatched": "payments without a charge (`ifinu pay unmatched`)",
}
_PAST = {Absent.HOLD: "held", Absent.PAY: "paid", Absent.KEEP: "kept"}


class HashedFile:
    """A file that is read once: its first bytes, and the digest of all that was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.beginning = file.read(_BEGINNING)
        self._ahead = self.beginning
        self._hash = hashlib.sha256(self.beginning)

    def read(self, size: int = -1) -> bytes:
        taken, self._ahead = (self._ahead, b"") if size < 0 else (self._ahead[:size], self._ahead[size:])
        if size < 0 or len(taken) < size:
            more = self.file.read(size if size < 0 else size - len(taken))
            self._hash.update(more)
            taken += more
        return taken

    @property
    def is_bank_file(self) -> bool:
        """Whether it begins as the files do that banks exchange."""
        return bank_returns.is_bank_file(self.beginning)

    def digest(self) -> str:
        return self._hash.hexdigest()


class TableFile:
    """Imports the records of a table, a chunk in a transaction."""

    def __init__(
        self,
        engine: Engine,
        tenant: Tenant,
        table: Table,
        reader: LineReader,
        report: Report,
        copy: RefusedCopy,
        now: datetime,
        *,
        dry_run: bool,
    ) -> None:
        self._engine = engine
        self._tenant = tenant
        self._table = table
        self._reader = reader
        self._report = report
        self._copy = copy
        self._now = now
        self._dry_run = dry_run
        self._ids: dict[str, int] = {}  # line of each id
        self._nameless = 0  # lines that were refused before their id was known
        self._passed: Counter[NoCharge] = Counter()
        self._done = Imported()
        self._settled: dict[str, int] = {}

    def read(self, records: Iterator[Record]) -> None:
        line = 0  # the last one that was imported
        while chunk := list(itertools.islice(records, _CHUNK)):
            try:
                self._import(chunk)
            except LedgerUnavailable:
                if line and not self._dry_run:
                    self._report.warn(
                        f"imported up to {self._table.unit} {line}; import the same file again for the others"
                    )
                raise
            if not line and len(chunk) == _CHUNK and not self._dry_run:
                with self._transaction() as connection:
                    charge_import.refresh_statistics(connection)
            line = chunk[-1].line

    def _import(self, chunk: Sequence[Record]) -> None:
        lines = [(line, record) for record in chunk if (line := self._line(record)) is not None]
        of = {id(line): record for line, record in lines}
        with self._transaction() as connection:
            charge_import.apply(
                connection,
                self._tenant.id,
                [line for line, _ in lines],
                self._done,
                lambda line, exc, of=of: self._refuse(of[id(line)], exc),  # type: ignore[misc]
                now=self._now,
            )

    def note(self, digest: str, profile: str | None) -> None:
        """Record the import, and warn if the same file was imported before."""
        with self._transaction() as connection:
            before = charge_import.note(
                connection, self._tenant.id, digest=digest, profile=profile, done=self._done, now=self._now
            )
        if before is not None:
            at = before.astimezone(self._tenant.zone)
            self._report.warn(f"the same file was imported on {at:%d/%m/%Y at %H:%M}; it changes nothing twice")
        for what, count in self._passed.items():
            self._report.warn(f"{what}, skipped: {count:,}")
        done = self._done
        if done.moved > _FEW and done.moved * 2 > done.changed + done.unchanged:
            self._report.warn(
                f"of {done.changed + done.unchanged:,} open charges {done.moved:,} have another due date in the file; "
                "are day and month in their order? Import the former file again to undo it"
            )

    def settle_absent(self, absent: Absent, *, as_json: bool) -> None:
        """
        Treat the open charges that the file does not name.

        Raises:
            ConfigurationError: A line without a readable id was refused: it may name one of them. Or the file names so
                few charges that it is probably not complete.
        """
        if self._nameless:
            raise ConfigurationError(
                f"{self._nameless:,} refused lines have no id that can be read, so it is not known which charges the "
                "file does not name; the others were imported. Correct these lines and import the file again"
            )
        with self._transaction() as connection:
            open_ = charge_import.open_ids(connection, self._tenant.id)
            ids = [id_ for id_ in open_ if id_ not in self._ids]
            if ids and absent is not Absent.KEEP and self._is_incomplete(len(ids), len(open_)):
                absent = Absent.ASK
            what = self._chosen(ids, absent, as_json=as_json) if ids else Absent.KEEP
            for id_ in ids:
                if what is Absent.PAY:
                    charges.pay(connection, self._tenant.id, id_, via=charge_import.VIA, now=self._now)
                elif what is Absent.HOLD:
                    charges.hold(
                        connection, self._tenant.id, id_, until=None, reason="not in the imported file", now=self._now
                    )
        self._settled = {f"absent_{_PAST[what]}": len(ids)} if ids else {}

    def counts(self) -> dict[str, Any]:
        numbers = {name: value for name, value in vars(self._done).items() if isinstance(value, int)}
        return {**numbers, "withdrawn": len(self._done.withdrawn), **self._settled}

    def words(self) -> str:
        done = self._done
        verb = "would be " if self._dry_run else ""
        parts = [f"{done.added:,} {verb}added", f"{done.changed:,} {verb}changed", f"{done.unchanged:,} unchanged"]
        if done.moved:
            parts.append(f"{done.moved:,} with another due date")
        parts += [
            f"{count:,} {verb}{what}" for what, count in (("paid", done.paid), ("cancelled", done.cancelled)) if count
        ]
        if done.skipped:
            parts.append(f"{done.skipped:,} skipped, as they had ended")
        if done.late:
            parts.append(f"{done.late:,} late already: nothing is sent about the days before today")
        parts += [f"{count:,} not in the file {verb}{name.split('_')[1]}" for name, count in self._settled.items()]
        return ", ".join(parts)

    def _is_incomplete(self, lacking: int, known: int) -> bool:
        """Whether the file lacks so many of the open charges that a person has to say what to do."""
        if not self._ids:
            raise ConfigurationError(
                f"the file names no charge, and {known:,} are open: it is hardly complete, so nothing was done about "
                "them. If they all ended, use --absent keep and `ifinu charge pay` or `cancel`"
            )
        too_many = lacking * 2 > known and lacking > _FEW
        if too_many and not terminal.is_there_somebody():
            raise ConfigurationError(
                f"the file lacks {lacking:,} of {known:,} open charges: it may be cut off, so nothing was done about "
                "them; what it names was imported. Run this on a terminal, or with --absent keep"
            )
        return too_many

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.begin() as transaction:
            connection.execute(text(f"SET LOCAL statement_timeout = '{_STATEMENT_S}s'"))
            yield connection
            if self._dry_run:
                transaction.rollback()

    def _line(self, record: Record) -> ChargeLine | None:
        try:
            cells = self._table.read(record)
            line = self._reader.read(cells, self._table.spelling)
        except (InvalidBilling, InvalidNotification) as exc:
            self._nameless += 1
            self._refuse(record, exc)
            return None
        if isinstance(line, NoCharge):
            self._passed[line] += 1
            return None
        first = self._ids.setdefault(line.charge.id, record.line)
        if first != record.line:
            column = self._table.spelling.get("id", "id")
            self._refuse(record, InvalidBilling(column, f"is in {self._table.unit} {first} already"))
            return None
        return line

    def _refuse(self, record: Record, exc: InvalidBilling | InvalidNotification) -> None:
        self._report.refuse(record, exc)
        self._copy.add(record)

    def _chosen(self, ids: list[str], absent: Absent, *, as_json: bool) -> Absent:
        if absent is not Absent.ASK:
            return absent
        if as_json or self._dry_run or not terminal.is_there_somebody():
            return Absent.HOLD
        shown = ", ".join(ids[:_LISTED]) + (" …" if len(ids) > _LISTED else "")
        terminal.notes().print(
            terminal.plain(f"{len(ids):,} open charges are not in the file: {shown}"), soft_wrap=True
        )
        answer = typer.prompt(
            "Were they paid elsewhere? pay marks them as paid, hold sends nothing about them, keep leaves them",
            type=click.Choice(["pay", "hold", "keep"]), default="hold", err=True,
        )  # fmt: skip
        return Absent(answer)


class ReturnFile:
    """Records the payments of a bank's return file."""

    def __init__(self, engine: Engine, tenant: Tenant, report: Report, now: datetime, *, dry_run: bool) -> None:
        self._engine = engine
        self._tenant = tenant
        self._report = report
        self._now = now
        self._dry_run = dry_run
        self._states: Counter[str] = Counter()
        self._others: Counter[str] = Counter()

    def read(self, source: HashedFile) -> None:
        for found in bank_returns.settlements(source.read(), self._others):
            if isinstance(found, tuple):
                line, error = found
                self._report.refuse(Record(line, b""), error)
                continue
            with self._engine.connect() as connection, connection.begin() as transaction:
                self._states[charge_import.settle(connection, self._tenant, found, self._now)] += 1
                if self._dry_run:
                    transaction.rollback()

    def counts(self) -> dict[str, Any]:
        return {**self._states, "other_entries": dict(self._others)}

    def words(self) -> str:
        would = "would be " if self._dry_run else ""
        parts = [f"{count:,} {_SETTLED[state].format(would)}" for state, count in sorted(self._states.items())]
        if self._others:
            codes = ", ".join(f"{code} ({count:,})" for code, count in sorted(self._others.items()))
            parts.append(f"no payment in the entries of code {codes}")
        return ", ".join(parts) or "no payments"
