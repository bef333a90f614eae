"""
The planner's statements against Python that decides the same: `planner_oracle.py`.

An example is a world of three tenants in three time zones, two changing rules each, and dozens of charges. It goes
through a few weeks, in which everything happens that may. Each pass is compared row by row.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import hypothesis
from hypothesis import given
from hypothesis import strategies as st
from planner_oracle import DAY, World, as_it_is, decided, key_of, steps_of, world_of
from sqlalchemy import Connection, Engine, and_, delete, func, insert, select, update

from ifinu.billing import calendars, charges, customers, planner, rules
from ifinu.billing.billing_schema import (
    agenda,
    bank_days,
    billing_tenants,
    cancel_flags,
    intents,
    recurrences,
    send_days,
)
from ifinu.billing.billing_schema import calendars as calendar_rows
from ifinu.billing.billing_schema import charges as charge_rows
from ifinu.billing.billing_schema import customers as customer_rows
from ifinu.billing.billing_schema import rules as rule_rows
from ifinu.billing.rules import Rule, Step

BEGINNINGS = (date(2026, 12, 14), date(2027, 1, 25), date(2028, 2, 21), date(2026, 4, 13))  # holidays, month ends
ZONES = ("America/Sao_Paulo", "America/Manaus", "America/Noronha")
LENGTH = 60  # days of the calendars
CONDITIONS: tuple[dict[str, Any], ...] = (
    {}, {}, {}, {}, {}, {}, {"min_amount": "100"}, {"max_amount": "100.00"}, {"method": ["pix", "boleto"]},
    {"automatic": True}, {"automatic": False, "min_amount": "50"},
)  # fmt: skip

HAPPENINGS = (
    "add", "add", "add", "edit", "edit", "away", "away", "back", "back", "back", "pay", "part", "hold", "release",
    "cancel", "restore", "undo", "mute", "amount", "phone", "known", "closed", "hold-customer", "switch", "channels",
    "tenant", "pause", "pause", "lately", "whose", "calendar", "method", "method", "rule", "rule",
)  # fmt: skip


class Days:
    """
    A few weeks of three tenants.

    Args:
        seed: From which all comes.
    """

    def __init__(self, connection: Connection, seed: int) -> None:
        self.connection = connection
        self.rng = random.Random(seed)
        self.begin = self.rng.choice(BEGINNINGS)
        self.now = datetime.combine(self.begin, time(0, 1), UTC)
        self.size = 0
        self._fill()

    # -- the beginning

    def _fill(self) -> None:
        run = self.connection.execute
        kinds = ({"uf": "SP"}, {"uf": "RJ"}, {"uf": "AM", "window_spec": "comercial"})
        made = [{"window_spec": "lei-sp", **each} for each in kinds]
        self.calendars = run(insert(calendar_rows).returning(calendar_rows.c.id), made).scalars().all()
        for calendar, hours in zip(self.calendars, ((8, 20, 14), (8, 20, 14), (9, 18, 0)), strict=True):
            run(insert(send_days), self._days(calendar, *hours))
        # A last row, so that nobody computes twenty years of days.
        run(insert(bank_days).values(day=date(2050, 1, 1), next_open=date(2050, 1, 1), ord=0))
        self.tenants = ["t0", "t1", "t2"]
        for tenant, tz in zip(self.tenants, ZONES, strict=True):
            self.rule(tenant, new=True, tz=tz)
            run(insert(customer_rows), [self._customer(tenant, f"k{n}") for n in range(6)])
            run(insert(recurrences).values(tenant=tenant, id="r", customer_id="k0", amount=1, every=1, unit="months",
                                           anchor=self.begin))  # fmt: skip
            self.add(tenant, 16)

    def _days(self, calendar: int, opens: int, closes: int, on_saturday: int) -> list[dict[str, Any]]:
        closed = {self.begin + n * DAY for n in self.rng.sample(range(LENGTH), 6)}
        rows: list[dict[str, Any]] = []
        following: dict[str, Any] = {"send_on": self.begin + (LENGTH + 2) * DAY, "opens": time(opens),
                                     "closes": time(closes)}  # fmt: skip
        for day in (self.begin + n * DAY for n in range(LENGTH, -40, -1)):
            ends = on_saturday if day.weekday() == 5 else closes
            if ends and day.weekday() < 6 and day not in closed:
                following = {"send_on": day, "opens": time(opens), "closes": time(ends)}
            rows.append({"calendar_id": calendar, "day": day} | following)
        return rows

    def _customer(self, tenant: str, id_: str) -> dict[str, Any]:
        rng = self.rng
        return {
            "tenant": tenant, "id": id_, "name": "Ana", "phone": rng.choice([*self._phones(tenant), None]),
            "calendar_id": rng.choice(self.calendars), "channels": rng.choice([["whatsapp"]] * 9 + [["email"]]),
            "hold_until": rng.choice([None] * 5 + [self.begin + 3 * DAY]), "active": rng.random() < 0.9,
        }  # fmt: skip

    def _phones(self, tenant: str) -> list[str]:
        """A few; the first is of all tenants."""
        return ["+5511987650000", *(f"+551198765{tenant[1]}00{n}" for n in range(3))]

    def run(self) -> int:
        """Let the days go by. Returns how many steps were decided."""
        rng, steps = self.rng, 0
        for _ in range(12):
            later = self.now + rng.choice([0, 0, 1, 1, 1, 2, 3]) * DAY
            hour, minute = rng.choice([1, 3, 12, 15, 17, 22, 23]), rng.choice([0, 0, 1, 7])
            self.now = max(later.replace(hour=hour, minute=minute), self.now + timedelta(minutes=1))
            for _ in range(rng.randint(1, 6)):
                self.happen()
            steps += self.plan()
            if rng.random() < 0.7:
                self.push()
            if rng.random() < 0.08:
                self.rule(rng.choice(self.tenants))
        return steps

    # -- what happens

    def rule(self, tenant: str, *, new: bool = False, **columns: Any) -> None:
        rng = self.rng
        steps = [self._step(n) for n in range(rng.randint(3, 8))]
        steps.append(Step("pago", "pagamento", trigger="payment", valid_days=3))
        rule = Rule("test", tuple(steps))
        if new:
            days = [rules.ALWAYS, rules.ALWAYS, self.begin - 3 * DAY]
            rule = Rule("test", tuple(Step(**_fields(each) | {"effective_on": rng.choice(days)}) for each in steps))
            id_ = rules.save(self.connection, tenant, rule, rules.ALWAYS)
            columns |= {
                "consolidate": rng.random() < 0.6, "daily_cap": rng.choice([1, 1, 2, 3]),
                "status": rng.choice(["active", "active", "trial", "lifetime"]), "receipts": "always",
                "active_until": rng.choice([None, None, self.now + 9 * DAY]),
                "overdue_gap_days": rng.choice([0, 1, 3, 30]), "spread_s": rng.choice([0, 7200]),
            }  # fmt: skip
            row = {"id": tenant, "legal_name": "Academia Fit LTDA", "uf": "SP", "rule_id": id_, **columns}
            self.connection.execute(insert(billing_tenants).values(row))
        else:
            rules.apply(self.connection, tenant, rule, self.now)

    def _step(self, number: int) -> Step:
        rng = self.rng
        common = {"condition": rng.choice(CONDITIONS), "at": time(rng.choice([0, 9, 9, 13, 14, 20]))}
        days, valid = rng.randint(1, 9), rng.choice([1, 3, 8, 20, 20])
        match rng.choice("llvaaarr"):
            case "l":
                return Step(f"l{number}", "lembrete", -days, valid_days=min(days, valid), **common)
            case "v":
                return Step(f"v{number}", "vencimento", 0, **common)
            case "a":
                return Step(f"a{number}", "atraso", days, valid_days=valid, **common)
            case _:
                every = {"every_days": rng.randint(1, 5), "every_max": rng.randint(1, 4)}
                return Step(f"r{number}", "atraso", days, valid_days=valid, **every, **common)

    def add(self, tenant: str, count: int) -> None:
        rng, today = self.rng, self.now.date()
        rows = []
        for _ in range(count):
            self.size += 1
            due, method = today + rng.randint(-12, 11) * DAY, rng.choice(["pix", "boleto", "card", "card", "other"])
            repeats = rng.random() < 0.4
            rows.append({
                "tenant": tenant, "id": f"c{self.size}", "customer_id": f"k{rng.randrange(6)}", "due_date": due,
                "amount": rng.choice([50, 100, 150]), "paid": rng.choice([0, 0, 0, 1, 49]),
                "notify": rng.random() < 0.9, "method": method, "payable_on": calendars.payable_on(due),
                "late_from": calendars.late_from(due, method), "known_on": today - rng.choice([0, 9, 90, 90, 90]) * DAY,
                "recurrence_id": "r" if repeats else None, "occurrence": self.size if repeats else None,
            })  # fmt: skip
        seqs = self.connection.execute(insert(charge_rows).returning(charge_rows.c.seq), rows).scalars().all()
        waiting = [{"charge_seq": seq, "tenant": tenant, "next_on": planner.EVERY_STEP} for seq in seqs]
        self.connection.execute(insert(agenda), waiting)
        for seq, row in zip(seqs, rows, strict=True):
            if rng.random() < 0.4:  # as `plan_event` does
                self.connection.execute(insert(intents).values(
                    charge_seq=seq, step="nova", due_date=row["due_date"], id=f"c{seq}.nova", tenant=tenant,
                    customer_id=row["customer_id"], kind="cobranca_criada", channel="whatsapp", planned_on=today,
                    not_before=self.now + timedelta(hours=rng.randint(-20, 5)), valid_until=self.now + DAY,
                    state=rng.choice(["planned", "queued"]), queued_at=self.now, decided_at=self.now,
                ))  # fmt: skip

    def happen(self) -> None:
        """One thing."""
        rng, run, tenant = self.rng, self.connection.execute, self.rng.choice(self.tenants)
        later = self.now.date() + rng.randint(1, 6) * DAY
        k, c = customer_rows.c, charge_rows.c
        which = and_(k.tenant == tenant, k.id == f"k{rng.randrange(6)}")
        ids = run(select(c.id).where(c.tenant == tenant, c.status.in_(("open", "overdue")))).scalars().all()
        gone = run(select(c.id).where(c.tenant == tenant, c.status.in_(("paid", "cancelled")))).scalars().all()
        id_ = rng.choice(ids) if ids else "c0"
        about, now = (self.connection, tenant, id_), {"now": self.now}
        match rng.choice(HAPPENINGS):
            case "add":
                self.add(tenant, rng.randint(1, 4))
            case "edit" if ids:
                charges.edit(*about, **now, due_date=self.now.date() + rng.randint(-6, 6) * DAY)
            case "away":
                told = select(c.tenant, c.id, c.due_date).join(intents, intents.c.charge_seq == c.seq).where(
                    c.status.in_(("open", "overdue")), intents.c.state.in_(("planned", "queued", "merged")),
                    intents.c.due_date == c.due_date)  # fmt: skip
                for of, its, due in rng.sample(found := run(told.order_by(intents.c.id)).all(), min(3, len(found))):
                    charges.edit(self.connection, of, its, **now, due_date=due + rng.randint(1, 9) * DAY)
            case "back":
                left = select(c.tenant, c.id, intents.c.due_date).join(charge_rows, c.seq == intents.c.charge_seq)
                left = left.where(c.status.in_(("open", "overdue")), intents.c.reason == "edited")
                for of, its, due in rng.sample(found := run(left.order_by(intents.c.id)).all(), min(3, len(found))):
                    charges.edit(self.connection, of, its, **now, due_date=due)
            case "pay" if ids:
                charges.pay(*about, **now, via="cli")
            case "part" if ids:
                charges.pay(*about, **now, via="cli", amount=Decimal(rng.choice([1, 30, 60])))
            case "hold" if ids:
                charges.hold(*about, **now, until=later, reason="acordo")
            case "release" if ids:
                charges.release(*about, **now)
            case "cancel" if ids:
                charges.cancel(*about, **now)
            case "restore" if gone:
                charges.restore(self.connection, tenant, rng.choice(gone), **now)
            case "undo" if gone:
                charges.undo_payment(self.connection, tenant, rng.choice(gone), reason="estorno", **now)
                run(update(charge_rows).values(hold_until=later).where(c.hold_until == date.max))
            case "mute" | "amount" | "known" | "closed" as what:
                column = {
                    "mute": {"notify": rng.random() < 0.5}, "amount": {"amount": c.paid + rng.choice([50, 100, 150])},
                    "known": {"known_on": self.now.date() - DAY}, "closed": {"status": "paid"},
                }[what]  # fmt: skip
                run(update(charge_rows).values(column).where(c.tenant == tenant, c.id == id_))
            case "whose" if ids:
                charges.edit(*about, **now, customer_id=f"k{rng.randrange(6)}")
            case "method" if ids:
                charges.edit(*about, **now, method=rng.choice(["pix", "boleto"]))
            case "rule":
                of_tenant = select(rule_rows.c.id).where(rule_rows.c.tenant == tenant).order_by(rule_rows.c.id)
                found = [*run(of_tenant).scalars().all(), None]
                customers.change(self.connection, tenant, f"k{rng.randrange(6)}", self.now, rule_id=rng.choice(found))
            case "phone":
                customers.change(self.connection, tenant, f"k{rng.randrange(6)}", self.now,
                                 phone=rng.choice([*self._phones(tenant), None]), uf="SP")  # fmt: skip
                run(update(customer_rows).values(calendar_id=self.calendars[0]).where(
                    k.calendar_id.not_in(self.calendars)))  # fmt: skip
            case "hold-customer":
                run(update(customer_rows).values(hold_until=later).where(which))
            case "switch":
                run(update(customer_rows).values(active=~k.active).where(which))
            case "channels":
                run(update(customer_rows).values(channels=rng.choice([["whatsapp"], ["email"]])).where(which))
            case "calendar":
                run(update(customer_rows).values(calendar_id=rng.choice(self.calendars)).where(which))
            case "tenant":
                column = rng.choice([
                    {"status": "suspended"}, {"status": "active"}, {"status": "active"}, {"status": "lifetime"},
                    {"consolidate": False}, {"consolidate": True}, {"daily_cap": rng.randint(1, 3)},
                    {"overdue_gap_days": rng.choice([0, 2, 30])}, {"active_until": self.now + DAY},
                    {"active_until": self.now}, {"active_until": None}, {"active_until": None},
                ])  # fmt: skip
                run(update(billing_tenants).values(column).where(billing_tenants.c.id == tenant))
            case "pause":
                paused = rng.choice([self.now, None, None])
                run(update(billing_tenants).values(paused_at=paused).where(billing_tenants.c.id == tenant))
            case "lately":  # the cancellations reached Redis too late
                flags = run(select(cancel_flags.c.id)).scalars().all()
                run(delete(cancel_flags))
                run(update(intents).values(reason=None).where(intents.c.state == "queued", intents.c.id.in_(flags)))

    def push(self) -> None:
        """As the outbox does, or as much of it as it gets done."""
        i = intents.c
        run = self.connection.execute
        run(update(intents).values(state="expired", reason="stale").where(i.state == "planned",
                                                                       i.valid_until <= self.now))  # fmt: skip
        some = func.hashint8(i.charge_seq) % self.rng.choice([1, 1, 2]) == 0
        which = update(intents).where(i.state == "planned", i.not_before <= self.now, some)
        run(which.values(state="queued", queued_at=self.now))

    # -- the passes

    def plan(self) -> int:
        """Plan what is due, and compare each pass. Returns how many steps were decided."""
        steps, chunk, world = 0, self.rng.choice([6, 1000, 1000, 1000]), world_of(self.connection)
        while True:
            due = _due(world, self.now)
            found = planner.plan(self.connection, self.now, chunk=chunk)
            after = world_of(self.connection)
            taken = {seq for seq in due if after.charges[seq].next_on != world.charges[seq].next_on}
            assert (found.charges, found.left) == (len(taken), 0)
            expected, next_on = decided(world, self.now, taken)
            actual = {key: as_it_is(intent) for key, intent in after.intents.items()}
            wrong = [(key, expected.get(key), actual.get(key), world.intents.get(key))
                     for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key)]  # fmt: skip
            assert wrong == [], (self.now, len(wrong), sorted(wrong, key=lambda each: each[0])[:2])
            assert {seq: after.charges[seq].next_on for seq in taken} == next_on
            new = [key_of(i) for i in after.intents.values() if i.decided_at == self.now and
                   as_it_is(i) != (key_of(i) in world.intents and as_it_is(world.intents[key_of(i)]))]  # fmt: skip
            states = [after.intents[key].state for key in new if key[0] in taken]
            assert found.planned <= states.count("planned") + states.count("merged")
            steps += len(new)
            if not found.charges:
                assert not due
                assert _undecided(after, self.now) == []
                return steps
            world = after


def _due(world: World, now: datetime) -> Sequence[int]:
    return [
        seq
        for seq, charge in world.charges.items()
        if world.tenants[charge.tenant].paused_at is None
        and charge.next_on <= now.astimezone(ZoneInfo(world.tenants[charge.tenant].tz)).date()
    ]


def _undecided(world: World, now: datetime) -> list[tuple[int, str, int]]:
    """Steps whose day has come, of charges whose tenant is not paused, that have no row."""
    return [
        (seq, step.step, n)
        for seq, charge in world.charges.items()
        if world.tenants[charge.tenant].paused_at is None
        for day, step, n in steps_of(world, charge)
        if day <= now.astimezone(ZoneInfo(world.tenants[charge.tenant].tz)).date()
    ]


def _fields(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in Step.__slots__}


# Each example rolls back, so they can share the database. A smaller seed is no simpler example: none is shrunk.
@hypothesis.settings(
    max_examples=10,
    phases=[hypothesis.Phase.reuse, hypothesis.Phase.generate],
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10**9))
def test_a_pass_decides_what_the_oracle_decides(engine: Engine, seed: int):
    with engine.connect() as connection:
        assert Days(connection, seed).run() > 0
