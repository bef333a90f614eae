"""
How long a number of messages takes, computed from the pace of the numbers that send them.

A number sends a message in its mean gap and the time of the send. It stops at its share of the hour, at its cap of the
day, and outside its sending window. Messages to people it never wrote to are capped, too; the rest of them waits for
the next day, and the others go on. All numbers get the same share of the messages. Nothing here is random or asks a
server.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from zoneinfo import ZoneInfo

from ifinu.broker.obstacles import HOURLY_SHARE
from ifinu.numbers.presets import Pace
from ifinu.window import BRASILIA

_LONGEST = timedelta(days=120)
_STEP = timedelta(minutes=5)  # sending windows are looked at this often
_MOST_NUMBERS = 1_000_000
_NOTHING = 1e-6  # messages


class Limit(StrEnum):
    """What keeps a number from sending."""

    GAP = "gap"
    HOUR = "hourly share"
    DAY = "day cap"
    NEW_CHATS = "new-chat cap"
    TIER = "portfolio's tier"
    WINDOW = "sending window"


@dataclass(frozen=True, slots=True)
class Task:
    """
    What is to be sent, and with what.

    Attributes:
        messages: How many messages.
        numbers: How many numbers share them.
        pace: The pace of one number on a local day.
        begins: When they begin, aware.
        by: When they have to be out; None for no deadline.
        new: Share of the messages to people whom their number never wrote to.
        send_s: How long a send takes, in seconds.
        sent_today: How many messages each number has sent before on the first day.
        opens_at: When a sending window opens; None while it is open (`window.Windows.opens_at`). None if there is none.
        zone: The numbers' time zone.
        tier: How many people all numbers together may write to a day, if they share a portfolio at Meta; each message
            is taken to go to another person. None without a limit.
    """

    messages: int
    numbers: int
    pace: Callable[[date], Pace]
    begins: datetime
    by: datetime | None = None
    new: Fraction = Fraction(0)
    send_s: float = 1.0
    sent_today: int = 0
    opens_at: Callable[[datetime], datetime | None] | None = None
    zone: str = BRASILIA
    tier: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What follows.

    Attributes:
        ends: When the last message is out; None if that takes more than four months, or for ever.
        sent_by: How many messages are out at the deadline.
        in_time: Whether all are.
        missing: How many numbers more would do it in time; None if no number of them would.
        per_s: Messages a second while all numbers send.
        limit: What the numbers wait for most of the time.
    """

    ends: datetime | None
    sent_by: int
    in_time: bool
    missing: int | None
    per_s: float
    limit: Limit

    def pods(self, rate_per_s: float) -> int:
        """How many workers send that fast, each at most `rate_per_s`."""
        return max(1, math.ceil(self.per_s / rate_per_s))


@dataclass(slots=True)
class _Run:
    ends: datetime | None
    sent_by: float
    waits: dict[Limit, float]  # seconds


def plan(task: Task) -> Plan:
    run = _run(task, max(task.begins, task.by or task.begins) + _LONGEST)
    sent_by = min(task.messages, math.floor(run.sent_by * task.numbers + _NOTHING))
    in_time = run.ends is not None and (task.by is None or run.ends <= task.by)
    today = task.begins.astimezone(ZoneInfo(task.zone)).date()
    per_s = task.numbers / _interval_s(task.pace(today), task.send_s)
    limit = max(Limit, key=lambda each: run.waits[each])
    return Plan(run.ends, sent_by, in_time, 0 if in_time else _missing(task), per_s, limit)


def _missing(task: Task) -> int | None:
    """The least number of numbers to add, by doubling and halving: more of them are never later."""
    by = task.by
    if by is None:
        return None

    def suffices(numbers: int) -> bool:
        ends = _run(replace(task, numbers=numbers), by).ends
        return ends is not None and ends <= by

    enough = task.numbers
    while not suffices(enough):
        if enough >= min(_MOST_NUMBERS, task.messages):
            return None
        enough = min(2 * enough, task.messages)
    few = task.numbers
    while enough - few > 1:
        between = (few + enough) // 2
        few, enough = (few, between) if suffices(between) else (between, enough)
    return enough - task.numbers


def _run(task: Task, until: datetime) -> _Run:
    """Follow one number, which has its share of the messages, from one hour, window or day to the next."""
    zone = ZoneInfo(task.zone)
    new = task.messages * float(task.new) / task.numbers
    known = task.messages / task.numbers - new
    now, deadline = task.begins.astimezone(UTC), task.by
    waits = dict.fromkeys(Limit, 0.0)
    done = sent_by = 0.0
    day, today, chats = now.astimezone(zone).date(), float(task.sent_today), 0.0
    hour, this_hour = now.astimezone(zone).replace(minute=0, second=0, microsecond=0), 0.0
    while now < until:
        local = now.astimezone(zone)
        if local.date() != day:
            day, today, chats = local.date(), 0.0, 0.0
        if (begun := local.replace(minute=0, second=0, microsecond=0)) != hour:
            hour, this_hour = begun, 0.0
        pace = task.pace(day)
        step_ends = (hour + timedelta(hours=1)).astimezone(UTC)
        if task.opens_at is not None:
            if (opens := task.opens_at(now)) is not None:
                waits[Limit.WINDOW] += (opens - now).total_seconds()
                now = opens
                continue
            step_ends = min(step_ends, now + _STEP)
        interval_s = _interval_s(pace, task.send_s)
        able, limit = _able(pace, (step_ends - now).total_seconds() / interval_s, today, this_hour)
        if task.tier is not None and (left := max(0.0, task.tier / task.numbers - today)) < able:
            able, limit = left, Limit.TIER
        chats_left = math.inf if pace.new_chats is None else max(0.0, pace.new_chats - chats)
        of_known, of_new = _mixed(able, known, new, chats_left)
        if of_known + of_new < able - _NOTHING and known + new > of_known + of_new + _NOTHING:
            limit = Limit.NEW_CHATS
        took = of_known + of_new
        if deadline is not None and now < deadline:
            before_s = min((deadline - now).total_seconds(), took * interval_s)
            sent_by = done + before_s / interval_s
        done, today, this_hour, chats = done + took, today + took, this_hour + took, chats + of_new
        known, new = known - of_known, new - of_new
        if known + new <= _NOTHING:
            ends = now + timedelta(seconds=took * interval_s)
            return _Run(ends, done if deadline is None or ends <= deadline else sent_by, waits)
        waits[limit] += (step_ends - now).total_seconds()
        now = step_ends
    return _Run(None, sent_by, waits)


def _interval_s(pace: Pace, send_s: float) -> float:
    """Seconds from one message of a number to the next."""
    return max(1e-3, ((pace.gap_min_ms + pace.gap_max_ms) / 2000 + send_s) / pace.parallel)


def _able(pace: Pace, by_gap: float, today: float, this_hour: float) -> tuple[float, Limit]:
    """How many messages a number may send in a step, and what allows no more."""
    able, limit = by_gap, Limit.GAP
    if pace.per_day is not None:
        for left, of in (
            (pace.per_day - today, Limit.DAY),
            (math.ceil(pace.per_day / HOURLY_SHARE) - this_hour, Limit.HOUR),
        ):
            if left < able:
                able, limit = max(0.0, left), of
    return able, limit


def _mixed(able: float, known: float, new: float, chats_left: float) -> tuple[float, float]:
    """How many messages of each kind are among the next ones; they are mixed evenly, and new ones beyond a cap wait."""
    of_new = min(able * new / (known + new), new, chats_left)
    return min(able - of_new, known), of_new
