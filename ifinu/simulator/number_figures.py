"""
The figures of each instance, by which a judge of its pace sees whether a gap, a cap or `par` was broken.

Only what WhatsApp got counts, except for `most_in_flight`.
"""

from __future__ import annotations

import bisect
import collections
import datetime
from collections.abc import Iterable, Sequence
from typing import Any

from ifinu.simulator.fault_script import Outcome
from ifinu.simulator.send_ledger import Ledger, Send, worst_window

BRASILIA_S = -3 * 3600
_MINUTE_S = 60.0


def by_instance(ledger: Ledger, utc_offset_s: int = BRASILIA_S) -> dict[str, dict[str, Any]]:
    """
    The figures of each instance that sent.

    Args:
        utc_offset_s: The zone whose days are counted, in seconds east of UTC.

    Returns:
        What `figures` returns, and `most_in_flight`: calls of any outcome.
    """
    sends: dict[str, list[Send]] = {}
    for send in ledger.sends():
        sends.setdefault(send.instance, []).append(send)
    return {
        name: {**figures(some, utc_offset_s), "most_in_flight": ledger.peak_in_flight(name)}
        for name, some in sorted(sends.items())
    }


def figures(sends: Sequence[Send], utc_offset_s: int = BRASILIA_S) -> dict[str, Any]:
    """
    The figures of one instance's sends.

    Returns:
        `sends`; `refused`: those that WhatsApp refused later; `people`; `least_gap_s`: least time from the answer to a
        send until the next one arrived, None without two (of sends that overlap, the last answer before the arrival
        counts); `most_a_minute`: most in any 60 s; `days`: by local date, `sends` and `new_chats`, the people first
        written to on that day.
    """
    zone = datetime.timezone(datetime.timedelta(seconds=utc_offset_s))
    days: dict[str, collections.Counter[str]] = {}
    people: set[str] = set()
    for send in sends:
        day = days.setdefault(datetime.datetime.fromtimestamp(send.at, zone).date().isoformat(), collections.Counter())
        day["sends"] += 1
        if send.number not in people:
            people.add(send.number)
            day["new_chats"] += 1
    return {
        "sends": len(sends),
        "refused": sum(send.outcome == Outcome.REFUSED_LATER for send in sends),
        "people": len(people),
        "least_gap_s": min(_gaps(sends), default=None),
        "most_a_minute": worst_window(sorted(send.at_monotonic for send in sends), _MINUTE_S),
        "days": {date: {name: day[name] for name in ("sends", "new_chats")} for date, day in days.items()},
    }


def _gaps(sends: Sequence[Send]) -> Iterable[float]:
    ends = sorted(send.ended_monotonic for send in sends if send.ended_monotonic is not None)
    for send in sends:
        before = bisect.bisect_right(ends, send.begun_monotonic)
        if before:
            yield send.begun_monotonic - ends[before - 1]


NOTHING_SENT = {**figures(()), "most_in_flight": 0}
