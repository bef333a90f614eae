"""What the demo shows while it runs, and at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ifinu.broker import DeadLetter
from ifinu.cli.backlog import Backlog
from ifinu.cli.demo.scenario import Case
from ifinu.cli.demo.verdict import Check, Pace

_LINE_EVERY_S = 2.0
_RATE_OVER_S = 2.0


class View:
    """
    The run as it goes: a picture on a terminal, a line now and then elsewhere.

    Args:
        console: Where; a console on stderr.
        expected: Sends in all.
    """

    def __init__(self, console: Console, expected: int) -> None:
        self._console = console
        self._expected = expected
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._posts: deque[tuple[float, int]] = deque()
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, backlogs: Sequence[Backlog], summary: Mapping[str, Any], paces: Sequence[Pace]) -> None:
        """
        Bring it up to date.

        Args:
            backlogs: All queues.
            summary: The simulator's.
            paces: Of each worker so far.
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
        elif now - self._last_line >= _LINE_EVERY_S:
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


def pace_table(paces: Sequence[Pace]) -> Table:
    """The pace of each worker."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("worker", min_width=10)
    for name in ("POSTs", "per second", "worst second"):
        table.add_column(name, justify="right")
    for pace in paces:
        mean = "–" if pace.mean_per_s is None else f"{pace.mean_per_s:.2f}"
        table.add_row(pace.worker, str(pace.total), mean, str(pace.worst_window))
    return table


def print_pushed(console: Console, cases: Sequence[Case]) -> None:
    """What goes in, before anything runs."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", title_justify="left")
    table.add_column("pushed", justify="right")
    table.add_column("what")
    table.add_column("what must follow")
    for case in cases:
        table.add_row(f"{case.count:,}", _plain(case.pushed), _plain(case.follows))
    console.print(table)


def print_verdict(
    console: Console, checks: Sequence[Check], paces: Sequence[Pace], letters: Sequence[DeadLetter]
) -> None:
    """The end: every expectation with a tick or a cross, the dead letters, the pace."""
    good, bad = _marks(console)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("expected")
    table.add_column("seen")
    for check in checks:
        table.add_row(good if check.holds else bad, _plain(check.what), _plain(check.seen))
    console.print(table)
    console.print()
    console.print(_letter_table(letters))
    console.print()
    console.print(pace_table(paces))
    console.print()
    failed = sum(not check.holds for check in checks)
    if failed:
        console.print(f"{bad} [bold red]{failed} of {len(checks)} expectations do not hold[/]")
    else:
        console.print(f"{good} [bold green]all {len(checks)} expectations hold[/]")


def _letter_table(letters: Sequence[DeadLetter]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("dead letters", justify="right")
    table.add_column("reason")
    table.add_column("tries", justify="right")
    table.add_column("last error, for example", overflow="ellipsis", no_wrap=True)
    counts = Counter((letter.reason, letter.attempts) for letter in letters)
    errors = {(letter.reason, letter.attempts): letter.error for letter in letters}
    for (reason, attempts), count in sorted(counts.items()):
        table.add_row(str(count), reason, str(attempts), _plain(errors[reason, attempts]))
    return table


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _marks(console: Console) -> tuple[str, str]:
    # A console in an ASCII locale cannot print them.
    return ("[green]✓[/]", "[red]✗[/]") if console.encoding.startswith("utf") else ("ok", "[red]FAILED[/]")


def is_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stderr.isatty()
