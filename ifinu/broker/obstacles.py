"""
The states of numbers in Redis: whether each may send, and if not, why and until when.

`opens` in `broker/scripts/include/numbers.lua` decides this for each fetch; here it is read for people.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import redis

from ifinu.broker.keys import NUMBERS, number_key

_SINCE = "ifinu:numeros:desde"
_FIELDS = ("par", "livre", "presa", "motivo", "teto", "dia", "hoje", "hora", "nesta_hora", "fuso")
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


class NumberState(NamedTuple):
    """
    The state of one number.

    Attributes:
        obstacle: Why it sends nothing now; None if it may send.
        until_ms: When that ends, in ms by Redis' clock; None if that is not known.
        held_ms: The end of its hold, in ms; 0 if it is not held.
        reason: The reason of that hold, or empty.
        sent: What it has sent, or has in flight, on its local day.
        per_day: Its cap, or None.
    """

    name: str
    obstacle: Obstacle | None
    until_ms: int | None
    held_ms: int
    reason: str
    sent: int
    per_day: int | None


def read(client: redis.Redis, names: Sequence[str]) -> list[NumberState]:
    """
    Read the states of some numbers, in their order.

    Raises:
        redis.RedisError: Redis is away.
    """
    found = []
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        pipe: Any = client.pipeline(transaction=False)
        pipe.time()
        pipe.get(_SINCE)
        for name in batch:
            pipe.sismember(NUMBERS, name)
            pipe.hmget(number_key(name), _FIELDS)
            pipe.scard(f"{number_key(name)}:voo")
        (seconds, micros), since, *answers = pipe.execute()
        now_ms = seconds * 1000 + micros / 1000
        for name, registered, values, in_flight in zip(batch, answers[::3], answers[1::3], answers[2::3], strict=True):
            fields = {field: value.decode() for field, value in zip(_FIELDS, values, strict=True) if value is not None}
            found.append(_state(name, fields, now_ms, float(since or 0), in_flight, registered=bool(registered)))
    return found


def _state(
    name: str, fields: dict[str, str], now_ms: float, since_ms: float, in_flight: int, *, registered: bool
) -> NumberState:
    def number(field: str) -> float:
        return float(fields.get(field, 0))

    zone_ms = float(fields.get("fuso", _BRASILIA_MS))
    hour = (now_ms + zone_ms) // _HOUR_MS
    day = hour // 24
    sent = int(number("hoje")) if number("dia") == day else 0
    per_day = int(number("teto")) if "teto" in fields else None
    held_ms = number("presa") if number("presa") > now_ms else 0.0
    obstacle: Obstacle | None = None
    until_ms: float | None = None
    if not registered:
        obstacle = Obstacle.UNREGISTERED
    elif held_ms:
        obstacle, until_ms = Obstacle.HELD, held_ms
    elif since_ms > now_ms:
        obstacle, until_ms = Obstacle.RESTARTED, since_ms
    elif per_day is not None and sent >= per_day:
        obstacle, until_ms = Obstacle.DAY, (day + 1) * _DAY_MS - zone_ms
    elif per_day is not None and number("hora") == hour and number("nesta_hora") >= math.ceil(per_day / 8):
        obstacle, until_ms = Obstacle.HOUR, (hour + 1) * _HOUR_MS - zone_ms
    elif number("livre") > now_ms:
        obstacle, until_ms = Obstacle.GAP, number("livre")
    elif in_flight >= number("par"):
        obstacle = Obstacle.BUSY
    end = None if until_ms is None else round(until_ms)
    return NumberState(name, obstacle, end, round(held_ms), fields.get("motivo", "") if held_ms else "", sent, per_day)
