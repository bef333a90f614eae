"""The planner's statement against a few lines of Python that decide the same."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import booked
import hypothesis
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, Row, select, update

from ifinu.billing import charges, planner, rules, tenants
from ifinu.billing.billing_schema import agenda, billing_tenants, intents, rule_steps, send_days
from ifinu.billing.billing_schema import charges as charge_rows
from ifinu.billing.billing_schema import customers as customer_rows
from ifinu.billing.rules import Rule, Step

ZONE = ZoneInfo("America/Sao_Paulo")
BEGIN = datetime(2026, 12, 14, 0, 1, tzinfo=ZONE)  # Monday; Christmas and New Year are ahead
DAY = timedelta(days=1)
Key = tuple[int, str, date, int]


class World(NamedTuple):
    """What the database has before a pass; the charges are those on the agenda."""

    tenant: Any
    charges: list[Any]
    customers: dict[str, Any]
    steps: list[Any]
    days: dict[tuple[int, date], Any]
    intents: dict[Key, Any]


# -- the oracle


def why_not(world: World, charge: Any, step: Any, step_on: date, send_on: date, now: datetime) -> str | None:
    customer, tenant, only = world.customers[charge.customer_id], world.tenant, step.condition
    left, ended = charge.amount - charge.paid, tenant.active_until is not None and tenant.active_until <= now
    reasons = {
        "before_import": step_on < charge.known_on,
        "before_rule": step_on < step.effective_on,
        "condition": left < Decimal(only.get("min_amount", 0))
        or charge.method not in only.get("method", charge.method),
        "muted": not charge.notify,
        "customer_inactive": not customer.active,
        "tenant_inactive": tenant.status == "suspended" or (ended and tenant.status != "lifetime"),
        "on_hold": any(until is not None and until > step_on for until in (charge.hold_until, customer.hold_until)),
        "no_phone": customer.phone is None,
        "stale": step_on + step.valid_days * DAY <= send_on,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def first_day(charge: Any, step: Any) -> date:
    if step.offset_days < 0:
        return charge.due_date + step.offset_days * DAY
    return max(charge.payable_on + step.offset_days * DAY, charge.late_from if step.kind == "atraso" else date.min)


def gravity(one: Any) -> tuple[bool, date, int]:
    return one.kind != "atraso", one.due_date, one.charge_seq


def decided(world: World, now: datetime) -> dict[Key, tuple[str, str | None, int | None, date]]:
    today, after, fresh = now.date(), {}, defaultdict[str, list[Any]](list)
    over = {
        d.calendar_id: d.send_on == today and d.closes <= now.time()
        for (_, day), d in world.days.items()
        if day == today
    }
    for charge in world.charges:
        calendar, able = world.customers[charge.customer_id].calendar_id, []
        send_on = world.days[calendar, today + over[calendar] * DAY].send_on
        for step in world.steps:
            for n in range(step.every_max + 1):
                key, step_on = (
                    (charge.seq, step.step, charge.due_date, n),
                    first_day(charge, step) + n * (step.every_days or 0) * DAY,
                )
                old = world.intents.get(key)
                if step_on <= today and (old is None or (old.state, old.reason) == ("cancelled", "edited")):
                    reason = why_not(world, charge, step, step_on, send_on, now)
                    after[key] = ("skipped", reason or "superseded", None, today)
                    able += [] if reason else [(step_on, step.ord, Fresh(*key, step.kind))]
        fresh[charge.customer_id] += [each for *_, each in sorted(able)[-1:]]
    for customer_id, news in fresh.items():
        if news:
            customer = world.customers[customer_id]
            send_on = world.days[customer.calendar_id, today + over[customer.calendar_id] * DAY].send_on
            after |= shared(world, customer, news, today, send_on)
    return {key: (i.state, i.reason, i.leader, i.planned_on) for key, i in world.intents.items()} | after


class Fresh(NamedTuple):
    charge_seq: int
    step: str
    due_date: date
    n: int
    kind: str


def shared(world: World, customer: Any, news: list[Any], today: date, send_on: date) -> dict[Key, Any]:
    """What the customer gets of what is new and what waits."""
    tenant, theirs = (
        world.tenant,
        [i for i in world.intents.values() if i.customer_id == customer.id and i.kind != "pagamento"],
    )
    leads = {i.charge_seq: i for i in theirs if i.state == "planned" and i.planned_on <= send_on}
    waits = [
        *leads.values(),
        *(
            i
            for i in theirs
            if i.state == "merged" and i.leader in leads and leads[i.leader].planned_on == i.planned_on
        ),
    ]
    gone = [i for i in theirs if i.state in ("planned", "queued") and i not in waits]
    slots = tenant.daily_cap - max(sum(i.planned_on == send_on for i in gone), customer.last_notice_on == send_on)
    told = max([i.planned_on for i in gone if i.kind == "atraso"] + [customer.last_overdue_on or date.min])
    near = told > send_on - tenant.overdue_gap_days * DAY
    result: dict[Key, Any] = {each[:4]: ("skipped", "capped", None, today) for each in news}
    able = sorted((each for each in news if not (near and each.kind == "atraso")), key=gravity)
    others = [i for i in waits if i.charge_seq not in {each.charge_seq for each in able}]
    if tenant.consolidate:
        goes = sorted([*(able if slots > 0 or waits else []), *others], key=gravity)
        leader = goes[0].charge_seq if len(goes) > 1 else None
        for each in goes:
            first = each is goes[0]
            result[key_of(each)] = ("planned" if first else "merged", None if first else "merged", leader, send_on)
    else:
        goes = able[: max(0, slots - len(others))]
        result |= {each[:4]: ("planned", None, None, send_on) for each in goes}
    for old in waits:
        if old.charge_seq in {each.charge_seq for each in goes if isinstance(each, Fresh)}:
            result[key_of(old)] = ("skipped", "superseded", None, today)
    return result


def key_of(one: Any) -> Key:
    return one.charge_seq, one.step, one.due_date, one.n


# -- the worlds


def world_of(connection: Connection) -> World:
    def rows(table: Any, *where: Any) -> list[Row[Any]]:
        return list(connection.execute(select(table).where(*where)))

    tenant = rows(billing_tenants)[0]
    return World(
        tenant,
        list(connection.execute(select(charge_rows).join(agenda, agenda.c.charge_seq == charge_rows.c.seq))),
        {row.id: row for row in rows(customer_rows)},
        rows(rule_steps, rule_steps.c.rule_id == tenant.rule_id, rule_steps.c.trigger == "due"),
        {(row.calendar_id, row.day): row for row in rows(send_days)},
        {key_of(row): row for row in rows(intents)},
    )


CONDITIONS = st.sampled_from([{}, {}, {"min_amount": "100"}, {"method": ["pix", "boleto"]}])
STEPS = st.lists(
    st.one_of(
        st.builds(
            lambda days, shorter, only: Step("l", "lembrete", -days, valid_days=max(1, days - shorter), condition=only),
            st.integers(1, 6), st.integers(0, 3), CONDITIONS,
        ),
        st.builds(lambda only: Step("v", "vencimento", 0, condition=only), CONDITIONS),
        st.builds(
            lambda days, valid, only: Step("a", "atraso", days, valid_days=valid, condition=only),
            st.integers(1, 9), st.integers(2, 12), CONDITIONS,
        ),
        st.builds(
            lambda days, valid, every, most: Step(
                "r", "atraso", days, valid_days=valid, every_days=every, every_max=most
            ),
            st.integers(1, 9), st.integers(1, 8), st.integers(1, 7), st.integers(1, 4),
        ),
    ),
    min_size=1, max_size=6,
).map(lambda steps: [Step(**{**_fields(step), "step": f"{step.step}{n}"}) for n, step in enumerate(steps)])  # fmt: skip
CHARGE = st.tuples(
    st.sampled_from("xxyz"), st.integers(-5, 4), st.sampled_from(["pix", "boleto", "card", "other"]),
    st.sampled_from([Decimal(50), Decimal(150)]), st.sampled_from([0, 9, 9]),
)  # fmt: skip
EVENT = st.one_of(
    st.tuples(st.just("add"), CHARGE),
    st.tuples(st.just("add"), CHARGE),
    st.tuples(st.sampled_from(["hold", "hold customer", "edit"]), st.tuples(st.integers(0, 9), st.integers(1, 8))),
    st.tuples(
        st.sampled_from(["mute", "pay", "release", "pause", "resume", "phone", "rule", "nothing", "outage"]),
        st.integers(0, 9),
    ),
    st.tuples(
        st.just("tenant"),
        st.sampled_from([
            ("status", "suspended"), ("status", "active"), ("consolidate", False), ("consolidate", True),
            ("daily_cap", 2), ("active_until", BEGIN + 9 * DAY),
        ]),
    ),
)  # fmt: skip
MOMENTS = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 1, 1, 2, 4]), st.sampled_from([0, 9, 15, 21]), EVENT, st.booleans()),
    min_size=3, max_size=14,
)  # fmt: skip


def _fields(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in Step.__slots__}


def happen(connection: Connection, what: str, how: Any, now: datetime, rule: list[list[Step]]) -> None:
    of_agenda = select(charge_rows.c.id).join(agenda, agenda.c.charge_seq == charge_rows.c.seq)
    open_ = connection.execute(of_agenda.order_by(charge_rows.c.seq)).all()
    index = how if isinstance(how, int) else how[0] if isinstance(how[0], int) else 0
    chosen = open_[index % len(open_)] if open_ else None
    today = now.date()
    match what:
        case "add":
            customer, due, method, amount, known = how
            made = charges.NewCharge(
                "t1", f"c{now:%d%H}{len(open_)}{due}{customer}", customer, amount, today + due * DAY, method=method
            )
            if connection.execute(select(charge_rows.c.seq).filter_by(id=made.id)).first() is None:
                charges.add(connection, made, now - known * DAY)
        case "hold" if chosen:
            charges.hold(connection, "t1", chosen.id, until=today + how[1] * DAY, reason="acordo", now=now)
        case "hold customer":
            connection.execute(
                update(customer_rows).values(hold_until=today + how[1] * DAY).where(customer_rows.c.id == "x")
            )
        case "release" if chosen:
            charges.release(connection, "t1", chosen.id, now=now)
        case "edit" if chosen:
            charges.edit(connection, "t1", chosen.id, now=now, due_date=today + (how[1] - 4) * DAY)
        case "mute" if chosen:
            charges.edit(connection, "t1", chosen.id, now=now, notify=False)
        case "pay" if chosen:
            charges.pay(connection, "t1", chosen.id, via="cli", now=now)
        case "pause":
            tenants.pause(connection, "t1", now)
        case "resume":
            tenants.resume(connection, "t1", now)
        case "phone":
            connection.execute(update(customer_rows).values(phone=None).where(customer_rows.c.id == "z"))
        case "tenant":
            tenants.change(connection, "t1", now, **{how[0]: how[1]})
        case "rule":
            rule.reverse()
            rules.apply(connection, "t1", Rule("test", tuple(rule[0])), now)


def push(connection: Connection, now: datetime) -> None:
    which = update(intents).where(intents.c.state == "planned", intents.c.not_before <= now)
    for row in connection.execute(which.values(state="queued", queued_at=now).returning(intents)).all():
        on = {"last_notice_on": now.date()} | ({"last_overdue_on": now.date()} if row.kind == "atraso" else {})
        connection.execute(update(customer_rows).where(customer_rows.c.id == row.customer_id).values(on))


def check_times(connection: Connection, now: datetime) -> None:
    """Each message of this pass goes within the hours of its day, after its hour and before its end."""
    for row in connection.execute(
        select(intents).where(intents.c.decided_at == now, intents.c.not_before.is_not(None))
    ):
        local = row.not_before.astimezone(ZONE)
        opens, closes = (time(8), time(14)) if local.weekday() == 5 else (time(8), time(20))
        assert local.date() == row.planned_on or row.state == "merged"
        assert opens <= local.time() < closes
        assert max(now, local) == local < row.valid_until


# Each example rolls back, so they can share the database.
@hypothesis.settings(max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@given(
    tenant=st.fixed_dictionaries({
        "consolidate": st.booleans(), "daily_cap": st.integers(1, 2), "overdue_gap_days": st.integers(0, 4),
        "spread_s": st.sampled_from([0, 7200]),
    }),
    steps=STEPS, others=STEPS, first=st.lists(CHARGE, min_size=2, max_size=7), moments=MOMENTS,
    chunk=st.sampled_from([1, 2, 100]),
)  # fmt: skip
def test_a_pass_decides_what_the_oracle_decides(
    engine: Engine,
    tenant: dict[str, Any],
    steps: list[Step],
    others: list[Step],
    first: list[Any],
    moments: list[Any],
    chunk: int,
):
    """
    Random rules, due dates, imports, holds, payments, pauses, changes of the rule, and days on which no pass runs.
    """
    with engine.connect() as connection:
        booked.tenant(connection, **tenant)
        for id_ in "xyz":
            booked.customer(connection, id_)
        rules.apply(connection, "t1", Rule("test", tuple(steps)), datetime(2000, 1, 1, tzinfo=UTC))
        now, rule = BEGIN, [steps, others]
        for how in first:
            happen(connection, "add", how, now, rule)
        for days, hour, (what, how), pushed in moments:
            now = max(now + timedelta(minutes=1), (now + days * DAY).replace(hour=hour, minute=now.minute))
            happen(connection, what, how, now, rule)
            if what == "outage":
                continue
            world = world_of(connection)
            expected = decided(world, now)
            if world.tenant.paused_at is not None:
                expected = {key: (i.state, i.reason, i.leader, i.planned_on) for key, i in world.intents.items()}
            size = chunk if world.tenant.consolidate else 100
            while planner.plan(connection, now, chunk=size).charges:
                pass
            rows = connection.execute(select(intents))
            assert {key_of(i): (i.state, i.reason, i.leader, i.planned_on) for i in rows} == expected
            check_times(connection, now)
            if pushed:
                push(connection, now)
