"""
Share of a message's CPU time that a worker spends on metrics.

    python bench/metrics.py [--messages 5000] [--rounds 7]

Two workers take turns at the same simulated gateway (20 ms a send): ifinu's worker, scraped every second, and
`bench/uncounted.py`, which counts nothing. CPU time is measured as in `peers.py`. The result is the median over the
rounds of the ratio of both workers' CPU time in one round. The exit code is 1 when the metrics cost more than 3 %.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import threading
import urllib.request
from datetime import UTC, datetime

import report
from report import Progress, table
from rig import Rig, push, wire
from unpaced import Contender, ifinu, measure

from ifinu.broker import NORMAL

MOST = 1.03
_SCRAPE_EVERY_S = 1.0


def raw(number: int) -> bytes:
    """A message with its acceptance time, so that every series counts something."""
    return json.dumps({**wire(number), "criado_em": datetime.now(UTC).isoformat()}).encode()


def scrape(port: int, stop: threading.Event, seen: list[int]) -> None:
    while not stop.wait(_SCRAPE_EVERY_S):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                seen.append(len(answer.read()))
        except OSError:
            continue  # no worker runs just now


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--messages", type=int, default=5_000)
    made.add_argument("--rounds", type=int, default=7)
    return made


def main() -> int:
    given = parser().parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def fill(rig: Rig, messages: int) -> None:
        push(rig.client, NORMAL, [raw(number) for number in range(messages)])

    counts = Contender(ifinu(IFINU_METRICS_PORT=str(port)), fill)
    silent = Contender(ifinu(application="uncounted"), fill)
    stop, scrapes = threading.Event(), list[int]()
    scraper = threading.Thread(target=scrape, args=(port, stop, scrapes))
    scraper.start()
    pairs, progress = [], Progress()
    try:
        with Rig(latency_ms=20) as rig:
            for round_ in range(given.rounds):
                order = (counts, silent) if round_ % 2 else (silent, counts)
                cost = {
                    contender: measure(rig, contender, given.messages, f"round {round_ + 1}", progress).cpu_us
                    for contender in order
                }
                pairs.append((cost[counts], cost[silent]))
    finally:
        stop.set()
        scraper.join()
        progress.end()
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    shown = table(
        ("worker, ten slots", "CPU µs a message", "of the one that does not count"),
        [
            ("counts, scraped every second", f"{statistics.median(p[0] for p in pairs):.0f}", f"{ratio:.3f}"),
            ("does not count", f"{statistics.median(p[1] for p in pairs):.0f}", "1.000"),
        ],
    )
    report.write(given, {"table": shown})
    print(f"{len(scrapes)} scrapes of {statistics.median(scrapes):.0f} bytes")
    return 0 if ratio <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
