"""
The epoch: whether Redis still holds what the régua has pushed.

PostgreSQL (`billing_epoch`) and Redis (`ifinu:regua:epoca`) have the same random value, and both note when a check or a
push saw them agree. The database is written second, so Redis is never behind it unless Redis has lost writes:

    found       in Redis                                       what follows
    same        the same value, and the same server            nothing
    restarted   the same value, on another server, or up to    what was pushed in the minute before is pushed again, and
                a minute older than the database has seen      cancelled again; a claim drops what was not lost
    lost        no value, another one, or an older one:        opt-outs and claims are written from the ledger, what it
                flushed, restored, or another server           does not know to have ended is pushed again; a new epoch
    waiting     likewise, while the recorder still writes      nothing is pushed; the next check asks again
    busy        another process checks at this moment          nothing

A push is refused by a server without the epoch (`push.lua`), and holds a share of the epoch's row until its commit. So
nothing is pushed into a server that lost its data before this module has seen to it, and a push that began before is
seen here.

The ledger lacks the last events: what was sent while they were in the stream has no row. Of each tenant, those
messages are the ones that were pushed first, since queues are served in order: as many as were sent in that time at the
highest pace of the hour before. They are doubtful, as is what waited for a retry that was due: their claims begin as
`unknown`, so that a worker asks the gateway before it sends one (`outbox.py`).
"""

from __future__ import annotations

import enum
import math
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import redis
from sqlalchemy import Connection, bindparam, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ifinu.billing.billing_schema import billing_epoch, cancel_flags, intents
from ifinu.broker import restarts
from ifinu.broker.keys import EPOCH, EVENTS, LEDGER_GROUP, NORMAL, script
from ifinu.ledger import reconciliation
from ifinu.ledger.schema import events

_LITTLE = timedelta(seconds=60)  # what a crash or a failover loses at most; more is another server's data
_WITHIN = timedelta(seconds=5)  # two pushes may reach Redis in another order than they began
_PATIENCE = timedelta(seconds=30)  # that the recorder gets to write what it has read
_IN_TRANSIT_S = 15.0  # longer than a send and its event take
_PACE_OVER = timedelta(hours=1)
_BURST = 2.0  # times the highest pace that ten seconds had
_ALL = 2**31 - 1
_LONGEST = timedelta(days=31)  # that a message is valid
_NO_HASTE = text("SET LOCAL statement_timeout = '10min'")  # a week of messages is joined with the ledger
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)

# What the ledger knows of a message that has not ended: nothing, or one of these.
_UNFINISHED = "l.id IS NULL OR l.state_rank = 0 OR l.state IN ('queued', 'retrying', 'deferred', 'unknown')"
_PUSH_AGAIN = text(f"""
WITH unfinished AS (
  SELECT i.charge_seq, i.step, i.due_date, i.n, i.queued_at, l.state, l.due_at,
         coalesce(l.state_rank, 0) = 0 AS unheard,
         row_number() OVER (PARTITION BY i.tenant ORDER BY i.queued_at, i.not_before) AS place
    FROM intents i LEFT JOIN notifications l ON l.id = i.id
   WHERE i.state = 'queued' AND i.queued_at >= :since AND ({_UNFINISHED})
     AND NOT EXISTS (SELECT FROM cancel_flags f WHERE f.id = i.id)
)
UPDATE intents i
   SET state = 'planned',
       doubtful = i.doubtful OR CASE WHEN u.unheard THEN u.place <= :first OR u.queued_at > :lost_from
                                     WHEN u.state = 'unknown' THEN true
                                     ELSE coalesce(u.due_at <= :now, true) END
  FROM unfinished u
 WHERE (i.charge_seq, i.step, i.due_date, i.n) = (u.charge_seq, u.step, u.due_date, u.n)
RETURNING i.doubtful
""").bindparams(bindparam("since"), bindparam("lost_from"))  # noqa: S608 - a constant of this module
_TOO_OLD = text(f"""
UPDATE intents i SET state = 'expired', reason = 'stale'
 WHERE i.state = 'queued' AND i.queued_at < :since AND i.queued_at > :long_ago AND i.valid_until > :now
   AND NOT EXISTS (SELECT FROM notifications l WHERE l.id = i.id AND NOT ({_UNFINISHED}))
""")  # noqa: S608 - likewise
_HIGHEST_PACE = text("""
SELECT max(sent)
  FROM (SELECT count(*) AS sent FROM events WHERE ms >= :since AND name = 'sent' GROUP BY ms / 10000) AS of_ten_seconds
""")


class Found(enum.StrEnum):
    """The outcomes of a check; see the table above."""

    SAME = "same"
    RESTARTED = "restarted"
    LOST = "lost"
    WAITING = "waiting"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class Checked:
    """
    The result of a check.

    Attributes:
        found: What it found.
        again: Intents that are planned again.
        doubtful: Those of them that are looked up before they are sent.
        cancelled: Cancellations that will be written to Redis again.
        claims: Claims that were written from the ledger.
        opt_outs: Opt-outs that were written from it, or removed.
    """

    found: Found
    again: int = 0
    doubtful: int = 0
    cancelled: int = 0
    claims: int = 0
    opt_outs: int = 0


class _InRedis(NamedTuple):
    epoch: str
    seen_at: datetime


def check(connection: Connection, client: redis.Redis, now: datetime, *, claim_ttl_s: float) -> Checked:
    """
    Compare the epochs, and see to what Redis has lost.

    Args:
        connection: In a transaction, which the caller commits. A loss of everything may take minutes.
        client: A client that returns bytes.
        now: Redis' time.
        claim_ttl_s: As `Settings.claim_ttl_s`.

    Raises:
        LedgerUnavailable: The database is away; nothing has changed there. Check again.
        redis.RedisError: Redis is away. Likewise.
    """
    row = connection.execute(select(billing_epoch).with_for_update(key_share=True, skip_locked=True)).one_or_none()
    if row is None and connection.execute(select(billing_epoch.c.id)).first() is not None:
        return Checked(Found.BUSY)
    run_id = restarts.server(client)
    if row is None:
        _begin(connection, client, run_id, now)
        return Checked(Found.SAME)
    pushed_at = connection.execute(select(func.max(intents.c.queued_at)).where(intents.c.state == "queued")).scalar()
    seen_at = _whole_ms(max(filter(None, (row.seen_at, pushed_at)), default=now))
    here = _in_redis(client)  # after the database, which a push writes second
    agreed_at = max(now, seen_at, here.seen_at)
    if here.epoch != row.epoch or here.seen_at < seen_at - _LITTLE:
        if now < seen_at + _PATIENCE and not is_recorded(client):
            return Checked(Found.WAITING)
        # Waits for the pushes that have begun; they count as lost.
        connection.execute(select(billing_epoch.c.id).with_for_update())
        checked = _restore(connection, client, now, claim_ttl_s, seen_at)
        _begin(connection, client, run_id, agreed_at)
        return checked
    checked = Checked(Found.SAME)
    if here.seen_at < seen_at or (run_id and row.redis_run_id and run_id != row.redis_run_id):
        lost_from = here.seen_at - _WITHIN if here.seen_at < seen_at else _NEVER
        since = here.seen_at - _LITTLE
        again, doubtful = _push_again(connection, now, since=since, lost_from=lost_from, first=0)
        checked = Checked(Found.RESTARTED, again, doubtful, _cancel_again(connection, since))
    # Redis first, and never back: a push may write a later time at this moment.
    if script("push")(client, (EPOCH, NORMAL), (row.epoch, _ms(agreed_at))) < 0:
        return Checked(Found.WAITING)
    _note(connection, row.epoch, run_id or row.redis_run_id, agreed_at)
    return checked


def _begin(connection: Connection, client: redis.Redis, run_id: str, at: datetime) -> None:
    """Begin a new epoch, in Redis first."""
    epoch = str(uuid.uuid4())
    client.hset(EPOCH, mapping={"epoca": epoch, "visto": _ms(at)})
    _note(connection, epoch, run_id, at)


def _note(connection: Connection, epoch: str, run_id: str | None, at: datetime) -> None:
    values = {"epoch": epoch, "redis_run_id": run_id or None, "seen_at": _whole_ms(at)}
    written = insert(billing_epoch).values(id=1, **values)
    connection.execute(written.on_conflict_do_update(index_elements=[billing_epoch.c.id], set_=values))


def _in_redis(client: redis.Redis) -> _InRedis:
    epoch, seen_ms = (bytes(value or b"").decode() for value in client.hmget(EPOCH, "epoca", "visto"))  # type: ignore[arg-type]
    return _InRedis(epoch, datetime.fromtimestamp(int(seen_ms or 0) / 1000, UTC))


def is_recorded(client: redis.Redis) -> bool:
    """
    Whether the recorder has seen this server's stream, and has nothing left to write.

    It makes its group anew in a server that was flushed, and by then has written what it had read before.
    """
    try:
        groups = client.xinfo_groups(EVENTS)
    except redis.ResponseError:  # there is no stream
        return False
    return any(
        group["name"] == LEDGER_GROUP.encode() and not group["pending"] and group.get("lag") == 0 for group in groups
    )


def _restore(
    connection: Connection, client: redis.Redis, now: datetime, claim_ttl_s: float, seen_at: datetime
) -> Checked:
    connection.execute(_NO_HASTE)
    since = now - timedelta(seconds=claim_ttl_s)
    known_to = _known_to(connection, seen_at)
    writer = reconciliation.ClaimWriter(client, claim_ttl_s, since, started=now, resend=True)
    ledger = lambda: nullcontext(connection)  # noqa: E731 - a connection that stays open
    claims = reconciliation.recall(writer, ledger, since)
    opt_outs = reconciliation.restore_opt_outs(client, ledger, None)
    connection.execute(_TOO_OLD, {"since": since, "long_ago": since - _LONGEST, "now": now})
    first = _unheard(connection, known_to, now)
    again, doubtful = _push_again(connection, now, since=since, lost_from=_NEVER, first=first)
    return Checked(Found.LOST, again, doubtful, _cancel_again(connection, since), claims.total(), opt_outs)


def _push_again(
    connection: Connection, now: datetime, *, since: datetime, lost_from: datetime, first: int
) -> tuple[int, int]:
    """
    Plan again what was pushed since a time and has not ended. Returns how many, and how many of them are doubtful.

    Args:
        lost_from: What was pushed after this is doubtful,
        first: and so are, of each tenant, so many of those that were pushed first.
    """
    values: dict[str, Any] = {"now": now, "since": since, "lost_from": lost_from, "first": first}
    found = connection.execute(_PUSH_AGAIN, values).scalars().all()
    return len(found), sum(found)


def _known_to(connection: Connection, seen_at: datetime) -> datetime | None:
    """Until when the ledger has every event: its last one before the loss, which came after `seen_at`."""
    last = connection.execute(select(func.max(events.c.ms)).where(events.c.ms <= _ms(seen_at))).scalar()
    return None if last is None else datetime.fromtimestamp(last / 1000, UTC)


def _unheard(connection: Connection, known_to: datetime | None, now: datetime) -> int:
    """The most messages of a tenant that may have been sent since the ledger's last event."""
    if known_to is None:
        return _ALL
    since_ms = round((known_to - _PACE_OVER).timestamp() * 1000)
    in_ten_seconds: int | None = connection.execute(_HIGHEST_PACE, {"since": since_ms}).scalar()
    if not in_ten_seconds:
        return _ALL
    seconds = max(0.0, (now - known_to).total_seconds()) + _IN_TRANSIT_S
    return min(_ALL, math.ceil(_BURST * in_ten_seconds * max(1.0, seconds / 10)))


def _cancel_again(connection: Connection, since: datetime) -> int:
    again = update(cancel_flags).where(cancel_flags.c.done_at >= since).values(done_at=None)
    return connection.execute(again).rowcount


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _whole_ms(at: datetime) -> datetime:
    """The time as Redis keeps it, so that both are compared alike."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
