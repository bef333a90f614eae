"""
Paces of a number: presets, what replaces their values, and the warm-up of a new number.

    preset        parallel   gap       per day   new chats   for
    conservador   1          8-25 s    400       60          the default: Baileys, known customers
    moderado      1          4-12 s    1,000     150         Baileys, a year old, people answer
    aquecimento   1          20-60 s   ramp      ramp        a new number; ends as `conservador`
    cloud         20         none      250       250         Meta's Cloud API: its lowest tier; in a portfolio -, -
    direto        10         none      -         -           the simulator, load tests

WhatsApp publishes no safe rate. The values lie in the range that users of gateways report; new chats matter most.

The warm-up: on day 0 the number rests; on day n it may send 20·1.35ⁿ⁻¹ messages and open 5·1.35ⁿ⁻¹ new chats, until
that is what its preset allows. Its day is counted from `warm_up_from`, which the guard moves: a day counts only if it
was calm, and a hold sets the number back by three days.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol

from ifinu.errors import ConfigurationError

YOUNG = timedelta(days=14)  # a number paired for less is warmed up
HELD_BACK = timedelta(days=3)  # what a hold by the guard costs in the warm-up

LOWEST_TIER = 250  # of Meta's: people that a portfolio may write to in 24 hours

_FIRST_DAY, _FIRST_CHATS, _GROWTH = 20, 5, 1.35
_LONGEST_RAMP_DAYS = 60  # beyond every preset, and a power that a float can hold


class Preset(enum.StrEnum):
    """The names of the presets; see the table above."""

    CONSERVATIVE = "conservador"
    MODERATE = "moderado"
    WARM_UP = "aquecimento"
    CLOUD = "cloud"
    DIRECT = "direto"

    @property
    def warms_up(self) -> bool:
        """Whether a new number with this preset is warmed up."""
        return self not in (Preset.CLOUD, Preset.DIRECT)


@dataclass(frozen=True, slots=True)
class Pace:
    """
    How fast a number may send.

    Attributes:
        parallel: Messages in flight at once.
        gap_min_ms: Shortest pause after a send has ended, in milliseconds.
        gap_max_ms: Longest pause; each one is random between the two.
        per_day: Messages on one of its local days; None for no limit.
        new_chats: People it may write to for the first time on one of its local days; None for no limit.
    """

    parallel: int
    gap_min_ms: int
    gap_max_ms: int
    per_day: int | None
    new_chats: int | None


_CONSERVATIVE = Pace(1, 8_000, 25_000, 400, 60)
_PACES = {
    Preset.CONSERVATIVE: _CONSERVATIVE,
    Preset.MODERATE: Pace(1, 4_000, 12_000, 1_000, 150),
    Preset.WARM_UP: _CONSERVATIVE,
    Preset.CLOUD: Pace(20, 0, 0, LOWEST_TIER, LOWEST_TIER),
    Preset.DIRECT: Pace(10, 0, 0, None, None),
}
IN_A_PORTFOLIO: Mapping[str, int | None] = {"per_day": None, "new_chats": None}  # of `cloud`: its tier is the limit
_WARM_UP_GAP = {"gap_min_ms": 20_000, "gap_max_ms": 60_000}
# The least and the greatest value of each; None is for no limit, where there may be none.
_RANGES = {
    "parallel": (1, 100),
    "gap_min_ms": (0, 3_600_000),
    "gap_max_ms": (0, 3_600_000),
    "per_day": (0, 1_000_000),
    "new_chats": (0, 1_000_000),
}
_UNLIMITED = ("per_day", "new_chats")


class Paced(Protocol):
    """What the pace of a number depends on."""

    @property
    def preset(self) -> Preset: ...

    @property
    def overrides(self) -> Mapping[str, int | None]:
        """Values by the names of `Pace`, instead of the preset's."""

    @property
    def warm_up_from(self) -> date | None:
        """Day 0 of its warm-up, in its time zone; None for no warm-up."""


def pace(number: Paced, today: date) -> Pace:
    """
    The pace of a number on a day.

    Args:
        today: The date where the number is.
    """
    full = _full(number.preset, number.overrides)
    if (day := warm_up_day(number, today)) is None:
        return full
    return dataclasses.replace(
        full,
        parallel=1,
        per_day=_least(_ramp(_FIRST_DAY, day), full.per_day),
        new_chats=_least(_ramp(_FIRST_CHATS, day), full.new_chats),
        **{name: value for name, value in _WARM_UP_GAP.items() if name not in number.overrides},
    )


def warm_up_day(number: Paced, today: date) -> int | None:
    """The day of its warm-up, from 0; None if it is not warmed up, or that has ended."""
    if number.warm_up_from is None:
        return None
    day = max(0, (today - number.warm_up_from).days)
    full = _full(number.preset, number.overrides)
    ended = _reaches(_ramp(_FIRST_DAY, day), full.per_day) and _reaches(_ramp(_FIRST_CHATS, day), full.new_chats)
    return None if ended else day


def warm_up_start(preset: Preset, paired_on: date | None, today: date) -> date | None:
    """
    Day 0 of the warm-up that a number begins by itself; None if it needs none, or waits for its pairing.

    Args:
        paired_on: The date of its pairing; None if it is not paired yet.
    """
    if preset is Preset.WARM_UP:
        return today if paired_on is None else max(paired_on, today)
    if not preset.warms_up or paired_on is None or today - paired_on >= YOUNG:
        return None
    return paired_on


def set_back(warm_up_from: date, today: date, by: timedelta = HELD_BACK) -> date:
    """Day 0 of a warm-up that is set back, after a hold or by a day that was not calm; at most to its start."""
    return max(warm_up_from, min(today, warm_up_from + by))


def checked(preset: Preset, overrides: Mapping[str, Any]) -> dict[str, int | None]:
    """
    Check the values that replace a preset's.

    Raises:
        ConfigurationError: A name is not one of `Pace`'s, or a value is outside its range.
    """
    for name, value in overrides.items():
        if name not in _RANGES:
            raise ConfigurationError(f"{name} is no part of a pace: write one of {', '.join(_RANGES)}")
        if value is None and name in _UNLIMITED:
            continue
        least, greatest = _RANGES[name]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= greatest:
            raise ConfigurationError(f"{name} must be a whole number from {least:,} to {greatest:,}, not {value!r}")
    full = _full(preset, overrides)
    if full.gap_min_ms > full.gap_max_ms:
        raise ConfigurationError(
            f"the shortest gap ({full.gap_min_ms} ms) is longer than the longest ({full.gap_max_ms} ms): give both"
        )
    return dict(overrides)


def _full(preset: Preset, overrides: Mapping[str, int | None]) -> Pace:
    return dataclasses.replace(_PACES[preset], **overrides)  # type: ignore[arg-type]  # `checked` has seen them


def _ramp(first: int, day: int) -> int:
    return 0 if day == 0 else int(first * _GROWTH ** min(day - 1, _LONGEST_RAMP_DAYS))


def _least(ramp: int, limit: int | None) -> int:
    return ramp if limit is None else min(ramp, limit)


def _reaches(ramp: int, limit: int | None) -> bool:
    return limit is not None and ramp >= limit
