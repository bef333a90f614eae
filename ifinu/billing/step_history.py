"""What was decided about the steps of a charge, and what became of their messages."""

from __future__ import annotations

from datetime import date, datetime
from typing import NamedTuple

from sqlalchemy import Connection, text


class Decided(NamedTuple):
    """
    A decided step.

    Attributes:
        id: Of its message.
        day: The local day for which it was decided.
        state: The ledger's of its message, if that has one; else the intent's.
        reason: Why nothing went, or what went wrong.
        at: When the message was sent, or is to be sent.
        leader: Id of the charge whose message speaks of this one.
    """

    id: str
    step: str
    kind: str
    day: date
    state: str
    reason: str | None
    at: datetime | None
    leader: str | None


_HISTORY = text("""
    SELECT i.id, i.step, i.kind, i.planned_on AS day, coalesce(n.state, i.state) AS state,
           coalesce(n.reason, CASE WHEN n.state IS NULL THEN i.reason END) AS reason,
           coalesce(n.sent_at, CASE WHEN i.state = 'planned' THEN i.not_before END) AS at, l.id AS leader
      FROM intents i LEFT JOIN notifications n ON n.id = i.id
      LEFT JOIN charges l ON l.seq = i.leader AND i.state = 'merged'
     WHERE i.charge_seq = :seq ORDER BY i.planned_on, i.decided_at, i.not_before NULLS FIRST, i.step, i.n""")


def of_charge(connection: Connection, seq: int) -> list[Decided]:
    """The steps of a charge that were decided, by day."""
    return [Decided(*row) for row in connection.execute(_HISTORY, {"seq": seq})]
