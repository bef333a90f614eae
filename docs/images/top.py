"""
Draw `top.svg`: `ifinu top` in a terminal of 100 columns and 30 lines, after a minute of traffic.

    python docs/images/top.py    # needs pip install 'ifinu[test]'

Valkey, three workers and a simulated Evolution API run on this machine. They work on 20,000 made-up messages, some of
which fail; one instance is disconnected from WhatsApp.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pyte
import redis
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests")]

from processes import Queue, Simulated, fleet_of, redis_server, stopping, wait_until  # noqa: E402
from terminals import Terminal  # noqa: E402

from ifinu.broker import LOW, NORMAL  # noqa: E402

_SIZE = 100, 30
_WORKERS = 3
_MESSAGES = 20_000
_INSTANCES = ("loja-centro", "loja-norte", "loja-sul")
_LOST = _INSTANCES[2]
_FULL = 0.96  # share of the pace at which the picture is taken
_UPDATES = 30  # before the picture, so that there is a curve
# By place in a thousand: the ending of the phone. 0001 is not on WhatsApp, 0002 fails twice, 0003 always.
_FAILS = {101: 1, 303: 2, 505: 3, 707: 2}
_YELLOW = {"brown": "yellow"}  # pyte's name for it


def messages(count: int, first: int = 0) -> list[bytes]:
    """Made-up messages, accepted 40 s ago; a few go to numbers for which the simulator fails."""
    accepted = (datetime.now(UTC) - timedelta(seconds=40)).isoformat()
    return [
        json.dumps(
            {
                "id": f"m{number}",
                "tipo_notificacao": "lembrete",
                "telefone": f"77 9{8000 + number // 9000}{_FAILS.get(number % 1000, 1000 + number % 9000):04}",
                "nome": "Maria",
                "valor": "10.00",
                "vencimento": "2030-01-01",
                "instancia": _INSTANCES[2 if number % 90 == 0 else number % 2],
                "criado_em": accepted,
            }
        ).encode()
        for number in range(first, first + count)
    ]


def as_text(screen: pyte.Screen) -> Text:
    """The contents of a terminal, with its colours."""
    shown = Text()
    for number in range(screen.lines):
        for column in range(screen.columns):
            cell = screen.buffer[number][column]
            colour = _YELLOW.get(cell.fg, cell.fg)
            style = " ".join(["bold"] * cell.bold + [colour] * (colour != "default"))
            shown.append(cell.data, style=style)
        shown.append("\n")
    return shown


def main() -> None:
    """Run the processes and draw the picture."""
    with tempfile.TemporaryDirectory() as name, redis_server() as server:
        directory = Path(name)
        instances = [word for instance in _INSTANCES for word in ("--instance", instance)]
        with (
            stopping(Simulated(directory, *instances)) as simulator,
            stopping(fleet_of(directory, server.url, simulator.url)) as fleet,
            redis.Redis.from_url(server.url) as client,
        ):
            simulator.control.set_fault(latency_ms=80)
            simulator.control.set_instance(_LOST, state="close")
            for number in range(_WORKERS):
                fleet.start("--hostname", f"worker-{number + 1}@billing", IFINU_RECORDER=str(number == 0).lower())
            for worker in fleet.workers:
                worker.ready()
            Queue(client, NORMAL).push(b"not a message", *messages(_MESSAGES))
            Queue(client, LOW).push(*messages(600, first=_MESSAGES))
            with stopping(Terminal("top", size=_SIZE, IFINU_REDIS_URL=server.url)) as terminal:
                updates: set[str] = set()

                def worth_a_picture() -> bool:
                    lines = terminal.lines()
                    updates.add(lines[0])
                    rate = lines[1].partition("/s")[0]
                    full = rate.replace(".", "").isdigit() and float(rate) >= _FULL * 50 * _WORKERS
                    return full and len(updates) >= _UPDATES

                wait_until(worth_a_picture, 300, terminal.text)
                picture = as_text(terminal.screen)
                terminal.press("q")
                terminal.ended()
    console = Console(record=True, width=_SIZE[0], file=StringIO(), color_system="standard", force_terminal=False)
    console.print(picture, end="", no_wrap=True, overflow="ignore", crop=False)
    svg = console.export_svg(title="ifinu top", theme=MONOKAI, unique_id="top")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # a picture must not load anything
    (HERE / "top.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
