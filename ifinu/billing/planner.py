"""
The planner: on each day, which message goes about which charge, and why the others do not.

A pass takes a chunk of the charges about which something is to be decided (`sql/take.sql`). One statement
(`sql/plan.sql`) then decides every step whose day has come, each exactly once:

    planned    goes; `outbox.py` pushes it once it is time
    merged     another charge's message of that day speaks of it too (`leader`)
    skipped    does not go:
        before_import    its day was before the charge was known
        before_rule      its day was before the step was in the rule
        condition        the step is not for such a charge
        muted, on_hold   the charge, or for a hold also the customer, is not to be written to
        tenant_inactive, customer_inactive, no_phone, email_only
        stale            it could only go after its last day: on closed days, or after an outage
        superseded       a later step of the charge goes in its place
        capped           the person gets enough messages, or notices of delay, already
        closed           the charge was paid or cancelled

A person is a phone: customers of a tenant with one phone share their caps, and one message is about the charges of all.

So after an outage each charge gets one message, the last that still makes sense. The agenda of a paused tenant waits in
the same way. Any number of planners may run at once: what one has, the others pass over.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, TextClause, text

from ifinu.billing import calendars
from ifinu.errors import InvalidBilling

CHUNK = 20_000
# A new or changed charge is on the agenda from before its first step, so that steps which have passed are recorded too.
EVERY_STEP = date(2000, 1, 1)
TRIGGERS = ("payment", "creation")

# A tenant with much to plan takes at most this part of a chunk while others wait.
_SHARES = 8
_LONGEST_SIMULATION_DAYS = 1100

# PostgreSQL guesses one row for each part of the statement, and would compare all rows of a chunk with all others. It
# also takes a chunk for a large part of a table, and would read all of it. A nested loop that has to be stays one.
_OFF = ("enable_nestloop", "enable_seqscan", "jit")
_SETTINGS = text("SELECT " + ", ".join(f"current_setting('{name}') AS {name}" for name in _OFF))
_SET = text("SELECT " + ", ".join(f"set_config('{name}', :{name}, true)" for name in _OFF))

_DUE_TENANTS = text("""
    SELECT t.id, t.tz FROM billing_tenants t
     WHERE (:paused OR t.paused_at IS NULL) AND (CAST(:tenants AS text[]) IS NULL OR t.id = ANY(:tenants))
       AND EXISTS (SELECT FROM agenda a
                    WHERE a.tenant = t.id AND a.next_on <= CAST(CAST(:now AS timestamptz) AT TIME ZONE t.tz AS date))
     ORDER BY t.id""")
_OF_CHARGE = text("""
    SELECT c.tenant, t.tz, a.next_on FROM charges c
      JOIN billing_tenants t ON t.id = c.tenant LEFT JOIN agenda a ON a.charge_seq = c.seq
     WHERE c.seq = :seq""")
_DECIDED_NOW = text("""
    SELECT i.step, i.n, i.kind, i.state, i.reason, i.planned_on, i.not_before
      FROM intents i
     WHERE i.charge_seq = :seq AND i.decided_at = :now ORDER BY i.planned_on, i.not_before NULLS FIRST, i.step, i.n""")
_COUNTS = """
    SELECT i.kind, i.state, i.reason, count(*) AS messages
      FROM intents i JOIN billing_tenants t ON t.id = i.tenant
     WHERE (CAST(:tenant AS text) IS NULL OR i.tenant = :tenant) AND {}
     GROUP BY 1, 2, 3 ORDER BY 1, 2, 4 DESC, 3"""
_COUNTS_OF_A_PASS = text(_COUNTS.format("i.decided_at = :now"))
_COUNTS_OF_TODAY = text(_COUNTS.format("i.planned_on = CAST(CAST(:now AS timestamptz) AT TIME ZONE t.tz AS date)"))
_UNDECIDED = text("""
    SELECT count(*) FROM agenda a JOIN billing_tenants t ON t.id = a.tenant
     WHERE t.paused_at IS NULL AND (CAST(:tenant AS text) IS NULL OR t.id = :tenant)
       AND a.next_on <= CAST(CAST(:now AS timestamptz) AT TIME ZONE t.tz AS date)""")
# First messages about charges count for the cap of a person, so a planner must not decide about that person at once.
_LOCK_RECIPIENTS = text("""
    SELECT FROM customers p
     WHERE (p.tenant, p.phone) IN (
        SELECT k.tenant, k.phone FROM charges c
          JOIN billing_tenants t ON t.id = c.tenant
          JOIN customers k ON (k.tenant, k.id) = (c.tenant, c.customer_id)
         WHERE c.seq = ANY(:seqs) AND EXISTS (
            SELECT FROM rule_steps s WHERE s.rule_id = coalesce(k.rule_id, t.rule_id) AND s.trigger = 'creation'))
     ORDER BY p.tenant, p.id FOR NO KEY UPDATE""")
_REOPEN = text("""
    INSERT INTO agenda (charge_seq, tenant, next_on) SELECT seq, tenant, :next_on FROM charges WHERE seq = ANY(:seqs)
    ON CONFLICT (charge_seq) DO UPDATE SET next_on = excluded.next_on""")
_AS_SENT = text(
    "UPDATE intents SET state = 'queued', queued_at = not_before WHERE charge_seq = :seq AND state = 'planned'"
)


class Planned(NamedTuple):
    """
    What a pass did.

    Attributes:
        charges: Those whose steps were decided.
        planned: Messages that go.
        skipped: Steps that do not, each with its reason.
        merged: Steps of which another charge's message speaks.
        left: Charges that somebody else had locked; a later pass decides about them.
    """

    charges: int = 0
    planned: int = 0
    skipped: int = 0
    merged: int = 0
    left: int = 0

    def __add__(self, other: object) -> Planned:
        if not isinstance(other, Planned):
            return NotImplemented
        return Planned(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Decision(NamedTuple):
    """
    What is decided about a step.

    Attributes:
        day: The local day of the decision.
        n: Of a repeated step which time, from 0.
        state: planned, merged or skipped.
        reason: Why it is skipped.
        goes_on: The local day on which its message goes.
        not_before: Its message goes at this time or a little later.
    """

    day: date
    step: str
    n: int
    kind: str
    state: str
    reason: str | None
    goes_on: date
    not_before: datetime | None


def plan(
    connection: Connection,
    now: datetime,
    *,
    tenants: Sequence[str] | None = None,
    paused: bool = False,
    chunk: int = CHUNK,
) -> Planned:
    """
    Decide the steps whose day has come, of at most `chunk` charges. Commit and call it again until `charges` is 0.

    Args:
        tenants: Only theirs; all of them by default.
        paused: Whether paused ones are planned too, or passed over.

    Raises:
        InvalidBilling: A calendar lacks today or tomorrow; nothing was decided.
    """
    total, left = Planned(), chunk
    groups: dict[str, list[str]] = {}
    for id_, tz in connection.execute(_DUE_TENANTS, {"now": now, "tenants": _array(tenants), "paused": paused}):
        groups.setdefault(tz, []).append(id_)
    for tz, theirs in groups.items():
        if left > 0:
            found = _pass(connection, now, tz, theirs, chunk=left)
            total += found
            left -= found.charges + found.left
    return total


def plan_all(
    connection: Connection, now: datetime, *, tenants: Sequence[str] | None = None, paused: bool = False
) -> Planned:
    """As `plan`, of every charge, in one transaction: for one tenant, and for what is rolled back."""
    total = Planned()
    while (found := plan(connection, now, tenants=tenants, paused=paused)).charges:
        total += found
    return total


def reopen(connection: Connection, seqs: Sequence[int]) -> None:
    """Let the next pass look at every step of some open charges: they are new, or their steps have other days."""
    connection.execute(_REOPEN, {"seqs": list(seqs), "next_on": EVERY_STEP})


def plan_event(connection: Connection, seq: int, trigger: str, now: datetime) -> list[str]:
    """
    Decide the steps that follow a payment or the creation of a charge, once.

    Args:
        trigger: One of `TRIGGERS`.

    Returns:
        The ids of the messages that go.
    """
    return plan_events(connection, [seq], trigger, now)


def plan_events(connection: Connection, seqs: Sequence[int], trigger: str, now: datetime) -> list[str]:
    """As `plan_event`, for many charges in one statement."""
    if trigger not in TRIGGERS:
        raise ValueError(f"{trigger!r} is none of {', '.join(TRIGGERS)}")
    if trigger == "creation":
        connection.execute(_LOCK_RECIPIENTS, {"seqs": list(seqs)})
    rows = connection.execute(_sql("event"), {"seqs": list(seqs), "trigger": trigger, "now": now})
    return [row.id for row in rows if row.state == "planned"]


def simulate(connection: Connection, seq: int, days: int, now: datetime) -> list[Decision]:
    """
    Plan the next days of a charge as if it stayed unpaid, and undo it.

    Holds, caps and the charges of the same customer count as they are now. A paused tenant is planned too.

    Args:
        seq: The charge.
        days: How many days, today among them.
    """
    found: list[Decision] = []
    with connection.begin_nested() as undone:
        tenant, tz, next_on = connection.execute(_OF_CHARGE, {"seq": seq}).one()
        zone = ZoneInfo(tz)
        at, last = now, now.astimezone(zone).date() + timedelta(days=min(days, _LONGEST_SIMULATION_DAYS) - 1)
        while next_on is not None and (day := max(next_on, at.astimezone(zone).date())) <= last:
            if day > at.astimezone(zone).date():
                at = datetime.combine(day, time(), zone)
            calendars.fill(connection, day)
            if not _pass(connection, at, tz, [tenant], only=seq).charges:
                break  # somebody else has it
            rows = connection.execute(_DECIDED_NOW, {"seq": seq, "now": at})
            found += [
                Decision(day, row.step, row.n, row.kind, row.state, row.reason, row.planned_on, row.not_before)
                for row in rows
            ]
            connection.execute(_AS_SENT, {"seq": seq})
            next_on = connection.execute(_OF_CHARGE, {"seq": seq}).one().next_on
        undone.rollback()
    return found


def decided_at(connection: Connection, now: datetime, *, tenant: str | None = None) -> list[dict[str, Any]]:
    """Numbers of steps that a pass at this time decided, by kind, state and reason."""
    return [dict(row._mapping) for row in connection.execute(_COUNTS_OF_A_PASS, {"tenant": tenant, "now": now})]


def decided_for_today(connection: Connection, now: datetime, *, tenant: str | None = None) -> list[dict[str, Any]]:
    """Likewise of the steps whose message goes today, or that were skipped today."""
    return [dict(row._mapping) for row in connection.execute(_COUNTS_OF_TODAY, {"tenant": tenant, "now": now})]


def undecided(connection: Connection, now: datetime, *, tenant: str | None = None) -> int:
    """The number of charges, of tenants that are not paused, about which something is to be decided now."""
    return int(connection.execute(_UNDECIDED, {"tenant": tenant, "now": now}).scalar_one())


def _pass(
    connection: Connection,
    now: datetime,
    tz: str,
    tenants: Sequence[str],
    *,
    chunk: int = CHUNK,
    only: int | None = None,
) -> Planned:
    local = now.astimezone(ZoneInfo(tz))
    of_day = {"today": local.date(), "clock": local.time().replace(tzinfo=None), "tz": tz, "now": now}
    size = {"chunk": chunk, "share": max(chunk // len(tenants), chunk // _SHARES, 1)}
    before = connection.execute(_SETTINGS).one()
    connection.execute(_SET, dict.fromkeys(_OFF, "off"))
    taken = connection.execute(_sql("take"), {"tenants": _array(tenants), "only": only, **of_day, **size}).one()
    found = {name: value for name, value in taken._mapping.items() if name != "picked"}
    row = connection.execute(_sql("plan"), found | of_day).one()
    connection.execute(_SET, before._asdict())
    if row.uncovered is not None:
        raise InvalidBilling(
            "calendar",
            f"calendar {row.uncovered} has no sending day for {local.date()} or the day after, so nothing was planned; "
            "`ifinu scheduler --once` fills the calendars",
        )
    return Planned(row.charges, row.planned, row.skipped, row.merged, taken.picked - row.charges)


def _array(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)


@functools.cache
def _sql(name: str) -> TextClause:
    return text(Path(__file__).with_name("sql").joinpath(f"{name}.sql").read_text(encoding="utf-8"))
