"""`ifinu demo`: the whole of ifinu on this machine, with nothing installed but itself."""

from __future__ import annotations

from typing import Annotated

import typer

from ifinu.cli import terminal


def demo(
    messages: Annotated[int, typer.Option(min=1, max=100_000, help="Messages of the load test.")] = 1000,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes, each at 50/s.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end, until Ctrl-C.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Show that it works, on this machine: 1,000 messages and every awkward one.

    Starts a Valkey, a simulated Evolution API and two workers, pushes messages
    the way other languages do, lets them fail in every way, and checks at the
    end that what was sent and what was not is what had to be. It needs nothing
    running, takes less than a minute, sends nothing to anybody, and ends all
    that it started.

    [bold]Examples[/bold]

    ifinu demo
    ifinu demo --messages 5000 --workers 4
    ifinu demo --keep      # then look at it from another terminal
    """
    from ifinu.cli.demo.run import run

    if not run(messages, workers, keep=keep, as_json=as_json):
        raise typer.Exit(1)
