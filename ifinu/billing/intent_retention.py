"""Deletion of old intents, payment events and cancel flags at night, a chunk at a time."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, select, text

from ifinu.billing.billing_schema import billing_tenants
from ifinu.ledger.queries import ZONE

_AT_HOUR = 3  # in São Paulo, as the ledger's
_FLAGS_KEPT = timedelta(days=90)  # as long as Redis remembers a cancellation
_BATCH = 1000

# The steps of an open charge stay, however old: they say what went, and keep it from going again.
_INTENTS = text("""
DELETE FROM intents d USING (
  SELECT i.charge_seq, i.step, i.due_date, i.n
    FROM intents i JOIN charges c ON c.seq = i.charge_seq AND c.status NOT IN ('open', 'overdue')
   WHERE i.tenant = :tenant AND i.planned_on < CAST(:before AS date)
   LIMIT :limit FOR UPDATE OF i SKIP LOCKED
) old
 WHERE (d.charge_seq, d.step, d.due_date, d.n) = (old.charge_seq, old.step, old.due_date, old.n)
""")
# Providers repeat an event for days, not for months.
_EVENTS = text("""
DELETE FROM payment_events d USING (
  SELECT provider, event_id FROM payment_events
   WHERE tenant = :tenant AND received_at < :before
   LIMIT :limit FOR UPDATE SKIP LOCKED
) old
 WHERE (d.tenant, d.provider, d.event_id) = (:tenant, old.provider, old.event_id)
""")
_FLAGS = text("""
DELETE FROM cancel_flags
 WHERE id IN (SELECT id FROM cancel_flags WHERE done_at < :before LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


def is_night(now: datetime) -> bool:
    """Whether old rows are deleted now."""
    return now.astimezone(ZONE).hour == _AT_HOUR


def purge(connection: Connection, now: datetime, retention_days: int, *, limit: int = _BATCH) -> tuple[int, bool]:
    """
    Delete intents of closed charges and payment events that are older than the retention, and flags that are done.

    Args:
        limit: The most intents and events of a tenant, and flags.

    Returns:
        The number of intents, and whether more are left.
    """
    before = now - timedelta(days=retention_days)
    deleted, more = 0, False
    for tenant in connection.scalars(select(billing_tenants.c.id)).all():
        count = connection.execute(_INTENTS, {"tenant": tenant, "before": before.date(), "limit": limit}).rowcount
        events = connection.execute(_EVENTS, {"tenant": tenant, "before": before, "limit": limit}).rowcount
        deleted += count
        more = more or limit in (count, events)
    flags = connection.execute(_FLAGS, {"before": now - _FLAGS_KEPT, "limit": limit}).rowcount
    return deleted, more or flags == limit
