"""
The outbox: planned messages that are due -> the ordinary queues, in the flat wire form.

    planned ── push ──▶ queued        its message is on a queue; the ledger says what became of it
       │  ╰─ its message is not to go any more ──▶ cancelled | skipped, with the reason
       ╰─ its validity has ended ──▶ expired (stale); what was merged into it and is still valid goes
    queued ── its validity has ended, and the ledger has never heard of it ──▶ expired (no_trace)

A message is pushed first and becomes `queued` in the commit after that. A process that dies in between leaves it
planned, and the next one pushes the same id again, which the claim drops. Any number of processes push at once: each
takes rows that no other one has locked.

A doubtful message may have been sent before Redis lost its data (`epoch.py`). Its claim is written as `unknown` before
it is pushed, so that the worker that takes it asks the gateway first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis
from sqlalchemy import Connection, Row, select, text

from ifinu import wire
from ifinu.billing import messages, withdrawals
from ifinu.billing.billing_schema import billing_epoch
from ifinu.broker.keys import EPOCH, QUEUE_OF, QUEUES, script
from ifinu.ledger.reconciliation import ClaimWriter
from ifinu.notification import Notification, Stop

MOST_WAITING = 50_000  # messages on a queue; the others stay in PostgreSQL, where a payment still stops them
_BATCH = 1000
_TRACE_WITHIN = timedelta(hours=1)  # after its validity, for a worker to see that it has ended
_TRACED_FOR, _PUSHED_WITHIN = timedelta(days=8), timedelta(days=31)

Compose = Callable[[Connection, Iterable[tuple[int, str]], datetime], Mapping[str, Notification | Stop]]
_FOR_GOOD = (Stop.PAID, Stop.UNDONE, Stop.CHARGE_CANCELLED, Stop.CANCELLED)  # the message is cancelled, not skipped

# Locks the customer too: their `last_notice_on` changes, and a change of a customer locks the rows in the other order.
# Shares the tenant: a pause waits for this push, and takes back what it pushed. A message in the place of another one
# (`~1`) waits until Redis has answered for that one (`withdrawals.py`). OFFSET 0 keeps PostgreSQL from reading all open
# flags for each.
_DUE = text("""
SELECT i.charge_seq, i.step, i.due_date, i.n, i.id, i.doubtful, i.queued_at
  FROM intents i
  JOIN billing_tenants t ON t.id = i.tenant AND t.paused_at IS NULL
  JOIN customers u ON (u.tenant, u.id) = (i.tenant, i.customer_id)
 WHERE i.state = 'planned' AND i.channel = 'whatsapp' AND i.not_before <= :now
   AND (i.valid_until IS NULL OR i.valid_until > :now)
   AND (i.rev = 0 OR NOT EXISTS (
        SELECT FROM generate_series(0, i.rev - 1) AS n
         CROSS JOIN LATERAL (
            SELECT done_at FROM cancel_flags
             WHERE id = split_part(i.id, '~', 1) || CASE WHEN n > 0 THEN '~' || n ELSE '' END OFFSET 0) f
         WHERE f.done_at IS NULL))
 ORDER BY i.not_before, i.charge_seq
 LIMIT :limit
   FOR NO KEY UPDATE OF i, u SKIP LOCKED FOR SHARE OF t SKIP LOCKED
""")
_ROWS = "unnest(CAST(:seqs AS bigint[]), CAST(:steps AS text[]), CAST(:dues AS date[]), CAST(:ns AS int[]))"
_KEY = "(i.charge_seq, i.step, i.due_date, i.n) = (w.charge_seq, w.step, w.due_date, w.n)"
_QUEUED = text(f"""
UPDATE intents i SET state = 'queued', queued_at = :now, epoch = :epoch, doubtful = false
  FROM {_ROWS} AS w (charge_seq, step, due_date, n)
 WHERE {_KEY}
""")  # noqa: S608 - constants of this module
_NOTED = text(f"""
UPDATE customers u
   SET last_notice_on = greatest(u.last_notice_on, p.today),
       last_overdue_on = CASE WHEN p.overdue THEN greatest(u.last_overdue_on, p.today) ELSE u.last_overdue_on END,
       version = u.version + 1
  FROM (SELECT i.tenant, i.customer_id, (CAST(:now AS timestamptz) AT TIME ZONE t.tz)::date AS today,
               bool_or(i.kind = 'atraso') AS overdue
          FROM {_ROWS} AS w (charge_seq, step, due_date, n)
          JOIN intents i ON {_KEY}
          JOIN billing_tenants t ON t.id = i.tenant
         WHERE i.kind <> 'pagamento'
         GROUP BY 1, 2, 3) p
 WHERE (u.tenant, u.id) = (p.tenant, p.customer_id)
   AND (u.last_notice_on IS DISTINCT FROM p.today OR p.overdue AND u.last_overdue_on IS DISTINCT FROM p.today)
""")  # noqa: S608 - likewise
_WITHDRAWN = text("""
UPDATE intents i SET state = CASE WHEN w.reason = ANY(:for_good) THEN 'cancelled' ELSE 'skipped' END, reason = w.reason
  FROM unnest(CAST(:seqs AS bigint[]), CAST(:steps AS text[]), CAST(:dues AS date[]), CAST(:ns AS int[]),
              CAST(:reasons AS text[])) AS w (charge_seq, step, due_date, n, reason)
 WHERE (i.charge_seq, i.step, i.due_date, i.n) = (w.charge_seq, w.step, w.due_date, w.n)
""")
# A message that speaks of other charges waits until nobody else has them locked: one of them may take its place.
_EXPIRED = text(f"""
WITH late AS (
  SELECT * FROM intents
   WHERE state = 'planned' AND not_before <= :now AND valid_until <= :now
   LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
), locked AS (
  SELECT l.id FROM late l JOIN intents o ON {withdrawals.FOLLOWS} FOR NO KEY UPDATE OF o SKIP LOCKED
)
UPDATE intents i SET state = 'expired', reason = 'stale' FROM late w
 WHERE (i.charge_seq, i.step, i.due_date, i.n) = (w.charge_seq, w.step, w.due_date, w.n)
   AND (SELECT count(*) FROM intents l JOIN intents o ON {withdrawals.FOLLOWS}
         WHERE l.id = w.id AND l.charge_seq = w.charge_seq)
     = (SELECT count(*) FROM locked k WHERE k.id = w.id)
RETURNING i.id, i.leader = i.charge_seq AS leads
""")  # noqa: S608 - likewise
_UNTRACED = text("""
WITH lost AS (
  SELECT i.charge_seq, i.step, i.due_date, i.n FROM intents i
   WHERE i.state = 'queued' AND i.queued_at > :pushed_since AND i.valid_until BETWEEN :ended_since AND :before
     AND NOT EXISTS (SELECT FROM notifications l WHERE l.id = i.id)
     AND NOT EXISTS (SELECT FROM cancel_flags f WHERE f.id = i.id)
   LIMIT :limit FOR NO KEY UPDATE OF i SKIP LOCKED
)
UPDATE intents i SET state = 'expired', reason = 'no_trace' FROM lost w
 WHERE (i.charge_seq, i.step, i.due_date, i.n) = (w.charge_seq, w.step, w.due_date, w.n)
""")


@dataclass(frozen=True, slots=True)
class Pushed:
    """
    The result of a push.

    Attributes:
        count: Messages pushed.
        withdrawn: Messages that did not go after all; their rows have the reason.
        more: Whether more may be due.
        refused: Whether this Redis does not hold the epoch: `epoch.check` has to see to that first.
        full: Whether a queue has as many messages as may wait there.
    """

    count: int = 0
    withdrawn: int = 0
    more: bool = False
    refused: bool = False
    full: bool = False


def push(
    connection: Connection,
    client: redis.Redis,
    now: datetime,
    *,
    claim_ttl_s: float,
    limit: int = _BATCH,
    compose: Compose = messages.compose,
) -> Pushed:
    """
    Push messages that are due, the longest due first.

    Args:
        connection: In a transaction, which the caller commits right after. Without the commit they are pushed again.
        client: A client that returns bytes.
        now: Redis' time.
        claim_ttl_s: As `Settings.claim_ttl_s`.
        limit: The most messages.
        compose: Makes the messages.

    Raises:
        LedgerUnavailable: The database is away; try again.
        redis.RedisError: Redis is away, or full; they stay planned, and some of them may have been pushed.
    """
    if max(_lengths(client)) > MOST_WAITING:
        return Pushed(full=True)
    # The share keeps a check of a lost Redis waiting for this commit; while one runs, nothing is pushed.
    share = select(billing_epoch.c.epoch).with_for_update(read=True, key_share=True, skip_locked=True)
    epoch = connection.execute(share).scalar()
    if epoch is None:
        return Pushed(refused=True)
    due = connection.execute(_DUE, {"now": now, "limit": limit}).all()
    if not due:
        return Pushed()
    made = compose(connection, [(row.charge_seq, row.id) for row in due], now)
    going, notifications, stopped, reasons = [], [], [], []
    for row in due:
        message = made.get(row.id, Stop.INVALID)
        if isinstance(message, Notification):
            going.append(row)
            notifications.append(message)
        elif message is not Stop.TENANT_PAUSED:
            stopped.append(row)
            reasons.append(message.value)
    if stopped:
        for_good = [stop.value for stop in _FOR_GOOD]
        connection.execute(_WITHDRAWN, {**_keys(stopped), "reasons": reasons, "for_good": for_good})
    if going:
        if doubtful := [row for row in going if row.doubtful]:
            since = min(row.queued_at or now for row in doubtful)
            ClaimWriter(client, claim_ttl_s, since, started=now, resend=True).doubt(row.id for row in doubtful)
        if not _lpush(client, epoch, notifications, now):
            return Pushed(withdrawn=len(stopped), refused=True)
        connection.execute(_QUEUED, {**_keys(going), "now": now, "epoch": epoch})
        connection.execute(_NOTED, {**_keys(going), "now": now})
    return Pushed(len(going), len(stopped), more=len(due) == limit)


def expire(connection: Connection, now: datetime, *, limit: int = _BATCH) -> int:
    """
    End planned messages whose validity is over, and count them; call it again while it returns `limit`.

    Where such a message spoke of other charges, too, one of theirs that is still valid takes its place.
    """
    ended = connection.execute(_EXPIRED, {"now": now, "limit": limit}).all()
    withdrawals.promote(connection, [row.id for row in ended if row.leads], now)
    return len(ended)


def expire_untraced(connection: Connection, now: datetime, *, limit: int = _BATCH) -> int:
    """
    End queued messages that should have been tried by now, and of which the ledger has not heard. Returns how many.

    There should be none: each one was lost, or workers and recorder have been away for days. It looks at those whose
    validity ended in the last week or so, and that were pushed in the month before: more rows would take it too long.
    """
    before = now - _TRACE_WITHIN
    times = {"before": before, "ended_since": now - _TRACED_FOR, "pushed_since": now - _PUSHED_WITHIN}
    return connection.execute(_UNTRACED, {**times, "limit": limit}).rowcount


def _lengths(client: redis.Redis) -> list[int]:
    pipe = client.pipeline(transaction=False)
    for queue in QUEUES:
        pipe.llen(queue)
    return [int(length) for length in pipe.execute()]


def _lpush(client: redis.Redis, epoch: str, notifications: Sequence[Notification], now: datetime) -> bool:
    """Push messages to their queues at once; False if this server has another epoch, and nothing was pushed."""
    queues: defaultdict[str, list[bytes]] = defaultdict(list)
    created = now.isoformat(timespec="milliseconds")
    for notification in notifications:
        body = {**wire.encode(notification), "criado_em": created}
        queues[QUEUE_OF[notification.priority]].append(json.dumps(body, ensure_ascii=False).encode())
    now_ms = int(now.timestamp() * 1000)

    def pushed() -> list[int]:
        pipe = client.pipeline(transaction=True)
        for queue, bodies in queues.items():
            pipe.evalsha(script("push").sha, 2, EPOCH, queue, epoch, now_ms, *bodies)
        return [int(length) for length in pipe.execute()]

    try:
        lengths = pushed()
    except redis.exceptions.NoScriptError:
        script("push").load(client)
        lengths = pushed()
    return min(lengths) >= 0


def _keys(rows: Iterable[Row[Any]]) -> dict[str, list[Any]]:
    seqs, steps, dues, ns = zip(*((row.charge_seq, row.step, row.due_date, row.n) for row in rows), strict=True)
    return {"seqs": list(seqs), "steps": list(steps), "dues": list(dues), "ns": list(ns)}
