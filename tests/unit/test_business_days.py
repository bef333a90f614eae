from datetime import date, timedelta

import pytest
from forks import libraries

from ifinu import business_days

# As FEBRABAN lists them, weekends among them.
BANK_HOLIDAYS = {
    2026: "01-01 02-16 02-17 04-03 04-21 05-01 06-04 09-07 10-12 11-02 11-15 11-20 12-25",
    2027: "01-01 02-08 02-09 03-26 04-21 05-01 05-27 09-07 10-12 11-02 11-15 11-20 12-25",
    2028: "01-01 02-28 02-29 04-14 04-21 05-01 06-15 09-07 10-12 11-02 11-15 11-20 12-25",
}


@pytest.mark.parametrize("year", BANK_HOLIDAYS)
def test_banks_are_closed_on_weekends_and_on_the_days_that_febraban_lists(year):
    holidays = {date.fromisoformat(f"{year}-{day}") for day in BANK_HOLIDAYS[year].split()}
    days = [date(year, 1, 1) + timedelta(days=n) for n in range(365 + (year == 2028))]
    closed = {day for day in days if not business_days.is_bank_day(day)}
    assert closed == holidays | {day for day in days if day.isoweekday() in (6, 7)}


@pytest.mark.parametrize(
    ("due", "payable", "late"),
    [
        ("2026-12-01", "2026-12-01", "2026-12-02"),  # a Tuesday
        ("2026-12-04", "2026-12-04", "2026-12-05"),  # a Friday: late on Saturday
        ("2026-12-05", "2026-12-07", "2026-12-08"),  # a Saturday
        ("2026-12-06", "2026-12-07", "2026-12-08"),  # a Sunday
        ("2026-11-02", "2026-11-03", "2026-11-04"),  # Finados, a Monday
        ("2026-10-31", "2026-11-03", "2026-11-04"),  # the Saturday before it
        ("2026-02-14", "2026-02-18", "2026-02-19"),  # the Saturday before Carnival: until Ash Wednesday
        ("2026-02-17", "2026-02-18", "2026-02-19"),
        ("2026-04-03", "2026-04-06", "2026-04-07"),  # Good Friday
        ("2026-06-04", "2026-06-05", "2026-06-06"),  # Corpus Christi, a Thursday
        ("2026-12-24", "2026-12-24", "2026-12-25"),
        ("2026-12-25", "2026-12-28", "2026-12-29"),
        ("2026-12-31", "2026-12-31", "2027-01-01"),  # no customers at the counters, but payments are cleared
        ("2027-01-01", "2027-01-04", "2027-01-05"),
        ("2026-07-09", "2026-07-09", "2026-07-10"),  # a holiday of São Paulo alone
        ("0001-01-06", "0001-01-08", "0001-01-09"),
    ],
)
def test_a_charge_is_late_from_the_day_after_its_next_bank_day(due, payable, late):
    assert business_days.payable_until(date.fromisoformat(due)).isoformat() == payable
    assert business_days.late_from(date.fromisoformat(due)).isoformat() == late


@pytest.mark.parametrize(
    ("day", "states", "elsewhere"),
    [
        ("2026-07-09", "SP", "RJ MG BA"),
        ("2026-04-23", "RJ", "SP ES"),
        ("2026-09-20", "RS", "SC PR"),
        ("2026-07-02", "BA", "SE PE"),
        ("2026-12-25", "SP AC RJ", ""),
        ("2026-02-17", "SP AC RJ", ""),  # Carnival
        ("2026-06-04", "SP AC RJ", ""),  # Corpus Christi
        ("2026-12-24", "", "SP RJ"),
        ("2026-10-28", "", "SP RJ"),  # of public servants
        ("2026-12-05", "", "SP RJ"),  # a Saturday
    ],
)
def test_a_day_is_a_holiday_for_its_state(day, states, elsewhere):
    day = date.fromisoformat(day)
    every = {state: business_days.is_holiday(day, state) for state in (states + " " + elsewhere).split()}
    assert every == dict.fromkeys(states.split(), True) | dict.fromkeys(elsewhere.split(), False)


def test_only_brazils_calendar_is_loaded_and_only_on_first_use():
    """Loading every country would cost each worker 8 MiB."""
    code = (
        "import sys; from datetime import date; from ifinu import business_days, window\n"
        "assert 'holidays' not in sys.modules\n"
        "business_days.is_holiday(date(2026, 7, 9), 'SP')\n"
        "assert 'holidays' in sys.modules and 'holidays.countries' not in sys.modules"
    )
    assert libraries().run(code).code == 0
