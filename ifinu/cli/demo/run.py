"""The demo from beginning to end."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from ifinu.broker import NORMAL, QUEUES, DeadLetters, Filter, backlog
from ifinu.broker.redis_state import recorder_lag
from ifinu.cli import terminal
from ifinu.cli.demo import charges, numbers, scenario, verdict, view
from ifinu.cli.demo.scenario import Case
from ifinu.cli.demo.stage import Stage, StageError
from ifinu.cli.demo.verdict import Check, Evidence, Pace
from ifinu.delivery import today_in_brazil

_RATE_PER_S = 50
_BURST = 5
_POLL_S = 0.25
_SLACK_S = 60.0  # in addition to the time that the pace requires
_LAST_RECEIPTS_S = 20.0  # after the last send; the simulator's people read within three seconds
_SCENE = (
    "\nFive numbers of two tenants, each at its own pace: "
    f"A pushes {numbers.COUNTS['A']} messages, then B {numbers.COUNTS['B']}.\n"
    f"{numbers.TOO_FAST} is faster than the simulated WhatsApp allows; "
    f"{numbers.CLOSED} loses its connection for {numbers.CLOSED_S:.0f} s."
)
_WEEK = (
    f"\nA week of the régua in fast motion: {charges.CHARGES} charges fall due, each day is planned, pushed and sent."
)
_STALLED_S = 20.0  # longer than any wait before a retry


def run(messages: int, workers: int, *, keep: bool, as_json: bool) -> bool:
    """
    Run the demo.

    Args:
        keep: Keep everything running at the end, until Ctrl-C.

    Returns:
        Whether every expectation holds.

    Raises:
        ConfigurationError: The `demo` extra is not installed.
        StageError: A process did not start, or ended unexpectedly.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that its processes are stopped
    today = today_in_brazil()
    cases = scenario.cases(messages, today)
    notes, results = terminal.notes(), terminal.results()
    settings = {
        "IFINU_SANDBOX_NUMBER": scenario.SANDBOX_NUMBER,
        "IFINU_RATE_LIMIT": f"{_RATE_PER_S}/s",
        "IFINU_RATE_BURST": str(_BURST),
        "IFINU_RETRY_BACKOFF_S": "1",
        "IFINU_MAX_RETRIES": "3",
        "IFINU_UNKNOWN_GRACE_S": "5",
        "IFINU_LOG_FORMAT": "json",
    }
    with Stage(workers, settings, ("ifinu", *numbers.NUMBERS)) as running:
        notes.print(
            f"[dim]A Valkey, a simulated Evolution API and its webhook are running; logs: {running.directory}[/]"
        )
        if not as_json:
            view.print_pushed(results, cases)
        _push(running, cases)
        later_from = float(running.run("producer", "-c", scenario.python_producer(today)))
        running.start_workers()
        notes.print(f"[dim]{workers} worker{'s' * (workers > 1)} at {_RATE_PER_S}/s each[/]")
        expected = scenario.sum_of([case.sends for case in cases]).total()
        with view.DemoView(notes, expected) as watching:
            paces = _watch(running, watching, messages / (_RATE_PER_S * workers) * 2 + _SLACK_S)
        evidence = _evidence(running, paces, later_from)
        notes.print(_SCENE, soft_wrap=True)
        with view.NumbersView(notes, numbers.NUMBERS) as showing:
            played = numbers.play(running, showing)
        notes.print(_WEEK, soft_wrap=True)
        week = charges.play(running, lambda line: notes.print(line, style="dim"))
        checks = [
            *verdict.judge(cases, evidence, rate_per_s=_RATE_PER_S, burst=_BURST),
            *numbers.judge(played),
            *charges.judge(week),
        ]
        holds = all(check.holds for check in checks)
        if as_json:
            terminal.print_json(_document(cases, evidence, checks, holds) | {"numbers": dict(played.figures)})
        else:
            view.print_verdict(results, checks, evidence)
        if not holds:
            running.keep_logs = True
            notes.print(f"The logs are in {running.directory}.", style="yellow", soft_wrap=True)
        if keep:
            _keep(running, notes)
    return holds


def _push(running: Stage, cases: Sequence[Case]) -> None:
    with running.client.pipeline(transaction=False) as pipe:
        # Small cases first, so that their retries run beside the load test.
        for case in sorted(cases, key=lambda case: case.count):
            if case.messages:
                pipe.lpush(NORMAL, *case.messages)
        pipe.execute()


def _watch(running: Stage, watching: view.DemoView, deadline_s: float) -> list[Pace]:
    """Show the run until every message has ended; return the pace of each worker."""
    paces = [Pace.of(name, None) for name in running.names]
    moved_at = time.monotonic()
    give_up_at = moved_at + deadline_s
    backed_up, left_before = True, -1
    while True:
        running.check()
        queues = backlog.survey(running.client)
        summary = running.control.summary()
        heard_of = [summary["clients"].get(name) for name in running.names]
        if backed_up:
            paces = [Pace.of(name, figures) for name, figures in zip(running.names, heard_of, strict=True)]
        else:
            paces = [pace.when_idle(figures) for pace, figures in zip(paces, heard_of, strict=True)]
        backed_up = any(queue.ready for queue in queues)
        left = sum(queue.unsettled for queue in queues)
        watching.show(queues, summary, paces, at_rest=not left)
        if not left:
            return paces
        if left != left_before:
            moved_at, left_before = time.monotonic(), left
        if time.monotonic() > min(give_up_at, moved_at + _STALLED_S):
            raise StageError(f"{left:,} messages have not ended; the logs are in {running.directory}")
        time.sleep(_POLL_S)


def _evidence(running: Stage, paces: Sequence[Pace], later_from: float) -> Evidence:
    now = datetime.now(UTC)
    return Evidence(
        sends=running.control.sends,
        posts=running.control.summary()["posts"]["by_outcome"],
        letters=[letter for queue in QUEUES for letter in DeadLetters(running.client, queue).find(Filter(), now)],
        backlogs=backlog.survey(running.client),
        paces=paces,
        later_from=later_from,
        ledger=_ledger(running),
    )


def _ledger(running: Stage) -> dict[str, int]:
    """Notifications by state, after the last receipts have come."""
    from ifinu.ledger import queries
    from ifinu.ledger.engine import connect

    engine = connect(running.database_url)
    give_up_at = time.monotonic() + _LAST_RECEIPTS_S
    try:
        while True:
            rows = queries.counts(engine, queries.By.STATE, datetime.now(UTC) - timedelta(hours=1)).rows
            states = {str(row.key): row.total for row in rows}
            on_their_way = sum(states.get(state, 0) for state in ("sent", "server_ack", "delivered"))
            if (not on_their_way and not recorder_lag(running.client).events) or time.monotonic() > give_up_at:
                return states
            time.sleep(_POLL_S)
    finally:
        engine.dispose()


def _document(cases: Sequence[Case], evidence: Evidence, checks: Sequence[Check], holds: bool) -> dict[str, Any]:
    return {
        "ok": holds,
        "pushed": {case.pushed: case.count for case in cases},
        "sends": len(evidence.sends),
        "posts": dict(evidence.posts),
        "ledger": dict(evidence.ledger),
        "dead": [
            {"id": letter.id, "reason": letter.reason, "attempts": letter.attempts, "error": letter.error}
            for letter in evidence.letters
        ],
        "workers": [asdict(pace) for pace in evidence.paces],
        "checks": [asdict(check) for check in checks],
    }


def _keep(running: Stage, notes: Console) -> None:
    notes.print("\nEverything is still running. In another terminal:\n")
    for name, value in running.environment.items():
        notes.print(f"  export {name}={value}", soft_wrap=True)
    notes.print(
        "\n  ifinu status --watch\n  ifinu show demo_lost\n  ifinu dlq list\n  ifinu instance list\n"
        "  ifinu load 5000\n\nCtrl-C stops it all."
    )
    while True:
        running.check()
        time.sleep(1)
