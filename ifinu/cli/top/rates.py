"""
Rates from a history of observations.

The rate of a worker is the difference between two of its answers, by the worker's own clock; that of a queue is the
difference between two lengths. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ifinu.broker.redis_state import RedisState
from ifinu.cli.top.bottlenecks import WaitingRow
from ifinu.cli.top.model import InstanceRow, Model, QueueRow, WorkerRow, counts

_TREND_S = 15.0  # over which the growth of a queue is measured
_HISTORY_S = 300.0
# A worker is silent after the first of these times without an answer and gone after the second: in seconds or in
# observations, whichever is longer.
_SILENT_S, _SILENT_OBSERVATIONS = 5.0, 2.5
_GONE_S, _GONE_OBSERVATIONS = 30.0, 10.0


@dataclass(frozen=True)
class Observation:
    """
    What Redis and the workers answered at one moment.

    Attributes:
        at_s: The same on a monotonic clock, in seconds.
        snapshot: The state of Redis; None if it could not be asked.
        answers: By worker name and process id; None if the workers could not be asked.
        error: Why they could not; else empty.
        waiting: The numbers that most messages wait for.
    """

    at: datetime
    at_s: float
    snapshot: RedisState | None
    answers: Mapping[tuple[str, int], Mapping[str, Any]] | None
    error: str = ""
    waiting: Sequence[WaitingRow] = ()


def rates(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float] | None:
    """
    Messages per second by outcome, between two answers of a worker; outcomes without messages are left out.

    None if the answers cannot be compared: they come from two processes, or the clock did not advance.
    """
    elapsed_s = _elapsed_s(before, after)
    if elapsed_s is None:
        return None
    old, new = counts(before), counts(after)
    return {name: (new[name] - old[name]) / elapsed_s for name in new if new[name] > old[name]}


def pace(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    """
    Sends per second between two answers of a worker, successful or not: the limit applies to these.

    None if the answers cannot be compared.
    """
    elapsed_s = _elapsed_s(before, after)
    return None if elapsed_s is None else max(0, _posts(after) - _posts(before)) / elapsed_s


def instances(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, InstanceRow]:
    """Sends per second by WhatsApp number, between two answers of a worker; 0 if they cannot be compared."""
    elapsed_s = _elapsed_s(before, after)
    old: Mapping[str, Any] = before.get("instances") or {}

    def per_s(name: str, result: str, now: Mapping[str, Any]) -> float:
        grown: float = now.get(result, 0) - old.get(name, {}).get(result, 0)
        return 0.0 if elapsed_s is None else max(0.0, grown / elapsed_s)

    return {
        str(name): InstanceRow(per_s(name, "sent", now), per_s(name, "failed", now), int(bool(now.get("held"))))
        for name, now in (after.get("instances") or {}).items()
    }


@dataclass
class _LastAnswers:
    """The last answer of a worker, the one before it, and when the last one came."""

    answer: Mapping[str, Any]
    before: Mapping[str, Any]
    at_s: float


class RateHistory:
    """The observations so far, as far as rates and trends need them."""

    def __init__(self, every_s: float) -> None:
        self._silent_s = max(_SILENT_S, _SILENT_OBSERVATIONS * every_s)
        self._gone_s = max(_GONE_S, _GONE_OBSERVATIONS * every_s)
        self._workers: dict[tuple[str, int], _LastAnswers] = {}
        self._ready: deque[tuple[float, dict[str, int]]] = deque()
        self._snapshot: RedisState | None = None
        self._waiting: Sequence[WaitingRow] = ()
        self._well_at_s: float | None = None

    def add(self, observation: Observation) -> Model:
        """Add an observation; returns the figures as of now."""
        at_s, snapshot = observation.at_s, observation.snapshot
        if self._well_at_s is None or not observation.error:
            self._well_at_s = at_s
        if snapshot is not None:
            self._snapshot, self._waiting = snapshot, observation.waiting
            self._ready.append((at_s, {one.queue: one.ready for one in snapshot.queues}))
            while at_s - self._ready[0][0] > _HISTORY_S:
                self._ready.popleft()
        if observation.answers is not None:
            self._add_answers(observation.answers, at_s)
        return Model(
            at=observation.at,
            error=observation.error,
            error_s=at_s - self._well_at_s if observation.error else 0.0,
            queues=self._queues(),
            workers=[self._worker(*who, last, at_s) for who, last in self._workers.items()],
            trend_per_s=self._trend(None),
            snapshot=self._snapshot,
            waiting=self._waiting,
        )

    def _add_answers(self, answers: Mapping[tuple[str, int], Mapping[str, Any]], at_s: float) -> None:
        for who, answer in answers.items():
            last = self._workers.get(who)
            self._workers[who] = _LastAnswers(answer, last.answer if last else {}, at_s)
        answering = {name for name, _ in answers}
        for who, last in list(self._workers.items()):
            is_restarted = who not in answers and who[0] in answering  # the same name, another process
            if is_restarted or at_s - last.at_s > self._gone_s:
                del self._workers[who]

    def _worker(self, name: str, pid: int, last: _LastAnswers, at_s: float) -> WorkerRow:
        silent_s = at_s - last.at_s
        if silent_s <= self._silent_s:
            silent_s = 0.0
        answer = last.answer
        if "slots" not in answer:  # another version, which does not know the question
            return WorkerRow(name, pid, silent_s=silent_s)
        limit_per_s = answer.get("limit_per_s")
        limit = float("inf") if limit_per_s is None else float(limit_per_s)
        if silent_s:
            return WorkerRow(name, pid, None, limit, silent_s=silent_s, answer=answer)
        return WorkerRow(
            name=name,
            pid=pid,
            rate_per_s=pace(last.before, answer),
            limit_per_s=limit,
            per_s=rates(last.before, answer) or {},
            instances=instances(last.before, answer),
            answer=answer,
        )

    def _queues(self) -> list[QueueRow]:
        if self._snapshot is None:
            return []
        return [
            QueueRow(
                queue=one.queue,
                ready=one.ready,
                delayed=one.delayed,
                in_flight=one.in_flight,
                dead=one.dead,
                paused_since=one.paused_since,
                oldest_s=self._snapshot.oldest_s.get(one.queue),
                trend_per_s=self._trend(one.queue),
                history=[ready.get(one.queue, 0) for _, ready in self._ready],
            )
            for one in self._snapshot.queues
        ]

    def _trend(self, queue: str | None) -> float | None:
        """Growth per second of a queue; of all queues for None."""
        if not self._ready:
            return None
        last_s, last = self._ready[-1]
        first_s, first = next(one for one in self._ready if last_s - one[0] <= _TREND_S)
        if first_s == last_s and len(self._ready) > 1:  # observations further apart than that
            first_s, first = self._ready[-2]
        if first_s == last_s:
            return None
        grown = sum(last.values()) - sum(first.values()) if queue is None else last.get(queue, 0) - first.get(queue, 0)
        return grown / (last_s - first_s)


def _posts(answer: Mapping[str, Any]) -> int:
    return sum((answer.get("answers") or {}).values())


def _elapsed_s(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    then, now = before.get("up_s"), after.get("up_s")
    if then is None or now is None or before.get("pid") != after.get("pid") or now <= then:
        return None
    return float(now - then)
