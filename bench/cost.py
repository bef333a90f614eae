"""
CPU time that a worker needs for one message, beside that of stock Celery on Redis with `requests`.

    python bench/cost.py [--messages 5000] [--rounds 3]

Five workers take turns at the same simulated gateway (20 ms a send), each with a separate backlog. Three are ifinu's
with raw JSON and every feature: a plain one, one that also writes the ledger (SQLite), and one with the events for
Flower. Two run `bench/stock.py` with envelopes: ten threads, and ten processes. All log each message's outcome at the
level `info`. The bench measures the CPU time of the worker's processes from the first tenth of the messages to the last
one, which excludes the start and other programs on the machine. The exit code is 1 when ifinu needs more than half the
CPU time of stock threads, or more than 90 MiB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import report
from report import table
from rig import Rig, WorkerProcess, push, raw, wait_for, wire

from ifinu import wire as wire_form
from ifinu.broker import NORMAL
from ifinu.delivery import today_in_brazil
from ifinu.render import Renderer

SLOTS = "10"
MOST_RATIO, MOST_MIB = 0.5, 90.0


class Contender(NamedTuple):
    """A worker, the list that it consumes, and the messages of that list."""

    start: Callable[[Rig], WorkerProcess]
    queue: str
    message: Callable[[int], bytes]


class Cost(NamedTuple):
    cpu_us: float
    memory_mib: float


def ifinu(*flags: str, records: bool = False) -> Callable[[Rig], WorkerProcess]:
    return lambda rig: rig.start(
        "-A", "ifinu", "worker", *flags,
        IFINU_RATE_LIMIT="5000/s", IFINU_RATE_BURST="1000", IFINU_CONCURRENCY=SLOTS, IFINU_RECORDER=str(records),
    )  # fmt: skip


def stock(pool: str) -> Callable[[Rig], WorkerProcess]:
    return lambda rig: rig.start(
        "-A", "stock", "worker", "--pool", pool, "--concurrency", SLOTS, "--loglevel", "INFO",
        STOCK_REDIS_URL=rig.redis_url,
    )  # fmt: skip


def envelope() -> Callable[[int], bytes]:
    """The same notification for the stock worker, with its text already rendered."""
    renderer, today = Renderer(), today_in_brazil()

    def of(number: int) -> bytes:
        notification = wire_form.decode(wire(number))
        text = renderer.render(notification, today=today)
        return published({"number": notification.phone.removeprefix("+"), "text": text})

    return of


def published(argument: dict[str, Any]) -> bytes:
    """The message that Celery publishes for a call of `stock.send`."""
    task_id = str(uuid.uuid4())
    return json.dumps(
        {
            "body": json.dumps([[argument], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
            "content-encoding": "utf-8", "content-type": "application/json",
            "headers": {
                "lang": "py", "task": "stock.send", "id": task_id, "root_id": task_id, "parent_id": None, "group": None,
                "shadow": None, "eta": None, "expires": None, "retries": 0, "timelimit": [None, None],
                "argsrepr": "()", "kwargsrepr": "{}", "origin": "bench", "ignore_result": True,
            },
            "properties": {
                "correlation_id": task_id, "reply_to": str(uuid.uuid4()), "delivery_mode": 2, "priority": 0,
                "delivery_info": {"exchange": "", "routing_key": "celery"}, "body_encoding": "utf-8",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    ).encode()  # fmt: skip


def measure(rig: Rig, contender: Contender, messages: list[bytes]) -> Cost:
    rig.reset()
    push(rig.client, contender.queue, messages)
    worker = contender.start(rig)
    count, tenth = len(messages), len(messages) // 10
    wait_for(lambda: rig.sent() >= tenth, worker, 120)
    before, cpu_before = rig.sent(), worker.usage().all_cpu_s
    wait_for(lambda: rig.sent() >= count, worker, 600)
    used = worker.usage()
    cost = Cost((used.all_cpu_s - cpu_before) / (count - before) * 1e6, used.all_memory_mib)
    worker.end()
    assert rig.sent() == count
    return cost


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--messages", type=int, default=5_000)
    made.add_argument("--rounds", type=int, default=3)
    return made


def main() -> int:
    given = parser().parse_args()
    of_stock = envelope()
    contenders = {
        "ifinu, threads": Contender(ifinu(), NORMAL, raw),
        "the same, and it records": Contender(ifinu(records=True), NORMAL, raw),
        "the same, with events": Contender(ifinu("--task-events"), NORMAL, raw),
        "stock, threads": Contender(stock("threads"), "celery", of_stock),
        "stock, prefork": Contender(stock("prefork"), "celery", of_stock),
    }
    backlogs = {name: [c.message(number) for number in range(given.messages)] for name, c in contenders.items()}
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    with Rig(latency_ms=20) as rig:
        for _ in range(given.rounds):
            for name, contender in contenders.items():
                costs[name].append(measure(rig, contender, backlogs[name]))
    median = {name: Cost(*map(statistics.median, zip(*measured, strict=True))) for name, measured in costs.items()}
    ours, theirs = median["ifinu, threads"], median["stock, threads"]
    shown = table(
        ("worker, ten slots", "CPU µs a message", "of stock, threads", "of ifinu, threads", "memory MiB"),
        [
            (
                name,
                f"{cost.cpu_us:.0f}",
                f"{cost.cpu_us / theirs.cpu_us:.2f}",
                f"{cost.cpu_us / ours.cpu_us:.2f}",
                f"{cost.memory_mib:.0f}",
            )
            for name, cost in median.items()
        ],
    )
    report.write(given, {"table": shown})
    return 0 if ours.cpu_us <= MOST_RATIO * theirs.cpu_us and ours.memory_mib <= MOST_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
