"""
The pace of a number by its preset, what replaces it, and its warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifinu.errors import ConfigurationError
from ifinu.numbers.presets import Pace, Preset, checked, pace, set_back, warm_up_day, warm_up_start

TODAY = date(2026, 12, 1)


@dataclass(frozen=True)
class Number:
    preset: Preset
    overrides: Mapping[str, int | None] = field(default_factory=dict)
    warm_up_from: date | None = None


def on_day(day: int, preset: Preset = Preset.CONSERVATIVE, **overrides: int | None) -> Pace:
    return pace(Number(preset, overrides, TODAY - timedelta(days=day)), TODAY)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("conservador", Pace(1, 8_000, 25_000, 400, 60)),
        ("moderado", Pace(1, 4_000, 12_000, 1_000, 150)),
        ("aquecimento", Pace(1, 8_000, 25_000, 400, 60)),  # once its warm-up has ended
        ("cloud", Pace(20, 0, 0, 250, 250)),
        ("direto", Pace(10, 0, 0, None, None)),
    ],
)
def test_the_pace_of_a_preset(preset: str, expected: Pace) -> None:
    assert pace(Number(Preset(preset)), TODAY) == expected


def test_what_is_given_replaces_the_presets_values() -> None:
    number = Number(Preset.CONSERVATIVE, {"gap_min_ms": 1_000, "per_day": None})
    assert pace(number, TODAY) == Pace(1, 1_000, 25_000, None, 60)


@pytest.mark.parametrize(
    ("day", "per_day", "new_chats"),
    [(0, 0, 0), (1, 20, 5), (2, 27, 6), (3, 36, 9), (7, 121, 30), (10, 297, 60), (11, 400, 60)],
)
def test_a_warm_up_day_by_day(day: int, per_day: int, new_chats: int) -> None:
    found = on_day(day)
    assert (found.per_day, found.new_chats) == (per_day, new_chats)
    assert (found.gap_min_ms, found.gap_max_ms) == ((20_000, 60_000) if day < 11 else (8_000, 25_000))


def test_a_warm_up_ends_by_itself_at_what_its_preset_allows() -> None:
    assert [on_day(day) == pace(Number(Preset.CONSERVATIVE), TODAY) for day in (10, 11, 10_000)] == [False, True, True]
    moderate = [Number(Preset.MODERATE, {}, TODAY - timedelta(days=day)) for day in (14, 15)]
    assert [warm_up_day(number, TODAY) for number in moderate] == [14, None]


def test_during_a_warm_up_a_lower_limit_and_a_given_gap_count() -> None:
    assert on_day(7, per_day=50, new_chats=3, gap_min_ms=90_000, gap_max_ms=95_000) == Pace(1, 90_000, 95_000, 50, 3)
    assert on_day(7, Preset.CONSERVATIVE, parallel=5, per_day=None).parallel == 1
    assert on_day(7, Preset.CONSERVATIVE, per_day=None).per_day == 121


@pytest.mark.parametrize(
    ("preset", "paired_days_ago", "day_zero_days_ago"),
    [
        ("conservador", 0, 0),
        ("moderado", 13, 13),
        ("conservador", 14, None),
        ("conservador", None, None),  # begins when it is paired
        ("cloud", 0, None),
        ("direto", 0, None),
        ("aquecimento", 400, 0),  # asked for, so from today on
        ("aquecimento", None, 0),
    ],
)
def test_a_number_paired_lately_begins_a_warm_up(
    preset: str, paired_days_ago: int | None, day_zero_days_ago: int | None
) -> None:
    def ago(days: int | None) -> date | None:
        return None if days is None else TODAY - timedelta(days=days)

    assert warm_up_start(Preset(preset), ago(paired_days_ago), TODAY) == ago(day_zero_days_ago)


@pytest.mark.parametrize(("day", "after"), [(0, 0), (1, 0), (3, 0), (4, 1), (9, 6)])
def test_a_hold_sets_a_warm_up_back_by_three_days(day: int, after: int) -> None:
    moved = set_back(TODAY - timedelta(days=day), TODAY)
    assert (TODAY - moved).days == after


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"speed": 1}, "speed is no part"),
        ({"parallel": 0}, "parallel must be"),
        ({"parallel": None}, "parallel must be"),
        ({"per_day": -1}, "per_day must be"),
        ({"per_day": True}, "per_day must be"),
        ({"new_chats": "5"}, "new_chats must be"),
        ({"gap_min_ms": 3_600_001}, "gap_min_ms must be"),
        ({"gap_min_ms": 26_000}, "shortest gap"),
        ({"gap_max_ms": 7_999}, "shortest gap"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        checked(Preset.CONSERVATIVE, overrides)


@given(
    preset=st.sampled_from(Preset),
    day=st.integers(0, 20_000),
    per_day=st.none() | st.integers(0, 1_000_000),
    new_chats=st.none() | st.integers(0, 1_000_000),
)
def test_a_warm_up_grows_and_never_allows_more_than_the_preset(
    preset: Preset, day: int, per_day: int | None, new_chats: int | None
) -> None:
    overrides = checked(preset, {"per_day": per_day, "new_chats": new_chats})
    full = pace(Number(preset, overrides), TODAY)
    before, now = (pace(Number(preset, overrides, TODAY - timedelta(days=n)), TODAY) for n in (day, day + 1))
    for name in ("per_day", "new_chats"):
        limit = getattr(full, name)
        first, second = getattr(before, name), getattr(now, name)
        assert first is not None or limit is None
        assert limit is None or first <= second <= limit
    assert before.gap_min_ms >= full.gap_min_ms


@given(day=st.integers(-5, 100), by=st.integers(0, 10))
def test_a_warm_up_that_is_set_back_never_gets_ahead(day: int, by: int) -> None:
    begins = TODAY - timedelta(days=day)
    moved = set_back(begins, TODAY, timedelta(days=by))
    assert begins <= moved <= max(begins, TODAY)
