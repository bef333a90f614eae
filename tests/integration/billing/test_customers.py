"""Tenants and customers: their checks, and the calendar that a customer gets from window, state and own holidays."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import booked
import pytest
from booked import NOW, TODAY
from sqlalchemy import Connection, select

from ifinu.billing import calendars as calendar_days
from ifinu.billing import charges, customers, planner, tenants
from ifinu.billing.billing_schema import calendars, intents, send_days
from ifinu.billing.billing_schema import customers as customer_rows
from ifinu.billing.customers import Customer
from ifinu.billing.tenants import Tenant
from ifinu.errors import InvalidBilling, NotFound

MANAUS, RECIFE = "+5592987650001", "+5581987650001"


def calendars_of(connection: Connection) -> dict[str, tuple[str, str, str]]:
    """Window, state and owner of the calendar of each customer."""
    query = select(customer_rows.c.id, calendars.c.window_spec, calendars.c.uf, calendars.c.own).join(calendars)
    return {id_: tuple(found) for id_, *found in connection.execute(query)}


def test_a_customer_has_the_calendar_of_their_state(connection: Connection) -> None:
    booked.tenant(connection, uf="RJ")
    for id_, columns in {
        "own": {"uf": "am", "phone": RECIFE}, "phone": {"phone": RECIFE}, "tenant": {"phone": None},
    }.items():  # fmt: skip
        booked.customer(connection, id_, **columns)
    assert calendars_of(connection) == {
        "own": ("lei-sp", "AM", ""), "phone": ("lei-sp", "PE", ""), "tenant": ("lei-sp", "RJ", ""),
    }  # fmt: skip
    customers.change(connection, "t1", "own", NOW, uf=None)
    customers.change(connection, "t1", "tenant", NOW, phone=MANAUS)
    assert [uf for _, uf, _ in calendars_of(connection).values()].count("PE") == 2
    assert calendars_of(connection)["tenant"] == ("lei-sp", "AM", "")


def test_another_window_and_own_holidays_move_the_customers(connection: Connection) -> None:
    booked.tenant(connection)
    booked.customer(connection)
    booked.customer(connection, "k2", phone=MANAUS)
    tenants.change(connection, "t1", NOW, window_spec="comercial")
    assert set(calendars_of(connection).values()) == {("comercial", "SP", ""), ("comercial", "AM", "")}
    tenants.rest(connection, "t1", {date(2026, 12, 24): "Véspera"}, NOW)
    assert set(calendars_of(connection).values()) == {("comercial", "SP", "t1"), ("comercial", "AM", "t1")}
    of_the_day = (
        select(send_days.c.send_on)
        .join(customer_rows, customer_rows.c.calendar_id == send_days.c.calendar_id)
        .where(send_days.c.day == date(2026, 12, 24))
    )
    assert set(connection.scalars(of_the_day)) == {date(2026, 12, 28)}  # then Christmas and a weekend
    tenants.rest(connection, "t1", {}, NOW)
    assert set(calendars_of(connection).values()) == {("comercial", "SP", ""), ("comercial", "AM", "")}


def test_an_upsert_keeps_what_the_rows_do_not_say(connection: Connection) -> None:
    booked.tenant(connection)
    booked.customer(connection, email="ana@example.com", document="529.982.247-25", uf="AM")
    rows = [Customer("t1", "k1", name="Ana S. Souza"), Customer("t1", "k2", name="Bia", phone=RECIFE)]
    assert customers.upsert(connection, "t1", rows, NOW) == (1, 1, 0)
    assert customers.upsert(connection, "t1", rows, NOW) == (0, 0, 2)
    found = customers.get(connection, "t1", "k1")
    assert (found.name, found.email, found.document, found.phone, found.version) == (
        "Ana S. Souza", "ana@example.com", "52998224725", "+5511987654321", 2,
    )  # fmt: skip
    assert calendars_of(connection) == {"k1": ("lei-sp", "AM", ""), "k2": ("lei-sp", "PE", "")}
    assert [each.id for each in customers.find(connection, "t1", search="529.982.247-25")] == ["k1"]
    assert [each.id for each in customers.find(connection, "t1", search="bia")] == ["k2"]
    for wrong, words in (
        (Customer("t1", "k3", phone=RECIFE), "'k3' is new and has no name"),
        (Customer("t2", "k3", name="C"), "is not of tenant 't1'"),
    ):
        with pytest.raises(InvalidBilling, match=words):
            customers.upsert(connection, "t1", [wrong], NOW)


def test_an_upsert_of_a_phone_moves_what_is_queued(connection: Connection) -> None:
    booked.tenant(connection)
    booked.customer(connection)
    message = booked.intent(connection, booked.charge(connection), state="queued")
    customers.upsert(connection, "t1", [Customer("t1", "k1", phone=RECIFE)], NOW)
    assert (booked.states(connection), booked.flags(connection)) == ({f"{message}~1": "planned"}, {message: False})


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"phone": "123"}, "phone"),
        ({"email": "x"}, "email"),
        ({"document": "123"}, "document"),
        ({"uf": "XX"}, "uf"),
        ({"channels": ["sms"]}, "channels"),
        ({"name": "a" * 501}, "name"),
    ],
)
def test_a_wrong_field_of_a_customer_is_named_without_its_value(columns: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidBilling) as caught:
        Customer("t1", "k1", **columns)
    assert caught.value.field == field
    value = columns[field]
    assert not isinstance(value, str) or field == "uf" or value not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"legal_name": " "}, "legal_name"),
        ({"uf": "BR"}, "uf"),
        ({"tz": "Brasília"}, "tz"),
        ({"status": "ativa"}, "status"),
        ({"receipts": "sometimes"}, "receipts"),
        ({"daily_cap": 0}, "daily_cap"),
        ({"spread_s": -1}, "spread_s"),
        ({"fine_percent": 101}, "fine_percent"),
    ],
)
def test_a_wrong_field_of_a_tenant_is_named(connection: Connection, columns: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidBilling) as caught:
        Tenant("t2", **({"legal_name": "B", "uf": "SP"} | columns))
    assert caught.value.field == field
    booked.tenant(connection)
    with pytest.raises(InvalidBilling) as caught:
        tenants.change(connection, "t1", NOW, **columns)
    assert caught.value.field == field
    assert tenants.get(connection, "t1").version == 1


def test_a_tenant_is_paused_and_resumed(connection: Connection) -> None:
    booked.tenant(connection)
    assert tenants.pause(connection, "t1", NOW).paused_at == NOW
    assert tenants.resume(connection, "t1", NOW).paused_at is None
    assert [tenant.version for tenant in tenants.every(connection)] == [3]
    with pytest.raises(NotFound):
        tenants.pause(connection, "t2", NOW)


# -- with the planner


def plan(connection: Connection, first: date, days: int) -> None:
    for n in range(days):
        at = datetime(first.year, first.month, first.day, 12, tzinfo=NOW.tzinfo) + timedelta(days=n)
        calendar_days.fill(connection, at.date())
        planner.plan_all(connection, at)


def decided(connection: Connection) -> dict[str, str]:
    query = select(intents.c.step, intents.c.n, intents.c.state, intents.c.reason).where(intents.c.step != "pago")
    rows = connection.execute(query.order_by(intents.c.planned_on))
    return {f"{step}.{n}" if n else step: f"{state} {reason}" if reason else state for step, n, state, reason in rows}


def test_after_a_refund_nothing_is_sent_until_the_charge_is_released(connection: Connection) -> None:
    booked.tenant(connection)
    booked.customer(connection)
    booked.charge(connection, due_date=date(2026, 12, 3))
    charges.pay(connection, "t1", "c1", via="cli", now=NOW)
    charges.undo_payment(connection, "t1", "c1", reason="estorno", now=NOW)
    plan(connection, TODAY, 10)
    assert set(decided(connection).values()) == {"skipped before_import", "skipped on_hold"}
    before = decided(connection)
    charges.release(connection, "t1", "c1", now=NOW + timedelta(days=9, hours=12))
    plan(connection, TODAY + timedelta(days=10), 10)
    after = {step: state for step, state in decided(connection).items() if step not in before}
    assert after == {"a15": "planned"}
    assert all(decided(connection)[step] == state for step, state in before.items())


def test_a_moved_due_date_is_planned_for_its_new_days(connection: Connection) -> None:
    booked.tenant(connection)
    booked.customer(connection)
    booked.charge(connection, due_date=date(2026, 12, 4))
    plan(connection, TODAY, 1)
    assert decided(connection) == {"l3": "planned"}
    charges.edit(connection, "t1", "c1", now=NOW, due_date=date(2026, 12, 11))
    assert decided(connection) == {"l3": "cancelled edited"}
    plan(connection, TODAY, 8)
    query = select(intents.c.due_date, intents.c.planned_on, intents.c.state).order_by(intents.c.due_date)
    assert connection.execute(query).all() == [
        (date(2026, 12, 4), TODAY, "cancelled"), (date(2026, 12, 11), date(2026, 12, 8), "planned"),
    ]  # fmt: skip


def test_what_is_a_pattern_to_a_database_is_a_text_to_a_search(connection: Connection) -> None:
    booked.tenant(connection)
    booked.customer(connection, "a%b", name="Ana")
    booked.customer(connection, "a_b", name="Bia")
    booked.customer(connection, "axb", name="Lia")
    for search, ids in (("%", {"a%b"}), ("_", {"a_b"}), ("A_B", {"a_b"}), ("\\", set()), ("ia", {"a_b", "axb"})):
        assert {each.id for each in customers.find(connection, "t1", search=search)} == ids
    for id_ in ("a%b", "a_b", "axb"):
        booked.charge(connection, f"c-{id_}", customer_id=id_, description="100% off" if id_ == "axb" else None)
    for search, ids in (("%", {"a%b", "axb"}), ("_", {"a_b"})):
        found = charges.find(connection, "t1", now=NOW, search=search)
        assert {whose.id for _, whose in found} == ids


@pytest.mark.parametrize("name", ["undefined", "JoÃ£o", "{{nome}}", "Jo\ufffdo"])
def test_a_damaged_name_or_description_is_refused_before_a_message_has_it(connection: Connection, name: str) -> None:
    booked.tenant(connection)
    with pytest.raises(InvalidBilling):
        booked.customer(connection, name=name)
    with pytest.raises(InvalidBilling):
        booked.new_charge(description=name)


def test_an_upsert_keeps_or_sets_channels_and_rule_and_ends_who_is_inactive(connection: Connection) -> None:
    booked.tenant(connection)
    rule = tenants.get(connection, "t1").rule_id
    rows = [Customer("t1", "k1", name="Ana", channels=("email",), rule_id=rule), Customer("t1", "k2", name="Bia")]
    assert customers.upsert(connection, "t1", rows, NOW) == (2, 0, 0)
    kept = [Customer("t1", "k1", name="Ana"), Customer("t1", "k2", name="Bia")]
    assert customers.upsert(connection, "t1", kept, NOW) == (0, 0, 2)
    found = {each.id: (each.channels, each.rule_id, each.active) for each in customers.find(connection, "t1")}
    assert found == {"k1": (("email",), rule, True), "k2": (("whatsapp",), None, True)}
    customers.change(connection, "t1", "k2", NOW, phone=MANAUS)
    message = booked.intent(connection, booked.charge(connection, customer_id="k2"))
    assert customers.upsert(connection, "t1", [Customer("t1", "k2", active=False)], NOW) == (0, 1, 0)
    assert booked.states(connection) == {message: "cancelled customer_inactive"}
    assert customers.upsert(connection, "t1", kept, NOW) == (0, 0, 2)
