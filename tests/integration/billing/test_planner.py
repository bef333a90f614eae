"""The planner: what is decided about which step, when its message goes, and what a customer gets in a day."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import booked
import pytest
import redis
from booked import NOW, TODAY
from sqlalchemy import Connection, delete, insert, select, update

from ifinu.billing import calendars, charges, customers, planner, rules, tenants
from ifinu.billing.billing_schema import (
    agenda,
    bank_days,
    billing_tenants,
    cancel_flags,
    intents,
    rule_steps,
    send_days,
)  # fmt: skip
from ifinu.billing.billing_schema import charges as charge_rows
from ifinu.billing.billing_schema import customers as customer_rows
from ifinu.billing.planner import Planned, plan, plan_all, plan_event
from ifinu.billing.rules import Rule, Step
from ifinu.broker.keys import claim_key
from ifinu.errors import InvalidBilling
from ifinu.ledger.states import State

ZONE = ZoneInfo("America/Sao_Paulo")
LONG_KNOWN = datetime(2026, 6, 1, 13, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _customer(connection: Connection) -> None:
    booked.tenant(connection, spread_s=0)
    booked.customer(connection)
    # A last row, so that `calendars.fill` does not compute twenty years of days that no test here reads.
    far = date(2040, 1, 1)
    connection.execute(insert(bank_days).values(day=far, next_open=far, ord=0))


def at(day: str, clock: str = "00:01") -> datetime:
    return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=ZONE)


def due(connection: Connection, day: str, id_: str = "c1", **columns: Any) -> charges.Charge:
    """A charge that was known long before it is due."""
    return booked.charge(connection, id_, due_date=date.fromisoformat(day), now=LONG_KNOWN, **columns)


def use(connection: Connection, *steps: Step, **columns: Any) -> None:
    id_ = rules.save(connection, "t1", Rule("test", steps), rules.ALWAYS)
    connection.execute(update(billing_tenants).values(rule_id=id_, **columns))


def decisions(connection: Connection) -> dict[str, str]:
    """What became of each step: `c1.v` -> `planned 2026-12-10`, or its reason."""
    rows = connection.execute(
        select(intents, charge_rows.c.id.label("charge")).join(charge_rows, charge_rows.c.seq == intents.c.charge_seq)
    )
    return {
        f"{row.charge}.{row.step}" + (f".{row.n}" if row.n else ""): (
            f"{row.state} {row.planned_on}" if row.state in ("planned", "merged", "queued") else row.reason
        )
        for row in rows
    }


def sent(connection: Connection, now: datetime) -> None:
    """As the outbox does: all that is due."""
    which = update(intents).where(intents.c.state == "planned", intents.c.not_before <= now)
    connection.execute(which.values(state="queued", queued_at=now))


def test_the_steps_of_a_charge_go_one_by_one_each_on_its_day(connection: Connection):
    """
    Due on Thursday 2026-12-10: each step goes on its day, and none twice, however often a pass runs.
    """
    charge = due(connection, "2026-12-10")
    days = {}
    for day in (date(2026, 12, 1) + timedelta(n) for n in range(70)):
        calendars.fill(connection, day)
        for clock in ("00:01", "12:00"):
            if plan(connection, at(str(day), clock)).planned:
                days[f"{day:%d/%m}"] = connection.scalars(
                    select(intents.c.id).where(intents.c.state == "planned")
                ).all()
            sent(connection, at(str(day), "23:59"))
    prefix = f"c{charge.seq}"
    assert days == {
        "07/12": [f"{prefix}.l3.261210"], "10/12": [f"{prefix}.v.261210"], "11/12": [f"{prefix}.a1.261210"],
        "17/12": [f"{prefix}.a7.261210"], "25/12": [f"{prefix}.a15.261210"], "01/01": [f"{prefix}.a15.261210.1"],
        "08/01": [f"{prefix}.a15.261210.2"], "15/01": [f"{prefix}.a15.261210.3"],
        "22/01": [f"{prefix}.a15.261210.4"],
    }  # fmt: skip
    assert connection.execute(select(agenda.c.next_on)).scalar_one() == date.max


def test_a_first_import_writes_about_nothing_that_was_before_it(connection: Connection):
    for id_, day in (("old", "2026-10-05"), ("late", "2026-11-30"), ("soon", "2026-12-03"), ("today", "2026-12-01")):
        booked.customer(connection, f"k-{id_}")
        booked.charge(connection, id_, due_date=date.fromisoformat(day), customer_id=f"k-{id_}")
    assert plan(connection, NOW).charges == 4
    found = decisions(connection)
    assert {step: reason for step, reason in found.items() if reason != "before_import"} == {
        "late.a1": "planned 2026-12-01",
        "today.v": "planned 2026-12-01",
    }
    assert {"soon.l3", "today.l3", "old.l3", "old.v", "old.a15", "old.a15.4"} <= found.keys()


def test_after_an_outage_one_sensible_message_goes_and_the_others_say_why(connection: Connection):
    due(connection, "2026-12-10")
    assert plan(connection, at("2026-12-05")).charges == 1
    plan(connection, at("2026-12-18"))
    assert decisions(connection) == {
        "c1.l3": "stale", "c1.v": "stale", "c1.a1": "stale", "c1.a7": "planned 2026-12-18",
    }  # fmt: skip


def test_repeats_send_one_after_an_outage_and_each_is_decided(connection: Connection):
    use(connection, Step("a", "atraso", 1, valid_days=30, every_days=2, every_max=5))
    due(connection, "2026-12-10")
    plan(connection, at("2026-12-16"))
    assert decisions(connection) == {"c1.a": "superseded", "c1.a.1": "superseded", "c1.a.2": "planned 2026-12-16"}
    sent(connection, at("2026-12-16", "23:00"))
    plan(connection, at("2027-02-01"))
    assert {step: decisions(connection)[step] for step in ("c1.a.3", "c1.a.4", "c1.a.5")} == {
        "c1.a.3": "stale", "c1.a.4": "stale", "c1.a.5": "stale",
    }  # fmt: skip
    assert plan(connection, at("2027-02-02")) == Planned()


def test_no_notice_calls_a_charge_late_before_a_boleto_would_have_cleared(connection: Connection):
    """
    Due on Saturday 2026-12-05, payable on Monday, cleared by Wednesday.
    """
    due(connection, "2026-12-05", method="boleto")
    for day in ("2026-12-08", "2026-12-09", "2026-12-10"):
        plan(connection, at(day))
    assert decisions(connection) == {"c1.l3": "stale", "c1.v": "stale", "c1.a1": "planned 2026-12-10"}


@pytest.mark.parametrize(
    ("columns", "of_customer", "of_tenant", "reason"),
    [
        ({"notify": False}, {}, {}, "muted"),
        ({"hold_until": date(2026, 12, 12)}, {}, {}, "on_hold"),
        ({}, {"hold_until": date.max}, {}, "on_hold"),
        ({}, {"active": False}, {}, "customer_inactive"),
        ({}, {"phone": None}, {}, "no_phone"),
        ({}, {"phone": None, "channels": ["email"]}, {}, "email_only"),
        ({}, {}, {"status": "suspended"}, "tenant_inactive"),
        ({}, {}, {"status": "trial", "active_until": NOW}, "tenant_inactive"),
        ({"status": "paid"}, {}, {}, "closed"),
        ({"hold_until": date(2026, 12, 10)}, {}, {}, "planned 2026-12-10"),
        ({}, {}, {"status": "lifetime", "active_until": NOW}, "planned 2026-12-10"),
        ({}, {}, {"status": "trial", "active_until": at("2027-01-01")}, "planned 2026-12-10"),
    ],
)
def test_a_step_that_does_not_go_says_why(
    connection: Connection, columns: dict[str, Any], of_customer: dict[str, Any], of_tenant: dict[str, Any], reason: str
):
    use(connection, Step("v", "vencimento", 0), **of_tenant)
    due(connection, "2026-12-10")
    for table, values in ((charge_rows, columns), (customer_rows, of_customer)):
        if values:
            connection.execute(update(table).values(values))
    plan(connection, at("2026-12-10"))
    assert decisions(connection) == {"c1.v": reason}


@pytest.mark.parametrize(
    ("condition", "goes"),
    [
        ({}, True),
        ({"min_amount": "149.90"}, True),
        ({"min_amount": "149.91"}, False),
        ({"max_amount": "149.89"}, False),
        ({"max_amount": "200", "min_amount": "100", "method": ["card", "pix"]}, True),
        ({"method": ["boleto", "pix"]}, False),
        ({"automatic": False}, True),
        ({"automatic": True}, False),
    ],
)
def test_a_condition_decides_for_which_charges_a_step_is(connection: Connection, condition: dict[str, Any], goes: bool):
    use(connection, Step("v", "vencimento", 0, condition=condition))
    due(connection, "2026-12-10", method="card")
    plan(connection, at("2026-12-10"))
    assert decisions(connection) == {"c1.v": "planned 2026-12-10" if goes else "condition"}


def test_what_is_left_to_pay_counts_for_a_condition(connection: Connection):
    use(connection, Step("v", "vencimento", 0, condition={"min_amount": "50"}))
    due(connection, "2026-12-10")
    charges.pay(connection, "t1", "c1", amount=100, via="cli", now=NOW)
    plan(connection, at("2026-12-10"))
    assert decisions(connection) == {"c1.v": "condition"}


def test_a_hold_that_ends_goes_on_with_the_next_step_and_not_with_those_missed(connection: Connection):
    due(connection, "2026-12-10")
    charges.hold(connection, "t1", "c1", until=date(2026, 12, 15), reason="acordo", now=at("2026-12-01"))
    for day in range(1, 31):
        plan(connection, at(f"2026-12-{day:02}"))
        sent(connection, at(f"2026-12-{day:02}", "23:59"))
    assert decisions(connection) == {
        "c1.l3": "on_hold", "c1.v": "on_hold", "c1.a1": "on_hold",
        "c1.a7": "queued 2026-12-17", "c1.a15": "queued 2026-12-26",
    }  # fmt: skip


# -- when


@pytest.mark.parametrize(
    ("now", "of", "goes"),
    [
        ("2026-12-10T00:01", "v", "2026-12-10T09:00"),  # Thursday
        ("2026-12-10T15:20", "v", "2026-12-10T15:20"),
        ("2026-12-10T20:00", "a", "2026-12-11T09:00"),  # closed at 20:00
        ("2026-12-10T20:00", "v", None),  # for its day alone
        ("2026-12-12T00:01", "a", "2026-12-12T09:00"),  # Saturday
        ("2026-12-12T14:00", "a", "2026-12-14T09:00"),  # closed at 14:00
        ("2026-12-13T10:00", "a", "2026-12-14T09:00"),  # Sunday
        ("2026-12-25T00:01", "a", "2026-12-26T09:00"),  # a holiday
        ("2026-12-12T00:01", "night", "2026-12-12T08:00"),  # at 19:00 Saturday is closed: from the opening on
    ],
)
def test_a_message_goes_within_the_hours_of_a_sending_day(connection: Connection, now: str, of: str, goes: str | None):
    moment = datetime.fromisoformat(now).replace(tzinfo=ZONE)
    steps = {
        "v": Step("v", "vencimento", 0),
        "a": Step("a", "atraso", 1, valid_days=5),
        "night": Step("night", "atraso", 1, valid_days=5, at=time(19)),
    }
    use(connection, steps[of])
    due(connection, str(moment.date() - timedelta(days=steps[of].days)))
    connection.execute(update(charge_rows).values(late_from=moment.date(), payable_on=charge_rows.c.due_date))
    plan(connection, moment)
    found = connection.execute(select(intents)).one()
    if goes is None:
        assert found.reason == "stale"
    else:
        assert found.not_before == datetime.fromisoformat(goes).replace(tzinfo=ZONE)
        assert found.planned_on == date.fromisoformat(goes[:10])
        assert found.valid_until == datetime.combine(moment.date() + timedelta(steps[of].valid_days), time(), ZONE)


@pytest.mark.parametrize(("now", "seconds"), [("00:01", 7200), ("19:00", 3600)])
def test_messages_are_spread_over_two_hours_but_not_beyond_closing_time(connection: Connection, now: str, seconds: int):
    use(connection, Step("v", "vencimento", 0), spread_s=7200)
    for number in range(60):
        booked.customer(connection, f"k{number}-")
        due(connection, "2026-12-10", f"c{number}", customer_id=f"k{number}-")
    plan(connection, at("2026-12-10", now))
    first = max(at("2026-12-10", "09:00"), at("2026-12-10", now))
    times = sorted((when - first).total_seconds() for when in connection.scalars(select(intents.c.not_before)))
    assert len(set(times)) > 50
    assert 0 <= times[0] < seconds / 4 < seconds * 3 / 4 < times[-1] < seconds


def test_each_tenant_plans_by_its_own_clock(connection: Connection):
    """
    At 23:30 in São Paulo it is 22:30 in Manaus, and 0:30 of the next day on Fernando de Noronha.
    """
    use(connection, Step("v", "vencimento", 0))
    for id_, uf, tz in (("am", "AM", "America/Manaus"), ("fn", "PE", "America/Noronha")):
        booked.tenant(connection, id_, uf=uf, tz=tz)
        booked.customer(connection, "k1", id_, uf=uf)
        booked.charge(connection, id_, id_, now=LONG_KNOWN, due_date=date(2026, 12, 10))
    due(connection, "2026-12-10")
    connection.execute(update(billing_tenants).values(rule_id=tenants.get(connection, "t1").rule_id))
    assert plan(connection, at("2026-12-09", "22:30")).planned == 0
    assert plan(connection, at("2026-12-09", "22:31")).charges == 0
    plan(connection, at("2026-12-09", "23:30"))
    assert decisions(connection) == {"fn.v": "planned 2026-12-10"}


def test_a_calendar_without_the_day_stops_the_pass_and_nothing_is_decided(connection: Connection):
    due(connection, "2026-12-10")
    connection.execute(delete(send_days).where(send_days.c.day == date(2026, 12, 10)))
    with pytest.raises(InvalidBilling, match=r"no sending day for 2026-12-10"):
        plan(connection, at("2026-12-10"))
    assert decisions(connection) == {}
    calendars.fill(connection, TODAY)
    connection.execute(delete(send_days).where(send_days.c.day == date(2026, 12, 11)))
    with pytest.raises(InvalidBilling):
        plan(connection, at("2026-12-10", "21:00"))  # today is over, and tomorrow is missing
    assert connection.execute(select(agenda.c.next_on)).scalar_one() == planner.EVERY_STEP


# -- what a customer gets in a day


def test_two_charges_of_a_customer_make_one_message_led_by_the_gravest(connection: Connection):
    due(connection, "2026-12-13", "soon")
    late = due(connection, "2026-12-09", "late")
    due(connection, "2026-12-10", "now")
    assert plan(connection, at("2026-12-10")) == Planned(3, 1, 3, 2)
    found = decisions(connection)
    assert {step: found[step] for step in ("soon.l3", "late.a1", "now.v")} == {
        "soon.l3": "merged 2026-12-10", "late.a1": "planned 2026-12-10", "now.v": "merged 2026-12-10",
    }  # fmt: skip
    assert set(connection.scalars(select(intents.c.leader).where(intents.c.state != "skipped"))) == {late.seq}


def test_a_charge_added_later_that_day_joins_the_message_that_has_not_gone(connection: Connection):
    first = due(connection, "2026-12-10", "first")
    plan(connection, at("2026-12-10"))
    due(connection, "2026-12-09", "second")
    assert plan(connection, at("2026-12-10", "08:00")) == Planned(1, 1, 2, 1)
    assert decisions(connection)["first.v"] == "merged 2026-12-10"
    assert decisions(connection)["second.a1"] == "planned 2026-12-10"
    leaders = connection.scalars(
        select(intents.c.leader).where(intents.c.charge_seq == first.seq, intents.c.step == "v")
    )
    assert leaders.one() == charges.get(connection, "t1", "second").seq


def test_a_charge_joins_a_message_that_waits_even_if_another_one_has_gone(connection: Connection):
    """
    The second was withdrawn from the first one's message, and goes by itself.
    """
    due(connection, "2026-12-10", "first")
    plan(connection, at("2026-12-10"))
    sent(connection, at("2026-12-10", "09:00"))
    due(connection, "2026-12-09", "second")
    plan(connection, at("2026-12-10", "09:30"))
    times = {"not_before": at("2026-12-10", "10:00"), "valid_until": at("2026-12-11")}
    of = update(intents).where(intents.c.step == "a1")
    connection.execute(of.values(state="planned", reason=None, planned_on=date(2026, 12, 10), **times))
    due(connection, "2026-12-10", "third")
    plan(connection, at("2026-12-10", "09:45"))
    assert decisions(connection)["third.v"] == "merged 2026-12-10"


def test_a_charge_added_after_the_days_message_has_gone_is_capped(connection: Connection):
    due(connection, "2026-12-10", "first")
    plan(connection, at("2026-12-10"))
    sent(connection, at("2026-12-10", "09:00"))
    due(connection, "2026-12-10", "second")
    assert plan(connection, at("2026-12-10", "10:00")).planned == 0
    assert decisions(connection)["second.v"] == "capped"


@pytest.mark.parametrize(("cap", "planned"), [(1, 1), (2, 2), (3, 3)])
def test_without_consolidation_the_gravest_go_up_to_the_cap(connection: Connection, cap: int, planned: int):
    connection.execute(update(billing_tenants).values(consolidate=False, daily_cap=cap))
    due(connection, "2026-12-09", "late")
    due(connection, "2026-12-10", "now")
    due(connection, "2026-12-13", "soon")
    plan(connection, at("2026-12-10"))
    order = ("late.a1", "now.v", "soon.l3")
    found = [decisions(connection)[step] for step in order]
    assert found == ["planned 2026-12-10"] * planned + ["capped"] * (3 - planned)
    assert set(connection.scalars(select(intents.c.leader))) == {None}


@pytest.mark.parametrize(("gap", "reason"), [(3, "capped"), (2, "planned 2026-12-10"), (0, "planned 2026-12-10")])
def test_two_notices_of_delay_to_a_customer_keep_their_distance(connection: Connection, gap: int, reason: str):
    connection.execute(update(billing_tenants).values(overdue_gap_days=gap))
    due(connection, "2026-12-07", "first")
    plan(connection, at("2026-12-08"))
    sent(connection, at("2026-12-08", "20:00"))
    due(connection, "2026-12-09", "second")
    plan(connection, at("2026-12-10"))
    assert decisions(connection)["second.a1"] == reason


# -- what a person gets who is several customers


@pytest.fixture
def siblings(connection: Connection) -> None:
    """Two customers with one phone, beside one of another tenant with that phone too."""
    booked.customer(connection, "k0", name="Bia Souza", phone=booked.PHONE)
    booked.tenant(connection, "t2", spread_s=0)
    booked.customer(connection, "k1", "t2")


@pytest.mark.usefixtures("siblings")
def test_two_customers_with_one_phone_get_one_message_about_the_charges_of_both(connection: Connection):
    due(connection, "2026-12-10", "now", customer_id="k0")
    late = due(connection, "2026-12-09", "late")
    booked.charge(connection, "other", "t2", due_date=date(2026, 12, 10), now=LONG_KNOWN)
    plan(connection, at("2026-12-10"))
    found = decisions(connection)
    assert (found["late.a1"], found["now.v"]) == ("planned 2026-12-10", "merged 2026-12-10")
    assert found["other.v"] == "planned 2026-12-10"
    merged = connection.execute(select(intents).where(intents.c.state == "merged")).one()
    assert (merged.leader, merged.customer_id) == (late.seq, "k1")


@pytest.mark.usefixtures("siblings")
def test_a_charge_of_the_other_customer_joins_the_message_that_has_not_gone(connection: Connection):
    due(connection, "2026-12-10", "first")
    plan(connection, at("2026-12-10"))
    due(connection, "2026-12-09", "second", customer_id="k0")
    assert plan(connection, at("2026-12-10", "08:00")) == Planned(1, 1, 2, 1)
    assert decisions(connection)["first.v"] == "merged 2026-12-10"
    merged = connection.execute(select(intents).where(intents.c.state == "merged")).one()
    assert merged.customer_id == "k0"
    sent(connection, at("2026-12-10", "09:00"))
    due(connection, "2026-12-10", "third")
    plan(connection, at("2026-12-10", "10:00"))
    assert decisions(connection)["third.v"] == "capped"


@pytest.mark.usefixtures("siblings")
@pytest.mark.parametrize("cap", [1, 2])
def test_without_consolidation_the_cap_is_of_the_person(connection: Connection, cap: int):
    connection.execute(update(billing_tenants).values(consolidate=False, daily_cap=cap))
    due(connection, "2026-12-10", "now", customer_id="k0")
    due(connection, "2026-12-09", "late")
    plan(connection, at("2026-12-10"))
    found = decisions(connection)
    assert (found["late.a1"], found["now.v"]) == ("planned 2026-12-10", "planned 2026-12-10" if cap > 1 else "capped")


@pytest.mark.usefixtures("siblings")
def test_two_notices_of_delay_to_a_person_keep_their_distance(connection: Connection):
    due(connection, "2026-12-07", "first")
    plan(connection, at("2026-12-08"))
    due(connection, "2026-12-09", "second", customer_id="k0")
    sent(connection, at("2026-12-08", "20:00"))
    plan(connection, at("2026-12-10"))
    assert decisions(connection)["second.a1"] == "capped"


@pytest.mark.usefixtures("siblings")
def test_the_first_messages_about_charges_keep_to_the_cap_of_the_person(connection: Connection):
    use(connection, Step("nova", "cobranca_criada", trigger="creation", valid_days=2))
    made = [booked.new_charge(f"c{n}", due_date=date(2026, 12, 20), customer_id=f"k{n}") for n in range(2)]
    charges.upsert(connection, made, NOW)
    assert sorted(decisions(connection).values()) == ["capped", "planned 2026-12-01"]
    connection.execute(update(intents).values(state="queued", planned_on=date(2026, 11, 30), queued_at=NOW))
    booked.charge(connection, "c2", due_date=date(2026, 12, 22))
    assert decisions(connection)["c2.nova"] == "capped"


def test_a_reminder_that_waits_for_the_next_open_day_gives_way_to_that_days_own_notice(connection: Connection):
    """
    Reminder on Sunday, due on Monday: on Monday there is one message, that of the due date.
    """
    use(connection, Step("l1", "lembrete", -2, valid_days=2), Step("v", "vencimento", 0))
    due(connection, "2026-12-14")
    plan(connection, at("2026-12-12", "15:00"))
    assert decisions(connection) == {"c1.l1": "stale"}  # it could only go on the due date
    use(connection, Step("a1", "atraso", 1, valid_days=9), Step("a2", "atraso", 3, valid_days=9))
    due(connection, "2026-12-11", "c2")
    plan(connection, at("2026-12-12", "15:00"))
    assert decisions(connection)["c2.a1"] == "planned 2026-12-14"
    plan(connection, at("2026-12-14"))
    assert decisions(connection)["c2.a1"] == "superseded"
    assert decisions(connection)["c2.a2"] == "planned 2026-12-14"


def test_what_waited_while_a_tenant_was_paused_goes_as_one_message(connection: Connection):
    due(connection, "2026-12-10", "one")
    due(connection, "2026-12-14", "two")
    plan(connection, at("2026-12-11"))
    tenants.pause(connection, "t1", NOW)
    assert plan(connection, at("2026-12-14")) == Planned()
    tenants.resume(connection, "t1", NOW)
    plan(connection, at("2026-12-14", "12:00"))
    found = decisions(connection)
    assert (found["one.a1"], found["two.v"]) == ("planned 2026-12-14", "merged 2026-12-14")


def flags(connection: Connection) -> list[str]:
    return list(connection.scalars(select(cancel_flags.c.id)))


def test_a_due_message_that_joins_another_or_gives_way_is_cancelled_in_redis(connection: Connection):
    """A scheduler may have pushed it, and died before its commit. If it goes after all, it has another id."""
    due(connection, "2026-12-14", "c1")
    plan(connection, at("2026-12-14", "09:59"))
    booked.charge(connection, "c2", due_date=date(2026, 12, 10), now=at("2026-12-12"))
    connection.execute(update(rule_steps).where(rule_steps.c.step == "a1").values(offset_days=4))
    plan(connection, at("2026-12-14", "10:01"))
    assert decisions(connection)["c1.v"] == "merged 2026-12-14"
    first = flags(connection)
    assert [id_.split(".")[1] for id_ in first] == ["v"]
    charges.pay(connection, "t1", "c2", via="cli", now=at("2026-12-14", "10:02"))
    ids = connection.scalars(select(intents.c.id).where(intents.c.state == "planned", intents.c.step == "v")).all()
    assert ids == [f"{first[0]}~1"]


def test_a_due_date_that_moves_away_and_back_is_planned_anew_under_another_id(connection: Connection):
    charge = due(connection, "2026-12-10")
    plan(connection, at("2026-12-07"))
    away_and_back(connection, "08:00")
    rows = connection.execute(select(intents.c.id, intents.c.state)).all()
    assert rows == [(f"c{charge.seq}.l3.261210~1", "planned")]


def away_and_back(connection: Connection, clock: str) -> None:
    for day in (date(2026, 12, 20), date(2026, 12, 10)):
        charges.edit(connection, "t1", "c1", now=at("2026-12-07", clock), due_date=day)
        plan(connection, at("2026-12-07", clock))


def test_a_step_that_was_cancelled_on_its_queue_goes_if_the_due_date_moves_back(
    connection: Connection, client: redis.Redis
):
    charge = due(connection, "2026-12-10")
    plan(connection, at("2026-12-07"))
    sent(connection, at("2026-12-07", "09:00"))
    away_and_back(connection, "10:00")
    found = connection.execute(select(intents)).one()
    assert (found.id, found.state) == (f"c{charge.seq}.l3.261210~1", "planned")
    assert found.not_before == at("2026-12-07", "10:01")  # Redis first cancels the other one
    assert charges.apply_cancel_flags(connection, client, 10, at("2026-12-07", "10:01")) == (1, 0)
    sent(connection, at("2026-12-07", "10:01"))
    away_and_back(connection, "11:00")
    assert connection.scalars(select(intents.c.id)).all() == [f"c{charge.seq}.l3.261210~2"]


@pytest.mark.parametrize("flagged", ["before", "after"])
def test_a_step_that_had_been_sent_does_not_go_again_if_the_due_date_moves_back(
    connection: Connection, client: redis.Redis, flagged: str
):
    """
    The ledger does not know it yet when the due date is moved; Redis does, before or after it moves back.
    """
    charge = due(connection, "2026-12-10")
    due(connection, "2026-12-10", "c2")
    plan(connection, at("2026-12-07"))
    sent(connection, at("2026-12-07", "09:00"))
    id_ = f"c{charge.seq}.l3.261210"
    client.hset(claim_key(id_), "state", "sent")
    for day in (date(2026, 12, 20), date(2026, 12, 10)):
        if day.day == 10 and flagged == "before":
            assert charges.apply_cancel_flags(connection, client, 10, at("2026-12-07", "10:00")) == (0, 1)
        charges.edit(connection, "t1", "c1", now=at("2026-12-07", "10:00"), due_date=day)
        plan(connection, at("2026-12-07", "10:00"))
    if flagged == "after":
        assert charges.apply_cancel_flags(connection, client, 10, at("2026-12-07", "10:01")) == (0, 1)
    about = select(intents.c.id, intents.c.state, intents.c.reason).where(intents.c.charge_seq == charge.seq)
    assert connection.execute(about).all() == [(id_, "queued", None)]
    others = select(intents.c.state).where(intents.c.charge_seq != charge.seq)
    assert connection.scalars(others).all() == ["merged"]


def test_a_step_that_the_ledger_knows_to_have_been_sent_does_not_go_again_if_the_due_date_moves_back(
    connection: Connection,
):
    charge = due(connection, "2026-12-10")
    plan(connection, at("2026-12-07"))
    sent(connection, at("2026-12-07", "09:00"))
    id_ = f"c{charge.seq}.l3.261210"
    booked.recorded(connection, id_, State.SENT)
    away_and_back(connection, "10:00")
    assert connection.execute(select(intents.c.id, intents.c.state)).all() == [(id_, "queued")]


def test_what_was_pushed_later_than_planned_counts_on_the_day_of_its_push(connection: Connection):
    due(connection, "2026-12-07", "first")
    plan(connection, at("2026-12-08"))
    sent(connection, at("2026-12-10", "08:00"))  # Redis had been away
    due(connection, "2026-12-10", "second")
    plan(connection, at("2026-12-10", "09:00"))
    assert decisions(connection)["second.v"] == "capped"


def test_payment_before_the_push_leaves_nothing_planned_and_promotes_the_other_charge(connection: Connection):
    due(connection, "2026-12-09", "late")
    due(connection, "2026-12-10", "now")
    plan(connection, at("2026-12-10"))
    charges.pay(connection, "t1", "late", via="cli", now=at("2026-12-10", "08:00"))
    found = decisions(connection)
    assert (found["late.a1"], found["now.v"]) == ("paid", "planned 2026-12-10")


# -- no step is passed over


def test_an_atraso_moves_with_the_method_of_its_charge(connection: Connection):
    """
    Due on Thursday: a boleto would have cleared by Monday, a Pix is late on Friday.
    """
    due(connection, "2026-12-10", method="boleto")
    plan(connection, at("2026-12-10"))
    charges.edit(connection, "t1", "c1", now=at("2026-12-10", "10:00"), method="pix")
    plan(connection, at("2026-12-11"))
    assert decisions(connection)["c1.a1"] == "planned 2026-12-11"


def test_an_import_moves_an_atraso_with_the_method_of_its_charge(connection: Connection):
    due(connection, "2026-12-10", method="boleto")
    plan(connection, at("2026-12-10"))
    charges.upsert(connection, [booked.new_charge(method="pix")], at("2026-12-10", "10:00"))
    plan(connection, at("2026-12-11"))
    assert decisions(connection)["c1.a1"] == "planned 2026-12-11"


def test_the_steps_of_a_customers_own_rule_count_from_its_change_on(connection: Connection):
    booked.customer(connection, "k2")
    due(connection, "2026-12-10")
    due(connection, "2026-12-10", "c2", customer_id="k2")
    plan(connection, at("2026-12-11"))  # next is the 17th
    own = rules.save(connection, "t1", Rule("own", (Step("a2", "atraso", 2),)), rules.ALWAYS)
    customers.change(connection, "t1", "k1", at("2026-12-11", "10:00"), rule_id=own)
    plan(connection, at("2026-12-12"))
    assert decisions(connection)["c1.a2"] == "planned 2026-12-12"
    charges.edit(connection, "t1", "c2", now=at("2026-12-11", "10:00"), customer_id="k1")
    plan(connection, at("2026-12-12", "00:02"))
    assert decisions(connection)["c2.a2"] == "merged 2026-12-12"


def test_a_changed_rule_of_a_paused_tenant_leaves_what_is_due_to_the_former_one(connection: Connection):
    due(connection, "2026-12-10")
    tenants.pause(connection, "t1", at("2026-12-09", "10:00"))
    changed = Rule("test", (Step("x", "atraso", 2, valid_days=5), *rules.DEFAULT.steps[3:]))
    rules.apply(connection, "t1", changed, at("2026-12-11", "10:00"))
    found = decisions(connection)
    assert (found["c1.v"], found["c1.a1"]) == ("stale", "planned 2026-12-11")
    assert tenants.get(connection, "t1").paused_at is not None


def test_the_steps_while_a_charge_was_cancelled_are_recorded_and_not_made_up_for(connection: Connection):
    due(connection, "2026-12-10")
    plan(connection, at("2026-12-08"))
    charges.cancel(connection, "t1", "c1", now=at("2026-12-09", "10:00"))
    assert plan(connection, at("2026-12-12")).charges == 0
    charges.restore(connection, "t1", "c1", now=at("2026-12-12", "10:00"))
    plan(connection, at("2026-12-12", "10:01"))
    found = decisions(connection)
    assert (found["c1.v"], found["c1.a1"]) == ("on_hold", "on_hold")
    plan(connection, at("2026-12-17"))
    assert decisions(connection)["c1.a7"] == "planned 2026-12-17"


# -- payment and creation


@pytest.mark.parametrize(
    ("receipts", "notified", "expected"),
    [
        ("always", False, "planned 2026-12-10"),
        ("after_notice", False, "condition"),
        ("after_notice", True, "planned 2026-12-10"),
        ("never", True, "condition"),
    ],
)
def test_a_receipt_goes_as_the_tenant_wants_it_and_once(
    connection: Connection, receipts: str, notified: bool, expected: str
):
    connection.execute(update(billing_tenants).values(receipts=receipts))
    charge = due(connection, "2026-12-10")
    if notified:
        plan(connection, at("2026-12-10"))
        sent(connection, at("2026-12-10", "09:30"))
    connection.execute(update(charge_rows).values(status="paid"))
    now = at("2026-12-10", "11:00")
    ids = plan_event(connection, charge.seq, "payment", now)
    assert ids == ([f"c{charge.seq}.pago.261210"] if expected.startswith("planned") else [])
    assert plan_event(connection, charge.seq, "payment", now) == []
    assert decisions(connection)["c1.pago"] == expected
    if ids:
        assert connection.scalars(select(intents.c.not_before).where(intents.c.id == ids[0])).one() == now


def test_a_receipt_waits_for_the_opening(connection: Connection):
    connection.execute(update(billing_tenants).values(receipts="always"))
    charge = due(connection, "2026-12-10")
    plan_event(connection, charge.seq, "payment", at("2026-12-12", "22:00"))  # Saturday
    assert connection.scalars(select(intents.c.not_before)).one() == at("2026-12-14", "08:00")


def test_no_reminder_follows_within_a_day_of_the_first_message_about_a_charge(connection: Connection):
    use(connection, Step("nova", "cobranca_criada", trigger="creation", valid_days=2), *rules.DEFAULT.steps)
    for id_, made in (("near", "2026-12-06"), ("far", "2026-12-05")):
        booked.customer(connection, f"k-{id_}")
        charge = booked.charge(
            connection, id_, customer_id=f"k-{id_}", due_date=date(2026, 12, 10), now=at(made, "10:00")
        )
        plan_event(connection, charge.seq, "creation", at(made, "10:00"))
    plan(connection, at("2026-12-05", "10:01"))
    plan(connection, at("2026-12-07"))
    found = decisions(connection)
    assert (found["far.nova"], found["far.l3"]) == ("planned 2026-12-05", "planned 2026-12-07")
    assert (found["near.nova"], found["near.l3"]) == ("planned 2026-12-07", "capped")  # made on a Sunday


@pytest.mark.parametrize(("made", "reminder"), [("09:00", "planned 2026-12-08"), ("09:01", "capped")])
def test_a_day_after_the_first_message_is_24_hours(connection: Connection, made: str, reminder: str):
    use(connection, Step("nova", "cobranca_criada", trigger="creation", valid_days=2), *rules.DEFAULT.steps)
    booked.charge(connection, due_date=date(2026, 12, 11), now=at("2026-12-07", made))
    plan(connection, at("2026-12-08"))
    assert decisions(connection)["c1.l3"] == reminder


def test_first_messages_about_charges_keep_to_the_cap_and_none_is_about_the_past(connection: Connection):
    use(connection, Step("nova", "cobranca_criada", trigger="creation", valid_days=2))
    due_on = {"c0": 20, "c1": 21, "old": 1}
    made = [booked.new_charge(id_, due_date=date(2026, 12, day)) for id_, day in due_on.items()]
    charges.upsert(connection, made, NOW)
    booked.charge(connection, "c2", due_date=date(2026, 12, 22))
    assert decisions(connection) == {
        "c0.nova": "planned 2026-12-01", "c1.nova": "capped", "c2.nova": "capped", "old.nova": "stale",
    }  # fmt: skip


# -- simulation


def test_a_simulation_shows_the_days_to_come_and_changes_nothing(connection: Connection):
    charge = due(connection, "2026-12-10")
    plan(connection, at("2026-12-07"))
    before = decisions(connection)
    found = planner.simulate(connection, charge.seq, 60, at("2026-12-08", "10:00"))
    assert [(each.goes_on.isoformat(), each.step, each.n, each.state) for each in found] == [
        ("2026-12-10", "v", 0, "planned"), ("2026-12-11", "a1", 0, "planned"), ("2026-12-17", "a7", 0, "planned"),
        ("2026-12-26", "a15", 0, "planned"), ("2027-01-02", "a15", 1, "planned"), ("2027-01-08", "a15", 2, "planned"),
        ("2027-01-15", "a15", 3, "planned"), ("2027-01-22", "a15", 4, "planned"),
    ]  # fmt: skip
    assert decisions(connection) == before
    assert plan_all(connection, at("2026-12-10")).planned == 1


def test_small_tenants_do_not_wait_for_a_large_one(connection: Connection):
    for number in range(30):
        booked.charge(connection, f"c{number}", now=LONG_KNOWN, due_date=date(2026, 12, 1))
    booked.tenant(connection, "t2")
    booked.customer(connection, "k1", "t2")
    booked.charge(connection, "small", "t2", now=LONG_KNOWN, due_date=date(2026, 12, 1))
    assert plan(connection, NOW, chunk=16).charges == 9
    assert "small.v" in decisions(connection)
