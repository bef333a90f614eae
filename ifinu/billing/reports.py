"""
Reports of the régua, from the decided steps, the ledger and the charges.

A step counts on the day for which it was planned. What became of its message is in the ledger; a merged step shares the
fate of the message that speaks of it, and counts as `merged` alone. A payment counts for the last notice before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection, text

GROUPS: Mapping[str, str] = {
    "day": "i.planned_on::text",
    "step": "i.step",
    "kind": "i.kind",
    "tenant": "i.tenant",
    "text": "coalesce(i.text, i.kind)",
}


@dataclass(frozen=True, slots=True)
class Notices:
    """
    What became of the steps of a day, of a kind, or of another group.

    Attributes:
        sent: Messages that the gateway took, those delivered and read among them.
        waiting: Messages that may still go.
        merged: Steps that another charge's message speaks of.
        not_sent: Number by reason of those that were not and will not be sent.
    """

    group: str
    steps: int
    sent: int
    delivered: int
    read: int
    failed: int
    waiting: int
    merged: int
    not_sent: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Recovered:
    """Charges that were paid after a step as their last notice: within 1, 3 and 7 days, later, and the amount."""

    step: str
    charges: int
    amount: Decimal
    within_1: int
    within_3: int
    within_7: int


class Status(NamedTuple):
    """The charges of one status."""

    status: str
    charges: int
    amount: Decimal


_NOTICES = """
WITH steps AS (
  SELECT {group} AS grouped, i.state, i.reason, n.state AS became, n.reason AS why,
         n.sent_at, n.delivered_at, n.read_at, n.failed_at
    FROM intents i LEFT JOIN notifications n ON n.id = i.id AND i.state = 'queued'
   WHERE i.planned_on BETWEEN :first AND :last AND (:tenant = '' OR i.tenant = :tenant)),
judged AS (
  SELECT *, CASE
      WHEN state = 'merged' OR sent_at IS NOT NULL THEN NULL
      WHEN state IN ('skipped', 'cancelled', 'expired') THEN coalesce(reason, state)
      WHEN became = 'suppressed' THEN 'opted_out'
      WHEN became IN ('cancelled', 'expired', 'dead', 'unknown', 'duplicate') THEN coalesce(why, became)
    END AS not_sent FROM steps),
reasons AS (
  SELECT grouped, jsonb_object_agg(not_sent, times) AS not_sent
    FROM (SELECT grouped, not_sent, count(*) AS times FROM judged WHERE not_sent IS NOT NULL GROUP BY 1, 2) counted
   GROUP BY 1)
SELECT grouped, count(*) AS steps, count(sent_at) AS sent, count(delivered_at) AS delivered, count(read_at) AS read,
       count(failed_at) AS failed,
       count(*) FILTER (WHERE state <> 'merged' AND sent_at IS NULL AND not_sent IS NULL) AS waiting,
       count(*) FILTER (WHERE state = 'merged') AS merged,
       coalesce((SELECT r.not_sent FROM reasons r WHERE r.grouped = judged.grouped), '{{}}') AS not_sent
  FROM judged GROUP BY grouped ORDER BY grouped
"""

_RECOVERED = text("""
WITH paid AS (
  SELECT c.seq, c.paid, c.paid_at FROM charges c JOIN billing_tenants t ON t.id = c.tenant
   WHERE c.status = 'paid' AND (:tenant = '' OR c.tenant = :tenant)
     AND (c.paid_at AT TIME ZONE t.tz)::date BETWEEN :first AND :last),
last AS (
  SELECT DISTINCT ON (p.seq) p.seq, p.paid, i.step, p.paid_at - n.sent_at AS after
    FROM paid p JOIN intents i ON i.charge_seq = p.seq AND i.kind <> 'pagamento'
    JOIN intents led ON led.charge_seq = coalesce(i.leader, i.charge_seq) AND led.planned_on = i.planned_on
     AND led.state = 'queued' AND led.customer_id = i.customer_id
    JOIN notifications n ON n.id = led.id AND n.sent_at < p.paid_at
   ORDER BY p.seq, n.sent_at DESC)
SELECT step, count(*) AS charges, sum(paid) AS amount,
       count(*) FILTER (WHERE after <= interval '1 day') AS within_1,
       count(*) FILTER (WHERE after <= interval '3 days') AS within_3,
       count(*) FILTER (WHERE after <= interval '7 days') AS within_7
  FROM last GROUP BY step ORDER BY step
""")

_PORTFOLIO = text("""
SELECT status, count(*) AS charges,
       coalesce(sum(CASE WHEN status = 'paid' THEN paid ELSE amount - paid END), 0) AS amount
  FROM charges WHERE :tenant = '' OR tenant = :tenant GROUP BY status ORDER BY status
""")


def notices(connection: Connection, first: date, last: date, *, tenant: str | None, by: str) -> list[Notices]:
    """
    Count the steps that were planned for some days, and what became of them.

    Args:
        tenant: None for all.
        by: A key of `GROUPS`.
    """
    query = text(_NOTICES.format(group=GROUPS[by]))
    rows = connection.execute(query, {"first": first, "last": last, "tenant": tenant or ""})
    return [Notices(*row) for row in rows]


def recovered(connection: Connection, first: date, last: date, *, tenant: str | None) -> list[Recovered]:
    """Count the charges that were paid on some days, by the last notice before."""
    rows = connection.execute(_RECOVERED, {"first": first, "last": last, "tenant": tenant or ""})
    return [Recovered(*row) for row in rows]


def portfolio(connection: Connection, *, tenant: str | None) -> list[Status]:
    """Count the charges by status, with what was paid, or what is left to pay."""
    return [Status(*row) for row in connection.execute(_PORTFOLIO, {"tenant": tenant or ""})]
