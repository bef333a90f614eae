"""`ifinu metrics`: exports the state of Redis, the ledger and the gateway to Prometheus."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from ifinu import logs, settings, sockets
from ifinu.cli import connection, terminal
from ifinu.cli.signals import set_by_signals

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = structlog.get_logger(__name__)

PORT = 9464
_NUMBERS_EVERY_S = 15.0  # each poll asks for every number
_LEDGER_EVERY_S = 60.0  # each poll counts rows
_GATEWAY_EVERY_S = 30.0  # each poll asks every instance
_GATEWAY_CONNECT_S = 5.0
_GATEWAY_ANSWER_S = 10.0


def metrics(
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            help=f"Port to listen on; 0 takes a free one. By default IFINU_METRICS_PORT, or {PORT}.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; :: is every address, IPv6 and IPv4.")
    ] = sockets.EVERY,
    once: Annotated[bool, typer.Option("--once", help="Print the metrics of Redis once, and exit.")] = False,
) -> None:
    """
    Export the state of Redis, the ledger and the gateway to Prometheus.

    Workers, [bold]ifinu webhook[/bold] and [bold]ifinu recorder[/bold] export their own work, each on its
    IFINU_METRICS_PORT. This exporter reports what they share, even while none of
    them runs: backlog, delayed, in flight, dead letters, the age of the oldest
    message, notifications in doubt, registered numbers, the ledger's lag, and the
    health of Redis, the ledger and the gateway. Run one. SIGTERM stops it.

    [bold]Examples[/bold]

    ifinu metrics
    ifinu metrics --port 9000
    ifinu metrics --once | grep ifinu_queue_backlog
    """
    from prometheus_client import CollectorRegistry, generate_latest

    from ifinu.metrics import endpoint, polls
    from ifinu.metrics.redis_series import RedisCollector

    config = settings.load()
    if once:
        with connection.broker() as client:
            client.ping()  # without this, a Redis that is away would end as a metric instead of an error
            series = CollectorRegistry()
            RedisCollector(series, client)
            polls.numbers(series, client, every_s=_NUMBERS_EVERY_S).poll()
            terminal.results().file.write(generate_latest(series).decode())
        return
    logs.configure(config.log_level, config.log_format, config.log_limit)
    wanted = port if port is not None else config.metrics_port if config.metrics_port is not None else PORT
    stop, series = threading.Event(), endpoint.registry()
    with set_by_signals(stop), contextlib.ExitStack() as running:
        client = running.enter_context(connection.broker())
        RedisCollector(series, client)
        running.enter_context(polls.numbers(series, client, every_s=_NUMBERS_EVERY_S))
        _ask_others(series, config, running)
        at = running.enter_context(endpoint.serving(series, wanted, host))
        log.info("ifinu.metrics.endpoint", host=host, port=at)
        while not stop.wait(1.0):  # bounded, since a signal just before the wait would not end it
            pass


def _ask_others(series: CollectorRegistry, config: settings.Settings, running: contextlib.ExitStack) -> None:
    """Poll the ledger and, if its key is set, the gateway."""
    from ifinu.gateway import management_of
    from ifinu.metrics import polls

    engine = running.enter_context(connection.ledger())
    running.enter_context(polls.ledger(series, engine, every_s=_LEDGER_EVERY_S))
    if config.evolution_api_key is not None:
        whole = management_of(
            config, worker="metrics", connect_timeout_s=_GATEWAY_CONNECT_S, read_timeout_s=_GATEWAY_ANSWER_S
        )
        running.callback(whole.close)
        running.enter_context(polls.gateway(series, whole, every_s=_GATEWAY_EVERY_S))
