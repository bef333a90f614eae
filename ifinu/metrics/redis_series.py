"""
What is in Redis, whoever runs; served by `ifinu metrics`.

    ifinu_queue_backlog{queue}, _delayed, _in_flight, _dead     messages, by where they are
    ifinu_queue_dead_by_reason{queue,reason}                    of the newest ten thousand letters
    ifinu_queue_paused{queue}                                   1 while somebody has paused it
    ifinu_queue_oldest_seconds{queue}                           age of the message that is served next
    ifinu_queue_overdue_seconds{queue}                          how long the first delayed message has been due
    ifinu_unknown, ifinu_unknown_oldest_seconds                 ids that may have been sent, and nobody knows
    ifinu_answers_open{wish}                                    persons' answers that somebody has to look into
    ifinu_recorder_lag_events, ifinu_recorder_lag_seconds       what is not in the ledger yet, and the age of the oldest
    ifinu_redis_up, ifinu_redis_memory_used_bytes, ifinu_redis_memory_max_bytes (0: no limit),
    ifinu_redis_aof_enabled, ifinu_redis_persistence_ok, ifinu_redis_noeviction, ifinu_redis_evicted_keys_total,
    ifinu_redis_uptime_seconds

Redis is asked at each scrape, and is `ifinu_redis_up 0` and nothing else when it does not answer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any

import redis
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ifinu.broker import intake
from ifinu.broker.backlog import Backlog, survey
from ifinu.broker.dead_letters import Reasons
from ifinu.broker.keys import EVENTS, QUEUES, UNKNOWN
from ifinu.broker.replies import MAYBE, STOP, WRONG_PERSON, Replies
from ifinu.metrics.labels import Bounded

log = structlog.get_logger(__name__)

_MOST_LETTERS = 10_000
_AOF_STATES = ("aof_last_write_status", "aof_last_bgrewrite_status")
_RDB_STATE = "rdb_last_bgsave_status"


class RedisCollector(Collector):
    """
    The queues' series.

    Args:
        registry: Where they are registered.
        client: A connection that returns bytes, with deadlines.
    """

    def __init__(self, registry: CollectorRegistry, client: redis.Redis) -> None:
        self._client = client
        self._answers = Replies(client)
        self._reason = Bounded()
        self._tails: dict[str, tuple[bytes, float]] = {}
        self._reasons = {queue: Reasons(client, queue, _MOST_LETTERS) for queue in QUEUES}
        self._away = False
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that Redis is not asked before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """As they are now."""
        try:
            found = list(self._look())
        except redis.RedisError as exc:
            if not self._away:
                log.warning("ifinu.metrics.redis_away", error=type(exc).__name__)
            self._away = True
            yield _gauge("ifinu_redis_up", "Whether Redis answers.", 0)
            return
        self._away = False
        yield from found

    def _look(self) -> Iterator[Metric]:
        backlogs = survey(self._client)
        seconds, micros = self._client.time()
        now_s = seconds + micros / 1e6
        yield from _queues(backlogs)
        yield _by_queue(
            "ifinu_queue_oldest_seconds",
            "Age of the message that is served next.",
            {one.queue: self._oldest_s(one.queue, now_s) for one in backlogs},
        )
        yield self._dead_by_reason(backlogs)
        yield from self._unknown(now_s)
        yield self._answers_open()
        yield from self._lag(now_s)
        yield from self._redis()

    def _answers_open(self) -> Metric:
        family = GaugeMetricFamily("ifinu_answers_open", "Answers to be looked into, by wish.", labels=("wish",))
        counts = Counter(answer.wish for answer in self._answers.all())
        for wish in (STOP, WRONG_PERSON, MAYBE):
            family.add_metric((wish,), counts[wish])
        return family

    def _oldest_s(self, queue: str, now_s: float) -> float:
        """
        Since a producer handed it over; where it does not say when, since it was first seen at the end of the queue,
        which is later than it came.
        """
        tail: Any = self._client.lindex(queue, -1)
        if tail is None:
            self._tails.pop(queue, None)
            return 0.0
        if (accepted := intake.accepted_at(tail)) is not None:
            return max(0.0, now_s - accepted.timestamp())
        digest = hashlib.blake2b(tail, digest_size=16).digest()
        seen, since = self._tails.get(queue, (b"", 0.0))
        if seen != digest:
            since = monotonic()
            self._tails[queue] = digest, since
        return monotonic() - since

    def _dead_by_reason(self, backlogs: list[Backlog]) -> Metric:
        family = GaugeMetricFamily("ifinu_queue_dead_by_reason", "Dead letters by reason.", labels=("queue", "reason"))
        for one in backlogs:
            counts: Counter[str] = Counter()
            for reason, count in self._reasons[one.queue].count().items():
                counts[self._reason(reason)] += count
            for reason, count in counts.items():
                family.add_metric((_label(one.queue), reason), count)
        return family

    def _unknown(self, now_s: float) -> Iterator[Metric]:
        first: Any = self._client.zrange(UNKNOWN, 0, 0, withscores=True)
        age_s = max(0.0, now_s - first[0][1] / 1000) if first else 0.0
        yield _gauge("ifinu_unknown", "Ids that may have been sent, and nobody knows.", self._client.zcard(UNKNOWN))
        yield _gauge("ifinu_unknown_oldest_seconds", "Age of the oldest of them.", age_s)

    def _lag(self, now_s: float) -> Iterator[Metric]:
        # What is recorded is deleted: all that is there waits.
        first: Any = self._client.xrange(EVENTS, count=1)
        age_s = max(0.0, now_s - int(first[0][0].split(b"-")[0]) / 1000) if first else 0.0
        yield _gauge("ifinu_recorder_lag_events", "Events not in the ledger yet.", self._client.xlen(EVENTS))
        yield _gauge("ifinu_recorder_lag_seconds", "Age of the oldest of them.", age_s)

    def _redis(self) -> Iterator[Metric]:
        info: dict[str, Any] = self._client.info()
        aof = bool(info.get("aof_enabled"))
        keeps = aof and all(info.get(state, "ok") == "ok" for state in (*_AOF_STATES, _RDB_STATE))
        used, most = info.get("used_memory", 0), info.get("maxmemory", 0)
        evicts = info.get("maxmemory_policy", "noeviction") != "noeviction"
        yield _gauge("ifinu_redis_up", "Whether Redis answers.", 1)
        yield _gauge("ifinu_redis_memory_used_bytes", "Memory that Redis uses.", used)
        yield _gauge("ifinu_redis_memory_max_bytes", "Memory that it may use; 0 without a limit.", most)
        yield _gauge("ifinu_redis_aof_enabled", "Whether it keeps an append-only file.", aof)
        yield _gauge("ifinu_redis_persistence_ok", "Whether it keeps one, and its last writes worked.", keeps)
        yield _gauge("ifinu_redis_noeviction", "Whether it refuses writes, rather than delete, when full.", not evicts)
        yield CounterMetricFamily("ifinu_redis_evicted_keys", "Keys it deleted.", value=info.get("evicted_keys", 0))
        yield _gauge("ifinu_redis_uptime_seconds", "Since it started.", info.get("uptime_in_seconds", 0))


def _queues(backlogs: list[Backlog]) -> Iterator[Metric]:
    yield _by_queue("ifinu_queue_backlog", "Messages that could be taken.", {b.queue: b.ready for b in backlogs})
    yield _by_queue("ifinu_queue_delayed", "Messages that wait for their time.", {b.queue: b.delayed for b in backlogs})
    yield _by_queue("ifinu_queue_in_flight", "Messages that workers hold.", {b.queue: b.in_flight for b in backlogs})
    yield _by_queue("ifinu_queue_dead", "Dead letters.", {b.queue: b.dead for b in backlogs})
    yield _by_queue(
        "ifinu_queue_paused", "Whether somebody paused it.", {b.queue: b.paused_since is not None for b in backlogs}
    )
    yield _by_queue(
        "ifinu_queue_overdue_seconds",
        "How long the first delayed message has been due.",
        {b.queue: max(0.0, -(b.next_due_in_s or 0.0)) for b in backlogs},
    )


def _by_queue(name: str, what: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=("queue",))
    for queue, value in values.items():
        family.add_metric((_label(queue),), float(value))
    return family


def _gauge(name: str, what: str, value: Any) -> Metric:
    return GaugeMetricFamily(name, what, value=float(value))


def _label(queue: str) -> str:
    """`whatsapp` of `ifinu:fila:whatsapp`."""
    return queue.rpartition(":")[2]
