"""`ifinu status`: how many messages are where, what became of them, who works on them, and is the gateway there."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import redis
import typer
from rich.console import Group, RenderableType
from rich.live import Live

from ifinu import settings
from ifinu.broker.backlog import Backlog
from ifinu.cli import connection, durations, ledger_status, terminal
from ifinu.cli.durations import span
from ifinu.cli.top.snapshot import MOST_LETTERS, Snapshot, SnapshotReader
from ifinu.errors import GatewayError
from ifinu.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ifinu.cli.top.workers import Answers, Workers

_EVERY_S = 1.0
_LEDGER_EVERY_S = 10.0  # counting is work for a database
_REASONS = 5  # of dead letters that are told, and names
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
    workers: Annotated[
        bool, typer.Option("--workers/--no-workers", help="Ask the workers how they are; takes a second at most.")
    ] = True,
    as_json: terminal.Json = False,
) -> None:
    """
    Show how many messages are where, and what became of those of the last day.

    Ready can be taken now; delayed waits for a retry or its time; in flight is
    held by a worker; dead will not be sent (see [bold]ifinu dlq list[/bold]). What
    cannot be asked (Redis, the ledger, the gateway) is said to be away, and the
    rest is shown; without Redis it ends with 3. [bold]ifinu top[/bold] shows rates.

    [bold]Examples[/bold]

    ifinu status
    ifinu status --by tenant --since 7d
    ifinu status --watch --no-workers
    ifinu status --json | jq '.queues[].ready'
    """
    from ifinu.cli.top.workers import Workers

    config = settings.load()
    with (
        connection.broker() as client,
        connection.ledger() as engine,
        Workers(config.redis_url.get_secret_value()) as fleet,
        ThreadPoolExecutor(2) as pool,  # none waits for another
    ):
        eye = SnapshotReader(client)
        ledger = _Ledger(engine, by, since or timedelta(days=1))

        def look() -> tuple[dict[str, Any], redis.RedisError | None]:
            return _look(eye, ledger, config, pool, fleet if workers else None)

        if not watch:
            found, away = look()
            if as_json:
                terminal.print_json(found)
            else:
                terminal.results().print(_picture(found))
            if away is not None:
                raise away
        elif as_json:
            for _ in _now_and_then():
                terminal.print_json(look()[0])
        else:
            with Live(console=terminal.results(), auto_refresh=False) as live:
                for _ in _now_and_then():
                    live.update(_picture(look()[0]), refresh=True)


def _now_and_then() -> Iterator[None]:
    while True:
        due_s = time.monotonic() + _EVERY_S
        yield
        time.sleep(max(0.0, due_s - time.monotonic()))


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
            self._found = ledger_status.look(self._engine, By(self._by.value), self._length)
            self._asked_at = time.monotonic()
        return self._found


def queue_table(queues: Sequence[Backlog], oldest_s: Mapping[str, float | None] | None = None) -> RenderableType:
    """One row a queue; with the ages of the oldest messages, where they are given."""
    ages = () if oldest_s is None else ("oldest",)
    figures = ("ready", *ages, "delayed", "next due in", "in flight", "dead")
    table = terminal.columns("queue", *figures, "", right=figures, whole=("queue",))
    for queue in queues:
        due = "" if queue.next_due_in_s is None else span(queue.next_due_in_s)
        age_s = None if oldest_s is None else oldest_s.get(queue.queue)
        age = () if oldest_s is None else ("" if age_s is None else span(age_s),)
        counts = (queue.ready, *age, queue.delayed, due, queue.in_flight, queue.dead)
        paused = f"[yellow]paused since {terminal.plain(queue.paused_since)}[/]" if queue.paused_since else ""
        table.add_row(queue.queue, *(c if isinstance(c, str) else f"{c:,}" for c in counts), paused)
    return table


def gateway_state(config: Settings) -> str:
    """State of the default instance in a word, `unreachable`, `no key` and `absent` (nobody holds it) among them."""
    from ifinu.gateway import gateway_of

    if config.evolution_api_key is None:
        return "no key"
    gateway = gateway_of(config, worker="status", connect_timeout_s=_GATEWAY_S, read_timeout_s=_GATEWAY_S)
    try:
        return gateway.connection_state(config.evolution_instance).value
    except GatewayError as exc:
        return "unreachable" if exc.status is None else f"HTTP {exc.status}"
    finally:
        gateway.close()


def _look(
    eye: SnapshotReader, ledger: _Ledger, config: Settings, pool: ThreadPoolExecutor, fleet: Workers | None
) -> tuple[dict[str, Any], redis.RedisError | None]:
    """All that can be known, for a program; and why Redis could not be asked."""
    from ifinu.cli.top.workers import AWAY

    asked = None if fleet is None else pool.submit(fleet.ask)
    gateway = pool.submit(gateway_state, config)
    there: Snapshot | None = None
    away: redis.RedisError | None = None
    try:
        there = eye.look()
    except redis.RedisError as exc:
        away = exc
    found: dict[str, Any] = {
        "redis": {"error": None if away is None else str(away)},
        "queues": [] if there is None else [
            {
                **queue.as_json(),
                "oldest_s": there.oldest_s[queue.queue],
                "dead_by_reason": dict(there.dead[queue.queue].most_common()),
            }
            for queue in there.queues
        ],
        "gateway": {"instance": config.evolution_instance, "state": ""},
        "unknown": there and there.unknown,
        "ledger": {"waiting": there and there.waiting, "recorded": there and there.recorded, **ledger.counts()},
    }  # fmt: skip
    found["gateway"]["state"] = gateway.result()
    if asked is not None:
        answers: Answers | None = None
        with contextlib.suppress(redis.RedisError, *AWAY):
            answers = asked.result()
        found["workers"] = None if answers is None else sorted({name for name, _ in answers})
        found["snapshots"] = None if answers is None else [
            {"name": name, **told} for (name, _), told in sorted(answers.items())
        ]  # fmt: skip
        found["held"] = sorted(
            {
                name
                for told in (answers or {}).values()
                for name, one in told.get("instances", {}).items()
                if one["held"]
            }
        )
    return found, away


def _picture(found: dict[str, Any]) -> RenderableType:
    gateway = found["gateway"]
    colour = "green" if gateway["state"] == "open" else "yellow"
    lines: list[RenderableType] = [
        f"gateway: instance {terminal.plain(gateway['instance'])}, [{colour}]{gateway['state']}[/]"
    ]
    if "workers" in found:
        lines += _workers(found)
    ledger = found["ledger"]
    if found["redis"]["error"] is not None:
        queues: list[RenderableType] = ["[bold red]Redis cannot be asked[/]: nothing is known of queues and workers"]
        ledger = {**ledger, "waiting": 0, "recorded": True}
    else:
        queues = _queues(found["queues"])
    return Group(*queues, "", *lines, "", *ledger_status.picture(ledger, found["unknown"] or 0))


def _queues(queues: Sequence[dict[str, Any]]) -> list[RenderableType]:
    names = {one.name for one in dataclasses.fields(Backlog)}
    table = queue_table(
        [Backlog(**{name: value for name, value in queue.items() if name in names}) for queue in queues],
        {queue["queue"]: queue["oldest_s"] for queue in queues},
    )
    reasons = sum((Counter(queue["dead_by_reason"]) for queue in queues), Counter[str]())
    if not reasons:
        return [table]
    told = [f"{count:,} {terminal.plain(reason)}" for reason, count in reasons.most_common(_REASONS)]
    if others := reasons.total() - sum(count for _, count in reasons.most_common(_REASONS)):
        told.append(f"{others:,} others")
    read = "" if reasons.total() == sum(queue["dead"] for queue in queues) else f" (newest {MOST_LETTERS:,} of each)"
    return [table, "", f"dead{read}: {', '.join(told)}; see `ifinu dlq list`"]


def _workers(found: dict[str, Any]) -> Iterator[RenderableType]:
    snapshots = found["snapshots"]
    if not snapshots:
        yield f"workers: [yellow]{'none answered' if snapshots is not None else 'could not be asked'}[/]"
        return
    figures = ("limit/s", "busy", "waiting", "sent", "duplicate", "dead", "up")
    table = terminal.columns("worker", *figures, "breaker", right=figures, whole=("worker",))
    for one in snapshots:
        name = terminal.plain(one["name"])
        if "slots" not in one:
            table.add_row(name, *("–" for _ in figures), "[yellow]tells nothing: another version?[/]")
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
    yield "workers (sent, duplicate and dead since each of them started):"
    yield table
    if found["held"]:
        names = ", ".join(map(terminal.plain, found["held"][:_REASONS]))
        more = f" and {len(found['held']) - _REASONS} more" if len(found["held"]) > _REASONS else ""
        yield f"[yellow]instances whose messages are held back: {names}{more}[/]; see `ifinu top`"
