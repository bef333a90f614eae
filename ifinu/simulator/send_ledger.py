"""
The ledger of real sends and of requests.

Two records: the messages that WhatsApp got, regardless of the gateway's answer, and the POSTs that arrived, regardless
of their outcome. They are plain tuples and arrays, so that a load test of 100,000 messages takes only megabytes.
"""

from __future__ import annotations

import array
import collections
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ifinu.simulator.envelopes import encode


class Send(NamedTuple):
    """One message that WhatsApp got."""

    at_monotonic: float  # seconds
    at: float  # seconds since the epoch
    instance: str
    number: str  # digits of the account, as WhatsApp knows it
    text: str
    key_id: str
    outcome: str  # an `Outcome`: how the gateway answered its client
    begun_monotonic: float = 0.0  # when its POST arrived
    ended_monotonic: float | None = None  # when that was answered; None while it is not


class Call:
    """One POST to a send route that may send, from its arrival until its answer."""

    __slots__ = ("begun", "instance", "row")

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.begun = time.monotonic()
        self.row = -1  # number of its send, counted from the start of the ledger; -1 without one


class Ledger:
    """
    Sends and arrivals, in order.

    Args:
        file: JSON Lines file to which each send is appended as it happens; None keeps them in memory only.
    """

    def __init__(self, file: Path | None = None) -> None:
        # Plain tuples, not `Send`: the garbage collector stops tracking those.
        self._rows: list[tuple[Any, ...]] = []
        self._ends = array.array("d")  # when the POST of each row was answered; NaN while it is not
        self._forgotten = 0  # rows that were reset
        self._arrivals: dict[str, array.array[float]] = {}
        self._counts: collections.Counter[str] = collections.Counter()
        self._in_flight: collections.Counter[str] = collections.Counter()
        self._peak: dict[str, int] = {}
        self._epoch = time.time() - time.monotonic()
        self._file: IO[bytes] | None = file.open("ab", buffering=0) if file else None

    def arrived(self, worker: str) -> None:
        """Record a POST to a send route from this worker."""
        try:
            self._arrivals[worker].append(time.monotonic())
        except KeyError:
            self._arrivals[worker] = array.array("d", [time.monotonic()])

    def ended(self, how: str) -> None:
        self._counts[how] += 1

    def begins(self, instance: str) -> Call:
        now = self._in_flight[instance] = self._in_flight[instance] + 1
        if now > self._peak.get(instance, 0):
            self._peak[instance] = now
        return Call(instance)

    def finishes(self, call: Call) -> None:
        self._in_flight[call.instance] -= 1
        if call.row >= self._forgotten:
            self._ends[call.row - self._forgotten] = time.monotonic()

    def sent(self, call: Call, number: str, text: str, key_id: str, outcome: str) -> None:
        """Record that WhatsApp got the message of a call."""
        now = time.monotonic()
        row = (now, now + self._epoch, call.instance, number, text, key_id, outcome, call.begun)
        call.row = self._forgotten + len(self._rows)
        self._rows.append(row)
        self._ends.append(math.nan)
        if self._file:
            self._file.write(encode(Send._make((*row, None))._asdict()) + b"\n")

    def sends(self, since: int = 0, limit: int | None = None) -> list[Send]:
        """Sends from number `since` (counted from 0) on."""
        until = None if limit is None else since + limit
        rows = zip(self._rows[since:until], self._ends[since:until], strict=True)
        return [Send._make((*row, None if math.isnan(end) else end)) for row, end in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def summary(self) -> dict[str, Any]:
        """
        The figures of a run.

        Returns:
            `sends` (total, distinct (number, text), duplicates, worst one-second window), `posts` (total, by
            outcome, worst window, mean rate, first and last arrival in epoch seconds), `clients` (the same
            per worker, but for the outcomes) and `peak_in_flight` (per instance).
        """
        distinct = len({(row[3], row[4]) for row in self._rows})
        everything = array.array("d", sorted(at for times in self._arrivals.values() for at in times))
        return {
            "sends": {
                "total": len(self._rows),
                "distinct": distinct,
                "duplicates": len(self._rows) - distinct,
                "worst_window": worst_window([row[0] for row in self._rows]),
            },
            "posts": {
                **self._pace(everything),
                "by_outcome": {str(how): count for how, count in self._counts.items()},
            },
            "clients": {worker: self._pace(times) for worker, times in sorted(self._arrivals.items())},
            "peak_in_flight": dict(self._peak),
        }

    def peak_in_flight(self, instance: str) -> int:
        """The most calls of an instance under way at once, whatever became of them."""
        return self._peak.get(instance, 0)

    def reset(self) -> None:
        """Delete all records, except the counts of sends under way."""
        self._forgotten += len(self._rows)
        self._rows.clear()
        del self._ends[:]
        self._arrivals.clear()
        self._counts.clear()
        self._peak.clear()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _pace(self, times: Sequence[float]) -> dict[str, Any]:
        first, last = (times[0], times[-1]) if times else (None, None)
        return {
            "total": len(times),
            "worst_window": worst_window(times),
            "mean_per_s": mean_rate(times),
            "first_at": first and first + self._epoch,
            "last_at": last and last + self._epoch,
        }


def worst_window(times: Sequence[float], window_s: float = 1.0) -> int:
    """The most events in any window, closed on the left and open on the right; `times` are seconds, ascending."""
    worst = start = 0
    for end, at in enumerate(times):
        while at - times[start] >= window_s:
            start += 1
        worst = max(worst, end - start + 1)
    return worst


def mean_rate(times: Sequence[float]) -> float | None:
    """Events per second between the first and the last (n - 1 gaps); None when there is no interval."""
    if len(times) < 2 or times[-1] <= times[0]:
        return None
    return (len(times) - 1) / (times[-1] - times[0])


def duplicates(sends: Iterable[Send]) -> dict[tuple[str, str], int]:
    """Each (number, text) that WhatsApp got more than once, with its count."""
    counts = collections.Counter((send.number, send.text) for send in sends)
    return {key: count for key, count in counts.items() if count > 1}
