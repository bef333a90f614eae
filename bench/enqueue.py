"""
How fast a producer can publish in three ways, and the CPU time that it costs.

    python bench/enqueue.py [--messages 20000]

`.delay` publishes one notification a call, so it gets a tenth of the messages. `enqueue_many` validates each
notification and pushes hundreds a round trip. The last row is the cost of Redis and its client for ready bytes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import report
from report import table
from rig import Rig, push, raw, wire

from ifinu import enqueue_many, send_notification
from ifinu.broker import NORMAL


def measure(rig: Rig, count: int, publish: Callable[[int], None]) -> tuple[float, float]:
    """Messages per second, and CPU µs of this process for each."""
    publish(50)  # opens connections and fills caches
    rig.client.flushall()
    started, cpu_started = time.perf_counter(), time.process_time()
    publish(count)
    took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    assert rig.client.llen(NORMAL) == count
    return count / took_s, cpu_s / count * 1e6


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--messages", type=int, default=20_000)
    return made


def main() -> None:
    given = parser().parse_args()

    def one_at_a_time(count: int) -> None:
        for number in range(count):
            send_notification.delay(wire(number))

    def all_at_once(count: int) -> None:
        enqueue_many(wire(number) for number in range(count))

    with Rig(latency_ms=0) as rig:
        os.environ.update(rig.environment)
        ready = [raw(number) for number in range(given.messages)]
        ways: list[tuple[str, int, Callable[[int], None]]] = [
            (".delay", given.messages // 10, one_at_a_time),
            ("enqueue_many", given.messages, all_at_once),
            ("LPUSH, 1,000 a trip", given.messages, lambda count: push(rig.client, NORMAL, ready[:count])),
        ]
        rows = []
        for name, count, publish in ways:
            per_s, cpu_us = measure(rig, count, publish)
            rows.append((name, str(count), f"{per_s:,.0f}", f"{cpu_us:.1f}"))
    shown = table(("publisher", "messages", "messages a second", "CPU µs a message"), rows)
    report.write(given, {"table": shown})


if __name__ == "__main__":
    main()
