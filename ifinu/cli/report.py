"""`ifinu report`: what the régua sent, what it did not send and why, and what was paid after it."""

from __future__ import annotations

import calendar
import contextlib
import csv
import enum
import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.console import Group

from ifinu.cli import billing_database, billing_view, terminal
from ifinu.cli.billing_view import brl, written
from ifinu.errors import ConfigurationError
from ifinu.window import BRASILIA

app = typer.Typer(no_args_is_help=True, help="Report what was sent and what was paid.")


class By(enum.StrEnum):
    """What the steps are grouped by."""

    DAY = "day"
    STEP = "step"
    KIND = "kind"
    TENANT = "tenant"
    TEXT = "text"


Grouped = Annotated[By | None, typer.Option("--by", help="Group by this; a day by kind, a month by day.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")]
_FIGURES = ("steps", "sent", "delivered", "read", "failed", "waiting", "merged")


@app.command()
def day(
    at: Annotated[
        str | None, typer.Argument(metavar="[DAY]", help="2026-12-01 or 01/12/2026; today by default.")
    ] = None,
    tenant: billing_database.TenantId = None,
    by: Grouped = None,
    as_csv: Csv = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Report one day: planned, sent, delivered, read, waiting, and not sent by reason.

    Without --tenant it is about all tenants.

    [bold]Examples[/bold]

    ifinu report day
    ifinu report day 2026-12-01 --tenant u1 --by step
    ifinu report day --json
    """
    which = billing_view.day(at) if at else datetime.now(ZoneInfo(BRASILIA)).date()
    _report(which, which, tenant, by or By.KIND, as_csv=as_csv, as_json=as_json)


@app.command()
def month(
    which: Annotated[
        str | None, typer.Argument(metavar="[MONTH]", help="2026-12 or 12/2026; this month by default.")
    ] = None,
    tenant: billing_database.TenantId = None,
    by: Grouped = None,
    as_csv: Csv = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Report one month: its days, what was paid after which notice, and the open charges.

    Without --tenant it is about all tenants.

    [bold]Examples[/bold]

    ifinu report month
    ifinu report month 2026-11 --tenant u1 --by step --csv > november.csv
    """
    first = _first_of(which) if which else datetime.now(ZoneInfo(BRASILIA)).date().replace(day=1)
    last = first.replace(day=calendar.monthrange(first.year, first.month)[1])
    _report(first, last, tenant, by or By.DAY, as_csv=as_csv, as_json=as_json)


def _first_of(month: str) -> date:
    for form in ("%Y-%m", "%m/%Y"):
        with contextlib.suppress(ValueError):
            return datetime.strptime(month, form).date()  # noqa: DTZ007 - a month has no zone
    raise ConfigurationError(f"{month!r} is no month; write 2026-12 or 12/2026")


def _report(first: date, last: date, tenant: str | None, by: By, *, as_csv: bool, as_json: bool) -> None:
    from ifinu.billing import reports, tenants

    with billing_database.database() as engine, engine.connect() as connection:
        if tenant is not None:
            tenants.get(connection, tenant)
        notices = reports.notices(connection, first, last, tenant=tenant, by=by)
        recovered = reports.recovered(connection, first, last, tenant=tenant)
        portfolio = reports.portfolio(connection, tenant=tenant)
    if as_csv:
        _print_csv(notices, by)
        return
    document = {
        "first": first.isoformat(),
        "last": last.isoformat(),
        "tenant": tenant,
        "by": by.value,
        "notices": [asdict(each) for each in notices],
        "recovered": [{**asdict(each), "amount": str(each.amount)} for each in recovered],
        "charges": {each.status: {"charges": each.charges, "amount": str(each.amount)} for each in portfolio},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    terminal.answer(document, _words(first, last, notices, recovered, portfolio, by), as_json=as_json)


def _words(first: date, last: date, notices: Any, recovered: Any, portfolio: Any, by: By) -> Group:
    span = written(first) if first == last else f"{written(first)} to {written(last)}"
    table = terminal.columns(by.value, *_FIGURES, "not sent", right=_FIGURES)
    total: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for each in notices:
        total.update({name: getattr(each, name) for name in _FIGURES})
        reasons.update(each.not_sent)
        group = written(date.fromisoformat(each.group)) if by is By.DAY else each.group
        table.add_row(terminal.plain(group), *(f"{getattr(each, name):,}" for name in _FIGURES), _listed(each.not_sent))
    if len(notices) > 1:
        table.add_row("[bold]all[/bold]", *(f"{total[name]:,}" for name in _FIGURES), _listed(reasons))
    parts: list[Any] = [f"[bold]Steps planned for {span}[/bold]", table if notices else "none"]
    if recovered:
        paid = terminal.columns(
            "last notice", "charges", "amount", "in 1 day", "in 3 days", "in 7 days",
            right=("charges", "amount", "in 1 day", "in 3 days", "in 7 days"),
        )  # fmt: skip
        for one in recovered:
            paid.add_row(
                terminal.plain(one.step), f"{one.charges:,}", brl(one.amount), f"{one.within_1:,}",
                f"{one.within_3:,}", f"{one.within_7:,}",
            )  # fmt: skip
        parts += ["", "[bold]Paid after a notice[/bold]", paid]
    if portfolio:
        charges = terminal.columns("charges", "number", "amount", right=("number", "amount"))
        for status in portfolio:
            charges.add_row(status.status, f"{status.charges:,}", brl(status.amount))
        parts += ["", "[bold]All charges now[/bold]", charges]
    return Group(*parts)


def _listed(reasons: Any) -> str:
    return ", ".join(f"{reason} {times:,}" for reason, times in sorted(reasons.items(), key=lambda one: -one[1]))


def _print_csv(notices: Any, by: By) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    reasons = sorted({reason for each in notices for reason in each.not_sent})
    out.writerow([by.value, *_FIGURES, *(f"not_sent_{reason}" for reason in reasons)])
    for each in notices:
        figures = [getattr(each, name) for name in _FIGURES]
        out.writerow([each.group, *figures, *(each.not_sent.get(reason, 0) for reason in reasons)])
