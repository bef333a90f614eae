"""
Pace and cost of a fleet of paced workers on one machine, with everything else on it too.

Starts the workers, each with metrics (scraped every 15 seconds), log lines at the level `info` and one of them writing
the ledger; pushes a backlog that outlasts the measurement; and counts at the gateway. Workers are warm before the first
second that counts.

  messages a second    of all workers together, of the slowest and of the fastest
  fullest second       the most POSTs of one worker in any one second, from its start on
  CPU µs a message     of the workers, of the processes that they started (the recorder), of Redis and of the gateway
  cores busy           with all of this, and with other programs: a fleet that shares its cores with others says little
  events the ledger lacked   at the end; more than a few hundred, and it does not keep up

With --against, the same fleet of an older commit runs in turns with this one, and the last lines are the ratios.

The exit code is 1 when the fleet of this tree misses its pace: less in all than workers times limit, a worker 1 % from
its limit (each may miss one message, at the edges of the interval), or a second with more than limit and burst.

  python bench/fleet.py                                             20 workers at 50/s for a minute
  python bench/fleet.py --workers 1 --limit 5/s,50/s,100/s --seconds 30     the pace of one
  python bench/fleet.py --against v0.1.0 --rounds 2 --json fleet.json
  python bench/fleet.py --workers 2 --seconds 3 --warm-up 1         does it run at all?
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple

import report
import usage
from checkout import package_of
from report import Progress, table
from rig import Rig, WorkerProcess, push, raw

from ifinu.broker import NORMAL
from ifinu.broker.keys import EVENTS
from ifinu.embedded import free_port
from ifinu.settings import rate_per_s

BURST = 5
MOST_OFF = 0.01
_SCRAPE_EVERY_S = 15.0
_START_S = 120.0
_SPARE_S = 5.0  # of backlog, so that the last second is a full one
_HELD = 50  # messages that a worker may hold beside


class Look(NamedTuple):
    """The CPU time used and the messages sent up to one moment."""

    at: float  # time.monotonic()
    posts: dict[str, int]  # by worker
    cpu_s: dict[str, float]  # by the kind of process
    machine_s: float


class Run(NamedTuple):
    """One measurement of one fleet."""

    name: str
    limit: str
    seconds: float
    per_s: float
    paces: dict[str, float]  # messages a second, by worker
    fullest: int
    cpu_us: dict[str, float]  # a message, by the kind of process
    cores: float
    others_cores: float
    memory_mib: float  # of the largest worker, without what it started
    sent_twice: int
    ledger_lacks: int | None  # events that it did not have yet at the end; None without a ledger

    @property
    def workers_us(self) -> float:
        """CPU time of the workers with all that they started."""
        return self.cpu_us["workers"] + self.cpu_us["recorder"]

    def held(self) -> bool:
        """Whether the fleet kept its pace and its bounds, but for one message of each at the edges of the interval."""
        rate, edge = rate_per_s(self.limit), 1 / self.seconds
        return (
            self.per_s >= len(self.paces) * (rate - edge)
            and all(abs(pace - rate) <= MOST_OFF * rate + edge for pace in self.paces.values())
            and self.fullest <= rate + BURST
            and self.sent_twice == 0
        )


def measure(rig: Rig, given: argparse.Namespace, limit: str, name: str, source: Path | None, progress: Progress) -> Run:
    """Run one fleet, of this tree or of the package in `source`."""
    rate, count = rate_per_s(limit), given.workers
    rig.reset()
    ports = {f"w{number}": free_port() for number in range(count)}
    more = {} if source is None else {"PYTHONPATH": str(source)}
    if given.ledger == "postgresql":
        subprocess.run(
            [sys.executable, "-m", "ifinu", "migrate"], env={**rig.environment, **more}, capture_output=True, check=True
        )
    workers = {
        worker: rig.start(
            "-A", "ifinu", "worker", "--hostname", f"{worker}@bench",
            IFINU_WORKER_NAME=worker, IFINU_RATE_LIMIT=limit, IFINU_RATE_BURST=str(BURST),
            IFINU_METRICS_PORT=str(port), IFINU_LOG_LEVEL="info", IFINU_RECORDER=str(given.ledger != "none"), **more,
        )
        for worker, port in ports.items()
    }  # fmt: skip
    _wait_until_ready(list(workers.values()), f"{name}: {count} workers start", progress)
    backlog = round(count * (rate * (given.warm_up + given.seconds + _SPARE_S) + BURST + _HELD))
    progress.step(f"{name}: {backlog:,} messages; warm-up of {given.warm_up:g} s")
    with _scraped(list(ports.values())):
        push(rig.client, NORMAL, [raw(number) for number in range(backlog)])
        time.sleep(given.warm_up)
        before = _look(rig, workers)
        while (left_s := before.at + given.seconds - time.monotonic()) > 0:
            time.sleep(min(1.0, left_s))
            progress.show(f"{name}: {max(0.0, left_s):.0f} s to go, {rig.sent():,} sent")
        after = _look(rig, workers)
        ledger_lacks = None if given.ledger == "none" else rig.client.xlen(EVENTS)
    if not rig.client.llen(NORMAL):
        raise SystemExit("the backlog ended before the measurement: the workers exceed their pace")
    for one in workers.values():
        one.check()
    memory_mib = max(used.memory_mib for used in usage.of(*(one.pid for one in workers.values())))
    for one in workers.values():
        one.send(SIGTERM)
    for one in workers.values():
        one.end()
    return _run(name, limit, list(workers), before, after, rig.control.summary(), memory_mib, ledger_lacks)


def _wait_until_ready(workers: list[WorkerProcess], what: str, progress: Progress) -> None:
    give_up_at = time.monotonic() + _START_S
    while waiting := sum(not worker.ready() for worker in workers):
        progress.show(f"{what}, {len(workers) - waiting} are ready")
        if time.monotonic() > give_up_at:
            raise SystemExit(f"{waiting} of {len(workers)} workers were not ready after {_START_S:.0f} s")
        time.sleep(0.2)


def _look(rig: Rig, workers: dict[str, WorkerProcess]) -> Look:
    servers = rig.server_pids
    of_workers = usage.of(*(worker.pid for worker in workers.values()))
    of_servers = dict(zip(servers, usage.of(*servers.values()), strict=True))
    cpu_s = {
        "workers": sum(used.cpu_s for used in of_workers),
        "recorder": sum(used.children_cpu_s for used in of_workers),
        **{name: used.all_cpu_s for name, used in of_servers.items()},
        "bench": time.process_time(),
    }
    machine_s, at = usage.machine_s(), time.monotonic()
    posts = {worker: about["total"] for worker, about in rig.control.summary()["clients"].items()}
    return Look(at, posts, cpu_s, machine_s)


def _run(
    name: str,
    limit: str,
    workers: list[str],
    before: Look,
    after: Look,
    summary: dict[str, Any],
    memory_mib: float,
    ledger_lacks: int | None,
) -> Run:
    took_s = after.at - before.at
    posts = {worker: after.posts.get(worker, 0) - before.posts.get(worker, 0) for worker in workers}
    in_all = sum(posts.values())
    cpu_s = {kind: s - before.cpu_s[kind] for kind, s in after.cpu_s.items()}
    return Run(
        name,
        limit,
        took_s,
        in_all / took_s,
        {worker: count / took_s for worker, count in posts.items()},
        max(about["worst_window"] for about in summary["clients"].values()),
        {kind: s / in_all * 1e6 for kind, s in cpu_s.items()},
        sum(cpu_s.values()) / took_s,
        max(0.0, after.machine_s - before.machine_s - sum(cpu_s.values())) / took_s,
        memory_mib,
        summary["sends"]["duplicates"],
        ledger_lacks,
    )


@contextlib.contextmanager
def _scraped(ports: list[int]) -> Iterator[None]:
    """Read every worker's metrics as often as Prometheus does by default."""
    stop = threading.Event()

    def scrape() -> None:
        while not stop.wait(_SCRAPE_EVERY_S):
            for port in ports:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                    answer.read()

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        yield
    finally:
        stop.set()
        scraper.join()


def show(runs: list[Run], workers: int) -> None:
    """Print a table with a column for each run."""
    kinds = [kind for kind in runs[0].cpu_us if kind != "bench"]
    rows = {
        "messages a second, in all": [f"{run.per_s:.1f}" for run in runs],
        "  of the slowest worker": [f"{min(run.paces.values()):.2f}" for run in runs],
        "  of the fastest worker": [f"{max(run.paces.values()):.2f}" for run in runs],
        "fullest second of one worker": [str(run.fullest) for run in runs],
        "pace held": ["yes" if run.held() else "NO" for run in runs],
        **{f"CPU µs a message, {kind}": [f"{run.cpu_us[kind]:.0f}" for run in runs] for kind in kinds},
        "cores busy with it": [f"{run.cores:.2f}" for run in runs],
        "cores busy with others": [f"{run.others_cores:.2f}" for run in runs],
        "MiB of the largest worker": [f"{run.memory_mib:.0f}" for run in runs],
        "events the ledger lacked": ["–" if run.ledger_lacks is None else str(run.ledger_lacks) for run in runs],
    }
    table(
        (f"workers: {workers}", *(f"{run.name}, {run.limit}" for run in runs)),
        [(name, *cells) for name, cells in rows.items()],
    )


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--workers", type=int, default=20, help="how many worker processes")
    made.add_argument(
        "--limit", default="50/s", help="pace of each worker; several, such as 5/s,50/s, one after the other"
    )
    made.add_argument("--seconds", type=float, default=60.0, help="length of the measurement")
    made.add_argument("--warm-up", type=float, default=5.0, help="seconds of the backlog that do not count")
    made.add_argument("--latency-ms", type=float, default=20.0, help="how long a send takes at the gateway")
    made.add_argument("--ledger", choices=("sqlite", "postgresql", "none"), default="sqlite", help="who keeps it")
    made.add_argument("--against", metavar="REV", help="an older commit that takes turns with this tree")
    made.add_argument("--rounds", type=int, default=1, help="how often each fleet is measured")
    return made


def main() -> int:
    given = parser().parse_args()
    progress = Progress()
    runs: list[Run] = []
    with contextlib.ExitStack() as stack:
        sources: dict[str, Path | None] = {"this tree": None}
        if given.against:
            sources[given.against] = stack.enter_context(package_of(given.against))
        rig = stack.enter_context(Rig(given.latency_ms, given.ledger))
        for round_ in range(given.rounds):
            # The one that begins changes from round to round.
            for name, source in list(sources.items())[:: -1 if round_ % 2 else 1]:
                runs += [measure(rig, given, limit, name, source, progress) for limit in given.limit.split(",")]
    progress.end()
    show(runs, given.workers)
    ours = [run for run in runs if run.name == "this tree"]
    measured: dict[str, Any] = {"runs": [run._asdict() for run in runs]}
    if given.against:
        theirs = [run for run in runs if run.name == given.against]
        measured["ratio"] = ratios = {
            "workers": _ratio([run.cpu_us["workers"] for run in ours], [run.cpu_us["workers"] for run in theirs]),
            "workers and recorder": _ratio([run.workers_us for run in ours], [run.workers_us for run in theirs]),
        }
        for what, ratio in ratios.items():
            print(f"CPU a message, {what}: {ratio:.2f} of {given.against}")
    report.write(given, measured)
    return 0 if all(run.held() for run in ours) else 1


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios of the pairs, each measured one after the other."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    sys.exit(main())
