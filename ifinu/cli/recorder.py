"""`ifinu migrate` and `ifinu recorder`: migrate the ledger's tables, and write them."""

from __future__ import annotations

import functools
import threading

from ifinu import logs, settings
from ifinu.cli import connection, terminal
from ifinu.cli.signals import set_by_signals


def migrate(as_json: terminal.Json = False) -> None:
    """
    Migrate the ledger's tables to this version.

    Run it before you start new workers: migrations only add to the tables, so that
    old workers keep running meanwhile. It is safe to run it twice, also in parallel.
    A worker migrates a ledger in SQLite by itself. A database that cannot be reached
    is tried for 30 seconds.

    [bold]Examples[/bold]

    ifinu migrate
    IFINU_DATABASE_URL=postgresql://ifinu@db/ifinu ifinu migrate --json
    """
    from ifinu.ledger.migrate import migrate as upgrade

    with connection.ledger(create=True) as ledger:
        connection.reach(lambda: connection.ask_ledger(ledger))
        before, after = upgrade(ledger)
    changed = before != after
    words = f"was migrated from {before or 'nothing'} to {after}" if changed else f"is at {after} already"
    terminal.answer({"before": before, "after": after, "changed": changed}, f"The ledger {words}.", as_json=as_json)


def recorder() -> None:
    """
    Write the ledger, in the foreground.

    Workers also write it unless [bold]IFINU_RECORDER=false[/bold]. Only one recorder writes at
    a time; the others stand by and log who the leader is. While Redis or the
    database is away it waits, and the events stay in Redis. Once a minute it runs
    the guard ([bold]ifinu guard[/bold]) over the registered numbers. SIGTERM stops it cleanly.
    Prometheus scrapes its progress on the port [bold]IFINU_METRICS_PORT[/bold], if that is set.

    [bold]Examples[/bold]

    ifinu recorder
    IFINU_LOG_FORMAT=json ifinu recorder
    """
    from ifinu.ledger.progress import Progress
    from ifinu.ledger.standby import record, stand_by
    from ifinu.metrics import endpoint, recorder_series
    from ifinu.numbers.guarded_recorder import guarding

    config = settings.load()
    logs.configure(config.log_level, config.log_format, config.log_limit)
    stop, progress, series = threading.Event(), Progress(), endpoint.registry()
    recorder_series.RecorderSeries(series, progress)
    with set_by_signals(stop), connection.broker() as client, endpoint.serving(series, config.metrics_port):
        beside = guarding(config, progress)
        stand_by(client, stop, functools.partial(record, client, config, stop, progress, beside=beside))
