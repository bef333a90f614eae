"""
Pace of one worker under a backlog, as the gateway sees it.

    python bench/pace.py [--seconds 30] [--limits 5/s,50/s,100/s]

A worker gets enough messages for this duration, at a gateway that needs 20 ms for each. The bench reports two figures:
the mean rate from the first POST to the last, and the most POSTs in any one second. The exit code is 1 when the mean is
below 98 % or above 101 % of the limit, or when any second has more than the limit and the declared burst.
"""

from __future__ import annotations

import argparse
import sys

from rig import Rig, push, raw, table, wait_for

from ifinu.broker import NORMAL
from ifinu.settings import rate_per_s

BURST = 5
LEAST, MOST = 0.98, 1.01


def measure(rig: Rig, limit: str, seconds: float) -> tuple[float, int, int]:
    """Messages, mean rate per second and the fullest second."""
    rate = rate_per_s(limit)
    count = max(10, round(rate * seconds))
    rig.reset()
    push(rig.client, NORMAL, [raw(number) for number in range(count)])
    worker = rig.start("-A", "ifinu", "worker", IFINU_RATE_LIMIT=limit, IFINU_RATE_BURST=str(BURST))
    wait_for(lambda: rig.sent() >= count, worker, 2 * count / rate + 60)
    worker.end()
    posts = rig.control.summary()["posts"]
    assert posts["total"] == count, posts
    return posts["mean_per_s"], posts["worst_window"], count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--limits", default="5/s,50/s,100/s")
    given = parser.parse_args()
    rows, held = [], True
    with Rig(latency_ms=20) as rig:
        for limit in given.limits.split(","):
            mean, fullest, count = measure(rig, limit, given.seconds)
            rate = rate_per_s(limit)
            good = LEAST * rate <= mean <= MOST * rate and fullest <= rate + BURST
            held &= good
            rows.append(
                (limit, str(count), f"{mean:.2f}/s", str(fullest), f"{rate + BURST:g}", "yes" if good else "NO")
            )
    table(("limit", "messages", "mean", "fullest second", "may have", "held"), rows)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
