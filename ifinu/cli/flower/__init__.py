"""`ifinu flower`: shows tasks, workers and queues in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from ifinu import logs, settings
from ifinu.errors import ConfigurationError


def _is_a_prefix(value: str) -> str:
    path = value.strip("/")
    if not all(character.isalnum() or character in "-_./~" for character in path):
        raise typer.BadParameter("must be a path, as in --url-prefix /flower")
    return path


def flower(
    host: Annotated[
        str, typer.Option(help="Address to listen on; :: is every address, as a container needs.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 5555,
    url_prefix: Annotated[
        str, typer.Option(metavar="PATH", callback=_is_a_prefix, help="Path under which a proxy serves it.")
    ] = "",
    max_tasks: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Messages to keep in memory; the oldest are dropped.")
    ] = 10_000,
    allow_control: Annotated[
        bool,
        typer.Option("--allow-control", help="Let users revoke and send tasks, stop workers and change their pace."),
    ] = False,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = None,
) -> None:
    r"""
    Show tasks, workers and queues in a browser: Celery's Flower, made safe.

    Every request needs the user and password of [bold]IFINU_FLOWER_AUTH[/bold]; only
    /healthcheck is open. Put HTTPS in front of it on a shared network. It shows the
    id, kind and outcome of a message, and no phone, name or text. It is read-only
    unless you start it with --allow-control.

    Workers send task events only while it runs; that costs CPU time (docs/flower.md).
    It keeps the newest messages since its start in memory. Use [bold]ifinu show[/bold] for the
    outcome of one message, and /metrics for alerts.

    It needs an extra: pip install 'ifinu\[flower]'. SIGTERM stops it cleanly.

    [bold]Examples[/bold]

    export IFINU_FLOWER_AUTH=ops:$(openssl rand -hex 16)
    ifinu flower
    ifinu flower --host :: --port 8080 --url-prefix /flower
    """
    config = settings.load(log_level=log_level)
    if config.flower_auth is None:
        raise ConfigurationError(
            "IFINU_FLOWER_AUTH is not set: it is the user:password for the login; "
            "make one with: echo ops:$(openssl rand -hex 16)"
        )
    try:
        from ifinu.cli.flower.site import serve
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("flower", "tornado", "humanize", "pytz"):
            raise
        raise ConfigurationError("Flower is not installed: pip install 'ifinu[flower]'") from exc
    from ifinu.worker.app import app

    app.use(config)
    logs.configure(config.log_level, config.log_format, config.log_limit)
    serve(
        app,
        login=config.flower_auth.get_secret_value(),
        host=host,
        port=port,
        url_prefix=url_prefix,
        max_tasks=max_tasks,
        controls=allow_control,
    )
