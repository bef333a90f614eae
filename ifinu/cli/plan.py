"""`ifinu plan`: when a number of messages is out, and how many WhatsApp numbers that needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from types import SimpleNamespace
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ifinu import settings
from ifinu.cli import terminal
from ifinu.cli.durations import span
from ifinu.numbers import presets
from ifinu.numbers.plan import Plan, Task
from ifinu.numbers.plan import plan as compute
from ifinu.numbers.presets import Pace, Preset
from ifinu.settings import Settings
from ifinu.window import BRASILIA, Windows

_ZONE = ZoneInfo(BRASILIA)
_SAO_PAULO = "+5511900000000"  # a phone whose state's sending window counts


def _share(text: str) -> Fraction:
    match = re.fullmatch(r"(\d{1,3}(?:[.,]\d+)?) ?%", text.strip())
    share = Fraction(match[1].replace(",", ".")) / 100 if match else Fraction(2)
    if share > 1:
        raise typer.BadParameter(f"{text!r} is no share; write it as 10%")
    return share


def _time(text: str) -> datetime:
    """A time of day, on the first day that has it still ahead, or a date and a time; in Brasília."""
    now = datetime.now(_ZONE)
    try:
        if re.fullmatch(r"\d{1,2}:\d\d", text):
            hours, minutes = map(int, text.split(":"))
            at = now.replace(hour=hours, minute=minutes, second=0, microsecond=0)
            return at if at > now else at + timedelta(days=1)
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; write it as 12:00 or 2026-12-01T12:00") from None
    return at if at.tzinfo else at.replace(tzinfo=_ZONE)


def plan(
    messages: Annotated[int, typer.Option("--messages", min=1, help="How many messages are to be sent.")],
    numbers: Annotated[int, typer.Option("--numbers", min=1, help="How many WhatsApp numbers share them.")],
    by: Annotated[
        datetime | None,
        typer.Option("--by", parser=_time, metavar="TIME", help="When they have to be out: 12:00, 2026-12-01T12:00."),
    ] = None,
    begins: Annotated[
        datetime | None,
        typer.Option("--from", parser=_time, metavar="TIME", help="When they begin; now by default."),
    ] = None,
    preset: Annotated[Preset, typer.Option("--preset", help="The pace of the numbers.")] = Preset.CONSERVATIVE,
    warm_up_day: Annotated[
        int, typer.Option("--warm-up-day", min=0, help="With aquecimento: the day on which the numbers are.")
    ] = 1,
    new: Annotated[
        Fraction | None,
        typer.Option("--new", parser=_share, metavar="SHARE", help="Share of people whom their number never wrote to."),
    ] = None,
    tier: Annotated[
        int | None,
        typer.Option("--tier", min=0, metavar="N", help="With cloud: people that their portfolio may write to a day."),
    ] = None,
    send_time_s: Annotated[float, typer.Option("--send-time", min=0.0, help="Seconds that a send takes.")] = 1.0,
    sent_today: Annotated[int, typer.Option("--sent-today", min=0, help="What each number has sent today.")] = 0,
    price: Annotated[float | None, typer.Option("--price", min=0.0, help="Price of a message, for the cost.")] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Compute when messages are out, and how many numbers are missing for a deadline.

    It counts with the gaps of the preset, its caps of the hour, the day and of new
    chats, and with IFINU_SENDING_WINDOW and its like, for a phone in São Paulo. It asks
    no server. The exit code is 1 if the deadline cannot be met, or the end lies more
    than four months ahead.

    [bold]Examples[/bold]

    ifinu plan --messages 100000 --by 12:00 --numbers 40
    ifinu plan --messages 100000 --numbers 40 --preset moderado --new 10% --from 08:00
    ifinu plan --messages 5000 --numbers 3 --preset aquecimento --warm-up-day 4
    ifinu plan --messages 5000 --numbers 2 --preset cloud --tier 1000
    ifinu plan --messages 100000 --by 18:00 --numbers 40 --preset direto --price 0.05 --json
    """
    config = settings.load()
    starts = begins or datetime.now(_ZONE)
    if by is not None and by <= starts:
        raise typer.BadParameter("the deadline is before the beginning", param_hint="--by")
    if tier is not None and preset is not Preset.CLOUD:
        raise typer.BadParameter("a tier is of numbers with the preset cloud", param_hint="--tier")
    task = Task(
        messages,
        numbers,
        _paces(
            preset,
            starts.astimezone(_ZONE).date() - timedelta(days=warm_up_day),
            {} if tier is None else presets.IN_A_PORTFOLIO,
        ),
        starts,
        by,
        new or Fraction(0),
        send_time_s,
        sent_today,
        _opens_at(config),
        tier=tier,
    )
    found = compute(task)
    pods = found.pods(config.rate_per_s)
    cost = None if price is None else messages * price
    if as_json:
        terminal.print_json(_as_json(task, found, preset, pods, cost))
    else:
        terminal.results().print(_words(task, found, preset, pods, cost), soft_wrap=True)
    if not found.in_time:
        raise typer.Exit(1)


def _paces(preset: Preset, warmed_since: date, overrides: Mapping[str, int | None]) -> Any:
    number = SimpleNamespace(
        preset=preset, overrides=overrides, warm_up_from=warmed_since if preset is Preset.WARM_UP else None
    )

    def pace(day: date) -> Pace:
        return presets.pace(number, day)

    return pace


def _opens_at(config: Settings) -> Any:
    rest = config.sending_holidays is not None
    windows = Windows.load(config.sending_window, config.sending_windows_file, rest=rest)
    if config.sending_window is None and config.sending_windows_file is None and not rest:
        return None
    return lambda at: windows.opens_at(at, phone=_SAO_PAULO, tenant=None)


def _as_json(task: Task, found: Plan, preset: Preset, pods: int, cost: float | None) -> dict[str, Any]:
    return {
        "messages": task.messages,
        "numbers": task.numbers,
        "preset": preset.value,
        "begins": _written(task.begins),
        "by": _written(task.by),
        "ends": _written(found.ends),
        "in_time": found.in_time,
        "sent_by": None if task.by is None else found.sent_by,
        "missing_numbers": found.missing,
        "per_s": round(found.per_s, 3),
        "limit": found.limit.value,
        "pods": pods,
        "cost": None if cost is None else round(cost, 2),
    }


def _written(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="seconds")


def _words(task: Task, found: Plan, preset: Preset, pods: int, cost: float | None) -> str:
    lines = [
        f"{task.messages:,} messages from {_clock(task.begins)}, with {task.numbers:,} numbers, {preset.value}",
        "",
        _ends(task, found),
    ]
    if task.by is not None and not found.in_time:
        lines.append(f"by the deadline    {found.sent_by:,} are out ({found.sent_by / task.messages:.0%})")
        more = "none would be enough" if found.missing is None else f"{found.missing:,} more would do it in time"
        lines.append(f"missing numbers    {more}")
    lines.append(f"pace               {found.per_s:,.2f} a second while all numbers send")
    lines.append(f"what limits it     the {found.limit.value}")
    lines.append(f"workers            {pods:,}")
    if cost is not None:
        lines.append(f"cost               {cost:,.2f}")
    return "\n".join(lines)


def _ends(task: Task, found: Plan) -> str:
    if found.ends is None:
        return "[red]ends               never, or in more than four months[/]"
    colour = "green" if found.in_time else "red"
    took = span(found.ends - task.begins)
    deadline = "" if task.by is None else f", {'in time' if found.in_time else 'too late'} for {_clock(task.by)}"
    return f"[{colour}]ends               {_clock(found.ends)}, after {took}{deadline}[/]"


def _clock(at: datetime) -> str:
    return at.astimezone(_ZONE).strftime("%d/%m/%Y %H:%M")
