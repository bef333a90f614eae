"""`ifinu status`: how many messages are where, who works on them, and whether the gateway is there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import redis
import typer
from rich.console import Group, RenderableType
from rich.live import Live

from ifinu import settings
from ifinu.cli import backlog, connection, terminal
from ifinu.cli.backlog import Backlog
from ifinu.cli.durations import span
from ifinu.errors import GatewayError
from ifinu.settings import Settings

_EVERY_S = 1.0
_PING_S = 1.0
_GATEWAY_S = 3.0


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, once a second, until Ctrl-C.")] = False,
    workers: Annotated[bool, typer.Option("--workers", help="Ask the workers who is there; takes a second.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Show how many messages are where.

    Ready can be taken now; delayed waits for a retry or its time; in flight is
    held by a worker; dead will not be sent (see [bold]ifinu dlq list[/bold]).

    [bold]Examples[/bold]

    ifinu status
    ifinu status --watch --workers
    ifinu status --json | jq '.queues[].ready'
    """
    chosen = settings.load()
    with connection.broker() as client:
        if not watch:
            found = _look(client, chosen, ask_workers=workers)
            if as_json:
                terminal.print_json(found)
            else:
                terminal.results().print(_picture(found))
        elif as_json:
            while True:
                terminal.print_json(_look(client, chosen, ask_workers=workers))
                time.sleep(_EVERY_S)
        else:
            with Live(console=terminal.results(), auto_refresh=False) as live:
                while True:
                    live.update(_picture(_look(client, chosen, ask_workers=workers)), refresh=True)
                    time.sleep(_EVERY_S)


def queue_table(queues: Sequence[Backlog]) -> RenderableType:
    """One row a queue."""
    figures = ("ready", "delayed", "next due in", "in flight", "dead")
    table = terminal.columns("queue", *figures, "", right=figures, whole=("queue",))
    for queue in queues:
        due = "" if queue.next_due_in_s is None else span(queue.next_due_in_s)
        counts = (queue.ready, queue.delayed, due, queue.in_flight, queue.dead)
        paused = f"[yellow]paused since {terminal.plain(queue.paused_since)}[/]" if queue.paused_since else ""
        table.add_row(queue.queue, *(c if isinstance(c, str) else f"{c:,}" for c in counts), paused)
    return table


def gateway_state(chosen: Settings) -> str:
    """State of the default instance in a word, `unreachable` and `no key` among them."""
    from ifinu.gateway import Evolution

    if chosen.evolution_api_key is None:
        return "no key"
    key = chosen.evolution_api_key.get_secret_value()
    gateway = Evolution(
        chosen.evolution_url, key, connect_timeout_s=_GATEWAY_S, read_timeout_s=_GATEWAY_S, worker="status"
    )
    try:
        return gateway.connection_state(chosen.evolution_instance).value
    except GatewayError as exc:
        return "unreachable" if exc.status is None else f"HTTP {exc.status}"
    finally:
        gateway.close()


def _look(client: redis.Redis, chosen: Settings, *, ask_workers: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "queues": [queue.as_json() for queue in backlog.survey(client)],
        "gateway": {"instance": chosen.evolution_instance, "state": gateway_state(chosen)},
    }
    if ask_workers:
        from ifinu.worker.app import app

        found["workers"] = sorted(name for answer in app.control.ping(timeout=_PING_S) for name in answer)
    return found


def _picture(found: dict[str, Any]) -> RenderableType:
    gateway = found["gateway"]
    colour = "green" if gateway["state"] == "open" else "yellow"
    lines = [f"gateway: instance {terminal.plain(gateway['instance'])}, [{colour}]{gateway['state']}[/]"]
    if "workers" in found:
        there = ", ".join(found["workers"]) or "[yellow]none answered[/]"
        lines.append(f"workers: {there}")
    return Group(queue_table([Backlog(**queue) for queue in found["queues"]]), "", *lines)
