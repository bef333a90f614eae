"""
Withdrawal of planned and queued messages: the charge was paid, cancelled, held or moved, or its recipient changed.

A message that is only planned becomes `cancelled`. One that is queued gets a reason and a row in `cancel_flags` in the
same transaction. Redis gets these flags after the commit (`apply_flags`); what had been sent by then loses the reason.
A planned one that is due gets a flag, too: a scheduler may have pushed it and died before its commit. Where a withdrawn
message spoke of other charges too, one of theirs takes its place.

A message that says what is not true any more is renewed: the queued one is withdrawn, and another one with the next
number in its id is planned (`c1.v.261210`, `c1.v.261210~1`). That one is pushed once Redis has answered for the former.
If it was too late to cancel the former, its id is the intent's again, and no second message goes.
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
# So long a flag waits for the end of a message that is being sent, which its worker's check may stop still, and of one
# that is in doubt, which a worker looks up at the gateway.
_ENDS_WITHIN: dict[str, timedelta] = {
    ClaimState.SENDING: timedelta(seconds=30),
    ClaimState.UNKNOWN: timedelta(minutes=15),
}

_KEY = "charge_seq, step, due_date, n"


def _ended(intent: str) -> str:
    """Whether the ledger knows the end of a message. A dead letter may be replayed, and a purged one pushed again."""
    return f"""EXISTS (SELECT FROM notifications e WHERE e.id = {intent}.id AND e.state IN
        ('sent', 'failed', 'server_ack', 'delivered', 'read', 'expired', 'suppressed', 'cancelled'))"""


# It was pushed, or may have been: it is due, and a scheduler may have died before its commit. The flag of one that was
# not pushed harms nothing, since its id is not used again.
_OUT = "(i.state = 'queued' OR i.state = 'planned' AND i.not_before <= :now)"

# Of a message (`l`) and another one (`o`): both are for one person and one day. What speaks of a charge of another
# customer of that person has the `customer_id` of the message.
_TOGETHER = """o.tenant = l.tenant AND o.customer_id = l.customer_id AND o.planned_on = l.planned_on
    AND o.channel = l.channel AND o.charge_seq <> l.charge_seq"""
FOLLOWS = f"{_TOGETHER} AND o.leader = l.charge_seq AND o.state = 'merged'"
_FOLLOWERS = f"intents l JOIN intents o ON {FOLLOWS}"


# All rows that the other statements may write, in one order, so that two withdrawals never wait for each other.
_LOCK = text(f"""
    SELECT FROM intents i JOIN (
        SELECT {_KEY} FROM intents WHERE charge_seq = ANY(:seqs)
        UNION SELECT o.charge_seq, o.step, o.due_date, o.n FROM {_FOLLOWERS} WHERE l.charge_seq = ANY(:seqs)
        UNION SELECT l.charge_seq, l.step, l.due_date, l.n FROM {_FOLLOWERS} WHERE o.charge_seq = ANY(:seqs)
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
        SELECT i.id, :now FROM intents i
         WHERE i.charge_seq = ANY(:seqs) AND {_OUT} AND (i.state = 'queued' OR i.valid_until > :now)
           AND NOT {_ended("i")}
        ON CONFLICT DO NOTHING RETURNING id)
    UPDATE intents i SET reason = :reason FROM flagged f
    WHERE i.charge_seq = ANY(:seqs) AND i.id = f.id RETURNING i.id""")

# Only their charges are indexed.
_IS_OF_IDS = "l.charge_seq = ANY(:of) AND l.id = ANY(:ids)"

# Of those that were merged into a message that does not speak of them any more, the first becomes a message. Had it a
# flag from when it was planned itself, it needs another id.
_RANK = """row_number() OVER w AS rank,
                 row_number() OVER w = 1 AND EXISTS (SELECT FROM cancel_flags f WHERE f.id = o.id) AS is_used"""
_BY_ITS_RANK = """state = CASE WHEN p.rank = 1 THEN 'planned' ELSE 'merged' END,
        reason = CASE WHEN p.rank = 1 THEN NULL ELSE 'merged' END,
        rev = i.rev + CAST(p.is_used AS int),
        id = CASE WHEN p.is_used THEN split_part(i.id, '~', 1) || '~' || i.rev + 1 ELSE i.id END,
        not_before = CASE WHEN p.rank = 1 THEN greatest(i.not_before, :later) ELSE i.not_before END"""

# The gravest of those that were merged into a message that ended takes its place, in the planner's order.
_PROMOTE = text(f"""
    UPDATE intents i SET leader = p.leader,
        {_BY_ITS_RANK}
    FROM (SELECT o.charge_seq, o.step, o.due_date, o.n, first_value(o.charge_seq) OVER w AS leader,
                 {_RANK}
            FROM {_FOLLOWERS} WHERE {_IS_OF_IDS} AND o.valid_until > :later
          WINDOW w AS (PARTITION BY l.id ORDER BY (o.kind = 'atraso') DESC, o.due_date, o.charge_seq)) p
    WHERE (i.charge_seq, i.step, i.due_date, i.n) = (p.charge_seq, p.step, p.due_date, p.n)""")

# What was merged into a message that goes to another phone now leaves it: the gravest of a phone becomes a message.
_PART = text(f"""
    UPDATE intents i SET leader = p.leader, customer_id = p.recipient,
        {_BY_ITS_RANK}
    FROM (SELECT o.charge_seq, o.step, o.due_date, o.n, first_value(o.charge_seq) OVER w AS leader,
                 first_value(u.id) OVER w AS recipient, {_RANK}
            FROM {_FOLLOWERS}
            JOIN charges c ON c.seq = o.charge_seq JOIN customers u ON (u.tenant, u.id) = (c.tenant, c.customer_id)
            JOIN charges d ON d.seq = l.charge_seq JOIN customers v ON (v.tenant, v.id) = (d.tenant, d.customer_id)
           WHERE (o.charge_seq = ANY(:seqs) OR l.charge_seq = ANY(:seqs)) AND u.phone IS DISTINCT FROM v.phone
             AND (l.state = 'planned' OR l.state = 'queued' AND NOT {_ended("l")}) AND o.valid_until > :later
          WINDOW w AS (PARTITION BY l.id, u.phone ORDER BY (o.kind = 'atraso') DESC, o.due_date, o.charge_seq)) p
    WHERE (i.charge_seq, i.step, i.due_date, i.n) = (p.charge_seq, p.step, p.due_date, p.n)""")

# A withdrawn message had been sent, so the others that it spoke of are not sent again. Before that is known, they wait.
_SPOKEN_OF = f"""{_IS_OF_IDS} AND l.leader = l.charge_seq AND {_TOGETHER}
      AND o.state IN ('planned', 'merged') AND o.leader IS NOT NULL"""
_MERGE_AGAIN = text(f"""
    UPDATE intents o SET state = 'merged', reason = 'merged', leader = l.charge_seq
    FROM intents l WHERE {_SPOKEN_OF}""")
_POSTPONE = text(f"""
    UPDATE intents o SET not_before = greatest(o.not_before, :later)
    FROM intents l WHERE {_SPOKEN_OF}""")

# A withdrawn message had been sent (`was_sent`), or may have been. If another one was planned in its place, since it
# was renewed or the due date moved back, it is the message of the step all the same; if that one was withdrawn in its
# turn, only what was sent is.
_SENT_AFTER_ALL = text("""
    UPDATE intents l SET state = 'queued', reason = NULL, id = w.id,
        leader = CASE WHEN l.id = w.id THEN l.leader ELSE l.charge_seq END
    FROM unnest(CAST(:ids AS text[])) AS w (id)
    WHERE l.charge_seq = ANY(:of) AND split_part(l.id, '~', 1) = split_part(w.id, '~', 1)
      AND (:was_sent AND l.id = w.id AND l.state = 'queued'
           OR l.id <> w.id AND l.queued_at IS NOT NULL
              AND (l.state IN ('planned', 'merged', 'skipped') OR :was_sent AND l.state = 'cancelled'))
    RETURNING w.id""")

# A message that is out, and a new one with another id in its place. Those of the charges themselves (`own`), and those
# of other charges that speak of them. A doubtful one keeps its id, by which the gateway is asked.
_RENEW = text(f"""
    WITH wanted AS (
        SELECT {_KEY} FROM intents WHERE :own AND charge_seq = ANY(:seqs)
        UNION SELECT l.charge_seq, l.step, l.due_date, l.n
          FROM {_FOLLOWERS} WHERE :others AND o.charge_seq = ANY(:seqs) AND l.charge_seq <> ALL(:seqs)),
    old AS MATERIALIZED (
        SELECT i.* FROM wanted JOIN intents i USING ({_KEY})
         WHERE {_OUT} AND i.valid_until > :now AND NOT i.doubtful AND NOT {_ended("i")}
           AND NOT EXISTS (SELECT FROM cancel_flags f WHERE f.id = i.id)
           AND (:readdressed OR NOT EXISTS (
                SELECT FROM notifications e WHERE e.id = i.id AND e.state IN ('dead', 'purged', 'unknown')))),
    flagged AS (
        INSERT INTO cancel_flags (id, at) SELECT id, :now FROM old)
    UPDATE intents i SET state = 'planned', rev = i.rev + 1, id = split_part(i.id, '~', 1) || '~' || i.rev + 1,
        customer_id = c.customer_id, queued_at = coalesce(i.queued_at, :now), not_before = greatest(i.not_before, :now)
    FROM old JOIN charges c ON c.seq = old.charge_seq
    WHERE (i.charge_seq, i.step, i.due_date, i.n) = (old.charge_seq, old.step, old.due_date, old.n)
    RETURNING old.id""")

_MOVE = text("""
    UPDATE intents i SET customer_id = c.customer_id
    FROM charges c WHERE c.seq = i.charge_seq AND c.seq = ANY(:seqs) AND i.state = 'planned'""")

_OPEN_FLAGS = text("""
    SELECT id, at FROM cancel_flags WHERE done_at IS NULL ORDER BY at LIMIT :limit FOR UPDATE SKIP LOCKED""")
_CLOSE_FLAGS = text("UPDATE cancel_flags SET done_at = :now WHERE id = ANY(:ids)")
_DROP_FLAGS = text("DELETE FROM cancel_flags WHERE id = ANY(:ids)")

_OF_TENANT = text("""
    SELECT DISTINCT charge_seq FROM intents
     WHERE tenant = :tenant AND state IN ('planned', 'queued') AND valid_until > :now AND not_before <= :now
     ORDER BY charge_seq""")


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
    Withdraw the messages about some charges that were not sent yet. Those of other charges that speak of them are
    renewed.

    Args:
        reason: Why, as `intents.reason` has it.

    Returns:
        Their ids: those that were only planned, and those that Redis has to cancel.
    """
    which = {"seqs": list(seqs)}
    lock(connection, seqs)
    _renew(connection, seqs, now, own=False)
    flagged = connection.scalars(_FLAG, which | {"now": now, "reason": reason}).all()
    planned = connection.scalars(_CANCEL, which | {"reason": reason}).all()
    ids = list(dict.fromkeys((*planned, *flagged)))
    promote(connection, ids, now)
    return ids


def withdraw_all(connection: Connection, tenant: str, reason: str, now: datetime) -> list[str]:
    """As `withdraw`, of all messages of a tenant that are due or queued."""
    return withdraw(connection, connection.scalars(_OF_TENANT, {"tenant": tenant, "now": now}).all(), reason, now)


def renew(connection: Connection, seqs: Sequence[int], now: datetime) -> list[str]:
    """
    Replace the queued messages that speak of some charges, since what they say is not true any more.

    Returns:
        The ids that Redis has to cancel.
    """
    lock(connection, seqs)
    return _renew(connection, seqs, now)


def take_back(connection: Connection, tenant: str, now: datetime) -> list[str]:
    """
    Plan again what is queued of a tenant.

    Returns:
        The ids that Redis has to cancel.
    """
    return renew(connection, connection.scalars(_OF_TENANT, {"tenant": tenant, "now": now}).all(), now)


def readdress(connection: Connection, seqs: Sequence[int], now: datetime) -> list[str]:
    """
    Send the messages about some charges to their new recipient: what is queued gets another id.

    Charges whose recipient has another phone now than that of the message that spoke of them get one of their own.

    Returns:
        The ids that Redis has to cancel.
    """
    lock(connection, seqs)
    which = {"seqs": list(seqs)}
    ids = _renew(connection, seqs, now, own=False)  # before these charges leave the messages that speak of them
    connection.execute(_PART, which | {"later": now + _FLAG_FIRST})
    connection.execute(_MOVE, which)
    return ids + _renew(connection, seqs, now, others=False, readdressed=True)


def promote(connection: Connection, ids: Sequence[str], now: datetime) -> None:
    """Let one of those that were merged into each of some messages go, now that these do not; lock them all before."""
    if ids:
        connection.execute(_PROMOTE, _of_ids(ids) | {"later": now + _FLAG_FIRST})


def apply_flags(connection: Connection, client: redis.Redis, limit: int, now: datetime) -> Applied:
    """
    Cancel in Redis what was queued when it was withdrawn. Several processes may do so at once.

    The flag of a message that is being sent at this moment, or is in doubt, stays open for a while.

    Args:
        client: A client that returns bytes.
        limit: The most flags.

    Raises:
        redis.RedisError: Redis did not take all of them; they stay open.
    """
    flags = connection.execute(_OPEN_FLAGS, {"limit": limit}).all()
    claims = Claims(client, ttl_s=0)  # it remembers a cancelled id for 90 days all the same
    was = {flag.id: claims.cancel(flag.id) for flag in flags}
    doubted = [id_ for id_ in was if was[id_] == ClaimState.UNKNOWN]
    in_doubt = connection.scalars(_SENT_AFTER_ALL, _of_ids(doubted) | {"was_sent": False}).all() if doubted else []
    for id_ in in_doubt:  # it may have been sent, so none goes in its place; if it was not, it goes itself
        claims.uncancel(id_)
    if in_doubt:
        connection.execute(_DROP_FLAGS, {"ids": list(in_doubt)})
    undecided = [
        flag.id for flag in flags
        if flag.id not in in_doubt and (within := _ENDS_WITHIN.get(was[flag.id])) and flag.at > now - within
    ]  # fmt: skip
    if undecided:
        connection.execute(_POSTPONE, _of_ids(undecided) | {"later": now + _FLAG_FIRST})
    done = was.keys() - {*undecided}
    late = [id_ for id_ in done if was[id_] in (ClaimState.SENDING, ClaimState.SENT)]
    connection.execute(_CLOSE_FLAGS, {"ids": list(done), "now": now})
    if late:
        which = _of_ids(late)
        connection.execute(_SENT_AFTER_ALL, which | {"was_sent": True})
        connection.execute(_MERGE_AGAIN, which)
    return Applied(len(done) - len(late) - len(in_doubt), len(late) + len(in_doubt))


def _renew(
    connection: Connection,
    seqs: Sequence[int],
    now: datetime,
    *,
    own: bool = True,
    others: bool = True,
    readdressed: bool = False,
) -> list[str]:
    how = {"own": own, "others": others, "readdressed": readdressed}
    return list(connection.scalars(_RENEW, {"seqs": list(seqs), "now": now, **how}))


def _of_ids(ids: Sequence[str]) -> dict[str, Any]:
    """Ids of messages, and the charges that they are of."""
    return {"ids": list(ids), "of": list({int(id_[1:].partition(".")[0]) for id_ in ids})}
