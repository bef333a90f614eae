"""
Planning of the régua: a usual day, on which 3 % of the open charges have a step, and the worst, on which all have one.

    python bench/regua.py [--charges 1000000] [--json FILE]

Each day is planned on a PostgreSQL of its own by one planner and by two at once, in chunks, each a transaction. The
charges belong to half as many customers of a hundred tenants. Reported are the time, the charges a second, the slowest
chunk, and the most memory of the Python process. Whether a charge takes longer in the last fifth of the chunks than in
the first shows if the cost grows. The exit code is 1 if a million charges would take longer than a minute in the worst
case, or 10 s on a usual day.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import report
import usage
from report import table
from sqlalchemy import Engine, create_engine, make_url, text

from ifinu.billing import calendars, planner, rules
from ifinu.embedded import Postgres
from ifinu.ledger.engine import connect
from ifinu.ledger.migrate import migrate

MOST_S = {"usual": 10.0, "worst": 60.0}  # for a million
DAY = date(2026, 12, 10)  # a Thursday
NOW = datetime(2026, 12, 10, 0, 1, tzinfo=ZoneInfo("America/Sao_Paulo"))
_TENANTS = 100
_USUAL_OF_100 = 3

# Due on the day, or a month later: long known, so that all that is decided on the day is its own.
_FILL = """
INSERT INTO billing_tenants (id, legal_name, uf, rule_id)
SELECT 't' || n, 'Academia Fit LTDA', 'SP', {rule} FROM generate_series(0, {tenants} - 1) n;
INSERT INTO customers (tenant, id, name, phone, calendar_id)
SELECT 't' || n % {tenants}, 'k' || n, 'Ana', '+55119' || lpad(n::text, 8, '0'), {calendar}
  FROM generate_series(0, {charges} / 2) n;
INSERT INTO charges (tenant, id, customer_id, amount, due_date, payable_on, late_from, known_on)
SELECT 't' || n / 2 % {tenants}, 'c' || n, 'k' || n / 2, 149.90, d, d, d + 1, DATE '2026-01-01'
  FROM generate_series(0, {charges} - 1) n
 CROSS JOIN LATERAL (SELECT DATE '{day}' + CASE WHEN n % 100 < {of_100} THEN 0 ELSE 32 END AS d) x;
INSERT INTO agenda (charge_seq, tenant, next_on)
SELECT seq, tenant, CASE WHEN due_date = DATE '{day}' THEN due_date ELSE due_date - 3 END FROM charges;
INSERT INTO intents (charge_seq, step, due_date, id, tenant, customer_id, kind, channel, planned_on, state, queued_at)
SELECT seq, 'l3', due_date, 'c' || seq || '.l3.261210', tenant, customer_id, 'lembrete', 'whatsapp', due_date - 3,
       'queued', now()
  FROM charges WHERE due_date = DATE '{day}';
"""


class Run(NamedTuple):
    """The measurements of one planned day."""

    day: str
    planners: int
    charges: int
    planned: int
    took_s: float
    slowest_s: float
    growth: float  # of the time for a charge, from the first fifth of the chunks to the last
    memory_mib: float

    @property
    def per_s(self) -> float:
        return self.charges / self.took_s


def filled(server: Postgres, name: str, charges: int, of_100: int) -> Engine:
    """A database with open charges, of which some of a hundred have a step on the day."""
    url = make_url(server.url)
    with contextlib.closing(create_engine(url, isolation_level="AUTOCOMMIT").raw_connection()) as raw:
        raw.cursor().execute(f"CREATE DATABASE {name}")
    engine = connect(url.set(database=name).render_as_string(hide_password=False))
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        calendar = calendars.calendar_id(connection, window_spec="lei-sp", uf="SP", today=DAY - timedelta(days=1))
        made = _FILL.format(rule=rules.default(connection), tenants=_TENANTS, calendar=calendar, charges=charges,
                            day=DAY, of_100=of_100)  # fmt: skip
        connection.execute(text(made))
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))
    return engine


def measure(engine: Engine, day: str, planners: int) -> Run:
    totals: list[planner.Planned] = []
    times: list[list[tuple[float, int]]] = []
    memory: list[float] = []

    def work() -> None:
        total, mine = planner.Planned(), list[tuple[float, int]]()
        while True:
            began = time.monotonic()
            with engine.begin() as connection:
                found = planner.plan(connection, NOW)
            memory.append(usage.of(os.getpid())[0].memory_mib)
            if not found.charges:
                break
            total += found
            mine.append((time.monotonic() - began, found.charges))
        totals.append(total)
        times.append(mine)

    threads = [threading.Thread(target=work) for _ in range(planners)]
    began = time.monotonic()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    took_s = time.monotonic() - began
    whole = sum(totals, planner.Planned())
    longest = max(times, key=len)
    fifth = max(1, len(longest) // 5)
    last, first = (sum(s for s, _ in part) / sum(n for _, n in part) for part in (longest[-fifth:], longest[:fifth]))
    slowest = max(s for each in times for s, _ in each)
    return Run(day, planners, whole.charges, whole.planned, took_s, slowest, last / first, max(memory))


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--charges", type=int, default=100_000)
    return made


def main() -> int:
    given = parser().parse_args()
    progress, runs = report.Progress(), list[Run]()
    with tempfile.TemporaryDirectory(prefix="ifinu-bench-") as root:
        Path(root).chmod(0o755)  # PostgreSQL runs as another account
        for day, of_100 in (("usual", _USUAL_OF_100), ("worst", 100)):
            for planners in (1, 2):
                name = f"{day}_{planners}"
                with Postgres(Path(root) / name) as server:
                    progress.step(f"{day} day, {planners} at once: {given.charges:,} charges")
                    engine = filled(server, name, given.charges, of_100)
                    runs.append(measure(engine, day, planners))
                    engine.dispose()
    progress.end()
    table(
        ("day, planners", "charges", "messages", "s", "charges/s", "slowest chunk s", "last / first", "memory MiB"),
        [
            (
                f"{run.day}, {run.planners}", f"{run.charges:,}", f"{run.planned:,}", f"{run.took_s:.1f}",
                f"{run.per_s:,.0f}", f"{run.slowest_s:.1f}", f"{run.growth:.2f}", f"{run.memory_mib:.0f}",
            )
            for run in runs
        ],
    )  # fmt: skip
    report.write(given, {"runs": [{**run._asdict(), "per_s": run.per_s} for run in runs]})
    in_time = all(run.took_s / given.charges * 1_000_000 <= MOST_S[run.day] for run in runs)
    return 0 if in_time else 1


if __name__ == "__main__":
    sys.exit(main())
