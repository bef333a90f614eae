"""
The series of a worker, counted from the outcomes of its tasks; docs/metrics.md lists them.

Counts that other objects keep already (leases, the bucket, the breaker) are read when a scrape asks for them.
"""

from __future__ import annotations

import functools
import math
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ifinu.broker.claims import ClaimState
from ifinu.broker.leases import Settled, Tally
from ifinu.errors import SendError
from ifinu.metrics.labels import MOST, Bounded
from ifinu.outcome import Wait

_SEND_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 75.0)
_FAULTLESS = frozenset(
    {"window", "not_late", "new_chats", "person_cap", "pair_gap", "portfolio"}
)  # waits without a fault of the instance
_WAIT_S = (0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0)


@dataclass(slots=True)
class Now:
    """
    The state of a worker at one instant.

    Attributes:
        limit_per_s: Messages that the worker may start in a second; infinite without a limit.
        waiting: Fetched messages that wait for their turn.
        slots: Sends that the worker can make at the same time.
        breaker_open: Whether the gateway is away.
        owed: Ends of messages that are still to be written to Redis.
        clock_off_s: Seconds that this machine's clock is ahead of Redis'.
        blocked_s: Seconds for which single calls have held the event loop since the start.
        checks: Looks at charges before a send, by result; empty without PostgreSQL.
    """

    limit_per_s: float = 0.0
    waiting: int = 0
    slots: int = 0
    busy: int = 0
    breaker_open: bool = False
    owed: int = 0
    tally: Tally = field(default_factory=Tally)
    clock_off_s: float = 0.0
    blocked_s: float = 0.0
    checks: Counts[str] = field(default_factory=Counts)


class WorkerSeries(Collector):
    """
    A worker's series.

    Attributes:
        look: Tells how the worker is; set once there is one.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.look: Callable[[], Now] = Now
        self._began = time.monotonic()
        self._instance = Bounded()
        self._ended = Counter("ifinu_messages", "Messages that came to their end.", ("kind", "outcome"), registry=None)
        self._retries = Counter(
            "ifinu_retries", "Tries that failed and are followed by another.", ("reason",), registry=registry
        )
        self._deferrals = Counter(
            "ifinu_deferrals", "Messages put off, no try counted.", ("reason",), registry=registry
        )
        self._doubts = Counter("ifinu_doubts", "Sends whose outcome is unknown.", ("reason",), registry=registry)
        self._answers = Counter(
            "ifinu_gateway_answers", "POSTs to the gateway by their answer.", ("answer",), registry=registry
        )
        self._sends = Counter(
            "ifinu_instance_sends", "POSTs to the gateway by instance.", ("whatsapp", "result"), registry=registry
        )
        # Until when the last message that was held back waits, by `monotonic`, by label; 0: one was sent since.
        self._held_until: dict[str, float] = {}
        took = Histogram(
            "ifinu_send_seconds", "One POST to the gateway.", ("result",), buckets=_SEND_S, registry=registry
        )
        self._took_sent, self._took_failed = took.labels("sent"), took.labels("failed")
        self._queued = Histogram("ifinu_queue_seconds", "From accepted to started.", buckets=_WAIT_S, registry=registry)
        self._end_to_end = Histogram(
            "ifinu_end_to_end_seconds", "From accepted to taken by the gateway.", buckets=_WAIT_S, registry=registry
        )
        # Finding a child by its labels costs more than counting with it.
        self._ended_as = functools.cache(self._ended.labels)
        self._answered_with = functools.cache(self._answers.labels)
        self._of_instance = functools.lru_cache(MOST)(self._children)
        registry.register(self)

    def settled(self, settled: Settled, *, accepted_at: datetime | None, started_at: float | None) -> None:
        """
        A message came to its end, and is no dead letter.

        Args:
            accepted_at: When a producer handed it over, if it says so.
            started_at: When its first try started, in epoch seconds; None when that was counted before.
        """
        data = settled.event.data
        self._ended_as(data["kind"], settled.state).inc()
        accepted_s = None if accepted_at is None else accepted_at.timestamp()
        if accepted_s is not None and started_at is not None:
            self._queued.observe(max(0.0, started_at - accepted_s))
        if settled.state is not ClaimState.SENT:
            return
        if accepted_s is not None:
            self._end_to_end.observe(max(0.0, time.time() - accepted_s))
        if settled.took_s is not None:  # else it was found, and had been counted as in doubt
            self._took_sent.observe(settled.took_s)
            self._answered_with("sent" if data["confirmed"] else "sent_unconfirmed").inc()
            sends, label = self._of_instance(data["instance"])
            sends.inc()
            self._held_until[label] = 0.0

    def failed(self, error: SendError, *, retried: bool) -> None:
        """Count a send that the gateway did not take; no other message waits for it."""
        if retried:
            self._retries.labels(error.reason).inc()
        self._answered(error)

    def waits(self, wait: Wait) -> None:
        """Count a message that is deferred or in doubt."""
        if wait.error is not None:
            self._answered(wait.error)
        if wait.reason == "unknown" and wait.error is not None:
            self._doubts.labels(wait.error.reason).inc()
        elif wait.reason != "look_up":
            if wait.event is not None:
                self._deferrals.labels(wait.reason).inc()
            if wait.reason not in _FAULTLESS:
                self._held_until[self._instance(wait.instance)] = time.monotonic() + wait.wait_s

    def collect(self) -> Iterator[Metric]:
        """Read the counts that leases, bucket and breaker keep."""
        now = self.look()
        by_end: Counts[tuple[str, str]] = Counts()
        by_reason: Counts[str] = Counts()
        for (kind, state, reason), count in list(now.tally.buried.items()):
            by_end[kind or "unreadable", "held" if state == ClaimState.UNKNOWN else "dead"] += count
            by_reason[reason] += count
        for ended in self._ended.collect():
            for (kind, outcome), count in by_end.items():
                ended.add_sample("ifinu_messages_total", {"kind": kind, "outcome": outcome}, count)
            yield ended
        held = GaugeMetricFamily(
            "ifinu_instance_held", "Whether an instance's messages are held back.", labels=("whatsapp",)
        )
        for label, is_held in self._held().items():
            held.add_metric((label,), float(is_held))
        yield held
        yield _counted("ifinu_dead_letters", "Messages that became dead letters.", by_reason, "reason")
        yield _counted("ifinu_leases_reaped", "Messages taken from dead workers.", now.tally.reaped)
        yield _counted("ifinu_leases_lost", "Messages whose lease ran out here.", now.tally.lost)
        yield GaugeMetricFamily(
            "ifinu_leases_owed", "Ends of messages that are still to be written to Redis.", now.owed
        )
        yield GaugeMetricFamily("ifinu_pace_limit_per_second", "Messages that may start in a second.", now.limit_per_s)
        yield GaugeMetricFamily("ifinu_pace_waiting", "Messages fetched that wait for their turn.", now.waiting)
        yield GaugeMetricFamily("ifinu_slots", "Sends that this worker can do at the same time.", now.slots)
        yield GaugeMetricFamily("ifinu_slots_busy", "Sends that it does now.", now.busy)
        yield GaugeMetricFamily(
            "ifinu_clock_off_seconds", "How far this machine's clock is ahead of Redis'.", now.clock_off_s
        )
        yield _counted("ifinu_loop_blocked_seconds", "How long single calls have held the event loop.", now.blocked_s)
        yield _counted("ifinu_charge_checks", "Looks at a charge before a send.", Counts(now.checks), "result")
        yield GaugeMetricFamily("ifinu_breaker_open", "Whether the gateway is away.", float(now.breaker_open))

    def _children(self, name: str) -> tuple[Counter, str]:
        instance = self._instance(name)
        return self._sends.labels(instance, "sent"), instance

    def _held(self) -> dict[str, bool]:
        now_s = time.monotonic()
        return {label: until_s > now_s for label, until_s in list(self._held_until.items())}

    def snapshot(self) -> dict[str, Any]:
        """A summary as JSON, for a question to one worker; `worker/inspection.py` lists its fields."""
        now = self.look()
        families = {family.name: family for family in self.collect()}
        instances: dict[str, dict[str, float]] = {}
        for (instance, result), count in _totals(self._sends.collect(), "whatsapp", "result").items():
            instances.setdefault(instance, {"sent": 0, "failed": 0, "held": False})[result] = count
        for instance, held in self._held().items():
            instances.setdefault(instance, {"sent": 0, "failed": 0})["held"] = held
        return {
            "up_s": round(time.monotonic() - self._began, 3),
            "limit_per_s": now.limit_per_s if math.isfinite(now.limit_per_s) else None,
            "waiting": now.waiting,
            "slots": now.slots,
            "busy": now.busy,
            "breaker_open": now.breaker_open,
            "owed": now.owed,
            "reaped": now.tally.reaped,
            "lost": now.tally.lost,
            "ended": {end: n for (end,), n in _totals([families["ifinu_messages"]], "outcome").items()},
            "retried": sum(_totals(self._retries.collect(), "reason").values()),
            "deferred": sum(_totals(self._deferrals.collect(), "reason").values()),
            "in_doubt": sum(_totals(self._doubts.collect(), "reason").values()),
            "answers": {answer: n for (answer,), n in _totals(self._answers.collect(), "answer").items()},
            "instances": instances,
        }

    def _answered(self, error: SendError) -> None:
        if error.took_s is None:  # an error that was not the gateway's answer: it was looked for, and not found
            return
        self._answered_with(error.reason).inc()
        self._took_failed.observe(error.took_s)
        self._sends.labels(self._instance(error.instance), "failed").inc()


def _counted(name: str, what: str, count: float | Counts[str], label: str = "") -> CounterMetricFamily:
    if not isinstance(count, Counts):
        return CounterMetricFamily(name, what, value=count)
    family = CounterMetricFamily(name, what, labels=(label,))
    for value, times in count.items():
        family.add_metric((value,), times)
    return family


def _totals(families: Iterable[Metric], *labels: str) -> Counts[tuple[str, ...]]:
    """The counts of counters by these labels, summed over the others."""
    found: Counts[tuple[str, ...]] = Counts()
    for family in families:
        for sample in family.samples:
            if sample.name.endswith("_total"):
                found[tuple(sample.labels[label] for label in labels)] += int(sample.value)
    return found
