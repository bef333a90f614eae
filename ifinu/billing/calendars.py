"""
The calendars of the régua: until when a charge is paid in time, from when it is late, and on which days to write.

    due on Saturday 2026-12-05    payable on Monday 2026-12-07 (Lei 7.089/1983)
    paid by boleto                known on Wednesday 2026-12-09, so late from Thursday 2026-12-10

The planner reads both kinds of days from tables. `bank_days` has every day from ten years ago to ten years from now.
`send_days` has the next three months of each calendar in use: a window (`window.py`) in a state. Whatever the window,
it is closed on bank holidays, on the state's holidays and on the tenant's own; only `always` is open on all days.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert

from ifinu import business_days
from ifinu.billing.billing_schema import bank_days, calendars, own_holidays, send_days
from ifinu.errors import ConfigurationError
from ifinu.window import STATES, Window, resting

log = structlog.get_logger(__name__)

# Bank days from a payment until the bank reports it. Notices to people who had paid by boleto are a known complaint
# about systems that do not wait.
SETTLEMENT_DAYS: Mapping[str, int] = {"pix": 0, "card": 1, "boleto": 2, "other": 0}

_DAY = timedelta(days=1)
_YEARS = 10
_AHEAD_DAYS = 90
_LEAST_AHEAD_DAYS = 60  # with fewer the calendar is extended
_LONGEST_CLOSURE_DAYS = 60
_LAST = time(23, 59, 59)


class SendingDay(NamedTuple):
    """A row of `send_days`: what is for `day` goes on `send_on`, between two hours of it."""

    day: date
    send_on: date
    opens: time
    closes: time


def payable_on(due: date) -> date:
    """The last day on which a charge is paid in time: its due date, or the first bank day after it."""
    return business_days.payable_until(due)


def late_from(due: date, method: str) -> date:
    """
    The first day on which a notice may call a charge late: a payment on its last day would be known by then.

    Args:
        method: How it is paid, a key of `SETTLEMENT_DAYS`.
    """
    day = payable_on(due)
    for _ in range(SETTLEMENT_DAYS[method]):
        day = business_days.payable_until(day + _DAY)
    return day + _DAY


def calendar_id(connection: Connection, *, window_spec: str, uf: str, own: str = "", today: date) -> int:
    """
    Find the calendar of a window in a state, or make it with its next days.

    Args:
        window_spec: As `IFINU_SENDING_WINDOW`; a day may have one range only.
        uf: The state, such as `SP`.
        own: The tenant whose own holidays count; empty for none.

    Raises:
        ConfigurationError: The window or the state is wrong.
    """
    key = {"window_spec": window_spec.strip().lower(), "uf": uf, "own": own}
    found = select(calendars.c.id).filter_by(**key)
    existing: int | None = connection.execute(found).scalar()
    if existing is not None:
        return existing
    if uf not in STATES:
        raise ConfigurationError(f"{uf!r} is no state; write it as SP, AM and so on")
    _hours(_window(key["window_spec"]), key["window_spec"])
    connection.execute(upsert(calendars).values(key).on_conflict_do_nothing())
    made: int = connection.execute(found).scalar_one()
    _extend(connection, made, today)
    return made


def close(connection: Connection, tenant: str, days: Mapping[date, str], today: date) -> None:
    """
    Replace a tenant's own holidays.

    Args:
        days: Their names by day. On these days nothing is sent; to the banks they are days as any other.
    """
    connection.execute(delete(own_holidays).where(own_holidays.c.tenant == tenant))
    if days:
        rows = [{"tenant": tenant, "day": day, "name": name} for day, name in days.items()]
        connection.execute(insert(own_holidays), rows)
    for each in connection.scalars(select(calendars.c.id).where(calendars.c.own == tenant)).all():
        connection.execute(delete(send_days).where(send_days.c.calendar_id == each, send_days.c.day >= today))
        _extend(connection, each, today)


def own_days(connection: Connection, tenant: str) -> Sequence[date]:
    """The days on which a tenant sends nothing, beside the holidays of each state."""
    return connection.scalars(
        select(own_holidays.c.day).where(own_holidays.c.tenant == tenant).order_by(own_holidays.c.day)
    ).all()


def fill(connection: Connection, today: date) -> None:
    """
    Add the days that the tables lack; takes two queries when they lack none.

    A calendar that is closed for two months from some day on gets the days before it. That is logged.
    """
    last = connection.execute(select(func.max(bank_days.c.day))).scalar()
    if last is None or last.year < today.year + _YEARS:
        rows = list(_bank_days(today.year - _YEARS, today.year + _YEARS))
        connection.execute(upsert(bank_days).on_conflict_do_nothing(), rows)
    short = (
        select(calendars.c.id)
        .outerjoin(send_days)
        .group_by(calendars.c.id)
        .having(func.coalesce(func.max(send_days.c.day), date.min) < today + _LEAST_AHEAD_DAYS * _DAY)
    )
    for each in connection.scalars(short).all():
        try:
            _extend(connection, each, today)
        except ConfigurationError as exc:  # the others go on
            log.error("ifinu.calendar.not_extended", calendar=each, error=str(exc))


def _bank_days(first_year: int, last_year: int) -> Iterator[dict[str, object]]:
    # Counted from a fixed day on, so that rows of an earlier year go on where these begin.
    day, ord_ = date(first_year, 1, 1), _bank_days_before(first_year)
    while day.year <= last_year:
        yield {"day": day, "next_open": payable_on(day), "ord": ord_}
        ord_ += business_days.is_bank_day(day)
        day += _DAY


def _bank_days_before(year: int) -> int:
    days = (date(2000, 1, 1) + n * _DAY for n in range((date(year, 1, 1) - date(2000, 1, 1)).days))
    return sum(map(business_days.is_bank_day, days))


def _extend(connection: Connection, calendar: int, today: date) -> None:
    spec, uf, own = connection.execute(
        select(calendars.c.window_spec, calendars.c.uf, calendars.c.own).where(calendars.c.id == calendar)
    ).one()
    closed = frozenset(own_days(connection, own))
    rows: list[dict[str, Any]] = []
    try:
        for day in sending_days(spec, uf, closed, today):
            rows.append({"calendar_id": calendar, **day._asdict()})
    finally:  # the days before a closure that is too long are right
        if rows:
            connection.execute(upsert(send_days).on_conflict_do_nothing(), rows)


def sending_days(spec: str, uf: str, closed: Collection[date], today: date) -> Iterator[SendingDay]:
    """
    The next three months of a calendar.

    Args:
        spec: Its window.
        uf: The state.
        closed: A tenant's own holidays.

    Raises:
        ConfigurationError: The window is wrong, or is closed for two months.
    """
    window = _window(spec)
    hours = _hours(window, spec)

    def is_open(day: date) -> bool:
        return (
            day not in closed
            and not (window.rests and business_days.is_holiday(day, uf))
            and bool(hours[day.weekday()])
        )

    for day in (today + n * _DAY for n in range(_AHEAD_DAYS + 1)):
        following = (day + n * _DAY for n in range(_LONGEST_CLOSURE_DAYS))
        send_on = next(filter(is_open, following), None)
        if send_on is None:
            raise ConfigurationError(
                f"window {spec!r}: closed for {_LONGEST_CLOSURE_DAYS} days from {day} on; correct the own holidays"
            )
        opens, closes = hours[send_on.weekday()] or (time.min, _LAST)
        yield SendingDay(day, send_on, opens, closes)


def _window(spec: str) -> Window:
    return resting(spec, f"window {spec!r}")


def _hours(window: Window, spec: str) -> list[tuple[time, time] | None]:
    """The hours of each weekday from Monday."""
    where = f"window {spec!r}"
    return [_range(ranges, where) for ranges in window.week]


def _range(ranges: tuple[tuple[int, int], ...], where: str) -> tuple[time, time] | None:
    if any(end < start for (_, end), (start, _) in pairwise(ranges)):
        raise ConfigurationError(f"{where}: a day may have one range here; leave out the pause")
    if not ranges:
        return None
    return _clock(min(start for start, _ in ranges)), _clock(max(end for _, end in ranges))


def _clock(minutes: int) -> time:
    return _LAST if minutes == 24 * 60 else time(*divmod(minutes, 60))
