"""`ifinu demo`: the whole of ifinu on this machine, with nothing installed but itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ifinu.cli import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from ifinu.cli.demo.scenario import Case
    from ifinu.cli.demo.stage import Stage
    from ifinu.cli.demo.verdict import Check, Evidence, Pace
    from ifinu.cli.demo.view import View

_RATE_PER_S = 50
_BURST = 5
_POLL_S = 0.25
_SLACK_S = 60.0  # beyond what the pace alone asks for


def demo(
    messages: Annotated[int, typer.Option(min=1, max=100_000, help="Messages of the load test.")] = 1000,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes, each at 50/s.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end, until Ctrl-C.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Show that it works: queue, gateway and workers on this machine, 1,000 messages and every awkward one.

    Starts a Valkey, a simulated Evolution API and two workers, pushes messages the way other languages do, lets them
    fail in every way, and checks at the end that what was sent and what was not is what had to be. It needs nothing
    running, takes less than a minute, sends nothing to anybody, and ends all that it started.

    [bold]Examples[/bold]

      ifinu demo
      ifinu demo --messages 5000 --workers 4
      ifinu demo --keep      # then look at it from another terminal
    """
    from ifinu.cli.demo import scenario, stage, verdict, view
    from ifinu.worker.app import today_in_brazil

    today = today_in_brazil()
    cases = scenario.cases(messages, today)
    notes, results = terminal.progress(), terminal.results()
    settings = {
        "IFINU_SANDBOX_NUMBER": scenario.SANDBOX_NUMBER,
        "IFINU_RATE_LIMIT": f"{_RATE_PER_S}/s",
        "IFINU_RATE_BURST": str(_BURST),
        "IFINU_RETRY_BACKOFF_S": "1",
        "IFINU_MAX_RETRIES": "3",
        "IFINU_LOG_FORMAT": "json",
    }
    notes.print("[dim]starting a Valkey and a simulated Evolution API …[/]")
    with stage.Stage(workers, settings) as running:
        if not as_json:
            view.print_pushed(results, cases)
        _push(running, cases)
        later_from = time.time()
        running.run_python(scenario.python_producer(today))
        notes.print(f"[dim]starting {workers} worker{'s' * (workers > 1)}; logs are in {running.directory} …[/]")
        running.start_workers()
        deadline_s = messages / (_RATE_PER_S * workers) * 2 + _SLACK_S
        with view.View(notes, scenario.sum_of([case.sends for case in cases]).total()) as watching:
            paces = _watch(running, watching, deadline_s)
        evidence = _evidence(running, paces, later_from)
        checks = verdict.judge(cases, evidence, rate_per_s=_RATE_PER_S, burst=_BURST)
        holds = all(check.holds for check in checks)
        if as_json:
            terminal.print_json(_document(cases, evidence, checks, holds))
        else:
            results.print()
            view.print_verdict(results, checks, paces, evidence.letters)
        if not holds:
            running.keep_logs = True
            notes.print(f"The logs are in {running.directory}", style="yellow")
        if keep:
            _keep(running, notes)
    if not holds:
        raise typer.Exit(1)


def _push(running: Stage, cases: Sequence[Case]) -> None:
    from ifinu.broker import NORMAL

    with running.client.pipeline(transaction=False) as pipe:
        # The awkward ones first, so that their retries run beside the rest.
        for case in sorted(cases, key=lambda case: case.count):
            if case.messages:
                pipe.lpush(NORMAL, *case.messages)
        pipe.execute()


def _watch(running: Stage, watching: View, deadline_s: float) -> list[Pace]:
    """Show the run until all has come to rest; return the pace each worker had while there was a backlog."""
    from ifinu.cli import backlog
    from ifinu.cli.demo.stage import StageError
    from ifinu.cli.demo.verdict import Pace

    paces: list[Pace] = []
    give_up_at = time.monotonic() + deadline_s
    backed_up = True
    while True:
        running.check()
        queues = backlog.survey(running.client)
        summary = running.control.summary()
        now = [Pace.of(name, figures) for name, figures in summary["clients"].items()]
        if backed_up:
            paces = now
        backed_up = any(queue.ready for queue in queues)
        watching.show(queues, summary, now)
        if not any(queue.unsettled for queue in queues):
            return paces
        if time.monotonic() > give_up_at:
            raise StageError(
                f"{sum(q.unsettled for q in queues)} messages have not come to rest after {deadline_s:.0f} s; "
                f"the logs are in {running.directory}"
            )
        time.sleep(_POLL_S)


def _evidence(running: Stage, paces: Sequence[Pace], later_from: float) -> Evidence:
    from ifinu.broker import QUEUES, DeadLetters, Filter
    from ifinu.cli import backlog
    from ifinu.cli.demo.verdict import Evidence

    now = datetime.now(UTC)
    return Evidence(
        sends=running.control.sends,
        posts=running.control.summary()["posts"]["by_outcome"],
        letters=[
            letter for queue in QUEUES for letter in DeadLetters(running.client, queue).find(Filter(), now)
        ],
        backlogs=backlog.survey(running.client),
        paces=paces,
        later_from=later_from,
    )


def _document(cases: Sequence[Case], evidence: Evidence, checks: Sequence[Check], holds: bool) -> dict[str, Any]:
    return {
        "ok": holds,
        "pushed": {case.pushed: case.count for case in cases},
        "sends": len(evidence.sends),
        "posts": dict(evidence.posts),
        "dead": [
            {"id": letter.id, "reason": letter.reason, "attempts": letter.attempts, "error": letter.error}
            for letter in evidence.letters
        ],
        "workers": [asdict(pace) for pace in evidence.paces],
        "checks": [check.as_json() for check in checks],
    }


def _keep(running: Stage, notes: Console) -> None:
    notes.print("\nEverything is still running. In another terminal:\n")
    for name, value in running.environment.items():
        notes.print(f"  export {name}={value}", soft_wrap=True)
    notes.print("\n  ifinu status --watch\n  ifinu dlq list\n  ifinu load 5000\n\nCtrl-C ends it all.")
    while True:
        running.check()
        time.sleep(1)
