"""What a message costs a worker that sends as fast as it can: for the benches that compare workers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

import usage
from report import Progress
from rig import Rig, WorkerProcess, wait_for

from ifinu.broker.keys import EVENTS

SLOTS = "10"
UNPACED = {"IFINU_RATE_LIMIT": "5000/s", "IFINU_RATE_BURST": "1000", "IFINU_CONCURRENCY": SLOTS}
_FIRST_S, _ALL_S = 120.0, 900.0


class Contender(NamedTuple):
    """A worker, and how its backlog comes about."""

    start: Callable[[Rig], WorkerProcess]
    fill: Callable[[Rig, int], None]
    starts_first: bool = False  # before its backlog is there


class Cost(NamedTuple):
    """Of a message; and the worker's memory after the last one."""

    cpu_us: float  # of the worker and of the processes that it started
    redis_us: float
    per_s: float
    memory_mib: float  # of all these processes

    @classmethod
    def middle(cls, costs: list[Cost]) -> Cost:
        """The median of each figure."""
        return cls(*map(median, zip(*costs, strict=True)))


def ifinu(
    *flags: str, application: str = "ifinu", records: bool = False, **more: str
) -> Callable[[Rig], WorkerProcess]:
    """Start ifinu's worker without a pace that it could reach; one that records is returned once it does."""

    def start(rig: Rig) -> WorkerProcess:
        worker = rig.start("-A", application, "worker", *flags, **UNPACED, IFINU_RECORDER=str(records), **more)
        if records:
            wait_for(lambda: bool(rig.client.exists(EVENTS)), worker, _FIRST_S)  # it makes the stream when it begins
        return worker

    return start


def measure(rig: Rig, contender: Contender, messages: int, name: str, progress: Progress) -> Cost:
    """
    Let a worker drain a backlog.

    Counted is what comes after the first tenth of the messages, so that its start does not matter.
    """
    rig.reset()
    if contender.starts_first:
        worker = contender.start(rig)
    progress.show(f"{name}: {messages:,} messages are published")
    contender.fill(rig, messages)
    if not contender.starts_first:
        worker = contender.start(rig)
    redis = rig.server_pids["Redis"]

    def sent(count: int) -> bool:
        progress.show(f"{name}: {(so_far := rig.sent()):,} of {messages:,} sent")
        return so_far >= count

    wait_for(lambda: sent(messages // 10), worker, _FIRST_S)
    began, before, (worker_before, redis_before) = time.monotonic(), rig.sent(), usage.of(worker.pid, redis)
    wait_for(lambda: sent(messages), worker, _ALL_S)
    took_s, (worker_after, redis_after) = time.monotonic() - began, usage.of(worker.pid, redis)
    worker.end()
    posts = rig.control.summary()["sends"]
    if posts["total"] != messages or posts["duplicates"]:
        raise SystemExit(f"{name}: {messages:,} messages became {posts}")
    counted = messages - before
    return Cost(
        (worker_after.all_cpu_s - worker_before.all_cpu_s) / counted * 1e6,
        (redis_after.all_cpu_s - redis_before.all_cpu_s) / counted * 1e6,
        counted / took_s,
        worker_after.all_memory_mib,
    )


@contextlib.contextmanager
def busy_cores(wanted: bool) -> Iterator[None]:
    """Keep every core of this machine busy with something else, if wanted."""
    spinning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range((os.cpu_count() or 1) if wanted else 0)
    ]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()
