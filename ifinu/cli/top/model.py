"""The figures that `ifinu top` shows, also as JSON."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ifinu.broker.redis_state import RedisState
from ifinu.cli.top.bottlenecks import WaitingRow

_STEADY = 0.05  # messages a second
_NOT_FINAL = ("retried", "deferred", "in_doubt")  # the message goes on


class Order(enum.Enum):
    """The columns that workers can be sorted by."""

    NAME = "name"
    RATE = "rate"
    BUSY = "busy"

    def after(self) -> Order:
        every = list(Order)
        return every[(every.index(self) + 1) % len(every)]


@dataclass(frozen=True)
class InstanceRow:
    """A WhatsApp number: sends a second, and how many workers hold its messages back."""

    sent_per_s: float = 0.0
    failed_per_s: float = 0.0
    held_by: int = 0

    def __add__(self, other: InstanceRow) -> InstanceRow:
        return InstanceRow(
            self.sent_per_s + other.sent_per_s, self.failed_per_s + other.failed_per_s, self.held_by + other.held_by
        )


@dataclass(frozen=True)
class WorkerRow:
    """
    One worker; None stands for a figure that is not known.

    Attributes:
        rate_per_s: Sends, successful or not.
        limit_per_s: Sends it may do at most; infinite without a limit.
        per_s: Messages by outcome.
        instances: By WhatsApp number.
        silent_s: Seconds since its last answer; 0 until that is long enough to be worth a warning.
        answer: Its last answer; `worker/inspection.py` lists the fields.
    """

    name: str
    pid: int
    rate_per_s: float | None = None
    limit_per_s: float | None = None
    per_s: Mapping[str, float] = field(default_factory=dict)
    instances: Mapping[str, InstanceRow] = field(default_factory=dict)
    silent_s: float = 0.0
    answer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class QueueRow:
    """A queue; `trend_per_s` is its growth, and `history` the ready messages of the last minutes, oldest first."""

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
    All figures at one moment.

    Attributes:
        error: Why Redis or the workers could not be asked; empty if they could.
        queues: The queues, as of Redis' last answer.
        trend_per_s: Growth of all queues together.
        snapshot: The state of Redis as of its last answer; None before the first.
        waiting: The numbers that most messages wait for, likewise.
    """

    at: datetime
    error: str
    error_s: float
    queues: Sequence[QueueRow]
    workers: Sequence[WorkerRow]
    trend_per_s: float | None
    snapshot: RedisState | None
    waiting: Sequence[WaitingRow] = ()

    @property
    def ready(self) -> int:
        return sum(one.ready for one in self.queues)

    @property
    def in_lanes(self) -> int | None:
        """Messages that wait for their number; None while nothing is registered."""
        counted = [one.in_lanes for one in self.snapshot.queues if one.in_lanes is not None] if self.snapshot else []
        return sum(counted) if counted else None

    @property
    def rate_per_s(self) -> float | None:
        """Sends of all workers; None before the first rate."""
        rates = [one.rate_per_s for one in self.workers if one.rate_per_s is not None]
        return sum(rates) if rates else None

    @property
    def limit_per_s(self) -> float | None:
        """Limit of all workers that answer; infinite if one has no limit."""
        limits = [one.limit_per_s for one in self.workers if one.limit_per_s is not None and not one.silent_s]
        return sum(limits) if limits else None

    @property
    def drains_in_s(self) -> float | None:
        """Seconds until the queues are empty at this trend; None unless they shrink."""
        if self.trend_per_s is None or self.trend_per_s >= -_STEADY:
            return None
        return self.ready / -self.trend_per_s

    @property
    def is_steady(self) -> bool:
        """Whether the queues neither grow nor shrink."""
        return self.trend_per_s is not None and abs(self.trend_per_s) < _STEADY

    @property
    def per_s(self) -> Counter[str]:
        """Messages per second by outcome, of all workers."""
        total: Counter[str] = Counter()
        for one in self.workers:
            for outcome, rate in one.per_s.items():
                total[outcome] += rate  # type: ignore[assignment]  # a Counter of rates
        return total

    @property
    def totals(self) -> Counter[str]:
        """Messages by outcome since each worker started."""
        return sum((counts(one.answer) for one in self.workers), Counter())

    @property
    def reasons(self) -> Counter[str]:
        return self.snapshot.reasons if self.snapshot else Counter()

    @property
    def instances(self) -> dict[str, InstanceRow]:
        """By number: first those held back, then the busiest."""
        found: dict[str, InstanceRow] = {}
        for worker in self.workers:
            for name, one in worker.instances.items():
                found[name] = found.get(name, InstanceRow()) + one

        def importance(item: tuple[str, InstanceRow]) -> tuple[int, float, str]:
            name, one = item
            return -one.held_by, -one.sent_per_s - one.failed_per_s, name

        return dict(sorted(found.items(), key=importance))

    def as_json(self) -> dict[str, Any]:
        limit, snapshot = self.limit_per_s, self.snapshot
        return {
            "at": self.at.isoformat(timespec="milliseconds"),
            "error": self.error or None,
            "rate_per_s": _rounded(self.rate_per_s),
            "limit_per_s": None if limit == float("inf") else limit,
            "backlog": self.ready,
            "backlog_trend_per_s": _rounded(self.trend_per_s),
            "drains_in_s": _rounded(self.drains_in_s),
            "queues": [
                {name: _rounded(value) for name, value in vars(one).items() if name != "history"} for one in self.queues
            ],
            "outcomes_per_s": _rounded(self.per_s),
            "workers": [
                {
                    "name": one.name,
                    "rate_per_s": _rounded(one.rate_per_s),
                    "outcomes_per_s": _rounded(one.per_s),
                    "silent_s": round(one.silent_s, 1),
                    **one.answer,
                }
                for one in self.workers
            ],
            "instances": {name: _rounded(vars(one)) for name, one in self.instances.items()},
            "dead_by_reason": dict(self.reasons.most_common()),
            "unknown": snapshot and snapshot.unknown,
            "unknown_oldest_s": snapshot and _rounded(snapshot.unknown_oldest_s),
            "ledger_waiting": snapshot and snapshot.lag.events,
            "ledger_waiting_oldest_s": snapshot and _rounded(snapshot.lag.oldest_s),
            "ledger_recorded": snapshot and snapshot.lag.recorded,
            **({} if self.in_lanes is None else self._lanes()),
        }

    def _lanes(self) -> dict[str, Any]:
        return {"in_lanes": self.in_lanes, "numbers_waited_for": [_rounded(vars(one)) for one in self.waiting]}


def sort(workers: Sequence[WorkerRow], order: Order) -> list[WorkerRow]:
    """By name; or the fastest or busiest first."""
    match order:
        case Order.NAME:
            return sorted(workers, key=lambda one: (one.name, one.pid))
        case Order.RATE:
            return sorted(workers, key=lambda one: (-(one.rate_per_s or 0.0), one.name, one.pid))
        case Order.BUSY:
            return sorted(workers, key=lambda one: (-(one.answer.get("busy") or 0), one.name, one.pid))


def counts(answer: Mapping[str, Any]) -> Counter[str]:
    """Messages by outcome since the worker started, from its answer."""
    found: Counter[str] = Counter(answer.get("ended") or {})
    found.update({name: int(answer.get(name) or 0) for name in _NOT_FINAL})
    return found


def _rounded(value: Any) -> Any:
    """Each float in it to three digits, for JSON."""
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    return round(value, 3) if isinstance(value, float) else value
