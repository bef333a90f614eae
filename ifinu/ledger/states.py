"""
The states of a notification as the ledger knows them, and which of two counts.

    rank   states                                       which of two counts
     0     any                                          what an event implies but does not bring about: the other one
    10     queued, retrying, deferred, unknown,         the later one, so that a replayed dead letter is queued again
           expired, suppressed, cancelled, dead,
           purged
    50     sent                                         the higher rank, from here on: what was sent stays sent, and
    55     failed                                       receipts come twice and in any order
    60     server_ack
    70     delivered
    80     read

So one rule orders all of them: the greatest (rank, stream id). It does not matter in which order events are recorded,
nor how often.
"""

from __future__ import annotations

import enum


class State(enum.StrEnum):
    """Where a notification is; the values are what the ledger stores."""

    QUEUED = "queued"  # a dead letter that was replayed
    RETRYING = "retrying"  # a try failed, the next is due
    DEFERRED = "deferred"  # it waits for its window, its number or its gateway
    UNKNOWN = "unknown"  # it may have been sent
    EXPIRED = "expired"  # its validity ended before it was sent
    SUPPRESSED = "suppressed"  # the person wants no messages
    CANCELLED = "cancelled"  # e.g. the charge was paid
    DEAD = "dead"  # in the dead letters
    PURGED = "purged"  # its message was deleted from its queue; one that is pushed anew may be sent
    SENT = "sent"  # the gateway took it
    FAILED = "failed"  # WhatsApp said that it could not
    SERVER_ACK = "server_ack"  # WhatsApp took it
    DELIVERED = "delivered"  # it is on the person's phone
    READ = "read"  # and was opened


IMPLIED = 0
BEFORE_SENT = 10
_RANKS = {State.SENT: 50, State.FAILED: 55, State.SERVER_ACK: 60, State.DELIVERED: 70, State.READ: 80}
RECEIPTS = (State.FAILED, State.SERVER_ACK, State.DELIVERED, State.READ)  # what WhatsApp tells, lowest rank first


def rank(state: State) -> int:
    """What a state counts; see the table above."""
    return _RANKS.get(state, BEFORE_SENT)
