"""
The days on which the régua sends, in every state and year.
"""

from __future__ import annotations

from datetime import date, time, timedelta

import pytest

from ifinu import business_days
from ifinu.billing import calendars
from ifinu.window import STATES

DAY = timedelta(days=1)


@pytest.mark.parametrize("year", range(2026, 2036))
def test_nothing_is_sent_on_a_holiday_of_any_state(year: int):
    for uf in sorted(STATES):
        for first in (date(year, 1, 1), date(year, 4, 1), date(year, 7, 1), date(year, 10, 1)):
            for day, send_on, opens, closes in calendars.sending_days("lei-sp", uf, (), first):
                assert send_on >= day
                assert send_on.weekday() < 6
                assert not business_days.is_holiday(send_on, uf)
                assert (opens, closes) == (time(8), time(14) if send_on.weekday() == 5 else time(20))
                between = (day + n * DAY for n in range((send_on - day).days))
                assert all(each.weekday() == 6 or business_days.is_holiday(each, uf) for each in between)


@pytest.mark.parametrize(
    ("due", "method", "payable", "late"),
    [
        ("2026-12-05", "pix", "2026-12-07", "2026-12-08"),  # a Saturday
        ("2026-12-05", "card", "2026-12-07", "2026-12-09"),
        ("2026-12-05", "boleto", "2026-12-07", "2026-12-10"),
        ("2026-12-04", "boleto", "2026-12-04", "2026-12-09"),  # a Friday: Monday and Tuesday are two bank days
        ("2026-12-24", "boleto", "2026-12-24", "2026-12-30"),  # Christmas is a Friday
        ("2026-02-13", "boleto", "2026-02-13", "2026-02-20"),  # Friday before Carnival: Ash Wednesday and Thursday
        ("2028-02-29", "card", "2028-03-01", "2028-03-03"),  # a leap day that is Carnival's Tuesday
        ("2026-12-31", "other", "2026-12-31", "2027-01-01"),
    ],
)
def test_a_charge_is_late_once_a_payment_in_time_would_be_known(due: str, method: str, payable: str, late: str):
    assert calendars.payable_on(date.fromisoformat(due)).isoformat() == payable
    assert calendars.late_from(date.fromisoformat(due), method).isoformat() == late
