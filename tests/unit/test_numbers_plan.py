"""
How long messages take, against times computed by hand.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifinu.numbers.plan import Limit, Task, plan
from ifinu.numbers.presets import Pace

BEGINS = datetime(2026, 12, 1, 11, 0, tzinfo=UTC)  # 8:00 in São Paulo, a Tuesday
FAST = Pace(1, 8_000, 10_000, None, None)  # with a send of 1 s, ten seconds a message
HOUR = timedelta(hours=1)


def task(messages, numbers=1, pace=FAST, **values):
    return Task(messages, numbers, lambda _: pace, BEGINS, **values)


@pytest.mark.parametrize(
    ("messages", "numbers", "pace", "values", "takes", "limit"),
    [
        (360, 1, FAST, {}, HOUR, Limit.GAP),
        (3600, 10, FAST, {}, HOUR, Limit.GAP),
        (360, 1, FAST, {"send_s": 11.0}, 2 * HOUR, Limit.GAP),
        (3600, 1, Pace(10, 8_000, 10_000, None, None), {}, HOUR, Limit.GAP),
        # 10 an hour: the last of 80 is the tenth of the eighth hour
        (80, 1, Pace(1, 8_000, 10_000, 80, None), {}, 7 * HOUR + timedelta(seconds=100), Limit.HOUR),
        # 1 more is the first of the next day
        (81, 1, Pace(1, 8_000, 10_000, 80, None), {}, 16 * HOUR + timedelta(seconds=10), Limit.DAY),
        (81, 1, Pace(1, 8_000, 10_000, 81, None), {"sent_today": 1}, 16 * HOUR + timedelta(seconds=10), Limit.DAY),
        # of 100, 50 are new: 40 are allowed at once, 10 wait for midnight
        (100, 1, Pace(1, 8_000, 10_000, None, 40), {"new": Fraction(1, 2)}, 16 * HOUR + timedelta(seconds=100),
         Limit.NEW_CHATS),
        (80, 1, Pace(1, 8_000, 10_000, None, 40), {"new": Fraction(1, 2)}, timedelta(seconds=800), Limit.GAP),
    ],
)  # fmt: skip
def test_how_long_messages_take(messages, numbers, pace, values, takes, limit):
    done = plan(task(messages, numbers, pace, **values))
    assert done.ends is not None
    assert abs(done.ends - BEGINS - takes) < timedelta(seconds=1)
    assert (done.limit, done.in_time, done.missing) == (limit, True, 0)


@pytest.mark.parametrize(("messages", "numbers", "takes", "limit"), [
    (100, 2, timedelta(seconds=500), Limit.GAP),
    (200, 2, 16 * HOUR + timedelta(seconds=500), Limit.TIER),
    (200, 4, 16 * HOUR + timedelta(seconds=250), Limit.TIER),
])  # fmt: skip
def test_numbers_of_a_portfolio_share_its_tier(messages, numbers, takes, limit):
    done = plan(task(messages, numbers, tier=100))
    assert abs(done.ends - BEGINS - takes) < timedelta(seconds=1)
    assert done.limit is limit


def test_no_number_of_numbers_is_enough_for_a_portfolio_of_a_lower_tier():
    done = plan(task(200, 2, by=BEGINS + HOUR, tier=100))
    assert (done.in_time, done.sent_by, done.missing) == (False, 100, None)


def test_nothing_is_sent_outside_the_window():
    def opens_at(now):
        return None if 11 <= now.hour < 12 else now.replace(hour=11, minute=0) + timedelta(days=now.hour >= 12)

    done = plan(task(720, opens_at=opens_at))
    assert abs(done.ends - BEGINS - 25 * HOUR) < timedelta(seconds=1)
    assert plan(task(360, opens_at=opens_at)).ends - BEGINS < HOUR + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("messages", "numbers", "hours", "in_time", "sent_by", "missing"),
    [
        (720, 1, 2, True, 720, 0),
        (721, 1, 2, False, 720, 1),
        (1440, 1, 2, False, 720, 1),
        (1441, 1, 2, False, 720, 2),
        (7200, 4, 2, False, 2880, 6),
    ],
)
def test_how_many_numbers_are_missing(messages, numbers, hours, in_time, sent_by, missing):
    done = plan(task(messages, numbers, by=BEGINS + hours * HOUR))
    assert (done.in_time, done.sent_by, done.missing) == (in_time, sent_by, missing)


def test_no_number_of_numbers_is_enough_for_a_window_that_opens_too_late():
    done = plan(
        task(100, by=BEGINS + HOUR, opens_at=lambda now: None if now >= BEGINS + 2 * HOUR else BEGINS + 2 * HOUR)
    )
    assert (done.in_time, done.sent_by, done.missing) == (False, 0, None)
    assert done.ends is not None


def test_a_number_that_may_send_nothing_never_ends():
    done = plan(task(100, pace=Pace(1, 0, 0, 0, 0), by=BEGINS + HOUR))
    assert (done.ends, done.sent_by, done.missing) == (None, 0, None)


@pytest.mark.parametrize(("numbers", "pods"), [(1, 1), (500, 1), (501, 2), (10_000, 20)])
def test_a_pod_sends_fifty_a_second(numbers, pods):
    assert plan(task(numbers, numbers)).pods(50) == pods


@given(
    st.integers(1, 3000), st.integers(1, 5), st.integers(0, 20), st.integers(8, 500) | st.none(),
    st.integers(1, 100) | st.none(), st.integers(0, 10), st.integers(1, 48),
)  # fmt: skip
def test_caps_hold_and_more_numbers_are_never_later(messages, numbers, gap_s, per_day, new_chats, tenths, hours):
    of = task(
        messages, numbers, Pace(1, gap_s * 1000, gap_s * 1000, per_day, new_chats), new=Fraction(tenths, 10),
        by=BEGINS + hours * HOUR,
    )  # fmt: skip
    done = plan(of)
    assert 0 <= done.sent_by <= messages
    assert (done.sent_by == messages) or not done.in_time
    if per_day is not None:
        days = ((BEGINS + hours * HOUR - timedelta(hours=3)).date() - BEGINS.date()).days + 1
        assert done.sent_by <= numbers * per_day * days
    if done.missing:
        assert plan(task(messages, numbers + done.missing, of.pace(BEGINS.date()), new=of.new, by=of.by)).in_time
        assert not plan(
            task(messages, numbers + done.missing - 1, of.pace(BEGINS.date()), new=of.new, by=of.by)
        ).in_time
