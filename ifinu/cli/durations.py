"""Durations as people write and read them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import typer

_WRITTEN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_LONGEST_DAYS = 3650
_SIZES = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))


def parse(text: str) -> timedelta:
    """
    Read `90s`, `10m`, `2h`, `3d`, or several together: `1h30m`.

    Raises:
        typer.BadParameter: The text is not such a duration, or is longer than ten years.
    """
    match = _WRITTEN.fullmatch(text.strip().lower())
    if not match or not any(match.groups()):
        raise typer.BadParameter(f"{text!r} is not a duration; write it as 90s, 10m, 2h, 3d or 1h30m")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    try:
        length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        length = timedelta.max
    if length > timedelta(days=_LONGEST_DAYS):
        raise typer.BadParameter(f"{text!r} is longer than ten years")
    return length


def span(length: timedelta | float) -> str:
    """Format a duration (a float is in seconds) in its two largest units: `2 d 3 h`, `1 min 30 s`, `0.4 s`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    for size, unit, smaller, name in _SIZES:
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit} {rest // smaller} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(0.0, seconds):.1f} s"


OlderThan = Annotated[
    timedelta | None,
    typer.Option(parser=parse, metavar="AGE", help="Only those that died longer ago than this: 2h, 3d."),
]
NewerThan = Annotated[
    timedelta | None,
    typer.Option(parser=parse, metavar="AGE", help="Only those that died since this long ago: 2h, 3d."),
]
