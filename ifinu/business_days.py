"""
Business days: the days on which banks clear payments, and the holidays of a state.

A charge due on a day without banks may be paid on the next bank day at no extra cost (Lei 7.089/1983), so it is late
from the day after that one:

    due on Saturday 2026-12-05    payable until Monday 2026-12-07    late from Tuesday 2026-12-08

Banks are closed on weekends, on national holidays, on Carnival's Monday and Tuesday, and on Corpus Christi (Resolução
CMN 4.880/2020; FEBRABAN counts so). On 24 December and on the last weekday of the year they clear payments, so these
two are bank days. A holiday of one state closes that state's branches, not the clearing: it affects
sending hours, not due dates.

The dates come from the package `holidays`: B3's calendar for the banks, Brazil's for the states.
"""

from __future__ import annotations

import functools
import importlib.util
from datetime import date, timedelta
from pathlib import Path
from typing import Any

_DAY = timedelta(days=1)
_SATURDAY = 5


def is_bank_day(day: date) -> bool:
    """Whether banks clear payments on that day."""
    return day.weekday() < _SATURDAY and day not in _bank_holidays(day.year)


def is_holiday(day: date, state: str) -> bool:
    """
    Whether a day is a bank holiday or a public holiday of the state. Weekends do not count.

    Args:
        state: UF, such as `SP`.
    """
    return day in _bank_holidays(day.year) or day in _state_holidays(day.year, state)


def payable_until(due: date) -> date:
    """The last day on which a charge is paid in time: its due date, or the first bank day after it."""
    while not is_bank_day(due):
        due += _DAY
    return due


def late_from(due: date) -> date:
    """The first day on which a charge is late."""
    return payable_until(due) + _DAY


@functools.lru_cache(maxsize=16)
def _bank_holidays(year: int) -> frozenset[date]:
    days = _calendar("financial", "brasil_bolsa_balcao").BrasilBolsaBalcao(years=year)
    # In December the exchange also rests on Christmas Eve and on the last weekday; banks do not.
    return frozenset(day for day in days if day.month < 12 or day.day == 25)


@functools.lru_cache(maxsize=128)
def _state_holidays(year: int, state: str) -> frozenset[date]:
    return frozenset(_calendar("countries", "brazil").Brazil(years=year, subdiv=state))


@functools.cache
def _calendar(group: str, name: str) -> Any:
    """
    Load one calendar of `holidays` when it is first needed.

    `import holidays` imports every country: 8 MiB and 70 ms more in each worker.
    """
    import holidays

    path = Path(holidays.__file__).parent / group / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{__name__}.{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"the package holidays has no {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
