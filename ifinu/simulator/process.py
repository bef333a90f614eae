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
from ifinu.simulator.ban_rules import for_all
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
        argument_default=argparse.SUPPRESS,  # so that the defaults are those of SimulatorConfig
    )
    parser.add_argument("--api-key-file", type=Path, required=True, help="file that holds the global key")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int, help="0 takes a free one (default)")
    parser.add_argument(
        "--instance",
        dest="instances",
        action="append",
        help="name of a connected instance; repeatable (default: ifinu)",
    )
    parser.add_argument("--business", action="append", help="name of an instance of WHATSAPP-BUSINESS; repeatable")
    parser.add_argument(
        "--ledger", dest="ledger_file", type=Path, help="JSON Lines file to which every real send is appended"
    )
    parser.add_argument("--script", type=Path, help="JSON file of faults")
    parser.add_argument("--plain", action="store_true", help="no outcomes by number ending")
    parser.add_argument("--latency-ms", type=float, help="fixed time of every send")
    parser.add_argument("--insert-ms", type=float, help="time from a send to its row in the database")
    parser.add_argument("--webhook", dest="webhook_url", help="URL that gets the events of every instance")
    parser.add_argument("--plays", dest="version", choices=VERSIONS, help=f"the release (default: {VERSIONS[-1]})")
    parser.add_argument("--load-ms", type=float, help="time after a start without any instance in memory")
    parser.add_argument("--boot-ms", type=float, help="time after that during which they are close")
    parser.add_argument("--pairing-ms", type=float, help="time until a phone scans a code; without it none does")
    parser.add_argument("--reconnect-ms", type=float, help="time a socket is close when it reconnects")
    parser.add_argument("--gap-ms", type=float, help="WhatsApp throttles an instance with a shorter gap between sends")
    parser.add_argument("--a-minute", type=int, help="WhatsApp throttles an instance that sends more in a minute")
    parser.add_argument("--new-chats", type=int, help="beyond so many in 24 hours WhatsApp refuses new chats")
    parser.add_argument("--ban-after", type=int, help="WhatsApp bans an instance after so many breaches of these rules")
    parser.add_argument("--speed", type=float, help="how many times as fast the times of these rules run")
    parser.add_argument("--seed", type=int, help="of every draw")
    given = vars(parser.parse_args(arguments))
    try:
        key, script = _key(given.pop("api_key_file")), _script(given)
        run(SimulatorConfig(api_key=key, script=script, **given))
    except (ConfigurationError, OSError) as exc:
        print(f"simulator: {exc}", file=sys.stderr)  # noqa: T201 - a command's error
        return 2
    return 0


def _key(file: Path) -> str:
    key = file.read_text(encoding="utf-8").strip()
    if not key:
        raise ConfigurationError(f"{file}: holds no key")
    return key


def _script(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options that make the script out of `given`."""
    script: dict[str, Any] = {"endings": {}} if given.pop("plain", False) else {}
    script |= {name: given.pop(name) for name in ("latency_ms", "insert_ms", "speed") if name in given}
    script |= for_all({name: given.pop(name, None) for name in ("gap_ms", "a_minute", "new_chats", "ban_after")})
    if (file := given.pop("script", None)) is not None:
        try:
            script |= json.loads(file.read_bytes())
        except ValueError as exc:
            raise ConfigurationError(f"{file}: {exc}") from exc
    return script
