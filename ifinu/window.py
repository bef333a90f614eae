"""
When a message may go: once its text is true, while its sending window is open, and until it expires.

An administrator writes a window in the local time of the phone:

    always
    daily 08:00-20:00
    mon-fri 08:00-20:00, sat 09:00-13:00
    seg-sex 08:00-12:00, seg-sex 14:00-18:00

A range includes its start and excludes its end, which may be 24:00. A range across midnight is written as two. `sempre`
and `diário` are accepted too. `lei-sp` means the hours in which São Paulo's law allows collection: Monday to Friday
08:00-20:00, Saturday 08:00-14:00, never on a holiday. `comercial` means Monday to Friday 08:00-18:00, never on a
holiday.

With `IFINU_SENDING_HOLIDAYS=BR` every window is closed on bank holidays and on holidays of the phone's state
(`business_days.py`). The file may name other days on which nothing is sent.

The local time is that of the capital of the state that the phone's area code belongs to. Sources of the zones:
Decreto 2.784/1913 as last changed by Lei 12.876/2013, and the IANA time zone database. Brazil has had no summer time
since Decreto 9.772/2019; should it return, an update of the database suffices.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from datetime import MAXYEAR, UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from ifinu import business_days
from ifinu import phone as phones
from ifinu.errors import ConfigurationError, InvalidNotification
from ifinu.notification import Kind, Notification

BRASILIA = "America/Sao_Paulo"

_ZONES = {
    "AC": "America/Rio_Branco",
    "AL": "America/Maceio",
    # Its far west is an hour behind, but shares DDD 97 with larger towns that are not.
    "AM": "America/Manaus",
    "AP": "America/Belem",
    "BA": "America/Bahia",
    "CE": "America/Fortaleza",
    "DF": BRASILIA,
    "ES": BRASILIA,
    "GO": BRASILIA,
    "MA": "America/Fortaleza",
    "MG": BRASILIA,
    "MS": "America/Campo_Grande",
    "MT": "America/Cuiaba",
    "PA": "America/Belem",
    "PB": "America/Fortaleza",
    # Fernando de Noronha, an hour ahead, has three thousand people and shares its DDD.
    "PE": "America/Recife",
    "PI": "America/Fortaleza",
    "PR": BRASILIA,
    "RJ": BRASILIA,
    "RN": "America/Fortaleza",
    "RO": "America/Porto_Velho",
    "RR": "America/Boa_Vista",
    "RS": BRASILIA,
    "SC": BRASILIA,
    "SE": "America/Maceio",
    "SP": BRASILIA,
    "TO": "America/Araguaina",
}

STATES = frozenset(_ZONES)

_ENGLISH = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_PORTUGUESE = ("seg", "ter", "qua", "qui", "sex", "sab", "dom")
_DAYS = {name: day for names in (_ENGLISH, _PORTUGUESE) for day, name in enumerate(names)} | {"sáb": 5}
_PART = re.compile(r"(\S+)\s+(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)", re.ASCII)
_DAY_MINUTES = 24 * 60

_Week = tuple[tuple[tuple[int, int], ...], ...]


class Window(NamedTuple):
    """
    A sending window.

    Attributes:
        week: For each day from Monday, its open ranges in minutes since midnight, earliest first; they may overlap.
        rests: Whether it is closed on holidays.
    """

    week: _Week
    rests: bool = False


_ALWAYS = Window((((0, _DAY_MINUTES),),) * 7)
_NAMED = {"lei-sp": "mon-fri 08:00-20:00, sat 08:00-14:00", "comercial": "mon-fri 08:00-18:00"}
_TABLES = ("default", "tenants", "states", "holidays")
_EVERYWHERE = "BR"
_CLOSED_DAY = re.compile(r"(?:\d{4}-)?\d\d-\d\d", re.ASCII)
_LONGEST_CLOSURE_DAYS = 400  # the longest wait at a time; then the window is computed again


class Windows:
    """
    The windows of tenants and states. A message may go while its tenant's and its state's windows are both open.

    Args:
        default: Window of the other tenants.
        tenants: Windows by tenant.
        states: Windows by state (UF); a state without a window is always open.
        rest: Whether all windows are closed on holidays.
        closed: Further days on which nothing is sent, as `2026-12-24` or each year's `12-24`, by state or for `BR`.
    """

    def __init__(
        self,
        default: Window,
        tenants: Mapping[str, Window],
        states: Mapping[str, Window],
        *,
        rest: bool = False,
        closed: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self._default = default
        self._tenants = tenants
        self._states = states
        self._rest = rest
        self._closed = closed or {}
        self._is_always = default == _ALWAYS and not (tenants or states or rest or closed)

    @classmethod
    def load(cls, spec: str | None, file: Path | None, *, rest: bool = False) -> Windows:
        """
        Read the windows from the settings.

        Args:
            spec: `IFINU_SENDING_WINDOW`; None means always.
            file: `IFINU_SENDING_WINDOWS_FILE`, a JSON object of windows, each of its keys optional:
                `{"default": "…", "tenants": {"u1": "…"}, "states": {"SP": "…"},
                "holidays": {"BR": ["2026-12-24"], "SP": ["01-25"]}}`. Its default overrides `spec`.
            rest: Whether `IFINU_SENDING_HOLIDAYS` is `BR`.

        Raises:
            ConfigurationError: A window is wrong; the message names the file, the key and the problem.
        """
        default = _ALWAYS if spec is None else window_of(spec, "IFINU_SENDING_WINDOW")
        if file is None:
            return cls(default, {}, {}, rest=rest)
        tables = _tables(file)
        if "default" in tables:
            default = window_of(tables["default"], f"{file}: default")
        tenants = _windows(file, tables, "tenants")
        states = _windows(file, tables, "states")
        for state, of_state in states.items():
            if state not in STATES:
                raise ConfigurationError(f"{file}: states.{state}: no such state; write it as SP, AM and so on")
            for name, of_tenant in {"default": default, **{f"tenants.{t}": w for t, w in tenants.items()}}.items():
                if not any(_both(of_tenant, of_state).week):
                    raise ConfigurationError(
                        f"{file}: {name} and states.{state} are never open together: nothing would ever be sent"
                    )
        return cls(default, tenants, states, rest=rest, closed=_closed_days(file, tables))

    def opens_at(self, now: datetime, *, phone: str, tenant: str | None, own: str | None = None) -> datetime | None:
        """
        Compute when a message may go.

        Args:
            phone: The recipient, E.164.
            own: As `Notification.sending_window`.

        Returns:
            None if it may go now; otherwise the next instant, in UTC, at which it may.

        Raises:
            InvalidNotification: Its own window is wrong.
        """
        if self._is_always and own is None:
            return None
        state = phones.state(phone)
        zone = ZoneInfo(zone_of(phone))
        window = _both(self._tenants.get(tenant or "", self._default), self._states.get(state, _ALWAYS))
        if own is not None:
            window = _both(window, _of_message(own))
        today = now.astimezone(zone).date()
        for day in (today + timedelta(days=ahead) for ahead in range(_LONGEST_CLOSURE_DAYS)):
            if self._is_closed(day, state, window):
                continue
            for start, end in window.week[day.weekday()]:
                opens, closes = _instant(day, start, zone), _instant(day, end, zone)
                if closes > max(now, opens):
                    return None if opens <= now else opens
        return _instant(today + timedelta(days=_LONGEST_CLOSURE_DAYS), 0, zone)

    def _is_closed(self, day: date, state: str, window: Window) -> bool:
        written = day.isoformat()
        for place in (_EVERYWHERE, state):
            if not {written, written[5:]}.isdisjoint(self._closed.get(place, ())):
                return True
        return (self._rest or window.rests) and business_days.is_holiday(day, state)


def zone_of(phone: str) -> str:
    """The name of the time zone of an E.164 number's state."""
    return _ZONES[phones.state(phone)]


def expires_at(notification: Notification) -> datetime | None:
    """
    Compute when a notification expires.

    Returns:
        Its `valid_until`, or for a `Kind.DUE` the end of the due date in Brasília if that is earlier, since "due today"
        is wrong the day after. None if it never expires. A message that the régua planned has no other end than the
        planner's.
    """
    if notification.charge_ref is not None:
        return notification.valid_until
    ends = [] if notification.valid_until is None else [notification.valid_until]
    due = notification.due_date
    # The end of Python's last year cannot be computed.
    if notification.kind is Kind.DUE and due is not None and due.year < MAXYEAR:
        ends.append(_instant(due, _DAY_MINUTES, ZoneInfo(BRASILIA)))
    return min(ends, default=None)


def true_from(notification: Notification, now: datetime) -> datetime | None:
    """
    Compute when a notification's text becomes true.

    Only a `Kind.OVERDUE` can be too early: it waits until its charge is late (`business_days.late_from`). The planner
    has seen to that if the charge is in the database.

    Returns:
        None if it is true now; otherwise the instant, in UTC: the first minute of that day in Brasília.

    Raises:
        InvalidNotification: The due date of a `Kind.OVERDUE` is in the future, a mistake of its producer.
    """
    due = notification.due_date
    if notification.kind is not Kind.OVERDUE or due is None or notification.charge_ref is not None:
        return None
    zone = ZoneInfo(BRASILIA)
    today = now.astimezone(zone).date()
    if due > today:
        raise InvalidNotification(
            "vencimento",
            f"{due.isoformat()} is yet to come, and {Kind.OVERDUE} says that the charge is late; "
            f"send it after that day, or as {Kind.REMINDER}",
        )
    late = business_days.late_from(due)
    return None if late <= today else _instant(late, 0, zone)


def doubt(notification: Notification, now: datetime) -> str | None:
    """
    Find a mismatch between a notification's kind and its due date.

    Returns:
        The mismatch and its consequence, in one line; None if there is none.

    Raises:
        InvalidNotification: As `true_from`.
    """
    due = notification.due_date
    if due is None:
        return None
    today = now.astimezone(ZoneInfo(BRASILIA)).date()
    if (from_then := true_from(notification, now)) is not None:
        late = from_then.astimezone(ZoneInfo(BRASILIA)).date()
        payable = late - timedelta(days=1)
        cause = "" if payable == due else ", as the banks are closed on its due date"
        return (
            f"it waits until {late}: what is due on {due} can be paid until {payable}{cause}, and {Kind.OVERDUE} says "
            "that it is late"
        )
    if notification.kind is Kind.REMINDER and due < today:
        return f"{due} is past, and {Kind.REMINDER} speaks of what is due soon; {Kind.OVERDUE} says that it is late"
    if notification.kind is Kind.DUE and due < today:
        return f"it is not sent any more: {Kind.DUE} is for the due date, and {due} is past"
    if notification.kind is Kind.DUE and due > today:
        return f"{Kind.DUE} is for the due date, and {due} is not the day on which it is sent, {today}"
    return None


def _instant(day: date, minutes: int, zone: ZoneInfo) -> datetime:
    """The instant in UTC; a time that the clock skips becomes the instant of the skip."""
    days, minute = divmod(minutes, _DAY_MINUTES)
    wall = time(minute // 60, minute % 60)
    return datetime.combine(day + timedelta(days=days), wall, zone).astimezone(UTC)


@functools.lru_cache(maxsize=1024)
def _of_message(spec: str) -> Window:
    """
    Parse the window of a message.

    Raises:
        InvalidNotification: It is wrong.
    """
    try:
        return resting(spec, "")
    except ConfigurationError as exc:
        raise InvalidNotification("janela", str(exc).removeprefix(": ")) from exc


@functools.lru_cache(maxsize=4096)
def _both(one: Window, other: Window) -> Window:
    """The hours in which both windows are open."""
    week = tuple(
        tuple(sorted((max(a, c), min(b, d)) for a, b in ranges for c, d in others if max(a, c) < min(b, d)))
        for ranges, others in zip(one.week, other.week, strict=True)
    )
    return Window(week, one.rests or other.rests)


def window_of(spec: object, where: str) -> Window:
    """
    Parse a window, in the grammar above.

    Args:
        where: What an error begins with, such as the file and the key.

    Raises:
        ConfigurationError: The window is wrong.
    """
    if not isinstance(spec, str):
        raise ConfigurationError(f"{where}: must be a text such as 'mon-fri 08:00-20:00'")
    name = spec.strip().lower()
    if name in ("always", "sempre"):
        return _ALWAYS
    return Window(_week(_NAMED.get(name, spec), where), rests=name in _NAMED)


def resting(spec: object, where: str) -> Window:
    """As `window_of`, and closed on holidays whatever its hours, unless it is `always`."""
    window = window_of(spec, where)
    return window if window is _ALWAYS else window._replace(rests=True)


def _week(spec: str, where: str) -> _Week:
    week: list[list[tuple[int, int]]] = [[] for _ in range(7)]
    for part in spec.split(","):
        try:
            days, hours = _part(part.strip().lower())
        except ValueError as exc:
            raise ConfigurationError(f"{where}: {part.strip()!r} {exc}") from None
        for day in days:
            week[day].append(hours)
    return tuple(tuple(sorted(ranges)) for ranges in week)


def _part(part: str) -> tuple[list[int], tuple[int, int]]:
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(
            "is no window; write 'mon-fri 08:00-20:00', several with commas, 'always', 'lei-sp' or 'comercial'"
        )
    days, *clock = match.groups()
    from_hour, from_minute, to_hour, to_minute = map(int, clock)
    start, end = from_hour * 60 + from_minute, to_hour * 60 + to_minute
    if max(from_minute, to_minute) > 59 or end > _DAY_MINUTES:
        raise ValueError("has a time that no clock shows; write 00:00 to 24:00")
    if start >= end:
        raise ValueError("ends before it begins; past midnight it is two: 'fri 20:00-24:00, sat 00:00-02:00'")
    return _days(days), (start, end)


def _days(text: str) -> list[int]:
    if text in ("daily", "diário", "diario"):
        return list(range(7))
    first, dash, last = text.partition("-")
    if not dash:
        last = first
    for name in (first, last):
        if name not in _DAYS:
            raise ValueError(f"names no day; write daily, or {', '.join(_ENGLISH)}, or {', '.join(_PORTUGUESE)}")
    # `sat-mon` spans the end of the week.
    count = (_DAYS[last] - _DAYS[first]) % 7 + 1
    return [(_DAYS[first] + ahead) % 7 for ahead in range(count)]


def _tables(file: Path) -> dict[str, Any]:
    try:
        tables = json.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"{file}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{file}: is not JSON in UTF-8: {exc}") from None
    if not isinstance(tables, dict):
        raise ConfigurationError(f"{file}: must be a JSON object with {', '.join(_TABLES)}")
    if unknown := sorted(set(tables) - set(_TABLES)):
        raise ConfigurationError(f"{file}: {unknown[0]}: no such key; there are {', '.join(_TABLES)}")
    return tables


def _windows(file: Path, tables: Mapping[str, Any], name: str) -> dict[str, Window]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{file}: {name}: must be an object of windows")
    return {key: window_of(spec, f"{file}: {name}.{key}") for key, spec in table.items()}


def _closed_days(file: Path, tables: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    table = tables.get("holidays", {})
    if not isinstance(table, dict):
        raise ConfigurationError(f'{file}: holidays: must be an object such as {{"BR": ["2026-12-24", "12-31"]}}')
    for place, days in table.items():
        where = f"{file}: holidays.{place}"
        if place != _EVERYWHERE and place not in STATES:
            raise ConfigurationError(f"{where}: no such state; write it as SP, AM and so on, or BR for all")
        if not isinstance(days, list):
            raise ConfigurationError(f'{where}: must be a list of days such as "2026-12-24", or "12-24" for each year')
        for day in days:
            if not _is_a_day(day):
                raise ConfigurationError(
                    f"{where}: {day!r} is not in the calendar; write 2026-12-24, or 12-24 for each year"
                )
    return {place: frozenset(days) for place, days in table.items()}


def _is_a_day(text: object) -> bool:
    if not isinstance(text, str) or not _CLOSED_DAY.fullmatch(text):
        return False
    try:
        date.fromisoformat(text if len(text) == 10 else f"2024-{text}")  # a leap year
    except ValueError:
        return False
    return True
