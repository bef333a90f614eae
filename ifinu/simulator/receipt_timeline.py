"""
The receipts of a send, and their times.

They are computed, not stored: the time and the outcome of a message determine which `messages.update` have happened by
now.
"""

from __future__ import annotations

import hashlib

from ifinu.simulator.fault_script import Faults, Outcome
from ifinu.simulator.state import Message, SimulatedInstance

# A slow insert loses its receipts: the update finds no row, and is not tried again.
_SILENT = frozenset({Outcome.NO_RECEIPTS, Outcome.SLOW_INSERT})


def timeline(outcome: str, faults: Faults) -> list[tuple[float, str]]:
    """
    The receipts of one send.

    Returns:
        (milliseconds after the send, status), in the order in which they happen.
    """
    first, second, third = faults.server_ack_ms, faults.delivery_ack_ms, faults.read_ms
    if outcome in _SILENT:
        return []
    if outcome == Outcome.REFUSED_LATER:
        return [(first, "ERROR")]
    if outcome == Outcome.RECEIPTS_DISORDERED:
        return [(first, "DELIVERY_ACK"), (second, "READ"), (third, "READ"), (third, "SERVER_ACK")]
    return [(first, "SERVER_ACK"), (second, "DELIVERY_ACK"), (third, "READ")]


def statuses(message: Message, instance: SimulatedInstance, faults: Faults, now_monotonic: float) -> list[str]:
    """The receipts of a stored message until now, or until its process died."""
    if not message.from_me:
        return []
    until = next((at for at in instance.died_at if at >= message.at_monotonic), now_monotonic)
    elapsed_ms = (until - message.at_monotonic) * 1000
    return [status for after_ms, status in timeline(message.outcome, faults) if after_ms <= elapsed_ms]


def jid_in_receipts(message: Message) -> str:
    """The JID in the receipts, which may be a LID."""
    return lid(message.jid) if message.outcome == Outcome.RECEIPTS_LID else message.jid


def lid(jid: str) -> str:
    """A LID for a contact: the same one each time, with no hint at the number."""
    return f"{int.from_bytes(hashlib.sha256(jid.encode()).digest()[:6])}@lid"
