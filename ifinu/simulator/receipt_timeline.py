"""
The receipts of a send, and their times.

They are computed, not stored: the time and the outcome of a message determine which `messages.update` have happened by
now.
"""

from __future__ import annotations

import hashlib

from ifinu.simulator.fault_script import Faults, Outcome
from ifinu.simulator.state import Message, SimulatedInstance

META_ID = "wamid."  # how the ids of the channel BUSINESS begin
_META = {"ERROR": "FAILED", "SERVER_ACK": "SENT", "DELIVERY_ACK": "DELIVERED", "READ": "READ"}
# A slow insert loses its receipts: the update finds no row, and is not tried again.
_SILENT = frozenset({Outcome.NO_RECEIPTS, Outcome.SLOW_INSERT})


def timeline(key_id: str, outcome: str, faults: Faults) -> list[tuple[float, str]]:
    """
    The receipts of one send.

    Returns:
        (milliseconds after the send, status), in the order in which they happen.
    """
    return [
        (after_ms, _META[status] if key_id.startswith(META_ID) else status)
        for after_ms, status in _timeline(outcome, faults)
    ]


def _timeline(outcome: str, faults: Faults) -> list[tuple[float, str]]:
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
    return [status for after_ms, status in timeline(message.key_id, message.outcome, faults) if after_ms <= elapsed_ms]


def sides(message: Message) -> dict[str, object]:
    """`fromMe` and `participant` of a receipt; of the channel BUSINESS it seems to come from the person."""
    is_metas = message.key_id.startswith(META_ID)
    return {"fromMe": not is_metas, "participant": message.jid if is_metas else None}


def jid_in_receipts(message: Message) -> str:
    """The JID in the receipts, which may be a LID."""
    return (
        lid(message.jid)
        if message.outcome == Outcome.RECEIPTS_LID and not message.key_id.startswith(META_ID)
        else message.jid
    )


def lid(jid: str) -> str:
    """A LID for a contact: the same one each time, with no hint at the number."""
    return f"{int.from_bytes(hashlib.sha256(jid.encode()).digest()[:6])}@lid"
