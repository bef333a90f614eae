"""
What the pace of registered numbers costs a message, and how long ten messages wait behind another tenant's flood.

One worker drains the same backlog as fast as it can, in turns: with nothing registered, with one number, with a
hundred, and with as many numbers as messages, one message each. The numbers have no gap and ten sends at once
(`direto`), so that the work counts and not the wait. CPU time is the worker's and Redis', apart. With --against, a
worker of an older commit takes turns, with nothing registered; the ratio is the median of the rounds.

Then a backlog of one tenant, whose number sends five messages a second, lies before ten messages of another tenant,
and all workers begin at the same moment.

The exit code is 1 if a message of the many numbers costs worker or Redis over 20 % more than one of the single number;
if one with nothing registered costs both together over 2 % more than in the older commit; or if one of twenty of the
messages behind the flood waits over 5 s.

  python bench/lanes.py                                          10,000 messages; a flood of 100,000
  python bench/lanes.py --against v0.1.0 --rounds 5
  python bench/lanes.py --messages 300 --rounds 1 --flood 1000   does it run at all?
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import redis
import report
from checkout import package_of
from report import Progress, table
from rig import Rig, push, wait_for, wire
from unpaced import UNPACED, Contender, Cost, ifinu, measure

from ifinu.broker import NORMAL, Keys
from ifinu.broker.keys import GENERATION, NUMBERS, TENANTS, number_key, tenant_key

MOST_OF_ONE = 1.20
MOST_OF_BEFORE = 1.02
MOST_WAIT_S = 5.0
NOTHING, ONE, HUNDRED = "nothing registered", "1 number", "100 numbers"
_DIRECT = {"par": 10, "min": 0, "max": 0, "canal": "BAILEYS", "inquilino": ""}
_BEHIND = 10  # messages behind the flood
_READY_S = 120.0


def register(client: redis.Redis, numbers: dict[str, dict[str, Any]]) -> None:
    """Write a registry's copy with these numbers into Redis, and the tenants that they name."""
    pipe = client.pipeline(transaction=False)
    for name, fields in numbers.items():
        pipe.sadd(NUMBERS, name)
        pipe.hset(number_key(name), mapping=fields)
        if tenant := fields["inquilino"]:
            pipe.sadd(TENANTS, tenant)
            pipe.hset(tenant_key(tenant), mapping={"numeros": json.dumps([name]), "politica": "fixo", "peso": 1})
    pipe.set(GENERATION, "bench")
    pipe.execute()


def name_of(number: int) -> str:
    return f"n{number}"


def message(number: int, **fields: str) -> bytes:
    return json.dumps({**wire(number), **fields}).encode()


def backlog(numbers: int) -> Callable[[Rig, int], None]:
    """Messages that go by so many registered numbers in turns; with none, by one that is not registered."""

    def fill(rig: Rig, messages: int) -> None:
        if numbers:
            register(rig.client, {name_of(number): _DIRECT for number in range(numbers)})
        push(rig.client, NORMAL, [message(i, instancia=name_of(i % max(1, numbers))) for i in range(messages)])

    return fill


def behind_a_flood(rig: Rig, flood: int, workers: int, progress: Progress) -> list[float]:
    """How long each of ten messages waited, in seconds, from the moment when all workers began."""
    rig.reset()
    slow = {**_DIRECT, "par": 1, "min": 200, "max": 200, "inquilino": "a"}
    register(rig.client, {name_of(0): slow, name_of(1): {**_DIRECT, "inquilino": "b"}})
    paused = Keys.of(NORMAL).paused
    rig.client.set(paused, 1)
    progress.step(f"flood: {flood:,} messages are published, and {workers} workers start")
    push(rig.client, NORMAL, [message(i, usuario_id="a") for i in range(flood)])
    push(rig.client, NORMAL, [message(flood + i, usuario_id="b") for i in range(_BEHIND)])
    running = [rig.start("-A", "ifinu", "worker", "--hostname", f"w{i}@bench", **UNPACED) for i in range(workers)]
    for worker in running:
        wait_for(worker.ready, worker, _READY_S)
    rig.client.delete(paused)
    began = time.monotonic()

    def waits() -> list[float]:
        return sorted(send.at_monotonic - began for send in rig.control.sends if send.instance == name_of(1))

    wait_for(lambda: len(waits()) == _BEHIND, running[0], _READY_S)
    for worker in running:
        worker.end()
    return waits()


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--messages", type=int, default=10_000, help="backlog of each worker in each round")
    made.add_argument("--rounds", type=int, default=3, help="how often each has its turn")
    made.add_argument("--against", metavar="REV", help="an older commit that takes turns, with nothing registered")
    made.add_argument("--latency-ms", type=float, default=5.0, help="how long a send takes at the gateway")
    made.add_argument("--flood", type=int, default=100_000, help="messages before the ten; 0 leaves this part out")
    made.add_argument("--workers", type=int, default=2, help="how many workers meet the flood")
    return made


def main() -> int:
    given = parser().parse_args()
    many = f"{given.messages:,} numbers"
    progress, costs = Progress(), dict[str, list[Cost]]()
    with contextlib.ExitStack() as stack:
        sizes = {NOTHING: 0, ONE: 1, HUNDRED: 100, many: given.messages}
        contenders = {name: Contender(ifinu(), backlog(numbers)) for name, numbers in sizes.items()}
        if given.against:
            source = stack.enter_context(package_of(given.against))
            contenders[given.against] = Contender(ifinu(PYTHONPATH=str(source)), backlog(0))
        instances = [name_of(number) for number in range(max(given.messages, 100))]
        rig = stack.enter_context(Rig(given.latency_ms, instances=instances))
        for round_ in range(1, given.rounds + 1):
            for name, contender in list(contenders.items())[:: 1 if round_ % 2 else -1]:
                said = f"round {round_} of {given.rounds}, {name}"
                costs.setdefault(name, []).append(measure(rig, contender, given.messages, said, progress))
        waits = behind_a_flood(rig, given.flood, given.workers, progress) if given.flood else []
    progress.end()
    middle = {name: Cost.middle(measured) for name, measured in costs.items()}
    one = middle[ONE]
    table(
        ("registered", "worker CPU µs a message", "of 1 number", "Redis CPU µs", "of 1 number", "messages a second"),
        [
            (
                name if name in sizes else f"{name}, {NOTHING}",
                f"{cost.cpu_us:.0f}", f"{_ratio(cost.cpu_us, one.cpu_us):.2f}",
                f"{cost.redis_us:.0f}", f"{_ratio(cost.redis_us, one.redis_us):.2f}", f"{cost.per_s:.0f}",
            )
            for name, cost in middle.items()
        ],
    )  # fmt: skip
    ratios = {
        "many_of_one_worker": _ratio(middle[many].cpu_us, one.cpu_us),
        "many_of_one_redis": _ratio(middle[many].redis_us, one.redis_us),
    }
    if given.against:
        ratios["nothing_of_before"] = statistics.median(
            _ratio(ours.cpu_us + ours.redis_us, theirs.cpu_us + theirs.redis_us)
            for ours, theirs in zip(costs[NOTHING], costs[given.against], strict=True)
        )
        print(f"nothing registered, of {given.against}: {ratios['nothing_of_before']:.3f}")
    most_wait_s = None
    if waits:
        most_wait_s = statistics.quantiles(waits, n=20, method="inclusive")[-1]
        print(
            f"ten messages behind {given.flood:,} of another tenant, {given.workers} workers: "
            f"half within {statistics.median(waits):.2f} s, 19 of 20 within {most_wait_s:.2f} s, "
            f"all within {waits[-1]:.2f} s"
        )
    report.write(
        given,
        {
            "medians": {name: cost._asdict() for name, cost in middle.items()},
            "rounds": {name: [cost._asdict() for cost in measured] for name, measured in costs.items()},
            "ratios": ratios,
            "waits_s": waits,
        },
    )
    good = (
        ratios["many_of_one_worker"] <= MOST_OF_ONE
        and ratios["many_of_one_redis"] <= MOST_OF_ONE
        and ratios.get("nothing_of_before", 0.0) <= MOST_OF_BEFORE
        and (most_wait_s is None or most_wait_s <= MOST_WAIT_S)
    )
    return 0 if good else 1


def _ratio(cost_us: float, base_us: float) -> float:
    """Not a number if the base is too short for the kernel's ticks."""
    return cost_us / base_us if base_us else math.nan


if __name__ == "__main__":
    sys.exit(main())
