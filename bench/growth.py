"""
What grows: with the queue the cost of a message, its place in Redis and the time of the commands for dead letters; with
the messages that it sent, the memory of a worker.

backlog       A worker without a pace drains a queue whose length is kept: as many messages are pushed as it sends. CPU
              time of the worker and of Redis, per message, and the ratio to the shortest backlog.
delayed       The same with a short backlog beside messages that wait for their time; then all of them are due at once,
              as after an outage, and the worker takes them from there.
dead-letters  `ifinu dlq list`, `show` and `replay --all`, each as a program of its own: time, CPU time and memory for
              each number of dead letters, and the ratios to the first number.
memory        Resident memory of one worker, started by `celery -A ifinu worker` and by `ifinu worker`, after so many
              messages to a gateway that answers at once. `celery` also loads the commands of each package that is
              installed, Flower's for one; --python runs the workers in another environment.

"Bytes" is what a message takes in Redis: its own bytes, and what Redis adds. The exit code is 1 when a message costs
more than 10 % more in the longest backlog than in the shortest, or when `ifinu worker` takes more than 80 MiB, or 1 MiB
more after the last messages than before them.

  python bench/growth.py                                              all of it: twenty minutes, 2 GB of memory
  python bench/growth.py --only backlog --backlogs 1000,1000000 --rounds 2
  python bench/growth.py --only delayed --rounds 1
  python bench/growth.py --only dead-letters --dead 3000,300000 --json dead.json
  python bench/growth.py --only memory --sent 1000,10000,100000 --python base/bin/python
  python bench/growth.py --backlogs 100,1000 --delayed 1000 --dead 50,100 --sent 100,200 --messages 200 --rounds 1
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import report
import usage
from report import Progress, table
from rig import Rig, WorkerProcess, push, raw, wait_for
from unpaced import UNPACED, ifinu

from ifinu.broker import NORMAL
from ifinu.broker.keys import Keys

MOST_GROWTH = 1.10
MOST_MIB, MOST_MORE_MIB = 80.0, 1.0
KEYS = Keys.of(NORMAL)
PARTS = ("backlog", "delayed", "dead-letters", "memory")
_PAGE = 1_000
_SHORT = 1_000  # messages of the backlog beside the delayed ones
_FEED_EVERY_S = 0.05
_DAY_MS = 86_400_000
_DEADLINE_S = 900.0


class Cost(NamedTuple):
    """Of a message."""

    bytes_each: float  # in Redis
    worker_us: float
    redis_us: float
    per_s: float

    @property
    def all_us(self) -> float:
        return self.worker_us + self.redis_us


class Feeder:
    """Makes messages, no two alike, and puts them where they wait."""

    def __init__(self, rig: Rig, progress: Progress) -> None:
        self._rig = rig
        self._progress = progress
        self._numbers = itertools.count()

    def queue(self, count: int) -> None:
        self._put(count, lambda page: self._rig.client.lpush(KEYS.ready, *page), "queued")

    def delay(self, count: int, due_ms: int) -> None:
        self._put(count, lambda page: self._rig.client.zadd(KEYS.delayed, dict.fromkeys(page, due_ms)), "delayed")

    def _put(self, count: int, put: Callable[[list[bytes]], Any], what: str) -> None:
        for start in range(0, count, _PAGE):
            put([raw(next(self._numbers)) for _ in range(min(_PAGE, count - start))])
            if count > 10 * _PAGE:
                self._progress.show(f"{start:,} of {count:,} {what}")

    @contextlib.contextmanager
    def keeping(self, length: int) -> Iterator[None]:
        """Push as many messages as workers take."""
        stop = threading.Event()

        def feed() -> None:
            while not stop.wait(_FEED_EVERY_S):
                self.queue(max(0, length - self._rig.client.llen(KEYS.ready)))

        thread = threading.Thread(target=feed)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def backlogs(rig: Rig, given: argparse.Namespace, progress: Progress) -> dict[str, list[Cost]]:
    """Costs at each length, whose rounds take turns."""
    costs: dict[str, list[Cost]] = {}
    for _ in range(given.rounds):
        for length in given.backlogs:
            rig.reset()
            feeder = Feeder(rig, progress)
            feeder.queue(length)
            bytes_each = _bytes_each(rig, KEYS.ready, length)
            with feeder.keeping(length):
                cost = _drain(rig, given.messages, bytes_each, f"a backlog of {length:,}", progress)
            costs.setdefault(f"backlog {length:,}", []).append(cost)
    return costs


def delayed(rig: Rig, given: argparse.Namespace, progress: Progress) -> dict[str, list[Cost]]:
    """Costs beside messages that wait, and of those that came due."""
    costs: dict[str, list[Cost]] = {}
    for _ in range(given.rounds):
        for length in (0, given.delayed):
            rig.reset()
            feeder = Feeder(rig, progress)
            feeder.delay(length, int(time.time() * 1000) + _DAY_MS)
            bytes_each = _bytes_each(rig, KEYS.delayed, length) if length else 0.0
            feeder.queue(_SHORT)
            with feeder.keeping(_SHORT):
                cost = _drain(rig, given.messages, bytes_each, f"{length:,} delayed", progress)
            costs.setdefault(f"backlog {_SHORT:,}, and {length:,} delayed", []).append(cost)
        rig.reset()
        feeder = Feeder(rig, progress)
        feeder.delay(given.delayed, due_ms=1)
        bytes_each = _bytes_each(rig, KEYS.delayed, given.delayed)
        cost = _drain(rig, min(given.messages, given.delayed // 2), bytes_each, f"{given.delayed:,} due", progress)
        costs.setdefault(f"{given.delayed:,} delayed, all due", []).append(cost)
    return costs


def _bytes_each(rig: Rig, key: str, count: int) -> float:
    """Bytes that one of a key's elements takes in Redis; every element is counted."""
    return float(rig.client.memory_usage(key, samples=0) or 0) / count


def _drain(rig: Rig, messages: int, bytes_each: float, name: str, progress: Progress) -> Cost:
    """Start a worker; count from the first tenth of the messages on."""
    worker, redis = ifinu()(rig), rig.server_pids["Redis"]

    def sent(count: int) -> bool:
        progress.show(f"{name}: {(so_far := rig.sent()):,} of {messages:,} sent")
        return so_far >= count

    wait_for(lambda: sent(messages // 10), worker, _DEADLINE_S)
    began, before, then = time.monotonic(), rig.sent(), usage.of(worker.pid, redis)
    wait_for(lambda: sent(before + messages - messages // 10), worker, _DEADLINE_S)
    took_s, count, now = time.monotonic() - began, rig.sent() - before, usage.of(worker.pid, redis)
    worker.end()
    spent_us = [(after.all_cpu_s - earlier.all_cpu_s) / count * 1e6 for after, earlier in zip(now, then, strict=True)]
    return Cost(bytes_each, *spent_us, count / took_s)


class Command(NamedTuple):
    """The time and the memory that one command took."""

    took_s: float
    cpu_s: float
    memory_mib: float  # at its peak


def dead_letters(rig: Rig, count: int, progress: Progress) -> tuple[float, dict[str, Command]]:
    """Bytes of a dead letter in Redis, and what each command needs for so many of them."""
    rig.reset()
    record = json.loads(_dead_letter(rig))
    for start in range(0, count, _PAGE):
        page = range(start, min(start + _PAGE, count))
        push(rig.client, KEYS.dead, [json.dumps({**record, "id": f"bench-{number}"}).encode() for number in page])
    bytes_each = _bytes_each(rig, KEYS.dead, count)
    needed = {
        "dlq list": _run(rig, progress, "dlq", "list"),
        "dlq show, the oldest by its id": _run(rig, progress, "dlq", "show", "bench-0"),
        "dlq show, the oldest by its number": _run(rig, progress, "dlq", "show", str(count)),
        "dlq replay --all": _run(rig, progress, "dlq", "replay", "--all"),
    }
    if (left := rig.client.llen(KEYS.dead)) or rig.client.llen(KEYS.ready) != count:
        raise SystemExit(f"{left:,} dead letters were not replayed")
    return bytes_each, needed


def _dead_letter(rig: Rig) -> bytes:
    """The record that a worker writes of a message without a phone; the list is empty afterwards."""
    rig.client.lpush(KEYS.ready, json.dumps({"id": "bench", "tipo_notificacao": "lembrete"}))
    worker: WorkerProcess = ifinu()(rig)
    wait_for(lambda: bool(rig.client.llen(KEYS.dead)), worker, _DEADLINE_S)
    worker.end()
    return bytes(rig.client.rpop(KEYS.dead))


def _run(rig: Rig, progress: Progress, *command: str) -> Command:
    said = f"ifinu {' '.join(command)}"
    began = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ifinu", *command], env=rig.environment, stdout=out, stderr=out
        )
        while True:
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            progress.show(f"{said}: {time.monotonic() - began:.0f} s, {rig.client.llen(KEYS.dead):,} dead letters")
            time.sleep(0.02)
        took_s = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        if process.returncode:
            raise SystemExit(f"{said} ended with {process.returncode}:\n{out.read().decode()[-3000:]}")
    return Command(took_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def memory(given: argparse.Namespace, progress: Progress) -> dict[str, list[float]]:
    """Resident memory of a worker, in MiB, after each number of messages, by the command that started it."""
    taken = {}
    for command in (("celery", "-A", "ifinu", "worker"), ("ifinu", "worker")):
        with Rig(latency_ms=0) as rig:  # another simulator: one that remembers many sends slows down
            feeder = Feeder(rig, progress)
            worker = rig.run([str(given.python), "-m", *command], **UNPACED, IFINU_RECORDER="false")
            taken[" ".join(command)] = [
                _memory_after(rig, feeder, worker, count, progress) for count in sorted(given.sent)
            ]
            worker.end()
    return taken


def _memory_after(rig: Rig, feeder: Feeder, worker: WorkerProcess, count: int, progress: Progress) -> float:
    def sent() -> bool:
        progress.show(f"memory: {(so_far := rig.sent()):,} of {count:,} sent")
        return so_far >= count

    feeder.queue(count - rig.sent())
    wait_for(sent, worker, _DEADLINE_S)
    return worker.usage().memory_mib


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


def _parts(text: str) -> list[str]:
    if unknown := set(parts := text.split(",")) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    return parts


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--only", type=_parts, default=",".join(PARTS), metavar="PARTS", help="some of the parts")
    made.add_argument("--backlogs", type=_counts, default="1000,10000,100000,1000000", help="lengths of the queue")
    made.add_argument("--delayed", type=int, default=1_000_000, help="messages that wait for their time")
    made.add_argument("--dead", type=_counts, default="3000,300000", help="numbers of dead letters")
    made.add_argument("--sent", type=_counts, default="1000,10000,100000", help="messages before a look at the memory")
    made.add_argument("--python", type=Path, default=sys.executable, help="the interpreter of those workers")
    made.add_argument("--messages", type=int, default=5_000, help="messages that a worker sends for one cost")
    made.add_argument("--rounds", type=int, default=3, help="how often each cost is measured")
    return made


def _print_dead_letters(needed: dict[int, tuple[float, dict[str, Command]]]) -> dict[str, Any]:
    """Print each command's needs, and their ratios to those for the first number of dead letters."""
    first = next(iter(needed.values()))[1]
    table(
        ("dead letters", "bytes", "seconds", "CPU seconds", "of the first", "peak MiB", "of the first"),
        [
            (
                f"{count:,}: {name}", f"{bytes_each:.0f}", f"{command.took_s:.1f}", f"{command.cpu_s:.2f}",
                f"{command.cpu_s / first[name].cpu_s:.2f}", f"{command.memory_mib:.0f}",
                f"{command.memory_mib / first[name].memory_mib:.2f}",
            )
            for count, (bytes_each, commands) in needed.items()
            for name, command in commands.items()
        ],
    )  # fmt: skip
    return {
        str(count): {
            "bytes_each": bytes_each, "commands": {name: command._asdict() for name, command in commands.items()}
        }
        for count, (bytes_each, commands) in needed.items()
    }  # fmt: skip


def main() -> int:
    given, progress = parser().parse_args(), Progress()
    costs: dict[str, list[Cost]] = {}
    measured: dict[str, Any] = {}
    growth, in_bounds = 1.0, True
    with Rig(latency_ms=20) as rig:
        if "backlog" in given.only:
            costs |= backlogs(rig, given, progress)
            rounds = list(costs.values())
            growth = statistics.median(
                longest.all_us / shortest.all_us for longest, shortest in zip(rounds[-1], rounds[0], strict=True)
            )
        if "delayed" in given.only:
            costs |= delayed(rig, given, progress)
        if "dead-letters" in given.only:
            needed = {count: dead_letters(rig, count, progress) for count in given.dead}
    if "memory" in given.only:
        taken = memory(given, progress)
    progress.end()
    if costs:
        middle = {name: Cost(*map(statistics.median, zip(*each, strict=True))) for name, each in costs.items()}
        first = next(iter(middle.values()))
        table(
            ("queue", "bytes", "worker µs a message", "Redis µs", "both, of the first row", "messages a second"),
            [
                (
                    name, f"{cost.bytes_each:.0f}" if cost.bytes_each else "–", f"{cost.worker_us:.0f}",
                    f"{cost.redis_us:.0f}", f"{cost.all_us / first.all_us:.2f}", f"{cost.per_s:.0f}",
                )
                for name, cost in middle.items()
            ],
        )  # fmt: skip
        measured |= {
            "medians": {name: cost._asdict() for name, cost in middle.items()},
            "rounds": {name: [cost._asdict() for cost in each] for name, each in costs.items()},
        }
    if "dead-letters" in given.only:
        print()
        measured["dead_letters"] = _print_dead_letters(needed)
    if "memory" in given.only:
        print()
        table(
            ("MiB of a worker", *(f"after {count:,}" for count in sorted(given.sent))),
            [(name, *(f"{mib:.1f}" for mib in each)) for name, each in taken.items()],
        )
        measured["memory_mib"] = taken
        *before, last = taken["ifinu worker"]
        in_bounds = last <= MOST_MIB and last - (before or [last])[-1] <= MOST_MORE_MIB
    report.write(given, measured)
    return 0 if growth <= MOST_GROWTH and in_bounds else 1


if __name__ == "__main__":
    sys.exit(main())
