"""`ifinu worker`: runs one worker in this process."""

from __future__ import annotations

from typing import Annotated

import typer

from ifinu import settings


def worker(
    concurrency: Annotated[int | None, typer.Option(help="Number of concurrent sends.")] = None,
    rate_limit: Annotated[str | None, typer.Option(metavar="RATE", help="Pace: 50/s, 3000/m, 100/h.")] = None,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the worker, in Celery and at the gateway.")] = None,
) -> None:
    """
    Run a worker: it sends the messages on the queues.

    Options override [bold]IFINU_CONCURRENCY[/bold], [bold]IFINU_RATE_LIMIT[/bold] and so on. Without
    options it is the same as [bold]celery -A ifinu worker[/bold]. On SIGTERM it finishes the
    sends under way and returns the other messages to their queues. While Redis is
    away it waits.

    [bold]Examples[/bold]

    ifinu worker
    ifinu worker --concurrency 20 --rate-limit 100/s --name worker-1
    """
    config = settings.load(concurrency=concurrency, rate_limit=rate_limit, log_level=log_level, worker_name=name)
    # Celery's whole command line would also load its other commands, a shell and Flower.
    from celery.bin.base import CLIContext
    from celery.bin.worker import worker as run

    from ifinu.worker.app import app

    app.use(config)
    app.delivery  # noqa: B018 - reports a missing API key now, not with the first message
    # Not `app.worker_main`, which loses the exit code.
    arguments = ["--hostname", f"{name}@%h"] if name else []
    context = CLIContext(app, no_color=False, workdir=None)
    raise typer.Exit(run.main(args=arguments, obj=context, standalone_mode=False) or 0)
