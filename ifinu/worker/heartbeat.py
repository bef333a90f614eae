"""
The file for probes: touched while the worker sends, or waits for a known reason.

Fresh: it sends, has nothing to send, or waits for the gateway, its pace or a window. Absent: it starts, reconnects or
drains. Stale: it is stuck. A loop that turns proves nothing, so what it got done decides.
"""

from __future__ import annotations

from typing import NamedTuple

_SILENT_S = 30.0  # a fetch answers within a second or so
_LONGEST_PAUSE_S = 60.0  # between two starts, beyond what the pace asks for


class WorkState(NamedTuple):
    """
    How a worker is getting on.

    Attributes:
        waiting: Messages that it has and has not started.
        sending_s: How long each send under way has been going on.
        slots: Sends it can do at the same time.
        paused_s: How long ago one started.
        pace_s: The time between two starts that its pace asks for.
        away: The gateway is, or an instance of it: nothing is to start.
        refused: Redis refuses the claims.
        silent_s: How long ago it asked for messages, while it had room for some; None while it has none.
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
    Why a worker gets nothing done, in one word; empty while it does, or has a reason not to.

    Args:
        work: How it is getting on.
        patience_s: The longest that one send may take.
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
