"""`ifinu scheduler`: plan and push the messages about charges."""

from __future__ import annotations

import functools
import threading
from typing import Annotated

import typer

from ifinu import logs, settings
from ifinu.cli import connection, terminal
from ifinu.cli.billing_database import database, require_postgresql
from ifinu.cli.signals import set_by_signals


def scheduler(
    once: Annotated[bool, typer.Option("--once", help="Do everything that is due now, and end.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Plan the messages about charges, and push those that are due to the queues.

    Any number of schedulers may run at once. Each also marks what is overdue, makes
    the charges of recurrences, and repairs what a Redis that lost its data has
    forgotten. While Redis or PostgreSQL is away it waits. SIGTERM stops it cleanly.
    Prometheus scrapes its progress on the port [bold]IFINU_METRICS_PORT[/bold], if that is set.

    [bold]Examples[/bold]

    ifinu scheduler
    ifinu scheduler --once --json
    """
    from ifinu.billing.messages import compose
    from ifinu.billing.scheduler import Figures, Scheduler
    from ifinu.billing.texts import Texts
    from ifinu.broker import clock
    from ifinu.metrics import endpoint
    from ifinu.metrics.scheduler_series import SchedulerSeries
    from ifinu.render import Renderer

    config = settings.load()
    logs.configure(config.log_level, config.log_format, config.log_limit)
    renderer = Renderer(config.templates, reference=config.reference, codes_apart=config.pix_separate)
    with connection.broker() as client:
        make = functools.partial(
            Scheduler,
            client=client,
            clock=functools.partial(clock.now, client),
            claim_ttl_s=config.claim_ttl_s,
            retention_days=config.retention_days,
            compose=functools.partial(compose, texts=Texts(renderer)),
        )
        if once:
            with database() as engine:
                made = make(engine)
                made.once()
            done = made.figures.done
            words = f"{done['planned']} planned, {done['pushed']} pushed, {done['expired']} expired."
            terminal.answer(dict(done), words, as_json=as_json)
            return
        stop, figures, series = threading.Event(), Figures(), endpoint.registry()
        SchedulerSeries(series, figures)
        with (
            set_by_signals(stop),
            connection.ledger() as engine,  # waits for a database that is away or not migrated
            endpoint.serving(series, config.metrics_port),
        ):
            require_postgresql(engine)
            make(engine, figures=figures).run(stop)
