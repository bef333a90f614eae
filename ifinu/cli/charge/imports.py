"""`ifinu charge import`: charges from a file, and payments from a bank's return file."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import IO, TYPE_CHECKING, Annotated, Any

import click
import typer

from ifinu.billing import charges
from ifinu.billing.charge_files import bank_returns, charge_import
from ifinu.billing.charge_files.charge_columns import Profile, fields_of
from ifinu.billing.charge_files.charge_import import Imported
from ifinu.billing.charge_files.charge_lines import ChargeLine, LineReader
from ifinu.billing.tenants import Tenant
from ifinu.cli import billing_database, files, signals, terminal
from ifinu.cli.record_files import Bar, File, Form, Mapped, Refusals, RefusedCopy, Report, Sheet
from ifinu.errors import ConfigurationError, InvalidBilling, InvalidNotification
from ifinu.tables import Record, Table

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_CHUNK = 10_000  # lines a transaction
_EVERY_STEP = date(2000, 1, 1)
_BEGINNING = 1_000  # bytes by which a return file is detected
_LISTED = 10  # absent charges that a question shows


class Overdue(enum.StrEnum):
    """What to send about the days before a charge was imported."""

    SKIP = "skip"  # nothing
    LAST = "last"  # the last notice, if it is not too old


class Absent(enum.StrEnum):
    """What to do with open charges that a complete file does not name."""

    ASK = "ask"
    HOLD = "hold"
    PAY = "pay"
    KEEP = "keep"


_PAST = {Absent.HOLD: "held", Absent.PAY: "paid", Absent.KEEP: "kept"}


def import_(
    file: File,
    tenant: billing_database.TenantId = None,
    profile: Annotated[Profile | None, typer.Option(help="The program that wrote the file.")] = None,
    mapped: Mapped = None,
    sheet: Sheet = None,
    form: Form = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    refused: Refusals = None,
    overdue: Annotated[
        Overdue, typer.Option(help="About charges that are late already: send nothing, or the last notice.")
    ] = Overdue.SKIP,
    provider: Annotated[
        str, typer.Option(help="Issuer of the provider's ids in the file, such as asaas; cnab for a bank.")
    ] = "cnab",
    full_snapshot: Annotated[
        bool, typer.Option("--full-snapshot", help="The file names all open charges of the tenant.")
    ] = False,
    absent: Annotated[
        Absent, typer.Option(help="With --full-snapshot: what to do with open charges that the file does not name.")
    ] = Absent.ASK,
    as_json: terminal.Json = False,
) -> None:
    """
    Import charges: CSV, spreadsheet, JSON lines, or a bank's return file.

    Encoding, delimiter, header and the names of the columns are detected: id,
    cliente, CPF/CNPJ, telefone, valor or saldo, vencimento, and so on, and those of
    the ERPs of [bold]--profile[/bold]. --map names other columns. Lines that are paid or
    cancelled in the file are paid or cancelled here. Wrong lines are refused with
    their number, and the others are imported; the exit code is then 1.

    The same file again changes nothing. Charges that the file does not name stay,
    unless you say --full-snapshot. Nothing is sent about the days before a charge was
    known. A return file (CNAB 240 or 400) is detected, and its payments are recorded.

    [bold]Examples[/bold]

    ifinu charge import titulos.xlsx --dry-run
    ifinu charge import titulos.csv --refused refused.csv --map "Contato=telefone"
    ifinu charge import se1.csv --tenant u1 --profile protheus --full-snapshot
    ifinu charge import CB301101.RET
    """
    now = datetime.now(UTC)
    report = Report(as_json=as_json)
    name = "stdin" if file == "-" else file
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.sigterm_interrupts())
        source = _Hashed(stack.enter_context(files.source(file)))
        engine = stack.enter_context(billing_database.database())
        with engine.connect() as opened:
            whose = billing_database.tenant_of(opened, tenant)
        if bank_returns.is_return_file(source.beginning):
            payments = _Payments(engine, whose, report, now, dry_run=dry_run)
            payments.read(source)
            run: _Import | _Payments = payments
        else:
            fields = fields_of(profile, mapped or ())
            table = Table(source, fields, name=name, form=form, sheet=sheet)  # type: ignore[arg-type] # it can be read
            copy = stack.enter_context(RefusedCopy(refused, table.header))
            bar = stack.enter_context(Bar(source.file, show=not as_json))
            reader = LineReader(
                whose.id,
                whose.zone,
                fields,
                provider=provider,
                known_on=_EVERY_STEP if overdue is Overdue.LAST else None,
            )
            lines = _Import(engine, whose, table, reader, report, copy, now, dry_run=dry_run)
            lines.read(bar.over(report.over(table, 1)))
            lines.note(source.digest(), profile)
            if full_snapshot:
                lines.settle_absent(absent, as_json=as_json)
            run = lines
        if not dry_run:
            billing_database.cancel_in_redis(engine)
    if as_json:
        report.print_json({**run.counts(), "dry_run": dry_run})
    else:
        report.print(run.words(), "--refused FILE keeps them all, --json lists them")
    if report.refused:
        raise typer.Exit(1)


class _Hashed:
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

    def digest(self) -> str:
        return self._hash.hexdigest()


class _Import:
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
        self._totals = 0
        self._done = Imported()
        self._settled: dict[str, int] = {}

    def read(self, records: Iterator[Record]) -> None:
        while chunk := list(itertools.islice(records, _CHUNK)):
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
            self._report.warn(f"the same file was imported at {before:%Y-%m-%d %H:%M} UTC; it changes nothing twice")
        if self._totals:
            self._report.warn(f"rows with totals, skipped: {self._totals:,}")

    def settle_absent(self, absent: Absent, *, as_json: bool) -> None:
        """
        Treat the open charges that the file does not name.

        Raises:
            ConfigurationError: A line without a readable id was refused: it may name one of them.
        """
        if self._nameless:
            raise ConfigurationError(
                f"{self._nameless:,} refused lines have no id that can be read, so it is not known which charges the "
                "file does not name; the others were imported. Correct these lines and import the file again"
            )
        with self._transaction() as connection:
            ids = charge_import.absent(connection, self._tenant.id, self._ids)
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
        parts += [
            f"{count:,} {verb}{what}" for what, count in (("paid", done.paid), ("cancelled", done.cancelled)) if count
        ]
        if done.skipped:
            parts.append(f"{done.skipped:,} skipped, as they had ended")
        if done.late:
            parts.append(f"{done.late:,} late already: nothing is sent about the days before today")
        parts += [f"{count:,} {name.replace('_', ' ')}" for name, count in self._settled.items()]
        return ", ".join(parts)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.begin() as transaction:
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
        if line is None:
            self._totals += 1
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
        if absent is not Absent.ASK or self._dry_run:
            return Absent.KEEP if self._dry_run else absent
        if as_json or not terminal.is_there_somebody():
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


class _Payments:
    """Records the payments of a bank's return file."""

    def __init__(self, engine: Engine, tenant: Tenant, report: Report, now: datetime, *, dry_run: bool) -> None:
        self._engine = engine
        self._tenant = tenant
        self._report = report
        self._now = now
        self._dry_run = dry_run
        self._states: Counter[str] = Counter()

    def read(self, source: _Hashed) -> None:
        for found in bank_returns.settlements(io.BytesIO(source.read())):
            if isinstance(found, tuple):
                line, error = found
                self._report.refuse(Record(line, b""), error)
                continue
            with self._engine.connect() as connection, connection.begin() as transaction:
                self._states[charge_import.settle(connection, self._tenant, found, self._now)] += 1
                if self._dry_run:
                    transaction.rollback()

    def counts(self) -> dict[str, Any]:
        return dict(self._states)

    def words(self) -> str:
        return ", ".join(f"{count:,} {state}" for state, count in sorted(self._states.items())) or "no payments"
