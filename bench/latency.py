"""
How soon an idle worker sends, and how soon a new one does.

Idle: single messages, `send_notification.delay(…)` by this process, each after a pause of half to one and a half times
the gap, so that each finds its worker asleep. The clock runs from before `delay` to the POST's arrival at the gateway;
what `delay` itself takes, the trip to Redis in it, is part of that and also a row.

Start: `celery -A ifinu worker` with one message on its queue, from the start of the process to the POST's arrival.

The gateway answers at once, so that a send's own duration is not in it. The workers have the default settings, write
the ledger (SQLite) and log at the level `info`. The exit code is 1 when 99 of 100 idle messages take longer than 10 ms,
or half of the starts longer than 2 s.

  python bench/latency.py                                 500 messages and 5 starts; a minute and a half
  python bench/latency.py --messages 2000 --json latency.json
  python bench/latency.py --messages 10 --starts 1        does it run at all?
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import time

import report
from report import Progress, table
from rig import Rig, push, raw, wait_for, wire

from ifinu import send_notification
from ifinu.broker import NORMAL

MOST_IDLE_S, MOST_START_S = 0.010, 2.0
_FIRST = 5  # messages that open connections
_DEADLINE_S = 60.0


def idle(rig: Rig, messages: int, gap_s: float, progress: Progress) -> tuple[list[float], list[float]]:
    """Seconds that each message took to its POST, and that each `delay` took."""
    rig.reset()
    os.environ.update(rig.environment)
    worker = rig.start("-A", "ifinu", "worker")
    wait_for(worker.ready, worker, _DEADLINE_S)
    for number in range(_FIRST):
        send_notification.delay(wire(number))
    wait_for(lambda: rig.sent() == _FIRST, worker, _DEADLINE_S)
    began, delays = {}, []
    for number in range(_FIRST, _FIRST + messages):
        time.sleep(gap_s * random.uniform(0.5, 1.5))
        message = wire(number)
        began[message["telefone"][-8:]] = before = time.monotonic()
        send_notification.delay(message)
        delays.append(time.monotonic() - before)
        progress.show(f"idle: {number} of {messages} messages")
    wait_for(lambda: rig.sent() == _FIRST + messages, worker, _DEADLINE_S)
    arrived = {send.number[-8:]: send.at_monotonic for send in rig.control.sends_since(_FIRST)}
    worker.end()
    return [arrived[phone] - at for phone, at in began.items()], delays


def starts(rig: Rig, count: int, progress: Progress) -> list[float]:
    """Seconds from the start of a worker's process to its first POST."""
    took = []
    for number in range(count):
        progress.show(f"start: {number} of {count}")
        rig.reset()
        push(rig.client, NORMAL, [raw(number)])
        began = time.monotonic()
        worker = rig.start("-A", "ifinu", "worker")
        wait_for(lambda: rig.sent() == 1, worker, _DEADLINE_S)
        took.append(rig.control.sends[0].at_monotonic - began)
        worker.end()
    return took


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--messages", type=int, default=500, help="single messages to an idle worker")
    made.add_argument("--gap-ms", type=float, default=100.0, help="mean pause between two of them")
    made.add_argument("--starts", type=int, default=5, help="how often a worker is started")
    return made


def main() -> int:
    given = parser().parse_args()
    progress = Progress()
    with Rig(latency_ms=0) as rig:
        sends, delays = idle(rig, given.messages, given.gap_ms / 1000, progress)
        begun = starts(rig, given.starts, progress)
    progress.end()
    took_s = {
        "idle: delay() to the POST": sends,
        "of which delay() itself": delays,
        "process start to the first POST": begun,
    }
    summary = {
        name: {"count": len(values), "p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "max": max(values)}
        for name, values in took_s.items()
    }
    table(
        ("ms", "measured", "half within", "99 of 100", "all"),
        [
            (name, str(row["count"]), *(f"{row[key] * 1000:.1f}" for key in ("p50", "p99", "max")))
            for name, row in summary.items()
        ],
    )
    report.write(given, {"seconds": summary, "each_s": took_s})
    return 0 if quantile(sends, 0.99) < MOST_IDLE_S and quantile(begun, 0.5) < MOST_START_S else 1


if __name__ == "__main__":
    sys.exit(main())
