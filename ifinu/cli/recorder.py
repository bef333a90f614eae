"""`ifinu migrate` and `ifinu recorder`: the ledger's tables, and what writes them."""

from __future__ import annotations

import threading

from ifinu import logs, settings
from ifinu.cli import connection, terminal
from ifinu.cli.stopping import set_by_signals


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
    if as_json:
        terminal.print_json({"before": before, "after": after, "changed": before != after})
    elif before == after:
        terminal.results().print(f"The ledger is at {after} already.")
    else:
        terminal.results().print(f"The ledger went from {before or 'nothing'} to {after}.")


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
    from ifinu.metrics import recording, serving

    chosen = settings.load()
    logs.configure(chosen.log_level, chosen.log_format, chosen.log_limit)
    stop, progress, series = threading.Event(), Progress(), serving.registry()
    recording.Recording(series, progress)
    with set_by_signals(stop), connection.broker() as client, serving.serving(series, chosen.metrics_port):
        stand_by(client, chosen, stop, progress)
