"""`ifinu charge import`: charges from a file, and payments from a bank's return file."""

from __future__ import annotations

import contextlib
import enum
from datetime import UTC, datetime
from typing import Annotated

import typer

from ifinu.billing.charge_files.bank_returns import BANK
from ifinu.billing.charge_files.charge_columns import Profile, fields_of
from ifinu.cli import billing_database, files, signals, terminal
from ifinu.cli.record_files import Bar, File, Form, Mapped, Refusals, RefusedCopy, Report, Sheet
from ifinu.errors import ConfigurationError
from ifinu.tables import Table


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
    ] = BANK,
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
    from ifinu.billing.charge_files.charge_lines import LineReader
    from ifinu.billing.planner import EVERY_STEP
    from ifinu.cli.charge.file_import import HashedFile, ReturnFile, TableFile

    now = datetime.now(UTC)
    report = Report(as_json=as_json)
    name = "stdin" if file == "-" else file
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.sigterm_interrupts())
        source = HashedFile(stack.enter_context(files.source(file)))
        engine = stack.enter_context(billing_database.database())
        with engine.connect() as opened:
            whose = billing_database.tenant_of(opened, tenant)
        if source.is_bank_file:
            if full_snapshot:
                raise ConfigurationError("--full-snapshot: a bank's file has payments, and does not name all charges")
            payments = ReturnFile(engine, whose, report, now, dry_run=dry_run)
            payments.read(source)
            run: TableFile | ReturnFile = payments
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
                known_on=EVERY_STEP if overdue is Overdue.LAST else None,
            )
            lines = TableFile(engine, whose, table, reader, report, copy, now, dry_run=dry_run)
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
