"""`ifinu demo`: runs all of ifinu on this machine, without any server installed."""

from __future__ import annotations

from typing import Annotated

import typer

from ifinu.cli import terminal


def demo(
    messages: Annotated[int, typer.Option(min=1, max=100_000, help="Messages of the load test.")] = 1000,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes, each at 50/s.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running at the end, until Ctrl-C.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Demonstrate ifinu on this machine: 1,000 messages, every failure, five numbers, a week of charges.

    It starts a Valkey, a simulated Evolution API and two workers, pushes messages
    as other languages do, makes sends fail in every way, and checks at the end that
    each message had the expected outcome. Then two tenants send from five numbers
    that have a pace: one floods, and one number is too fast, another offline. At last
    forty charges fall due in a week of fast motion: two are paid, one is disputed. It
    needs no running server, takes about a minute, sends nothing to WhatsApp, and stops
    everything it started.

    [bold]Examples[/bold]

    ifinu demo
    ifinu demo --messages 5000 --workers 4
    ifinu demo --keep      # then look at it from another terminal
    """
    from ifinu.cli.demo.run import run

    if not run(messages, workers, keep=keep, as_json=as_json):
        raise typer.Exit(1)
