"""`ifinu guard`: what the guard sees of each number, and what it does about it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live

from ifinu.cli import connection, terminal
from ifinu.cli.durations import span
from ifinu.cli.sentences import clock

if TYPE_CHECKING:
    from ifinu.numbers.guard import Step
    from ifinu.numbers.patrol import Judged

_EVERY_S = 60.0
_LONG_DAYS = 365  # a hold that only a person or a connection ends


def guard(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Repeat once a minute, until Ctrl-C.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the steps that would follow, and take none.")
    ] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Judge each registered number by its last messages, and slow, pause or speed it up.

    The recorder does the same once a minute. docs/guard.md explains the columns, the
    thresholds and the steps, and how to overrule one. The exit code is 1 if a number is
    held or banned.

    [bold]Examples[/bold]

    ifinu guard --dry-run
    ifinu guard --watch --dry-run
    ifinu guard --dry-run --json | jq '.numbers[] | select(.risk > 0)'
    """
    from ifinu.numbers.patrol import Patrol

    with connection.broker() as client, connection.ledger() as ledger:
        patrol = Patrol(client, ledger)

        def look() -> tuple[Sequence[Judged], datetime]:
            judged, now = patrol.look()
            if not dry_run:
                patrol.act(judged, now)
            return judged, now

        if not watch:
            judged, now = look()
            terminal.answer(_as_json(judged, now), _render(judged, now, dry_run=dry_run), as_json=as_json)
            if any(each.memory.is_held(now) for each in judged):
                raise typer.Exit(1)
        elif as_json:
            while True:
                terminal.print_json(_as_json(*look()))
                time.sleep(_EVERY_S)
        else:
            with Live(console=terminal.results(), auto_refresh=False) as live:
                while True:
                    live.update(_render(*look(), dry_run=dry_run), refresh=True)
                    time.sleep(_EVERY_S)


def _as_json(judged: Sequence[Judged], now: datetime) -> dict[str, Any]:
    return {
        "at": now.isoformat(timespec="seconds"),
        "numbers": [
            {
                "number": each.number.name,
                **each.risk(now)._asdict(),
                "held_until": _written(each.memory.held_until if each.memory.is_held(now) else None),
                "held_reason": each.memory.held_reason,
                "no_new_chats_until": _written(each.memory.no_new_chats_until),
                "figures": each.figures.as_data(),
                "levels": {signal.value: level.name.lower() for signal, level in each.levels.items()},
                "steps": [
                    {"step": step.move, "signal": step.signal, "until": _written(step.until)} for step in each.steps
                ],
            }
            for each in judged
        ],
    }


def _written(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds")


def _render(judged: Sequence[Judged], now: datetime, *, dry_run: bool) -> RenderableType:
    if not judged:
        return "No number is registered, so there is nothing to guard: `ifinu instance assign` registers one."
    figures = ("sent", "errors", "new: errors", "throttled", "no ack", "late", "SAIR", "not there", "answers", "pace")
    table = terminal.columns("number", *figures, "state", right=figures, whole=("number",))
    for each in judged:
        n = each.figures
        cells = (
            n.sent, n.known_errors, n.new_errors, n.throttled, n.settled - n.confirmed, n.reachable - n.delivered,
            n.opt_outs, n.not_on_whatsapp,
        )  # fmt: skip
        shown = (f"{count:,}" if count else "" for count in cells)
        answers = "" if n.answers is None else f"{n.answers:,}"
        table.add_row(terminal.plain(each.number.name), *shown, answers, f"{each.memory.pace:.0%}", _state(each, now))
    steps = [_step(each, step, dry_run=dry_run) for each in judged for step in each.steps]
    return Group(table, *steps)


def _state(each: Judged, now: datetime) -> str:
    memory = each.memory
    if memory.banned:
        return "[red]banned[/]"
    if memory.is_held(now) and memory.held_until is not None:
        left = memory.held_until - now
        words = "until it is released" if left.days > _LONG_DAYS else f"for {span(left)}"
        return f"[yellow]held {words}: {terminal.plain(memory.held_reason or '')}[/]"
    if memory.no_new_chats_until is not None:
        return f"[yellow]opens no chats for {span(memory.no_new_chats_until - now)}[/]"
    return ", ".join(f"{signal}: {level.name.lower()}" for signal, level in each.levels.items()) or "calm"


def _step(each: Judged, step: Step, *, dry_run: bool) -> str:
    cause = "" if step.signal is None else f" ({step.signal})"
    until = "" if step.until is None else f" until {clock(step.until)}"
    would = "would be " if dry_run else ""
    words = step.move.value.replace("_", " ")
    return f"{terminal.plain(each.number.name)}: {would}{words}{cause}{until}"
