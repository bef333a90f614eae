"""
What a message costs ifinu's worker, and what it costs the workers of other task queues on Redis.

They take turns at the same simulated gateway (20 ms a send) with ten sends at once: ifinu with raw JSON and all that it
does (alone; with the ledger written; while Flower reads its events), and stock Celery, Dramatiq, Huey, RQ, arq and
Taskiq, whose task only posts a finished text. Those are in `bench/senders/`, each with the settings by which its own
documentation delivers at least once; Huey has none. All but stock Celery run in a separate environment, which
`make peers` makes.

  CPU µs a message    of the worker's processes, from the first tenth of the messages to the last one
  Redis µs            what the message costs Redis
  messages a second   on the clock; an open gateway, so how long a message waits plays no part
  MiB                 resident memory of all the worker's processes after the last message
  of stock, of the cheapest   ratios of the CPU time, medians of the rounds

With --busy every core has another program to run, as on a node that is full. The exit code is 1 when ifinu alone needs
more than 0.30 of stock Celery's threads, or more than half of the cheapest of the others. The limit on its memory is
checked by `bench/growth.py --only memory`: here `celery` also loads the commands of what development installs.

  python bench/peers.py                                          all of them, three rounds: ten minutes
  python bench/peers.py --rounds 1 --messages 3000               three minutes
  python bench/peers.py --only ifinu,arq,stock-threads --busy --json busy.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report
from report import Progress, table
from rig import Rig, WorkerProcess, push, raw, wire
from unpaced import SLOTS, Contender, Cost, busy_cores, ifinu, measure

from ifinu import wire as wire_form
from ifinu.broker import NORMAL
from ifinu.delivery import today_in_brazil
from ifinu.render import Renderer

MOST_OF_STOCK, MOST_OF_CHEAPEST = 0.30, 0.50
_HERE = Path(__file__).parent
_PEERS = _HERE.parent / ".venv-peers"


def contenders(python: Path) -> dict[str, Contender]:
    """Every worker by its name; the peers run in the environment of this interpreter."""

    def peer(name: str, *command: str) -> Contender:
        return Contender(_started(str(python), "-m", *command), _published(str(python), name))

    def stock(pool: str) -> Contender:
        command = ("celery", "-A", "senders.celery", "worker", "--pool", pool, "--loglevel", "INFO", "-c", SLOTS)
        return Contender(_started(sys.executable, "-m", *command), _published(sys.executable, "celery"))

    def fill(rig: Rig, messages: int) -> None:
        push(rig.client, NORMAL, [raw(number) for number in range(messages)])

    return {
        "ifinu": Contender(ifinu(), fill),
        "ifinu-ledger": Contender(ifinu(records=True), fill, starts_first=True),
        "ifinu-events": Contender(ifinu("--task-events"), fill),
        "stock-threads": stock("threads"),
        "stock-prefork": stock("prefork"),
        "dramatiq": peer("dramatiq", "dramatiq", "senders.dramatiq", "--processes", "1", "--threads", SLOTS),
        "huey": peer("huey", "huey.bin.huey_consumer", "senders.huey.huey", "-k", "thread", "-w", SLOTS),
        "rq": peer(
            "rq", "rq.cli", "worker-pool", "bench", "-n", SLOTS, "-w", "rq.SimpleWorker", "-c", "senders.gateway"
        ),
        "arq": peer("arq", "arq", "senders.arq.WorkerSettings"),
        "taskiq": peer(
            "taskiq", "taskiq", "worker", "senders.taskiq:broker", "--workers", "1", "--max-async-tasks", SLOTS,
            "--ack-type", "when_executed",
        ),
    }  # fmt: skip


def _started(*command: str) -> Callable[[Rig], WorkerProcess]:
    return lambda rig: rig.run(command)


def _published(python: str, name: str) -> Callable[[Rig, int], None]:
    """Publish texts by the library's own client, in its environment."""

    def fill(rig: Rig, messages: int) -> None:
        texts = json.dumps([text(number) for number in range(messages)])
        ended = subprocess.run(
            [python, "-m", "senders.publish", name],
            cwd=_HERE, env=rig.environment, input=texts, text=True, capture_output=True, check=False,
        )  # fmt: skip
        if ended.returncode:
            raise SystemExit(f"{name}: nothing was published\n{ended.stderr[-3000:]}")

    return fill


_renderer = Renderer()


def text(number: int) -> dict[str, Any]:
    """The notification of a number as a text that only has to be posted."""
    notification = wire_form.decode(wire(number))
    made = _renderer.render(notification, today=today_in_brazil())
    return {"number": notification.phone.removeprefix("+"), "text": made}


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--messages", type=int, default=5_000, help="backlog of each worker in each round")
    made.add_argument("--rounds", type=int, default=3, help="how often each has its turn")
    made.add_argument("--only", metavar="NAMES", help=f"some of {','.join(contenders(_PEERS))}; by default all")
    made.add_argument("--busy", action="store_true", help="keep every core busy with another program")
    made.add_argument("--latency-ms", type=float, default=20.0, help="how long a send takes at the gateway")
    made.add_argument("--peers", type=Path, metavar="FOLDER", help="the peers' environment; by default .venv-peers")
    return made


def main() -> int:
    given = parser().parse_args()
    python = (given.peers or _PEERS) / "bin" / "python"
    available = contenders(python)
    names = given.only.split(",") if given.only else list(available)
    if unknown := set(names) - set(available):
        raise SystemExit(f"--only: {', '.join(sorted(unknown))}: there are {', '.join(available)}")
    if not python.exists() and any(not name.startswith(("ifinu", "stock")) for name in names):
        raise SystemExit(f"{python} is not there: run `make peers`, or give --only ifinu,stock-threads,stock-prefork")
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    progress = Progress()
    with Rig(given.latency_ms) as rig, busy_cores(given.busy):
        for round_ in range(1, given.rounds + 1):
            for name in names:
                said = f"round {round_} of {given.rounds}, {name}"
                costs[name].append(measure(rig, available[name], given.messages, said, progress))
    progress.end()
    middle = {name: Cost.middle(measured) for name, measured in costs.items()}
    of = {
        "of stock": middle["stock-threads"].cpu_us if "stock-threads" in middle else None,
        "of the cheapest": min(
            (cost.cpu_us for name, cost in middle.items() if not name.startswith("ifinu")), default=None
        ),
    }
    table(
        ("ten sends at once", "CPU µs a message", *of, "Redis µs", "messages a second", "MiB"),
        [
            (
                name, f"{cost.cpu_us:.0f}",
                *("–" if base is None else f"{cost.cpu_us / base:.2f}" for base in of.values()),
                f"{cost.redis_us:.0f}", f"{cost.per_s:.0f}", f"{cost.memory_mib:.0f}",
            )
            for name, cost in middle.items()
        ],
    )  # fmt: skip
    report.write(
        given,
        {
            "medians": {name: cost._asdict() for name, cost in middle.items()},
            "rounds": {name: [cost._asdict() for cost in measured] for name, measured in costs.items()},
        },
    )
    return 0 if "ifinu" not in middle or _good(middle["ifinu"], of["of stock"], of["of the cheapest"]) else 1


def _good(ours: Cost, stock_us: float | None, cheapest_us: float | None) -> bool:
    return (stock_us is None or ours.cpu_us <= MOST_OF_STOCK * stock_us) and (
        cheapest_us is None or ours.cpu_us <= MOST_OF_CHEAPEST * cheapest_us
    )


if __name__ == "__main__":
    sys.exit(main())
