"""
Whether a number may send, and if not, why and until when.

`opens` in `broker/scripts/include/numbers.lua` decides this for each fetch; here it is read for people.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import redis

from ifinu.broker.keys import NUMBERS, SINCE, number_key

HOURLY_SHARE = 8  # of a day's cap a number sends at most one eighth in an hour, rounded up

_FIELDS = (
    "par",
    "livre",
    "presa",
    "motivo",
    "teto",
    "dia",
    "hoje",
    "hora",
    "nesta_hora",
    "fuso",
    "novos",
    "ouve",
    "grupo",
    "conversas",
)
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_BRASILIA_MS = -10_800_000
_BATCH = 1_000


class Obstacle(enum.StrEnum):
    """Why a number sends nothing now."""

    UNREGISTERED = "unregistered"
    HELD = "held"
    RESTARTED = "restarted"  # Redis was; no number sends before its gap is over for certain
    DAY = "day"  # its cap for the day is reached
    HOUR = "hour"  # likewise its share for the hour
    GAP = "gap"  # it pauses after a send
    BUSY = "busy"  # as many of its messages are in flight as may be


class Readiness(NamedTuple):
    """
    Whether one number may send.

    Attributes:
        obstacles: Why it sends nothing now, and when each ends, in ms by Redis' clock (None if that is not known). The
            first one is the one to name.
        held_ms: The end of its hold, in ms; 0 if it is not held.
        reason: The reason of that hold, or empty.
        day: Its local day, in days since 1970.
        sent: What it has sent, or has in flight, on that day.
        per_day: Its cap, or None.
        new_chats: The most people whom it may write to for the first time on a day, or None.
        is_heard: Whether its webhook is known to report what people write to it.
        portfolio: Its portfolio at Meta; empty if it is in none.
        conversations: The most people whom the portfolio's numbers may write to in 24 hours, or None.
    """

    name: str
    obstacles: dict[Obstacle, int | None]
    held_ms: int
    reason: str
    day: int
    sent: int
    per_day: int | None
    new_chats: int | None
    is_heard: bool
    portfolio: str
    conversations: int | None

    @property
    def obstacle(self) -> Obstacle | None:
        """The first obstacle; None if it may send."""
        return next(iter(self.obstacles), None)

    @property
    def until_ms(self) -> int | None:
        """When that ends; None if it is not known."""
        return next(iter(self.obstacles.values()), None)


def read(client: redis.Redis, names: Sequence[str]) -> list[Readiness]:
    """
    Read it of some numbers, in their order.

    Raises:
        redis.RedisError: Redis is away.
    """
    found = []
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        pipe: Any = client.pipeline(transaction=False)
        pipe.time()
        pipe.get(SINCE)
        for name in batch:
            pipe.sismember(NUMBERS, name)
            pipe.hmget(number_key(name), _FIELDS)
            pipe.scard(f"{number_key(name)}:voo")
        (seconds, micros), since, *answers = pipe.execute()
        now_ms = seconds * 1000 + micros / 1000
        for name, registered, values, in_flight in zip(batch, answers[::3], answers[1::3], answers[2::3], strict=True):
            fields = {field: value.decode() for field, value in zip(_FIELDS, values, strict=True) if value is not None}
            found.append(_readiness(name, fields, now_ms, float(since or 0), in_flight, registered=bool(registered)))
    return found


def _readiness(
    name: str, fields: dict[str, str], now_ms: float, since_ms: float, in_flight: int, *, registered: bool
) -> Readiness:
    def number(field: str) -> float:
        return float(fields.get(field, 0))

    zone_ms = float(fields.get("fuso", _BRASILIA_MS))
    hour = (now_ms + zone_ms) // _HOUR_MS
    day = hour // 24
    sent = int(number("hoje")) if number("dia") == day else 0
    per_day = int(number("teto")) if "teto" in fields else None
    held = number("presa") > now_ms
    found: dict[Obstacle, float | None] = {}
    if not registered or "par" not in fields:
        found[Obstacle.UNREGISTERED] = None
    if held:
        found[Obstacle.HELD] = number("presa")
    if since_ms > now_ms:
        found[Obstacle.RESTARTED] = since_ms
    if per_day is not None and sent >= per_day:
        found[Obstacle.DAY] = (day + 1) * _DAY_MS - zone_ms
    if per_day is not None and number("hora") == hour and number("nesta_hora") >= math.ceil(per_day / HOURLY_SHARE):
        found[Obstacle.HOUR] = (hour + 1) * _HOUR_MS - zone_ms
    if number("livre") > now_ms:
        found[Obstacle.GAP] = number("livre")
    if in_flight >= number("par"):
        found[Obstacle.BUSY] = None
    return Readiness(
        name=name,
        obstacles={obstacle: None if until is None else round(until) for obstacle, until in found.items()},
        held_ms=round(number("presa")) if held else 0,
        reason=fields.get("motivo", "") if held else "",
        day=int(day),
        sent=sent,
        per_day=per_day,
        new_chats=int(number("novos")) if "novos" in fields else None,
        is_heard="ouve" in fields,
        portfolio=fields.get("grupo", ""),
        conversations=int(number("conversas")) if "conversas" in fields else None,
    )
