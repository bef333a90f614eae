"""`ifinu migrate` and `ifinu recorder`: the ledger's tables, and what writes them."""

from __future__ import annotations

import threading

from ifinu import logs, settings
from ifinu.cli import connection, terminal
from ifinu.cli.signals import set_by_signals


def migrate(as_json: terminal.Json = False) -> None:
    """
    Bring the ledger's tables to the form that this version needs.

    To be run before new workers are: what is here only adds to the tables, so
    that the old ones go on meanwhile. It is safe to run twice, and at the same
    time. A ledger in SQLite is migrated by the worker itself. A database that
    cannot be reached is tried for 30 seconds.

    [bold]Examples[/bold]

    ifinu migrate
    IFINU_DATABASE_URL=postgresql://ifinu@db/ifinu ifinu migrate --json
    """
    from ifinu.ledger.migrate import migrate as bring_to_head

    with connection.ledger(create=True) as ledger:
        connection.reach(lambda: connection.ask_ledger(ledger))
        before, after = bring_to_head(ledger)
    changed = before != after
    words = f"went from {before or 'nothing'} to {after}" if changed else f"is at {after} already"
    terminal.answer({"before": before, "after": after, "changed": changed}, f"The ledger {words}.", as_json=as_json)


def recorder() -> None:
    """
    Write the ledger, alone and in the foreground.

    Workers do so themselves unless [bold]IFINU_RECORDER=false[/bold]. One of
    all records at a time; another one waits, and says for whom. While Redis or
    the database is away it waits too, and what happened stays in Redis. SIGTERM
    ends it in order. At the port [bold]IFINU_METRICS_PORT[/bold], if that is set,
    Prometheus finds how far it is.

    [bold]Examples[/bold]

    ifinu recorder
    IFINU_LOG_FORMAT=json ifinu recorder
    """
    from ifinu.ledger.progress import Progress
    from ifinu.ledger.standby import stand_by
    from ifinu.metrics import endpoint, recorder_series

    config = settings.load()
    logs.configure(config.log_level, config.log_format, config.log_limit)
    stop, progress, series = threading.Event(), Progress(), endpoint.registry()
    recorder_series.RecorderSeries(series, progress)
    with set_by_signals(stop), connection.broker() as client, endpoint.serving(series, config.metrics_port):
        stand_by(client, config, stop, progress)
