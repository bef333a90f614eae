"""
The days of the régua: the tables say what the functions say, and no closed day is a day for sending.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, time, timedelta

import pytest
import structlog
from sqlalchemy import Connection, Engine, func, insert, select, text

from ifinu import business_days
from ifinu.billing import calendars
from ifinu.billing.billing_schema import bank_days, billing_tenants, own_holidays, rules, send_days
from ifinu.errors import ConfigurationError
from ifinu.ledger.engine import connect

TODAY = date(2026, 11, 30)
DAY = timedelta(days=1)


@pytest.fixture
def engine(postgres_ledger: str) -> Iterator[Engine]:
    engine = connect(postgres_ledger)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


def days_of(connection: Connection, calendar: int) -> dict[date, tuple[date, time, time]]:
    rows = connection.execute(select(send_days).where(send_days.c.calendar_id == calendar))
    return {row.day: (row.send_on, row.opens, row.closes) for row in rows}


def test_the_bank_days_give_the_dates_that_the_functions_give(connection: Connection):
    calendars.fill(connection, TODAY)
    connection.execute(text("ANALYZE bank_days"))  # else it may be known as the empty table that it was before
    for method, lag in calendars.SETTLEMENT_DAYS.items():
        query = text(
            "SELECT due.day, due.next_open, paid.day + 1 FROM bank_days due"
            " JOIN bank_days paid ON paid.ord = due.ord + :lag AND paid.day = paid.next_open"
        )
        rows = connection.execute(query, {"lag": lag}).all()
        assert len(rows) > 7_600
        for due, payable, late in rows:
            assert (payable, late) == (calendars.payable_on(due), calendars.late_from(due, method))


def test_days_are_added_once_and_later_ones_go_on_from_them(connection: Connection):
    calendars.fill(connection, date(2025, 5, 1))
    before = connection.execute(select(bank_days).order_by(bank_days.c.day)).all()
    calendars.fill(connection, date(2025, 5, 1))
    assert connection.execute(select(bank_days).order_by(bank_days.c.day)).all() == before
    calendars.fill(connection, date(2027, 1, 1))
    added = connection.execute(select(bank_days).where(bank_days.c.day > before[-1].day)).all()
    assert {row.day.year for row in added} == {2036, 2037}
    assert min(row.ord for row in added) == before[-1].ord + business_days.is_bank_day(before[-1].day)


def test_a_tenants_own_holidays_close_its_calendars_alone(connection: Connection):
    rule = connection.execute(insert(rules).values(name="padrao", version=1).returning(rules.c.id)).scalar_one()
    connection.execute(insert(billing_tenants).values(id="u1", legal_name="Fit", uf="SP", rule_id=rule))
    own = calendars.calendar_id(connection, window_spec="comercial", uf="SP", own="u1", today=TODAY)
    shared = calendars.calendar_id(connection, window_spec="comercial", uf="SP", today=TODAY)
    calendars.close(connection, "u1", {date(2026, 12, 7): "aniversário"}, TODAY)
    assert days_of(connection, own)[date(2026, 12, 7)] == (date(2026, 12, 8), time(8), time(18))
    assert days_of(connection, own)[date(2026, 12, 5)][0] == date(2026, 12, 8)  # a Saturday
    assert days_of(connection, shared)[date(2026, 12, 7)][0] == date(2026, 12, 7)
    calendars.close(connection, "u1", {}, TODAY)
    assert days_of(connection, own) == days_of(connection, shared)
    assert connection.execute(select(func.count()).select_from(own_holidays)).scalar() == 0


def test_a_calendar_is_made_once_and_is_always_two_months_ahead(connection: Connection):
    first = calendars.calendar_id(connection, window_spec=" Daily 09:00-24:00", uf="BA", today=TODAY)
    assert calendars.calendar_id(connection, window_spec="daily 09:00-24:00 ", uf="BA", today=TODAY) == first
    assert days_of(connection, first)[date(2026, 12, 6)] == (date(2026, 12, 6), time(9), time(23, 59, 59))
    for passed in range(0, 200, 25):
        calendars.fill(connection, TODAY + passed * DAY)
        assert max(days_of(connection, first)) >= TODAY + (passed + 60) * DAY
    everyday = calendars.calendar_id(connection, window_spec="always", uf="BA", today=TODAY)
    assert days_of(connection, everyday)[date(2026, 12, 25)] == (date(2026, 12, 25), time(0), time(23, 59, 59))


def test_a_calendar_that_is_closed_too_long_keeps_no_other_short(connection: Connection):
    rule = connection.execute(insert(rules).values(name="padrao", version=1).returning(rules.c.id)).scalar_one()
    connection.execute(insert(billing_tenants).values(id="u1", legal_name="Fit", uf="SP", rule_id=rule))
    own = calendars.calendar_id(connection, window_spec="always", uf="SP", own="u1", today=TODAY)
    shared = calendars.calendar_id(connection, window_spec="comercial", uf="SP", today=TODAY)
    closed = date(2027, 3, 30)
    # Beyond the days that are there, so that it is not refused.
    calendars.close(connection, "u1", {closed + n * DAY: "obra" for n in range(70)}, TODAY)
    with structlog.testing.capture_logs() as lines:
        calendars.fill(connection, TODAY + 60 * DAY)
    assert [(line["event"], line["calendar"]) for line in lines] == [("ifinu.calendar.not_extended", own)]
    assert max(days_of(connection, own)) == closed - DAY
    assert max(days_of(connection, shared)) == TODAY + 150 * DAY
    calendars.fill(connection, closed + 12 * DAY)
    assert max(days_of(connection, own)) == closed + 102 * DAY


@pytest.mark.parametrize(
    ("spec", "uf", "words"),
    [
        ("seg-sex 08:00-12:00, seg-sex 14:00-18:00", "SP", "a day may have one range here"),
        ("weekdays", "SP", "is no window"),
        ("lei-sp", "XX", "'XX' is no state"),
    ],
)
def test_a_window_that_cannot_be_kept_is_refused_in_words(connection: Connection, spec: str, uf: str, words: str):
    with pytest.raises(ConfigurationError, match=words):
        calendars.calendar_id(connection, window_spec=spec, uf=uf, today=TODAY)
