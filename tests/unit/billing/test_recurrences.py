"""
Due dates of charges that repeat.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifinu.billing.recurrences import Recurrence, due_on
from ifinu.errors import InvalidBilling

MONTHLY = Recurrence("t1", "r1", "k1", Decimal(10), 1, "months", date(2027, 1, 31))


@pytest.mark.parametrize(
    ("anchor", "every", "unit", "days"),
    [
        ("2027-01-31", 1, "months", "2027-01-31 2027-02-28 2027-03-31 2027-04-30 2027-05-31"),
        ("2028-01-31", 1, "months", "2028-01-31 2028-02-29 2028-03-31"),
        ("2028-02-29", 1, "years", "2028-02-29 2029-02-28 2030-02-28 2031-02-28 2032-02-29"),
        ("2026-11-30", 3, "months", "2026-11-30 2027-02-28 2027-05-30 2027-08-30"),
        ("2026-12-29", 2, "weeks", "2026-12-29 2027-01-12 2027-01-26"),
        ("2026-12-29", 10, "days", "2026-12-29 2027-01-08 2027-01-18"),
        ("2026-10-05", 6, "months", "2026-10-05 2027-04-05 2027-10-05"),
    ],
)
def test_due_dates_count_from_the_anchor(anchor: str, every: int, unit: str, days: str):
    dates = [due_on(date.fromisoformat(anchor), every, unit, n).isoformat() for n in range(len(days.split()))]
    assert dates == days.split()


@given(st.dates(date(2020, 1, 1), date(2060, 12, 31)), st.integers(1, 24), st.integers(0, 400))
def test_each_month_has_its_due_date_on_the_anchors_day_or_on_its_last(anchor: date, every: int, n: int):
    day, following = due_on(anchor, every, "months", n), due_on(anchor, every, "months", n + 1)
    assert (following.year - day.year) * 12 + following.month - day.month == every
    assert day.day == anchor.day or (day.day < anchor.day and (day.replace(day=28).month != day.month or day.day >= 28))


def test_a_recurrence_ends_by_its_count_or_its_last_day():
    assert replace(MONTHLY, count=2).due_on(1) == date(2027, 2, 28)
    assert replace(MONTHLY, count=2).due_on(2) is None
    assert replace(MONTHLY, until=date(2027, 3, 30)).due_on(2) is None
    assert MONTHLY.due_on(12 * 80) is None  # beyond this century


@pytest.mark.parametrize(
    "wrong", [{"unit": "fortnights"}, {"every": 0}, {"count": 0}, {"until": date(2026, 1, 1)}, {"method": "cash"}]
)
def test_a_recurrence_that_makes_no_sense_is_refused(wrong: dict[str, object]):
    with pytest.raises(InvalidBilling) as refused:
        replace(MONTHLY, **wrong)
    assert [refused.value.field] == list(wrong)
