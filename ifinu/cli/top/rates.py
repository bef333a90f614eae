"""
From looks to figures: a rate is the difference of two answers of a worker, by the worker's own clock.

Nothing here asks anybody or reads a clock.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ifinu.cli.top.model import InstanceRow, Model, QueueRow, WorkerRow, counts
from ifinu.cli.top.snapshot import Snapshot

_TREND_S = 15.0  # over which a queue rises or falls
_HISTORY_S = 300.0
# A worker that misses some questions is silent, and one that misses many is gone: of these, whichever is longer.
_SILENT_S, _SILENT_LOOKS = 5.0, 2.5
_GONE_S, _GONE_LOOKS = 30.0, 10.0


@dataclass(frozen=True)
class Sight:
    """
    One look.

    Attributes:
        at: When.
        at_s: The same, in seconds that only go forward.
        found: What was in Redis; None when it was away.
        answers: Of the workers, by name and process; None when they could not be asked.
        error: Why not.
    """

    at: datetime
    at_s: float
    found: Snapshot | None
    answers: Mapping[tuple[str, int], Mapping[str, Any]] | None
    error: str = ""


def rates(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float] | None:
    """
    What became of messages per second between two answers of a worker; those that nothing became of are left out.

    None when they cannot be compared: it is another process, or its clock stands still.
    """
    elapsed_s = _elapsed_s(before, after)
    if elapsed_s is None:
        return None
    old, new = counts(before), counts(after)
    return {name: (new[name] - old[name]) / elapsed_s for name in new if new[name] > old[name]}


def pace(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    """
    Sends per second, whatever the gateway answered: what a limit is for.

    None when the two answers cannot be compared.
    """
    elapsed_s = _elapsed_s(before, after)
    return None if elapsed_s is None else max(0, _posts(after) - _posts(before)) / elapsed_s


def instances(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, InstanceRow]:
    """Sends a second by number; 0 where the answers cannot be compared."""
    elapsed_s = _elapsed_s(before, after)
    old: Mapping[str, Any] = before.get("instances") or {}
    found = {}
    for name, one in (after.get("instances") or {}).items():
        then = old.get(name, {})

        def per_s(result: str, one: Mapping[str, Any] = one, then: Mapping[str, Any] = then) -> float:
            grown: float = one.get(result, 0) - then.get(result, 0)
            return 0.0 if elapsed_s is None else max(0.0, grown / elapsed_s)

        found[str(name)] = InstanceRow(per_s("sent"), per_s("failed"), int(bool(one.get("held"))))
    return found


@dataclass
class _Known:
    """The last two answers of a worker, and when the last one came."""

    told: Mapping[str, Any]
    before: Mapping[str, Any]
    at_s: float


class RateHistory:
    """
    What was seen before.

    Args:
        every_s: How often it is looked.
    """

    def __init__(self, every_s: float) -> None:
        self._silent_s = max(_SILENT_S, _SILENT_LOOKS * every_s)
        self._gone_s = max(_GONE_S, _GONE_LOOKS * every_s)
        self._known: dict[tuple[str, int], _Known] = {}
        self._ready: deque[tuple[float, dict[str, int]]] = deque()
        self._found: Snapshot | None = None
        self._well_at_s: float | None = None

    def take(self, sight: Sight) -> Model:
        """Add a look; the figures with it."""
        if self._well_at_s is None or not sight.error:
            self._well_at_s = sight.at_s
        if sight.found is not None:
            self._found = sight.found
            self._ready.append((sight.at_s, {one.queue: one.ready for one in sight.found.queues}))
            while sight.at_s - self._ready[0][0] > _HISTORY_S:
                self._ready.popleft()
        if sight.answers is not None:
            self._hear(sight.answers, sight.at_s)
        return Model(
            at=sight.at,
            error=sight.error,
            error_s=sight.at_s - self._well_at_s if sight.error else 0.0,
            queues=self._lines(),
            workers=[self._worker(*who, known, sight.at_s) for who, known in self._known.items()],
            trend_per_s=self._trend(None),
            reasons=self._found.reasons if self._found else Counter(),
            found=self._found,
        )

    def _hear(self, answers: Mapping[tuple[str, int], Mapping[str, Any]], at_s: float) -> None:
        for who, told in answers.items():
            known = self._known.get(who)
            self._known[who] = _Known(told, known.told if known else {}, at_s)
        started = {name for name, _ in answers}
        for who, known in list(self._known.items()):
            is_restarted = who not in answers and who[0] in started  # under the same name, as another process
            if is_restarted or at_s - known.at_s > self._gone_s:
                del self._known[who]

    def _worker(self, name: str, pid: int, known: _Known, at_s: float) -> WorkerRow:
        silent_s = at_s - known.at_s
        told = known.told
        if "slots" not in told:  # an older version, which does not know the question
            return WorkerRow(name, pid, silent_s=silent_s if silent_s > self._silent_s else 0.0)
        limit_per_s = told.get("limit_per_s")
        limit = float("inf") if limit_per_s is None else float(limit_per_s)
        if silent_s > self._silent_s:
            return WorkerRow(name, pid, None, limit, silent_s=silent_s, told=told)
        per_s = rates(known.before, told)
        return WorkerRow(
            name=name,
            pid=pid,
            rate_per_s=pace(known.before, told),
            limit_per_s=limit,
            per_s=per_s or {},
            instances=instances(known.before, told),
            told=told,
        )

    def _lines(self) -> list[QueueRow]:
        if self._found is None:
            return []
        return [
            QueueRow(
                queue=one.queue,
                ready=one.ready,
                delayed=one.delayed,
                in_flight=one.in_flight,
                dead=one.dead,
                paused_since=one.paused_since,
                oldest_s=self._found.oldest_s.get(one.queue),
                trend_per_s=self._trend(one.queue),
                history=[ready.get(one.queue, 0) for _, ready in self._ready],
            )
            for one in self._found.queues
        ]

    def _trend(self, queue: str | None) -> float | None:
        """How fast a queue grows, or all together."""
        if not self._ready:
            return None
        last_s, last = self._ready[-1]
        first_s, first = next(one for one in self._ready if last_s - one[0] <= _TREND_S)
        if first_s == last_s and len(self._ready) > 1:  # looks that are far apart
            first_s, first = self._ready[-2]
        if first_s == last_s:
            return None
        grown = sum(last.values()) - sum(first.values()) if queue is None else last.get(queue, 0) - first.get(queue, 0)
        return grown / (last_s - first_s)


def _posts(told: Mapping[str, Any]) -> int:
    return sum((told.get("answers") or {}).values())


def _elapsed_s(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    then, now = before.get("up_s"), after.get("up_s")
    if then is None or now is None or before.get("pid") != after.get("pid") or now <= then:
        return None
    return float(now - then)
