"""The demo's output: the live view and the verdict."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ifinu.broker import DeadLetter
from ifinu.broker.backlog import Backlog
from ifinu.cli import terminal
from ifinu.cli.demo.scenario import Case
from ifinu.cli.demo.verdict import Check, Evidence, Pace

if TYPE_CHECKING:
    from ifinu.cli.demo.numbers import State

_LINE_EVERY_S = 2.0
_RATE_OVER_S = 2.0


class _View:
    """A live picture on a terminal, otherwise a line every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()


class DemoView(_View):
    """Shows the run."""

    def __init__(self, console: Console, expected: int) -> None:
        super().__init__(console)
        self._expected = expected
        self._posts: deque[tuple[float, int]] = deque()

    def show(
        self, backlogs: Sequence[Backlog], summary: Mapping[str, Any], paces: Sequence[Pace], *, at_rest: bool
    ) -> None:
        """
        Update the view.

        Args:
            at_rest: Whether every message has ended, and this is the last update.
        """
        now = time.monotonic()
        self._posts.append((now, summary["posts"]["total"]))
        while now - self._posts[0][0] > _RATE_OVER_S:
            self._posts.popleft()
        (then, before), (_, after) = self._posts[0], self._posts[-1]
        figures = {
            "rate": f"{(after - before) / (now - then):.0f}/s" if now > then else "–",
            "backlog": sum(b.ready for b in backlogs),
            "in flight": sum(b.in_flight for b in backlogs),
            "retrying/delayed": sum(b.delayed for b in backlogs),
            "dead": sum(b.dead for b in backlogs),
            "sent": summary["sends"]["total"],
        }
        if self._live:
            self._live.update(self._picture(figures, paces, now - self._began), refresh=True)
        elif at_rest or now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            line = "  ".join(f"{name} {value}" for name, value in figures.items())
            self._console.print(f"{now - self._began:5.1f} s  {line}")

    def _picture(self, figures: Mapping[str, Any], paces: Sequence[Pace], elapsed_s: float) -> RenderableType:
        queue = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
        for name in figures:
            queue.add_column(name, justify="right", min_width=7)
        queue.add_row(*(str(value) for value in figures.values()))
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=self._expected, completed=figures["sent"], width=48),
            f"{figures['sent']:,} of {self._expected:,} sends",
            f"[dim]{elapsed_s:.0f} s[/]",
        )
        return Group("", bar, "", queue, "", pace_table(paces))


class NumbersView(_View):
    """
    Shows the scene of the numbers, as `DemoView` shows the first one.

    Args:
        tenants: The tenant of each number.
    """

    def __init__(self, console: Console, tenants: Mapping[str, str]) -> None:
        super().__init__(console)
        self._tenants = tenants

    def show(
        self, sent: Mapping[str, int], waiting: Mapping[str, int], states: Mapping[str, State], *, at_rest: bool
    ) -> None:
        """
        Update the view.

        Args:
            sent: Messages that each number has sent.
            waiting: Messages that wait for a number.
            at_rest: Whether this is the last update.
        """
        now = time.monotonic()
        if self._live:
            figures = ("sent", "waiting")
            table = terminal.columns("tenant", "number", *figures, "", right=figures)
            for name, tenant in self._tenants.items():
                counts = str(sent[name]), str(waiting.get(name, 0))
                table.add_row(tenant, name, *counts, f"[yellow]{_words(states[name])}[/]")
            self._live.update(Group("", table), refresh=True)
        elif at_rest or now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            each = (" ".join(filter(None, (name, str(sent[name]), _words(states[name])))) for name in self._tenants)
            self._console.print(
                f"{now - self._began:5.1f} s  {'  '.join(each)}  waiting {sum(waiting.values())}", soft_wrap=True
            )


def _words(state: State) -> str:
    words = [f"held: {terminal.plain(state.held)}"] if state.held else []
    words += [f"slowed to {state.brake:.0%}"] if state.brake < 1 else []
    return f"({', '.join(words)})" if words else ""


def pace_table(paces: Sequence[Pace]) -> Table:
    """A table of each worker's pace."""
    figures = ("POSTs", "per second under a backlog", "busiest second")
    table = terminal.columns("worker", *figures, right=figures)
    for pace in paces:
        mean = "–" if pace.mean_per_s is None else f"{pace.mean_per_s:.2f}"
        table.add_row(pace.worker, str(pace.total), mean, str(pace.worst_window))
    return table


def print_pushed(console: Console, cases: Sequence[Case]) -> None:
    """Print the messages that are pushed, and their expected outcomes."""
    table = terminal.columns("pushed", "", "expected outcome", right=("pushed",))
    for case in cases:
        table.add_row(f"{case.count:,}", terminal.plain(case.pushed), terminal.plain(case.follows))
    console.print()
    console.print(table)
    console.print()


def print_verdict(console: Console, checks: Sequence[Check], evidence: Evidence) -> None:
    """Print every expectation with a tick or a cross, the dead letters and the pace."""
    good, bad = _marks(console)
    table = terminal.columns("", "", "expected", "seen")
    for check in checks:
        table.add_row(good if check.holds else bad, *map(terminal.plain, (check.what, check.expected, check.seen)))
    console.print()
    console.print(table)
    console.print()
    console.print(_letter_table(evidence.letters))
    console.print()
    console.print(pace_table(evidence.paces))
    console.print()
    failed = sum(not check.holds for check in checks)
    if failed:
        console.print(f"{bad} [bold red]{failed} of {len(checks)} expectations do not hold[/]")
    else:
        console.print(f"{good} [bold green]all {len(checks)} expectations hold[/]")


def _letter_table(letters: Sequence[DeadLetter]) -> Table:
    table = terminal.columns(
        "dead", "reason", "tries", "last error, for example", right=("dead", "tries"), whole=("reason",)
    )
    counts = Counter((letter.reason, letter.attempts) for letter in letters)
    errors = {(letter.reason, letter.attempts): letter.error for letter in letters}
    for (reason, attempts), count in sorted(counts.items()):
        table.add_row(str(count), reason, str(attempts), terminal.plain(errors[reason, attempts]))
    return table


def _marks(console: Console) -> tuple[str, str]:
    # A console in an ASCII locale cannot print them.
    return ("[green]✓[/]", "[red]✗[/]") if console.encoding.startswith("utf") else ("ok", "[red]FAILED[/]")
