"""`ifinu status`: how many messages are where, what became of them, who works on them, and is the gateway there."""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import redis
import typer
from rich.console import Group, RenderableType
from rich.live import Live

from ifinu import settings
from ifinu.cli import backlog, connection, durations, recorded, terminal
from ifinu.cli.backlog import Backlog
from ifinu.cli.durations import span
from ifinu.errors import GatewayError
from ifinu.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

_EVERY_S = 1.0
_LEDGER_EVERY_S = 10.0  # counting is work for a database
_PING_S = 1.0
_GATEWAY_S = 3.0


class Grouping(enum.StrEnum):
    """What `--by` takes: the names of `ledger.queries.By`, which is not loaded for help."""

    STATE = "state"
    KIND = "kind"
    TENANT = "tenant"
    INSTANCE = "instance"
    HOUR = "hour"


def status(
    by: Annotated[Grouping, typer.Option("--by", help="What the ledger counts by.")] = Grouping.STATE,
    since: Annotated[
        timedelta | None,
        typer.Option(parser=durations.parse, metavar="AGE", help="How far back it counts; by default 24h."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, once a second, until Ctrl-C.")] = False,
    workers: Annotated[bool, typer.Option("--workers", help="Ask the workers who is there; takes a second.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Show how many messages are where, and what became of those of the last day.

    Ready can be taken now; delayed waits for a retry or its time; in flight is
    held by a worker; dead will not be sent (see [bold]ifinu dlq list[/bold]).

    [bold]Examples[/bold]

    ifinu status
    ifinu status --by tenant --since 7d
    ifinu status --watch --workers
    ifinu status --json | jq '.queues[].ready'
    """
    chosen = settings.load()
    with connection.broker() as client, connection.ledger() as engine:
        ledger = _Ledger(engine, by, since or timedelta(days=1))

        def look() -> dict[str, Any]:
            return _look(client, ledger, chosen, ask_workers=workers)

        if not watch:
            found = look()
            if as_json:
                terminal.print_json(found)
            else:
                terminal.results().print(_picture(found))
        elif as_json:
            while True:
                terminal.print_json(look())
                time.sleep(_EVERY_S)
        else:
            with Live(console=terminal.results(), auto_refresh=False) as live:
                while True:
                    live.update(_picture(look()), refresh=True)
                    time.sleep(_EVERY_S)


class _Ledger:
    """What the ledger counts, asked now and then."""

    def __init__(self, engine: Engine, by: Grouping, length: timedelta) -> None:
        self._engine = engine
        self._by = by
        self._length = length
        self._found: dict[str, Any] = {}
        self._asked_at = float("-inf")

    def counts(self) -> dict[str, Any]:
        from ifinu.ledger.queries import By

        if time.monotonic() - self._asked_at > _LEDGER_EVERY_S:
            self._found = recorded.look(self._engine, By(self._by.value), self._length)
            self._asked_at = time.monotonic()
        return self._found


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


def _look(client: redis.Redis, ledger: _Ledger, chosen: Settings, *, ask_workers: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "queues": [queue.as_json() for queue in backlog.survey(client)],
        "gateway": {"instance": chosen.evolution_instance, "state": gateway_state(chosen)},
        "unknown": recorded.unknown(client),
        "ledger": {"waiting": recorded.waiting(client), "recorded": recorded.is_recorded(client), **ledger.counts()},
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
    table = queue_table([Backlog(**queue) for queue in found["queues"]])
    return Group(table, "", *lines, "", *recorded.picture(found["ledger"], found["unknown"]))
