"""The figures that are shown, and as they are for a program."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ifinu.cli.top.snapshot import Snapshot

_STEADY = 0.05  # of a message a second
_BESIDE_OUTCOMES = ("retried", "deferred", "in_doubt")  # which end no message


class Order(enum.Enum):
    """How the workers are sorted."""

    NAME = "name"
    RATE = "rate"
    BUSY = "busy"

    def after(self) -> Order:
        """The next one."""
        every = list(Order)
        return every[(every.index(self) + 1) % len(every)]


@dataclass(frozen=True)
class InstanceRow:
    """A WhatsApp number: sends a second, and how many workers hold its messages back."""

    sent_per_s: float = 0.0
    failed_per_s: float = 0.0
    held_by: int = 0


@dataclass(frozen=True)
class WorkerRow:
    """
    One worker; what it did not tell is None.

    Attributes:
        name: Among the workers.
        pid: Its process.
        rate_per_s: Sends, whatever the gateway answered.
        limit_per_s: How many it may do; infinite without a limit.
        per_s: What became of them.
        instances: By number.
        silent_s: Since when it has not answered; 0 while it does.
        told: Its last answer.
    """

    name: str
    pid: int
    rate_per_s: float | None = None
    limit_per_s: float | None = None
    per_s: Mapping[str, float] = field(default_factory=dict)
    instances: Mapping[str, InstanceRow] = field(default_factory=dict)
    silent_s: float = 0.0
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class QueueRow:
    """A queue; `trend_per_s` is how fast it grows, and `history` what was ready, oldest first."""

    queue: str
    ready: int
    delayed: int
    in_flight: int
    dead: int
    paused_since: str | None
    oldest_s: float | None
    trend_per_s: float | None
    history: Sequence[int]


@dataclass(frozen=True)
class Model:
    """
    All that is shown.

    Attributes:
        at: When it was looked at.
        error: Why nobody could be asked; empty while all is well.
        error_s: Since when.
        queues: As they were when Redis last answered.
        workers: Those who answer, or did a while ago.
        trend_per_s: How fast all queues together grow.
        reasons: Dead letters by reason.
        found: What else is in Redis; None before it first answers.
    """

    at: datetime
    error: str
    error_s: float
    queues: Sequence[QueueRow]
    workers: Sequence[WorkerRow]
    trend_per_s: float | None
    reasons: Counter[str]
    found: Snapshot | None

    @property
    def ready(self) -> int:
        """Messages that could be taken now."""
        return sum(one.ready for one in self.queues)

    @property
    def rate_per_s(self) -> float | None:
        """Of all workers; None before there is one."""
        rates = [one.rate_per_s for one in self.workers if one.rate_per_s is not None]
        return sum(rates) if rates else None

    @property
    def limit_per_s(self) -> float | None:
        """Of all workers that answer; infinite when one has none."""
        limits = [one.limit_per_s for one in self.workers if one.limit_per_s is not None and not one.silent_s]
        return sum(limits) if limits else None

    @property
    def drains_in_s(self) -> float | None:
        """When the queues are empty, if they go on falling as they do; None when they do not fall."""
        if self.trend_per_s is None or self.trend_per_s >= -_STEADY:
            return None
        return self.ready / -self.trend_per_s

    @property
    def is_steady(self) -> bool:
        """Whether the queues neither rise nor fall."""
        return self.trend_per_s is not None and abs(self.trend_per_s) < _STEADY

    @property
    def per_s(self) -> Counter[str]:
        """What became of messages, of all workers."""
        return _sum([one.per_s for one in self.workers])

    @property
    def totals(self) -> Counter[str]:
        """The same since each of them started."""
        return sum((counts(one.told) for one in self.workers), Counter())

    @property
    def instances(self) -> dict[str, InstanceRow]:
        """By number, the busiest first."""
        found: dict[str, InstanceRow] = {}
        for worker in self.workers:
            for name, one in worker.instances.items():
                so_far = found.get(name, InstanceRow())
                found[name] = InstanceRow(
                    so_far.sent_per_s + one.sent_per_s,
                    so_far.failed_per_s + one.failed_per_s,
                    so_far.held_by + one.held_by,
                )
        return dict(sorted(found.items(), key=lambda item: (-item[1].held_by, -_busy_of(item[1]), item[0])))

    def as_json(self) -> dict[str, Any]:
        """For a program: one object a look."""
        found = self.found
        return {
            "at": self.at.isoformat(timespec="milliseconds"),
            "error": self.error or None,
            "rate_per_s": _rounded(self.rate_per_s),
            "limit_per_s": _finite(self.limit_per_s),
            "backlog": self.ready,
            "backlog_trend_per_s": _rounded(self.trend_per_s),
            "drains_in_s": _rounded(self.drains_in_s),
            "queues": [
                {name: value for name, value in dataclasses.asdict(one).items() if name != "history"}
                | {"trend_per_s": _rounded(one.trend_per_s)}
                for one in self.queues
            ],
            "outcomes_per_s": {name: round(rate, 3) for name, rate in self.per_s.items()},
            "workers": [
                {
                    "name": one.name,
                    "rate_per_s": _rounded(one.rate_per_s),
                    "outcomes_per_s": {name: round(rate, 3) for name, rate in one.per_s.items()},
                    "silent_s": round(one.silent_s, 1),
                    **one.told,
                }
                for one in self.workers
            ],
            "instances": {
                name: {
                    "sent_per_s": round(one.sent_per_s, 3),
                    "failed_per_s": round(one.failed_per_s, 3),
                    "held_by": one.held_by,
                }
                for name, one in self.instances.items()
            },
            "dead_by_reason": dict(self.reasons.most_common()),
            "unknown": found and found.unknown,
            "unknown_oldest_s": found and _rounded(found.unknown_oldest_s),
            "ledger_waiting": found and found.waiting,
            "ledger_waiting_oldest_s": found and _rounded(found.waiting_oldest_s),
            "ledger_recorded": found and found.recorded,
        }


def sort(workers: Sequence[WorkerRow], order: Order) -> list[WorkerRow]:
    """By name; or the fastest or busiest first."""
    match order:
        case Order.NAME:
            return sorted(workers, key=lambda one: (one.name, one.pid))
        case Order.RATE:
            return sorted(workers, key=lambda one: (-(one.rate_per_s or 0.0), one.name, one.pid))
        case Order.BUSY:
            return sorted(workers, key=lambda one: (-(one.told.get("busy") or 0), one.name, one.pid))


def counts(told: Mapping[str, Any]) -> Counter[str]:
    """What became of messages, as one worker told it."""
    found: Counter[str] = Counter(told.get("ended") or {})
    found.update({name: int(told.get(name) or 0) for name in _BESIDE_OUTCOMES})
    return found


def _sum(parts: Sequence[Mapping[str, float]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        for name, rate in part.items():
            total[name] += rate  # type: ignore[assignment]  # a Counter of rates
    return total


def _busy_of(one: InstanceRow) -> float:
    return one.sent_per_s + one.failed_per_s


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value
