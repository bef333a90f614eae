"""
The heartbeat: a file for probes, touched while the worker sends or waits for a known reason.

Fresh: the worker sends, has nothing to send, or waits for the gateway, its pace or a window. Absent: it starts,
reconnects or drains. Stale: it is stuck. A running event loop proves nothing, so the work done decides.
"""

from __future__ import annotations

from typing import NamedTuple

_SILENT_S = 30.0  # a fetch answers within a second or so
_LONGEST_PAUSE_S = 60.0  # between two starts, beyond what the pace asks for


class WorkState(NamedTuple):
    """
    The state of a worker's work.

    Attributes:
        waiting: Fetched messages that have not started.
        sending_s: Age of each send under way.
        slots: Sends that it can do in parallel.
        paused_s: Time since the last start.
        pace_s: Time between two starts by its pace.
        away: Whether the gateway is away, so that nothing starts.
        refused: Whether Redis refuses claims.
        silent_s: Time since it last asked for messages; None while it has no room for any.
    """

    waiting: int
    sending_s: tuple[float, ...]
    slots: int
    paused_s: float
    pace_s: float
    away: bool
    refused: bool
    silent_s: float | None


def stuck_by(work: WorkState, patience_s: float) -> str:
    """
    Find out why a worker makes no progress: one word; empty while it works or has a reason to wait.

    Args:
        work: The state of its work.
        patience_s: Longest time that one send may take.
    """
    if work.refused:
        return "claims_refused"
    if len(work.sending_s) >= work.slots and min(work.sending_s) > patience_s:
        return "sends_hang"
    idle = work.waiting and not work.sending_s and not work.away
    if idle and work.paused_s > work.pace_s + _LONGEST_PAUSE_S:
        return "nothing_starts"
    if work.silent_s is not None and work.silent_s > _SILENT_S:
        return "nothing_fetched"
    return ""
