"""
What the planner has to decide, in Python: `decided` says it of a pass, from what the database has before it.

It is written from the description in `docs/billing.md`, step by step and without regard to speed, and shares no code
with `ifinu.billing.planner` and its SQL.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Row, func, select

from ifinu.billing.billing_schema import agenda, billing_tenants, cancel_flags, intents, rule_steps, send_days
from ifinu.billing.billing_schema import charges as charge_rows
from ifinu.billing.billing_schema import customers as customer_rows

DAY = timedelta(days=1)
Key = tuple[int, str, date, int]


class World(NamedTuple):
    """What the database has: rows by their keys; `charges` has those on the agenda."""

    tenants: Mapping[str, Any]
    charges: Mapping[int, Any]
    customers: Mapping[tuple[str, str], Any]
    steps: Mapping[int, list[Any]]  # by rule, those of the due date
    days: Mapping[tuple[int, date], Any]
    intents: Mapping[Key, Any]
    flags: Collection[str]  # ids that are cancelled in Redis, or will be


class Decision(NamedTuple):
    """What an intent's row has to say after a pass."""

    id: str
    rev: int
    customer_id: str
    state: str
    reason: str | None
    leader: int | None
    planned_on: date
    not_before: datetime | None
    valid_until: datetime | None


class Fresh(NamedTuple):
    """A step that may go."""

    charge_seq: int
    step: str
    due_date: date
    n: int
    kind: str
    channel: str
    customer_id: str
    id: str
    rev: int
    not_before: datetime
    valid_until: datetime


class Elsewhere(NamedTuple):
    """Charges of which a new step may go, and of which one goes, to anybody."""

    able: set[int]
    chosen: set[int]


def world_of(connection: Connection) -> World:
    def rows(table: Any, *columns: Any) -> list[Row[Any]]:
        return list(connection.execute(select(table, *columns)))

    steps = defaultdict[int, list[Any]](list)
    for row in rows(rule_steps):
        if row.trigger == "due":
            steps[row.rule_id].append(row)
    spread = func.hashint8(charge_rows.c.seq).label("spread")
    on_agenda = select(charge_rows, spread, agenda.c.next_on).join(agenda, agenda.c.charge_seq == charge_rows.c.seq)
    return World(
        {row.id: row for row in rows(billing_tenants)},
        {row.seq: row for row in connection.execute(on_agenda)},
        {(row.tenant, row.id): row for row in rows(customer_rows)},
        steps,
        {(row.calendar_id, row.day): row for row in rows(send_days)},
        {key_of(row): row for row in rows(intents)},
        {row.id for row in rows(cancel_flags)},
    )


def key_of(one: Any) -> Key:
    return one.charge_seq, one.step, one.due_date, one.n


def as_it_is(intent: Any) -> Decision:
    return Decision(*(getattr(intent, name) for name in Decision._fields))


# -- a charge


def step_days(charge: Any, step: Any) -> list[date]:
    """The day of a step, and those of its repeats."""
    if step.kind == "atraso":
        first = max(charge.payable_on + step.offset_days * DAY, charge.late_from)
    else:
        first = charge.due_date + step.offset_days * DAY if step.offset_days < 0 else charge.payable_on
    return [first + n * (step.every_days or 0) * DAY for n in range(step.every_max + 1)]


def is_undecided(old: Any | None) -> bool:
    return old is None or (old.state in ("cancelled", "queued") and old.reason == "edited")


def steps_of(world: World, charge: Any) -> list[tuple[date, Any, int]]:
    """The undecided steps of a charge, with their days."""
    rule = world.customers[charge.tenant, charge.customer_id].rule_id or world.tenants[charge.tenant].rule_id
    return [
        (day, step, n)
        for step in world.steps[rule]
        for n, day in enumerate(step_days(charge, step))
        if is_undecided(world.intents.get((charge.seq, step.step, charge.due_date, n)))
    ]


def why_not(world: World, charge: Any, step: Any, step_on: date, send_on: date, now: datetime) -> str | None:
    customer, tenant = world.customers[charge.tenant, charge.customer_id], world.tenants[charge.tenant]
    only, left = step.condition, charge.amount - charge.paid
    ended = tenant.active_until is not None and tenant.active_until <= now and tenant.status != "lifetime"
    is_automatic = charge.method == "card" and charge.recurrence_id is not None
    reasons = {
        "closed": charge.status not in ("open", "overdue"),
        "before_import": step_on < charge.known_on,
        "before_rule": step_on < step.effective_on,
        "condition": not Decimal(only.get("min_amount", 0)) <= left <= Decimal(only.get("max_amount", 10**9))
        or charge.method not in only.get("method", charge.method)
        or is_automatic != only.get("automatic", is_automatic),
        "muted": not charge.notify,
        "customer_inactive": not customer.active,
        "tenant_inactive": tenant.status == "suspended" or ended,
        "on_hold": any(until is not None and until > step_on for until in (charge.hold_until, customer.hold_until)),
        "email_only": step.channel not in customer.channels,
        "no_phone": customer.phone is None,
        "stale": step_on + step.valid_days * DAY <= send_on,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


# -- a person


def records(world: World, customer: Any) -> list[Any]:
    """The customers that are one person, the first one first."""
    if customer.phone is None:
        return [customer]
    same = (k for k in world.customers.values() if (k.tenant, k.phone) == (customer.tenant, customer.phone))
    return sorted(same, key=lambda k: k.id)


def send_day(world: World, customer: Any, local: datetime) -> Any:
    calendar = records(world, customer)[0].calendar_id
    day = world.days[calendar, local.date()]
    is_over = day.send_on == local.date() and day.closes <= local.time()
    return world.days[calendar, local.date() + DAY] if is_over else day


def goes(charge: Any, step: Any, day: Any, tenant: Any, local: datetime) -> datetime:
    """When its message goes."""
    at = max(step.at, day.opens) if step.at < day.closes else day.opens
    if day.send_on == local.date():
        at = max(at, local.time())
    begin = datetime.combine(day.send_on, at)
    room = (datetime.combine(day.send_on, day.closes) - begin).total_seconds()
    spread = (charge.spread & 2**31 - 1) % max(1, min(tenant.spread_s, int(room)))
    return begin.replace(tzinfo=ZoneInfo(tenant.tz)) + timedelta(seconds=spread)


def gravity(one: Any) -> tuple[bool, date, int, int, str]:
    return one.kind != "atraso", one.due_date, one.charge_seq, -one.n, one.step


def decided(world: World, now: datetime, taken: Collection[int]) -> tuple[dict[Key, Decision], dict[int, date]]:
    """
    Args:
        taken: The charges of this pass.

    Returns:
        All intents after the pass, and the next days of these charges.
    """
    after = {key: as_it_is(intent) for key, intent in world.intents.items()}
    fresh, next_on = defaultdict[tuple[str, str], list[Fresh]](list), dict[int, date]()
    for seq in taken:
        charge = world.charges[seq]
        tenant, customer = world.tenants[charge.tenant], world.customers[charge.tenant, charge.customer_id]
        local = now.astimezone(ZoneInfo(tenant.tz)).replace(tzinfo=None)
        day, undecided = send_day(world, customer, local), steps_of(world, charge)
        next_on[seq] = min((on for on, *_ in undecided if on > local.date()), default=date.max)
        able: list[tuple[date, int, Fresh]] = []
        for step_on, step, n in undecided:
            if step_on > local.date():
                continue
            key = (seq, step.step, charge.due_date, n)
            id_, old = f"c{seq}.{step.step}.{charge.due_date:%y%m%d}" + (f".{n}" if n else ""), world.intents.get(key)
            not_before = goes(charge, step, day, tenant, local)
            rev = 0 if old is None else old.rev + 1
            if old is not None:
                id_ += f"~{rev}"
                not_before = max(not_before, now + timedelta(minutes=old.state == "queued"))
            reason = why_not(world, charge, step, step_on, day.send_on, now)
            after[key] = Decision(
                id_, rev, customer.id, "skipped", reason or "superseded", None, local.date(), None, None
            )
            if reason is None:
                ends = datetime.combine(step_on + step.valid_days * DAY, time(), ZoneInfo(tenant.tz))
                made = Fresh(*key, step.kind, step.channel, customer.id, id_, rev, not_before, ends)
                able.append((step_on, step.ord, made))
        if able:
            fresh[tenant.id, records(world, customer)[0].id].append(max(able)[2])
    # A charge may have left a person whom a message of it waits for: its new step goes elsewhere, and the old one ends.
    parts = [(world.tenants[of], world.customers[of, first], news) for (of, first), news in fresh.items()]
    found = [shared(world, *part, now, Elsewhere(set(), set()))[1] for part in parts]
    elsewhere = Elsewhere({seq for each in found for seq in each.able}, {seq for each in found for seq in each.chosen})
    for part in parts:
        after |= shared(world, *part, now, elsewhere)[0]
    return after, next_on


def shared(
    world: World, tenant: Any, first: Any, news: list[Fresh], now: datetime, elsewhere: Elsewhere
) -> tuple[dict[Key, Decision], Elsewhere]:
    """What a person gets of what is new and what waits, and the charges of which something new may go, and goes."""
    zone = ZoneInfo(tenant.tz)
    local = now.astimezone(zone).replace(tzinfo=None)
    today, send_on = local.date(), send_day(world, first, local).send_on
    names = {k.id for k in records(world, first)}
    theirs = [
        i
        for i in world.intents.values()
        if i.tenant == tenant.id and i.customer_id in names and i.kind != "pagamento"
        and i.planned_on >= today - max(tenant.overdue_gap_days, 31) * DAY
    ]  # fmt: skip
    notices = [i for i in theirs if i.kind != "cobranca_criada" and i.planned_on <= send_on]
    planned = [i for i in notices if i.state == "planned"]
    leads = {(i.charge_seq, i.planned_on) for i in planned}
    waiting = planned + [i for i in notices if i.state == "merged" and (i.leader, i.planned_on) in leads]
    gone = [i for i in theirs if i.state in ("planned", "queued") and i.reason is None and i not in waiting]
    days = [(max(i.planned_on, i.queued_at.astimezone(zone).date()) if i.state == "queued" else i.planned_on, i.kind)
            for i in gone]  # fmt: skip
    slots = tenant.daily_cap - sum(on == send_on for on, _ in days)
    near = any(kind == "atraso" and on > send_on - tenant.overdue_gap_days * DAY for on, kind in days)
    created = {i.charge_seq: i.not_before for i in world.intents.values()
               if i.kind == "cobranca_criada" and i.state in ("planned", "queued")}  # fmt: skip

    def is_capped(each: Fresh) -> bool:
        told = each.charge_seq in created and created[each.charge_seq] + DAY > each.not_before
        return (each.kind == "atraso" and near) or (each.kind == "lembrete" and told)

    result = {each[:4]: Decision(each.id, each.rev, each.customer_id, "skipped", "capped", None, today, None, None)
              for each in news}  # fmt: skip
    able = sorted((each for each in news if not is_capped(each)), key=gravity)
    of_able = {each.charge_seq for each in able} | elsewhere.able
    others = [i for i in waiting if i.charge_seq not in of_able]
    if tenant.consolidate:
        chosen = able if slots > 0 or waiting else []
        message = sorted([*chosen, *others], key=gravity) if chosen or others else []
        leader = message[0].charge_seq if len(message) > 1 else None
        for each in message:
            is_first = each is message[0]
            result[key_of(each)] = as_it_is(each)._replace(
                customer_id=message[0].customer_id, state="planned" if is_first else "merged",
                reason=None if is_first else "merged", leader=leader, planned_on=send_on,
            ) if not isinstance(each, Fresh) else Decision(
                each.id, each.rev, message[0].customer_id, "planned" if is_first else "merged",
                None if is_first else "merged", leader, send_on, each.not_before, each.valid_until,
            )  # fmt: skip
    else:
        chosen = able[: max(0, slots - len(others))]
        for each in chosen:
            result[each[:4]] = Decision(
                each.id, each.rev, each.customer_id, "planned", None, None, send_on, each.not_before, each.valid_until
            )
    for old in waiting:
        made = result.get(key_of(old))
        if made is not None and (old.state, made.state) == ("merged", "planned") and old.id in world.flags:
            # That id is used.
            result[key_of(old)] = made._replace(rev=old.rev + 1, id=f"{old.id.partition('~')[0]}~{old.rev + 1}")
    of_chosen = {each.charge_seq for each in chosen} | elsewhere.chosen
    for old in waiting:
        if old.charge_seq in of_chosen and key_of(old) not in {each[:4] for each in chosen}:
            result[key_of(old)] = as_it_is(old)._replace(
                state="skipped", reason="superseded", leader=None, planned_on=today
            )
    return result, Elsewhere({each.charge_seq for each in able}, {each.charge_seq for each in chosen})
