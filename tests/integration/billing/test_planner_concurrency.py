"""Several planners at once, one that dies, a payment in the middle of a pass, and a changed rule."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import booked
import pytest
from sqlalchemy import Connection, Engine, func, select, text, update

from ifinu.billing import charges, customers, planner, rules
from ifinu.billing.billing_schema import agenda, billing_tenants, intents
from ifinu.billing.billing_schema import customers as customer_rows
from ifinu.billing.planner import Planned
from ifinu.billing.rules import DEFAULT, Difference, Rule, Step

DAY = datetime(2026, 12, 10, 0, 1, tzinfo=ZoneInfo("America/Sao_Paulo"))
LONG_KNOWN = datetime(2026, 6, 1, 13, 0, tzinfo=UTC)


def fill(engine: Engine, count: int, phone: Callable[[int], str] = "+55119876{:05}".format) -> None:
    """
    Charges of a third as many customers, all with a step on the day, and steps that were missed.

    Args:
        phone: The phone of the customer with a number.
    """
    with engine.begin() as connection:
        booked.tenant(connection)
        people = [customers.Customer("t1", f"k{n}", name="Ana", phone=phone(n)) for n in range(count // 3)]
        customers.upsert(connection, "t1", people, LONG_KNOWN)
        due = (date(2026, 12, 10), date(2026, 12, 9), date(2026, 12, 13))
        made = (
            booked.new_charge(f"c{n}", customer_id=f"k{n // 3}", due_date=due[n % 3]) for n in range(count // 3 * 3)
        )
        charges.upsert(connection, made, LONG_KNOWN)


def three_at_once(engine: Engine) -> list[Planned]:
    totals: list[Planned] = []

    def work() -> None:
        mine = Planned()
        while True:
            with engine.begin() as connection:
                found = planner.plan(connection, DAY, chunk=40)
            mine += found
            if not found.charges and not found.left:
                break
        totals.append(mine)

    planners = [threading.Thread(target=work) for _ in range(3)]
    for each in planners:
        each.start()
    for each in planners:
        each.join(100)
    assert len(totals) == 3
    return totals


def test_three_planners_at_once_decide_each_step_once_and_send_a_customer_one_message(engine: Engine):
    fill(engine, 600)
    totals = three_at_once(engine)
    with engine.connect() as connection:
        rows = connection.execute(select(intents)).all()
        waiting = connection.scalar(select(func.count()).select_from(agenda).where(agenda.c.next_on <= DAY.date()))
    assert waiting == 0
    assert len({row.id for row in rows}) == len(rows) == 600 // 3 * (2 + 3 + 1)  # steps until the 10th, by due date
    assert sum(total.charges for total in totals) == 600
    leading = [row.customer_id for row in rows if row.state == "planned"]
    assert len(leading) == len(set(leading)) == 200
    assert all(row.kind == "atraso" for row in rows if row.state == "planned")
    assert sum(row.state == "merged" for row in rows) == 400


def test_three_planners_at_once_send_a_person_one_message_whoever_has_which_of_the_customers(engine: Engine):
    fill(engine, 600, phone=lambda n: f"+55119876{n % 40:05}")  # five customers each, far apart
    totals = three_at_once(engine)
    with engine.connect() as connection:
        rows = connection.execute(
            select(intents.c.state, customer_rows.c.phone)
            .join(charges.rows_of, charges.rows_of.c.seq == intents.c.charge_seq)
            .join(customer_rows, customer_rows.c.id == charges.rows_of.c.customer_id)
            .where(intents.c.state != "skipped")
        ).all()
    assert sum(total.charges for total in totals) == 600
    leading = [row.phone for row in rows if row.state == "planned"]
    assert len(leading) == len(set(leading)) == 40
    assert len(rows) == 600


def test_a_planner_leaves_a_person_whose_other_customer_somebody_has(engine: Engine):
    fill(engine, 6, phone=lambda n: "+5511987600000")
    with engine.connect() as other, engine.begin() as connection:
        other.execute(select(customer_rows).where(customer_rows.c.id == "k1").with_for_update())
        assert planner.plan(connection, DAY) == Planned(left=6)
    with engine.begin() as connection:
        assert planner.plan(connection, DAY).planned == 1


def wait_for_a_pass(engine: Engine, act: Callable[[], None]) -> None:
    """Act while a pass has the only person, and see that this waits for its end."""
    actor = threading.Thread(target=act)
    with engine.begin() as connection:
        assert planner.plan(connection, DAY).planned == 1
        actor.start()
        actor.join(0.3)
        assert actor.is_alive()
    actor.join(20)


def test_a_first_message_about_a_charge_waits_for_the_planner_that_has_the_person(engine: Engine):
    fill(engine, 6, phone=lambda n: "+5511987600000")
    nova = Step("nova", "cobranca_criada", trigger="creation", valid_days=2)
    with engine.begin() as connection:
        rule = rules.save(connection, "t1", Rule("test", (*DEFAULT.steps, nova)), rules.ALWAYS)
        connection.execute(update(billing_tenants).values(rule_id=rule))

    def add() -> None:
        with engine.begin() as connection:
            booked.charge(connection, "new", customer_id="k1", due_date=date(2026, 12, 30), now=DAY)

    wait_for_a_pass(engine, add)
    with engine.connect() as connection:
        reason = select(intents.c.reason).where(intents.c.step == "nova", intents.c.planned_on == DAY.date())
        assert connection.scalars(reason).all() == ["capped"]


def test_a_pass_that_dies_midway_changes_nothing(engine: Engine):
    fill(engine, 30)
    with engine.connect() as connection:
        assert planner.plan(connection, DAY, chunk=20).charges == 20
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        with engine.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        connection.invalidate()
    with engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(intents)) == 0
        assert planner.plan(connection, DAY).charges == 30


def test_charges_that_are_being_paid_or_edited_are_left_alone(engine: Engine):
    fill(engine, 3)
    with engine.connect() as other, engine.begin() as connection:
        charges.pay(other, "t1", "c1", via="cli", now=DAY)  # deletes its row of the agenda
        charges.edit(other, "t1", "c2", now=DAY, description="Mensalidade")
        found = planner.plan(connection, DAY)
        assert (found.charges, found.left) == (1, 1)
        other.commit()
    with engine.begin() as connection:
        assert planner.plan(connection, DAY).charges == 1
        about = select(func.count()).select_from(intents).join(charges.rows_of).where(charges.rows_of.c.id == "c1")
        assert connection.scalar(about.where(intents.c.kind != "pagamento")) == 0


def test_a_message_that_is_being_pushed_is_not_changed_and_counts(engine: Engine):
    fill(engine, 3)
    with engine.begin() as connection:
        assert planner.plan(connection, DAY).planned == 1
        booked.charge(connection, "new", customer_id="k0", due_date=date(2026, 12, 8), now=LONG_KNOWN)
    with engine.connect() as other, engine.begin() as connection:
        other.execute(select(intents).where(intents.c.state == "planned").with_for_update())
        assert planner.plan(connection, DAY + timedelta(minutes=1)).planned == 0
        about = select(intents.c.reason).join(charges.rows_of).where(charges.rows_of.c.id == "new")
        assert set(connection.scalars(about)) == {"stale", "capped"}


def test_a_payment_waits_for_a_pass_and_withdraws_what_it_planned(engine: Engine):
    fill(engine, 3)
    done: list[charges.Paid] = []

    def pay() -> None:
        with engine.begin() as connection:
            done.append(charges.pay(connection, "t1", "c1", via="cli", now=DAY))

    wait_for_a_pass(engine, pay)
    assert len(done[0].cancelled) == 1
    with engine.connect() as connection:
        states = select(intents.c.state).where(intents.c.state.in_(("planned", "merged"))).order_by(intents.c.state)
        assert connection.scalars(states).all() == ["merged", "planned"]  # the two others go on


# -- a changed rule


@pytest.fixture
def booked_charge(connection: Connection) -> charges.Charge:
    booked.tenant(connection)
    booked.customer(connection)
    return booked.charge(connection, now=LONG_KNOWN)  # due on the 10th


def states(connection: Connection) -> dict[str, str]:
    return {row.step: row.reason or row.state for row in connection.execute(select(intents))}


def test_a_changed_rule_sends_no_old_step_again_and_reaches_open_charges(
    connection: Connection, booked_charge: charges.Charge
):
    changed = Rule(
        "test",
        (*(replace(step, days=2) if step.step == "a1" else step for step in DEFAULT.steps),
         replace(DEFAULT.steps[2], step="a0"),
         replace(DEFAULT.steps[2], step="a5", days=5)),
    )  # fmt: skip
    planner.plan(connection, DAY)
    assert rules.apply(connection, "t1", changed, DAY + timedelta(days=1)) == 1
    assert states(connection) == {"l3": "stale", "v": "superseded", "a1": "planned"}  # by the old a1
    planner.plan(connection, DAY + timedelta(days=1))
    assert states(connection) == {"l3": "stale", "v": "superseded", "a1": "planned", "a0": "before_rule"}
    planner.plan(connection, DAY + timedelta(days=5))
    assert states(connection)["a5"] == "planned"


def test_the_same_rule_again_is_no_new_version(connection: Connection, booked_charge: charges.Charge):
    rule = Rule("test", DEFAULT.steps)
    first = rules.apply(connection, "t1", rule, DAY)
    assert rules.apply(connection, "t1", rule, DAY + timedelta(days=3)) == first == 1
    assert {step.effective_on for step in rules.of_tenant(connection, "t1").steps} == {rules.ALWAYS}


def test_a_diff_says_whom_a_changed_rule_writes_to_tomorrow_and_changes_nothing(
    connection: Connection, booked_charge: charges.Charge
):
    booked.customer(connection, "k2")
    booked.charge(connection, "c2", customer_id="k2", due_date=date(2026, 12, 16), now=LONG_KNOWN)
    today = DAY - timedelta(days=1)
    changed = Rule("test", (replace(DEFAULT.steps[0], days=-6, valid_days=6), *DEFAULT.steps[2:]))
    assert rules.diff(connection, "t1", changed, today) == [
        Difference("c1", "k1", ("v", "vencimento"), None),
        Difference("c2", "k2", None, ("l3", "lembrete")),
    ]
    assert rules.diff(connection, "t1", Rule("test", DEFAULT.steps), today) == []
    assert states(connection) == {}
    assert rules.of_tenant(connection, "t1").name == "padrao"
