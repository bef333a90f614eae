"""
The states of a notification in the ledger, and which of two states counts.

    rank   states                                       which of two counts
     0     any, implied by an event of another kind     the other one
    10     queued, retrying, deferred, unknown,         the later one, so that a replayed dead letter is queued again
           expired, suppressed, cancelled, dead,
           purged
    50     sent                                         the higher rank, from here on: a sent message stays sent, and
    55     failed                                       receipts come twice and in any order
    60     server_ack
    70     delivered
    80     read

One rule covers all of them: the greatest (rank, stream id) counts. So the order in which events are recorded does not
matter, nor how often they are.
"""

from __future__ import annotations

import enum


class State(enum.StrEnum):
    """The state of a notification; the ledger stores these values."""

    QUEUED = "queued"  # a dead letter that was replayed
    RETRYING = "retrying"  # a try failed, the next is due
    DEFERRED = "deferred"  # it waits for its window, its number or its gateway
    UNKNOWN = "unknown"  # it may have been sent
    EXPIRED = "expired"  # its validity ended before it was sent
    SUPPRESSED = "suppressed"  # the person opted out
    CANCELLED = "cancelled"  # e.g. the charge was paid
    DEAD = "dead"  # in the dead letters
    PURGED = "purged"  # its message was deleted from its queue; a new message with the id may be sent
    SENT = "sent"  # the gateway took it
    FAILED = "failed"  # WhatsApp could not deliver it
    SERVER_ACK = "server_ack"  # WhatsApp took it
    DELIVERED = "delivered"  # it is on the person's phone
    READ = "read"  # and was opened


IMPLIED = 0
BEFORE_SENT = 10
_RANKS = {State.SENT: 50, State.FAILED: 55, State.SERVER_ACK: 60, State.DELIVERED: 70, State.READ: 80}
RECEIPTS = (State.FAILED, State.SERVER_ACK, State.DELIVERED, State.READ)  # reported by receipts, lowest rank first


def rank(state: State) -> int:
    """The rank of a state; see the table above."""
    return _RANKS.get(state, BEFORE_SENT)
