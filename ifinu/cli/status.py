"""`ifinu status`: the queues, the workers, the gateway, and what became of the messages."""

from __future__ import annotations

import contextlib
import enum
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import redis
import typer
from rich.console import Group, RenderableType
from rich.live import Live

from ifinu import settings
from ifinu.broker.redis_state import NEWEST_LETTERS, RedisState, StateReader
from ifinu.cli import connection, durations, ledger_status, terminal
from ifinu.cli.durations import span
from ifinu.errors import GatewayError
from ifinu.settings import Settings

if TYPE_CHECKING:
    from ifinu.cli.top.workers import Answers, Workers

_EVERY_S = 1.0
_LEDGER_EVERY_S = 10.0  # counting is work for a database
_SHOWN = 5  # reasons of dead letters, and names of instances
_GATEWAY_S = 3.0


class Grouping(enum.StrEnum):
    """The values of `--by`: the names of `ledger.queries.By`, which `--help` does not load."""

    STATE = "state"
    KIND = "kind"
    TENANT = "tenant"
    INSTANCE = "instance"
    HOUR = "hour"


def status(
    by: Annotated[Grouping, typer.Option("--by", help="Group the ledger's counts by this.")] = Grouping.STATE,
    since: Annotated[
        timedelta | None,
        typer.Option(parser=durations.parse, metavar="AGE", help="How far back to count; 24h by default."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Repeat every second, until Ctrl-C.")] = False,
    workers: Annotated[
        bool, typer.Option("--workers/--no-workers", help="Ask the workers too; takes up to a second.")
    ] = True,
    as_json: terminal.Json = False,
) -> None:
    """
    Show how many messages are in each state, and what became of the last day's.

    A ready message can be taken now; one in a lane waits for its number (shown once
    numbers are registered); a delayed one waits for a retry or its time;
    a worker holds one in flight; a dead one will not be sent (see [bold]ifinu dlq
    list[/bold]). If Redis, the ledger or the gateway does not answer, the rest is
    shown; without Redis the exit code is 3. [bold]ifinu top[/bold] shows rates.

    [bold]Examples[/bold]

    ifinu status
    ifinu status --by tenant --since 7d
    ifinu status --watch --no-workers
    ifinu status --json | jq '.queues[].ready'
    """
    from ifinu.cli.top.workers import Workers
    from ifinu.ledger.queries import By

    config = settings.load()
    with (
        connection.broker() as client,
        connection.ledger() as engine,
        Workers(config.redis_url.get_secret_value()) as fleet,
        ThreadPoolExecutor(2) as pool,  # for the workers and the gateway
    ):
        reader = StateReader(client)

        @functools.lru_cache(maxsize=1)
        def counts(_period: int) -> dict[str, Any]:
            return ledger_status.read(engine, By(by.value), since or timedelta(days=1))

        def read() -> tuple[dict[str, Any], redis.RedisError | None]:
            period = int(time.monotonic() / _LEDGER_EVERY_S)
            return _read(reader, lambda: counts(period), config, pool, fleet if workers else None)

        if not watch:
            found, away = read()
            terminal.answer(found, _render(found), as_json=as_json)
            if away is not None:
                raise away
        elif as_json:
            for _ in _seconds():
                terminal.print_json(read()[0])
        else:
            with Live(console=terminal.results(), auto_refresh=False) as live:
                for _ in _seconds():
                    live.update(_render(read()[0]), refresh=True)


def _seconds() -> Iterator[None]:
    while True:
        due_s = time.monotonic() + _EVERY_S
        yield
        time.sleep(max(0.0, due_s - time.monotonic()))


def queue_table(queues: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One row per queue, a `Backlog`'s document; with the age of its next message where it has `oldest_s`."""
    ages = ("oldest",) if any("oldest_s" in queue for queue in queues) else ()
    lanes = ("in lanes",) if any("in_lanes" in queue for queue in queues) else ()
    figures = ("ready", *ages, *lanes, "delayed", "next due in", "in flight", "dead")
    table = terminal.columns("queue", *figures, "", right=figures, whole=("queue",))
    for queue in queues:
        since = queue["paused_since"]
        counts = ("ready", "in lanes", "delayed", "in flight", "dead")
        cells = {name: f"{queue.get(name.replace(' ', '_'), 0):,}" for name in counts}
        for name, seconds in (("oldest", queue.get("oldest_s")), ("next due in", queue["next_due_in_s"])):
            cells[name] = "" if seconds is None else span(seconds)
        paused = f"[yellow]paused since {terminal.plain(since)}[/]" if since else ""
        table.add_row(queue["queue"], *(cells[name] for name in figures), paused)
    return table


def gateway_state(config: Settings) -> str:
    """The state of the default instance, or `unreachable`, `HTTP <status>` or `no key`."""
    from ifinu.gateway import management_of

    if config.evolution_api_key is None:
        return "no key"
    gateway = management_of(config, worker="status", connect_timeout_s=_GATEWAY_S, read_timeout_s=_GATEWAY_S)
    try:
        return gateway.connection_state(config.evolution_instance).value
    except GatewayError as exc:
        return "unreachable" if exc.status is None else f"HTTP {exc.status}"
    finally:
        gateway.close()


def _read(
    reader: StateReader,
    read_ledger: Callable[[], dict[str, Any]],
    config: Settings,
    pool: ThreadPoolExecutor,
    fleet: Workers | None,
) -> tuple[dict[str, Any], redis.RedisError | None]:
    """The document of `--json`, and the error if Redis did not answer."""
    from ifinu.cli.top.workers import AWAY

    asked = None if fleet is None else pool.submit(fleet.ask)
    gateway = pool.submit(gateway_state, config)
    state: RedisState | None = None
    away: redis.RedisError | None = None
    try:
        state = reader.read()
    except redis.RedisError as exc:
        away = exc
    counts = read_ledger()
    found: dict[str, Any] = {
        "redis": {"error": None if away is None else str(away)},
        "queues": [] if state is None else [
            {
                **queue.document(),
                "oldest_s": state.oldest_s[queue.queue],
                "dead_by_reason": dict(state.dead[queue.queue].most_common()),
            }
            for queue in state.queues
        ],
        "gateway": {"instance": config.evolution_instance, "state": gateway.result()},
        "unknown": state and state.unknown,
        "ledger": {"waiting": state and state.lag.events, "recorded": state and state.lag.recorded, **counts},
    }  # fmt: skip
    if asked is not None:
        answers: Answers | None = None
        with contextlib.suppress(redis.RedisError, *AWAY):
            answers = asked.result()
        found["workers"] = None if answers is None else sorted({name for name, _ in answers})
        found["snapshots"] = None if answers is None else [
            {"name": name, **answer} for (name, _), answer in sorted(answers.items())
        ]  # fmt: skip
        found["held"] = sorted(
            {
                name
                for answer in (answers or {}).values()
                for name, instance in answer.get("instances", {}).items()
                if instance["held"]
            }
        )
    return found, away


def _render(found: dict[str, Any]) -> RenderableType:
    gateway = found["gateway"]
    colour = "green" if gateway["state"] == "open" else "yellow"
    lines: list[RenderableType] = [
        f"gateway: instance {terminal.plain(gateway['instance'])}, [{colour}]{gateway['state']}[/]"
    ]
    if "workers" in found:
        lines += _workers(found)
    ledger = found["ledger"]
    if found["redis"]["error"] is not None:
        queues: list[RenderableType] = ["[bold red]Redis does not answer[/]: queues and workers are not known"]
        ledger = {**ledger, "waiting": 0, "recorded": True}
    else:
        queues = _queues(found["queues"])
    return Group(*queues, "", *lines, "", *ledger_status.render(ledger, found["unknown"] or 0))


def _queues(queues: Sequence[dict[str, Any]]) -> list[RenderableType]:
    table = queue_table(queues)
    reasons = sum((Counter(queue["dead_by_reason"]) for queue in queues), Counter[str]())
    if not reasons:
        return [table]
    shown = reasons.most_common(_SHOWN)
    parts = [f"{count:,} {terminal.plain(reason)}" for reason, count in shown]
    if others := reasons.total() - sum(count for _, count in shown):
        parts.append(f"{others:,} others")
    read = "" if reasons.total() == sum(queue["dead"] for queue in queues) else f" (newest {NEWEST_LETTERS:,} of each)"
    return [table, "", f"dead{read}: {', '.join(parts)}; see `ifinu dlq list`"]


def _workers(found: dict[str, Any]) -> Iterator[RenderableType]:
    snapshots = found["snapshots"]
    if not snapshots:
        yield f"workers: [yellow]{'none answers' if snapshots is not None else 'not known'}[/]"
        return
    figures = ("limit/s", "busy", "waiting", "sent", "duplicate", "dead", "up")
    table = terminal.columns("worker", *figures, "breaker", right=figures, whole=("worker",))
    for one in snapshots:
        name = terminal.plain(one["name"])
        if "slots" not in one:
            table.add_row(name, *("–" for _ in figures), "[yellow]sends no figures: another version?[/]")
            continue
        ended = one["ended"]
        table.add_row(
            name,
            "none" if one["limit_per_s"] is None else f"{one['limit_per_s']:g}",
            f"{one['busy']}/{one['slots']}",
            f"{one['waiting']:,}",
            f"{ended.get('sent', 0):,}",
            f"{ended.get('duplicate', 0):,}",
            f"{ended.get('dead', 0):,}",
            span(one["up_s"]),
            "[bold yellow]open: the gateway is away[/]" if one["breaker_open"] else "closed",
        )
    yield "workers (sent, duplicate and dead since each started):"
    yield table
    if found["held"]:
        names = ", ".join(map(terminal.plain, found["held"][:_SHOWN]))
        more = f" and {len(found['held']) - _SHOWN} more" if len(found["held"]) > _SHOWN else ""
        yield f"[yellow]instances whose messages wait: {names}{more}[/]; see `ifinu top`"
