"""A simulator in a separate process."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ifinu.errors import ConfigurationError
from ifinu.simulator.config import VERSIONS, SimulatorConfig
from ifinu.simulator.host import Host


def run(config: SimulatorConfig) -> None:
    """
    Serve until SIGTERM or SIGINT, which drop requests under way at once.

    Prints one line, `listening on http://127.0.0.1:PORT`, as soon as it answers.

    Raises:
        ConfigurationError: `config.script` is wrong.
        OSError: The address is taken, or the ledger file cannot be written.
    """
    asyncio.run(_serve(config))


async def _serve(config: SimulatorConfig) -> None:
    host = Host(config)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        await host.start()
        print(f"listening on {host.world.url}", flush=True)  # noqa: T201 - this line is the interface
        await stopping.wait()
    finally:
        await host.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m ifinu.simulator`; returns the exit code, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m ifinu.simulator",
        description="An Evolution API that sends nothing and remembers everything.",
    )
    parser.add_argument("--api-key-file", type=Path, required=True, help="file that holds the global key")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--instance", action="append", help="name of a connected instance; repeatable (default: ifinu)")
    parser.add_argument("--ledger", type=Path, help="JSON Lines file to which every real send is appended")
    parser.add_argument("--script", type=Path, help="JSON file of faults")
    parser.add_argument("--plain", action="store_true", help="no outcomes by number ending")
    parser.add_argument("--latency-ms", type=float, help="fixed time of every send")
    parser.add_argument("--insert-ms", type=float, help="time from a send to its row in the database")
    parser.add_argument("--webhook", help="URL that gets the events of every instance")
    parser.add_argument("--plays", choices=VERSIONS, default=VERSIONS[-1], help="the release (default: %(default)s)")
    parser.add_argument("--load-ms", type=float, default=0.0, help="time after a start without any instance in memory")
    parser.add_argument("--boot-ms", type=float, default=0.0, help="time after that during which they are close")
    parser.add_argument("--pairing-ms", type=float, help="time until a phone scans a code; without it none does")
    parser.add_argument("--reconnect-ms", type=float, default=300.0, help="time a socket is close when it reconnects")
    parser.add_argument("--seed", type=int, help="of every draw")
    given = parser.parse_args(arguments)
    try:
        run(
            SimulatorConfig(
                api_key=_key(given.api_key_file),
                host=given.host,
                port=given.port,
                instances=tuple(given.instance or ["ifinu"]),
                version=given.plays,
                load_ms=given.load_ms,
                boot_ms=given.boot_ms,
                pairing_ms=given.pairing_ms,
                reconnect_ms=given.reconnect_ms,
                ledger_file=given.ledger,
                webhook_url=given.webhook,
                script=_script(given),
                seed=given.seed,
            )
        )
    except (ConfigurationError, OSError) as exc:
        print(f"simulator: {exc}", file=sys.stderr)  # noqa: T201 - a command's error
        return 2
    return 0


def _key(file: Path) -> str:
    key = file.read_text(encoding="utf-8").strip()
    if not key:
        raise ConfigurationError(f"{file}: holds no key")
    return key


def _script(given: argparse.Namespace) -> dict[str, Any]:
    script: dict[str, Any] = {"endings": {}} if given.plain else {}
    if given.latency_ms is not None:
        script["latency_ms"] = given.latency_ms
    if given.insert_ms is not None:
        script["insert_ms"] = given.insert_ms
    if given.script:
        try:
            script |= json.loads(given.script.read_bytes())
        except ValueError as exc:
            raise ConfigurationError(f"{given.script}: {exc}") from exc
    return script
