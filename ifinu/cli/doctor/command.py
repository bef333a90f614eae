"""The command `ifinu doctor`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Annotated

import redis
import typer

from ifinu import settings
from ifinu.cli import connection, terminal
from ifinu.cli.doctor import gateway_checks, ledger_checks, number_checks, redis_checks, settings_checks
from ifinu.cli.doctor.findings import Finding, Level
from ifinu.errors import ConfigurationError, IfinuError
from ifinu.settings import Settings

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def doctor(
    wait: Annotated[
        bool, typer.Option("--wait", help="First wait up to 30 seconds for Redis, the ledger and the gateway.")
    ] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Check Redis, the ledger, the gateway and the settings, and say how to fix what is wrong.

    Exit code 1 when a check fails; a warning is not a failure.

    [bold]Examples[/bold]

    ifinu doctor
    ifinu doctor --wait
    ifinu doctor --json | jq '.checks[] | select(.level != "ok")'
    """
    config = settings.load()
    if wait:
        _wait_for_servers(config)
    findings = list(_examine(config))
    failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        terminal.print_json({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if failed:
        raise typer.Exit(1)


def _wait_for_servers(config: Settings) -> None:
    """Wait until each server answers or its time is over; the checks report the servers that are still away."""
    with contextlib.ExitStack() as opened:
        client, ledger = opened.enter_context(connection.broker()), opened.enter_context(connection.ledger())
        asks: list[Callable[[], object]] = [client.ping, lambda: connection.ask_ledger(ledger)]
        with contextlib.suppress(ConfigurationError):
            gateway = opened.enter_context(contextlib.closing(gateway_checks.connect(config)))
            asks.append(lambda: gateway_checks.ask(gateway, config.evolution_instance))
        for ask in asks:
            with contextlib.suppress(redis.RedisError, IfinuError):
                connection.reach(ask)


def _examine(config: Settings) -> Iterator[Finding]:
    with connection.broker() as client:
        yield from redis_checks.examine_redis(client)
        yield from redis_checks.examine_rights(client)
        with connection.ledger() as engine:
            yield from ledger_checks.examine_ledger(engine)
            yield from number_checks.examine_numbers(client, engine)
        yield from ledger_checks.examine_recorder(client)
    yield from gateway_checks.examine_gateway(config)
    yield from settings_checks.examine_settings(config)


def _print(findings: list[Finding]) -> None:
    table = terminal.columns("", "check", "seen", "fix", whole=("check",))
    for finding in findings:
        level = f"[{_COLOURS[finding.level]}]{finding.level}[/]"
        table.add_row(level, *map(terminal.plain, (finding.check, finding.seen, finding.fix)))
    terminal.results().print(table)
