"""
Four minutes of traffic for the picture of the dashboard, with what goes wrong on a bad day.

From the start 30 messages a second, some of which fail in one way or another. At a fifth of the time a campaign of
2,600 comes at once, and workers are added; in the middle the gateway is gone for 20 seconds; then one number loses
WhatsApp; then a worker is killed, and replaced.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dashboard_stage import INSTANCES, Cluster, Stage, every, notification
from ledgers import migrated
from processes import Simulated, redis_server, stopping, wait_until
from prometheus import Prometheus, prometheus

from ifinu import Notification
from ifinu.broker import NORMAL
from ifinu.embedded import Postgres
from ifinu.notification import Kind, Priority

T = TypeVar("T")

OUTAGE_S = 20.0

_PER_S = 30
_TICK_S = 0.25
_BEFORE_S = 15.0  # longer than the range of a rate
_CAMPAIGN = 2_600
_INSTANCE_AWAY_S = 35.0  # the exporter asks for its state every 30 s
_BACKLOG_PER_WORKER = 150
_SETTINGS = {
    "IFINU_RATE_LIMIT": "25/s",
    "IFINU_RETRY_BACKOFF_S": "2",
    "IFINU_LEASE_S": "15",
    "IFINU_UNKNOWN_GRACE_S": "20",
    "IFINU_UNCONFIRMED_AFTER_S": "8",
}
_FAULTS = {
    "latency_ms": {"lognormal": [80, 0.5]},
    "receipts_ms": {"server_ack": 300, "delivery_ack": 1500, "read": 8000},
}
_KINDS = {Kind.REMINDER: 50, Kind.DUE: 20, Kind.OVERDUE: 18, Kind.PAID: 12}
_PRIORITIES = {Priority.NORMAL: 80, Priority.LOW: 12, Priority.URGENT: 8}
_INSTANCES = dict(zip(INSTANCES, (50, 28, 15, 7), strict=True))

# Of a thousand phones, how many end in what the simulator takes for an order to fail.
_ENDINGS = {1: 3, 2: 6, 4: 2, 9: 4, 10: 10, 15: 1, 21: 1, 24: 2}


class Shown(NamedTuple):
    """A run: the Prometheus that has seen it, and when it began and ended, in epoch seconds."""

    server: Prometheus
    start: float
    end: float


@contextlib.contextmanager
def show(directory: Path, length_s: float) -> Iterator[Shown]:
    """
    Run it from beginning to end, and keep Prometheus until the end of the block.

    Args:
        directory: Gets logs and data.
        length_s: How long the traffic lasts.
    """
    instances = [part for name in INSTANCES for part in ("--instance", name)]
    with (
        redis_server(directory / "valkey") as valkey,
        Postgres() as postgres,
        stopping(Simulated(directory, *instances)) as simulator,
        Stage(directory, valkey.url, migrated(postgres.url), simulator, **_SETTINGS) as stage,
        prometheus(directory / "prometheus", stage.scrape_config()) as server,
    ):
        simulator.control.set_fault(**_FAULTS)
        _warm_up(stage)
        wait_until(lambda: len(server.targets()) > 4 and all(t["health"] == "up" for t in server.targets()), 60.0)
        start = time.time()
        with _traffic(stage), _autoscaler(stage):
            _bad_day(stage, start, length_s)
        yield Shown(server, start, time.time())


def _warm_up(stage: Stage) -> None:
    """
    Some traffic before, so that nothing begins at nothing; some of it without receipts, which recorder and exporter
    look for once an hour and once a minute, and when they start.
    """
    stage.client.config_set("maxmemory", "64mb")
    draw = random.Random(3)
    stage.push(_random(draw) for _ in range(120))
    for instance, count in zip(INSTANCES, (11, 6, 3, 1), strict=True):
        stage.push(notification(instance=instance, phone=f"+5577987{n:02d}0010") for n in range(count))
    wait_until(lambda: stage.backlog() == 0, 60.0)
    time.sleep(float(_SETTINGS["IFINU_UNCONFIRMED_AFTER_S"]) + 4)
    stage.restart("recorder", "metrics")
    with _traffic(stage):
        time.sleep(_BEFORE_S)


def _bad_day(stage: Stage, start: float, length_s: float) -> None:
    def wait(share: float) -> None:
        time.sleep(max(0.0, start + length_s * share - time.time()))

    wait(0.20)
    draw = random.Random(1)
    stage.push(_random(draw, priority=Priority.LOW) for _ in range(_CAMPAIGN))
    wait(0.50)
    stage.lose_gateway(OUTAGE_S)
    wait(0.70)
    stage.simulator.control.set_instance(INSTANCES[2], state="close")
    time.sleep(_INSTANCE_AWAY_S)
    stage.find_instance(INSTANCES[2])
    wait(0.86)
    stage.end_worker(next(iter(stage.workers))).kill()  # the autoscaler misses it
    wait(1.0)


@contextlib.contextmanager
def _traffic(stage: Stage) -> Iterator[None]:
    draw = random.Random(2)

    def tick() -> None:
        pushed = [_random(draw) for _ in range(round(draw.gauss(_PER_S, 4) * _TICK_S))]
        stage.push(pushed)
        if draw.random() < 0.03:
            stage.push(pushed[:1])  # a producer pushes one twice
        if draw.random() < 0.008:
            stage.client.lpush(NORMAL, b'{"id": 7, "tipo_notificacao": "lembrete"')

    with every(_TICK_S, tick):
        yield


@contextlib.contextmanager
def _autoscaler(stage: Stage) -> Iterator[None]:
    """As Kubernetes' would by the backlog, with processes for pods; it never takes one away within these minutes."""

    def look() -> None:
        wanted = math.ceil(stage.backlog() / _BACKLOG_PER_WORKER)
        stage.cluster.desired = min(Cluster.MOST, max(stage.cluster.desired, wanted))
        if len(stage.workers) < stage.cluster.desired:
            stage.start_worker()

    with every(3.0, look):
        yield


def _random(draw: random.Random, **fields: Any) -> Notification:
    """One of the usual mix."""
    chosen: dict[str, Any] = {
        "of": _one_of(draw, _KINDS),
        "priority": _one_of(draw, _PRIORITIES),
        "instance": _one_of(draw, _INSTANCES),
        **fields,
    }
    ending = _one_of(draw, {None: 1000 - sum(_ENDINGS.values()), **_ENDINGS})
    if ending is not None:
        chosen["phone"] = f"+5577985{draw.randrange(100):02d}{ending:04d}"
    if draw.random() < 0.003:
        chosen["valid_until"] = datetime.now(UTC) - timedelta(minutes=1)
    return notification(**chosen)


def _one_of(draw: random.Random, weights: dict[T, int]) -> T:
    return draw.choices(list(weights), list(weights.values()))[0]
