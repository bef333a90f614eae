"""
Withdrawal of planned and queued messages: the charge was paid, cancelled, held or moved, or its recipient changed.

A message that is only planned becomes `cancelled`. One that is queued gets a reason and a row in `cancel_flags` in the
same transaction. Redis gets these flags after the commit (`apply_flags`); what had been sent by then loses the reason.
Where a withdrawn message spoke of other charges too, one of theirs takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import redis
from sqlalchemy import Connection, text

from ifinu.broker.claims import Claims, ClaimState

# A message that takes the place of a queued one waits for so long: by then Redis has said whether that one was sent.
_FLAG_FIRST = timedelta(minutes=1)

_KEY = "charge_seq, step, due_date, n"


def _ended(intent: str) -> str:
    """Whether the ledger knows the end of a message. A dead letter may be replayed, and a purged one pushed again."""
    return f"""EXISTS (SELECT FROM notifications e WHERE e.id = {intent}.id AND e.state IN
        ('sent', 'failed', 'server_ack', 'delivered', 'read', 'expired', 'suppressed', 'cancelled'))"""


# Of a message (`l`) and another one (`o`): both are for one person and one day. What speaks of a charge of another
# customer of that person has the `customer_id` of the message.
_TOGETHER = """o.tenant = l.tenant AND o.customer_id = l.customer_id AND o.planned_on = l.planned_on
    AND o.channel = l.channel AND o.charge_seq <> l.charge_seq"""
_FOLLOWERS = f"intents l JOIN intents o ON {_TOGETHER} AND o.leader = l.charge_seq AND o.state = 'merged'"


# All rows that the other statements may write, in one order, so that two withdrawals never wait for each other.
_LOCK = text(f"""
    SELECT FROM intents i JOIN (
        SELECT {_KEY} FROM intents WHERE charge_seq = ANY(:seqs)
        UNION SELECT o.charge_seq, o.step, o.due_date, o.n FROM {_FOLLOWERS} WHERE l.charge_seq = ANY(:seqs)
    ) k USING ({_KEY})
    WHERE i.state IN ('planned', 'merged', 'queued') ORDER BY {_KEY} FOR UPDATE OF i""")

# What is planned, or was merged into a message that may still go.
_MAY_GO = f"""(o.state = 'planned' OR o.state = 'merged' AND EXISTS (
        SELECT FROM intents l WHERE {_TOGETHER} AND l.charge_seq = o.leader
           AND (l.state = 'planned' OR l.state = 'queued' AND NOT {_ended("l")})))"""

_CANCEL = text(f"""
    UPDATE intents o SET state = 'cancelled', reason = :reason
    WHERE o.charge_seq = ANY(:seqs) AND {_MAY_GO} RETURNING o.id""")

_FLAG = text(f"""
    WITH flagged AS (
        INSERT INTO cancel_flags (id, at)
        SELECT i.id, :now FROM intents i WHERE i.charge_seq = ANY(:seqs) AND i.state = 'queued' AND NOT {_ended("i")}
        ON CONFLICT DO NOTHING RETURNING id)
    UPDATE intents i SET reason = :reason FROM flagged f
    WHERE i.charge_seq = ANY(:seqs) AND i.id = f.id RETURNING i.id""")

# Only their charges are indexed.
_IS_OF_IDS = "l.charge_seq = ANY(:of) AND l.id = ANY(:ids)"

# The gravest of those that were merged into a withdrawn message takes its place, in the planner's order.
_PROMOTE = text(f"""
    UPDATE intents i SET leader = p.leader,
        state = CASE WHEN p.rank = 1 THEN 'planned' ELSE 'merged' END,
        reason = CASE WHEN p.rank = 1 THEN NULL ELSE 'merged' END,
        not_before = CASE WHEN p.rank = 1 THEN greatest(i.not_before, :later) ELSE i.not_before END
    FROM (SELECT o.charge_seq, o.step, o.due_date, o.n, first_value(o.charge_seq) OVER w AS leader,
                 row_number() OVER w AS rank
            FROM {_FOLLOWERS} WHERE {_IS_OF_IDS} AND o.valid_until > :later
          WINDOW w AS (PARTITION BY l.id ORDER BY (o.kind = 'atraso') DESC, o.due_date, o.charge_seq)) p
    WHERE (i.charge_seq, i.step, i.due_date, i.n) = (p.charge_seq, p.step, p.due_date, p.n)""")

# What was merged into a message that goes to another phone now leaves it: the gravest of a phone becomes a message.
_PART = text(f"""
    UPDATE intents i SET leader = p.leader, customer_id = p.recipient,
        state = CASE WHEN p.rank = 1 THEN 'planned' ELSE 'merged' END,
        reason = CASE WHEN p.rank = 1 THEN NULL ELSE 'merged' END,
        not_before = CASE WHEN p.rank = 1 THEN greatest(i.not_before, :later) ELSE i.not_before END
    FROM (SELECT o.charge_seq, o.step, o.due_date, o.n, first_value(o.charge_seq) OVER w AS leader,
                 first_value(u.id) OVER w AS recipient, row_number() OVER w AS rank
            FROM {_FOLLOWERS}
            JOIN charges c ON c.seq = o.charge_seq JOIN customers u ON (u.tenant, u.id) = (c.tenant, c.customer_id)
            JOIN charges d ON d.seq = l.charge_seq JOIN customers v ON (v.tenant, v.id) = (d.tenant, d.customer_id)
           WHERE (o.charge_seq = ANY(:seqs) OR l.charge_seq = ANY(:seqs)) AND u.phone IS DISTINCT FROM v.phone
             AND (l.state = 'planned' OR l.state = 'queued' AND NOT {_ended("l")}) AND o.valid_until > :later
          WINDOW w AS (PARTITION BY l.id, u.phone ORDER BY (o.kind = 'atraso') DESC, o.due_date, o.charge_seq)) p
    WHERE (i.charge_seq, i.step, i.due_date, i.n) = (p.charge_seq, p.step, p.due_date, p.n)""")

# A withdrawn message had been sent, so the others that it spoke of are not sent again.
_MERGE_AGAIN = text(f"""
    UPDATE intents o SET state = 'merged', reason = 'merged', leader = l.charge_seq
    FROM intents l
    WHERE {_IS_OF_IDS} AND l.leader = l.charge_seq AND {_TOGETHER}
      AND o.state IN ('planned', 'merged') AND o.leader IS NOT NULL""")

# A withdrawn message had been sent. Meanwhile the due date may have been moved back, and the step been planned anew.
_SENT_AFTER_ALL = text("""
    UPDATE intents l SET state = 'queued', reason = NULL, id = w.id,
        leader = CASE WHEN l.id = w.id THEN l.leader ELSE l.charge_seq END
    FROM unnest(CAST(:ids AS text[])) AS w (id)
    WHERE l.charge_seq = ANY(:of) AND split_part(l.id, '~', 1) = split_part(w.id, '~', 1)
      AND (l.id = w.id AND l.state = 'queued'
           OR l.id <> w.id AND l.state IN ('planned', 'merged', 'skipped') AND l.queued_at IS NOT NULL)""")

# A queued message to somebody else than it should go to now, and a new one with another id in its place.
_READDRESS = text(f"""
    WITH old AS MATERIALIZED (
        SELECT i.* FROM intents i
        WHERE i.charge_seq = ANY(:seqs) AND i.state = 'queued' AND i.valid_until > :now AND NOT {_ended("i")}),
    flagged AS (
        INSERT INTO cancel_flags (id, at) SELECT id, :now FROM old ON CONFLICT DO NOTHING)
    UPDATE intents i SET state = 'planned', rev = i.rev + 1, id = split_part(i.id, '~', 1) || '~' || i.rev + 1,
        customer_id = c.customer_id, queued_at = NULL, epoch = NULL, not_before = greatest(i.not_before, :now)
    FROM old JOIN charges c ON c.seq = old.charge_seq
    WHERE (i.charge_seq, i.step, i.due_date, i.n) = (old.charge_seq, old.step, old.due_date, old.n)
    RETURNING old.id""")

_MOVE = text("""
    UPDATE intents i SET customer_id = c.customer_id
    FROM charges c WHERE c.seq = i.charge_seq AND c.seq = ANY(:seqs) AND i.state = 'planned'""")

_OPEN_FLAGS = text("""
    SELECT id FROM cancel_flags WHERE done_at IS NULL ORDER BY at LIMIT :limit FOR UPDATE SKIP LOCKED""")
_CLOSE_FLAGS = text("UPDATE cancel_flags SET done_at = :now WHERE id = ANY(:ids)")


class Applied(NamedTuple):
    """
    What became of cancel flags.

    Attributes:
        cancelled: Messages that will not be sent.
        late: Messages that had been sent, or were being sent.
    """

    cancelled: int
    late: int


def lock(connection: Connection, seqs: Sequence[int]) -> None:
    """Lock the messages about some charges that may still go, and those that were merged into them, in one order."""
    connection.execute(_LOCK, {"seqs": list(seqs)})


def withdraw(connection: Connection, seqs: Sequence[int], reason: str, now: datetime) -> list[str]:
    """
    Withdraw the messages about some charges that were not sent yet.

    Args:
        reason: Why, as `intents.reason` has it.

    Returns:
        Their ids: those that were only planned, and those that Redis has to cancel.
    """
    which = {"seqs": list(seqs)}
    lock(connection, seqs)
    planned = connection.scalars(_CANCEL, which | {"reason": reason}).all()
    # In a statement after that one, to see as queued what was pushed meanwhile.
    queued = connection.scalars(_FLAG, which | {"now": now, "reason": reason}).all()
    ids = [*planned, *queued]
    _promote(connection, ids, now)
    return ids


def readdress(connection: Connection, seqs: Sequence[int], now: datetime) -> list[str]:
    """
    Send the messages about some charges to their new recipient: what is queued gets another id.

    Charges whose recipient has another phone now than that of the message that spoke of them get one of their own.

    Returns:
        The ids that Redis has to cancel.
    """
    which = {"seqs": list(seqs)}
    lock(connection, seqs)
    connection.execute(_PART, which | {"later": now + _FLAG_FIRST})
    connection.execute(_MOVE, which)
    return list(connection.scalars(_READDRESS, which | {"now": now}))


def apply_flags(connection: Connection, client: redis.Redis, limit: int, now: datetime) -> Applied:
    """
    Cancel in Redis what was queued when it was withdrawn. Several processes may do so at once.

    Args:
        client: A client that returns bytes.
        limit: The most flags.

    Raises:
        redis.RedisError: Redis did not take all of them; they stay open.
    """
    ids = connection.scalars(_OPEN_FLAGS, {"limit": limit}).all()
    claims = Claims(client, ttl_s=0)  # it remembers a cancelled id for 90 days all the same
    late = [id_ for id_ in ids if claims.cancel(id_) in (ClaimState.SENDING, ClaimState.SENT)]
    connection.execute(_CLOSE_FLAGS, {"ids": list(ids), "now": now})
    if late:
        which = _of_ids(late)
        connection.execute(_SENT_AFTER_ALL, which)
        connection.execute(_MERGE_AGAIN, which)
    return Applied(len(ids) - len(late), len(late))


def _promote(connection: Connection, ids: Sequence[str], now: datetime) -> None:
    if ids:
        connection.execute(_PROMOTE, _of_ids(ids) | {"later": now + _FLAG_FIRST})


def _of_ids(ids: Sequence[str]) -> dict[str, Any]:
    """Ids of messages, and the charges that they are of."""
    return {"ids": list(ids), "of": list({int(id_[1:].partition(".")[0]) for id_ in ids})}
