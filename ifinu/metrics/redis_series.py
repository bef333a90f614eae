"""
The series that `ifinu metrics` reads from Redis at each scrape.

While Redis does not answer, `ifinu_redis_up` is 0 and the only one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

import redis
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ifinu.broker.backlog import Backlog
from ifinu.broker.redis_state import RedisState, StateReader
from ifinu.broker.replies import MAYBE, STOP, WRONG_PERSON, Replies
from ifinu.metrics import number_series
from ifinu.metrics.labels import Bounded

log = structlog.get_logger(__name__)

_LETTERS = 10_000
_OF_QUEUES: tuple[tuple[str, str, Callable[[Backlog], float]], ...] = (
    ("backlog", "Messages that a worker could take now.", lambda queue: queue.ready),
    ("delayed", "Messages that wait for their time.", lambda queue: queue.delayed),
    ("in_flight", "Messages that workers hold.", lambda queue: queue.in_flight),
    ("dead", "Dead letters.", lambda queue: queue.dead),
    ("paused", "Whether it is paused.", lambda queue: queue.paused_since is not None),
    (
        "overdue_seconds",
        "Time since the first delayed message is due.",
        lambda queue: -min(0, queue.next_due_in_s or 0),
    ),
)
_PERSISTENCE = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")


class RedisCollector(Collector):
    """
    The queues' series.

    Args:
        client: A client that returns bytes, with timeouts.
    """

    def __init__(self, registry: CollectorRegistry, client: redis.Redis) -> None:
        self._client = client
        self._reader = StateReader(client, _LETTERS)
        self._answers = Replies(client)
        self._reason = Bounded()
        self._first_seen_s: dict[tuple[str, bytes], float] = {}
        self._away = False
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that Redis is not asked before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        try:
            found = list(self._read())
        except redis.RedisError as exc:
            if not self._away:
                log.warning("ifinu.metrics.redis_away", error=type(exc).__name__)
            self._away = True
            yield _gauge("ifinu_redis_up", "Whether Redis answers.", 0)
            return
        self._away = False
        yield from found

    def _read(self) -> Iterator[Metric]:
        state = self._reader.read()
        yield from _queues(state.queues)
        ages_s = dict(self._ages_s(state))
        yield _by_queue("ifinu_queue_oldest_seconds", "Age of the message that is served next.", ages_s)
        yield self._dead_by_reason(state.dead)
        yield _gauge("ifinu_unknown", "Ids that may have been sent.", state.unknown)
        yield _gauge("ifinu_unknown_oldest_seconds", "Age of the oldest of them.", state.unknown_oldest_s or 0)
        yield self._answers_open()
        yield _gauge("ifinu_recorder_lag_events", "Events that are not in the ledger yet.", state.lag.events)
        yield _gauge("ifinu_recorder_lag_seconds", "Age of the oldest of them.", state.lag.oldest_s or 0)
        yield from number_series.series(self._client, state.queues)
        yield from self._server()

    def _answers_open(self) -> Metric:
        family = GaugeMetricFamily("ifinu_answers_open", "Answers that a person has to read.", labels=("wish",))
        counts = Counter(answer.wish for answer in self._answers.all())
        for wish in (STOP, WRONG_PERSON, MAYBE):
            family.add_metric((wish,), counts[wish])
        return family

    def _ages_s(self, state: RedisState) -> Iterator[tuple[str, float]]:
        """The age of each queue's next message; counted from the first scrape that saw it if its own is not known."""
        before, self._first_seen_s = self._first_seen_s, {}
        for queue, tail in state.tails.items():
            age_s = state.oldest_s[queue]
            if tail is not None and age_s is None:
                now_s = monotonic()
                self._first_seen_s[queue, tail] = before.get((queue, tail), now_s)
                age_s = now_s - self._first_seen_s[queue, tail]
            yield queue, age_s or 0.0

    def _dead_by_reason(self, dead: Mapping[str, Counter[str]]) -> Metric:
        family = GaugeMetricFamily("ifinu_queue_dead_by_reason", "Dead letters by reason.", labels=("queue", "reason"))
        for queue, reasons in dead.items():
            counts: Counter[str] = Counter()
            for reason, count in reasons.items():
                counts[self._reason(reason)] += count
            for reason, count in counts.items():
                family.add_metric((_label(queue), reason), count)
        return family

    def _server(self) -> Iterator[Metric]:
        info: dict[str, Any] = self._client.info()
        aof = bool(info.get("aof_enabled"))
        persists = aof and all(info.get(name, "ok") == "ok" for name in _PERSISTENCE)
        used, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
        evicts = info.get("maxmemory_policy", "noeviction") != "noeviction"
        yield _gauge("ifinu_redis_up", "Whether Redis answers.", 1)
        yield _gauge("ifinu_redis_memory_used_bytes", "Memory that Redis uses.", used)
        yield _gauge("ifinu_redis_memory_max_bytes", "Memory that it may use; 0 without a limit.", limit)
        yield _gauge("ifinu_redis_aof_enabled", "Whether it keeps an append-only file.", aof)
        yield _gauge("ifinu_redis_persistence_ok", "Whether it keeps one, and its last writes worked.", persists)
        yield _gauge("ifinu_redis_noeviction", "Whether it refuses writes, rather than delete, when full.", not evicts)
        yield CounterMetricFamily("ifinu_redis_evicted_keys", "Keys it deleted.", value=info.get("evicted_keys", 0))
        yield _gauge("ifinu_redis_uptime_seconds", "Seconds since it started.", info.get("uptime_in_seconds", 0))


def _queues(queues: Sequence[Backlog]) -> Iterator[Metric]:
    for name, help_, figure in _OF_QUEUES:
        yield _by_queue(f"ifinu_queue_{name}", help_, {queue.queue: figure(queue) for queue in queues})


def _by_queue(name: str, help_: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help_, labels=("queue",))
    for queue, value in values.items():
        family.add_metric((_label(queue),), float(value))
    return family


def _gauge(name: str, help_: str, value: Any) -> Metric:
    return GaugeMetricFamily(name, help_, value=float(value))


def _label(queue: str) -> str:
    """`whatsapp` of `ifinu:fila:whatsapp`."""
    return queue.rpartition(":")[2]
