"""
What each registered number is doing now, by Redis alone.

`opens` in `broker/scripts/include/numbers.lua` decides when a number may send. This module judges alike, for
monitoring, and writes nothing.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

import redis

from ifinu.broker import clock
from ifinu.broker.keys import NUMBERS, number_key
from ifinu.broker.lanes import pipelined
from ifinu.numbers.directory import BANNED, DISCONNECTED
from ifinu.numbers.guard import OURS

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_BRASILIA_MS = -10_800_000
_HOURS = 8  # an hour gets no more than this part of the day's cap
_REFUSED = "instance"  # the reason of a hold by a worker to which the gateway said that the number is not connected
_FIELDS = ("fuso", "dia", "hoje", "hora", "nesta_hora", "par", "livre", "presa", "motivo", "teto", "novos")


class NumberState(enum.StrEnum):
    """
    The state of a number; what stands later wins.

    OPEN may send, FULL has as much in flight as it may, GAP pauses after a send, AT_CAP has sent its share of the hour
    or the day. The others are holds: by the guard, for its closed connection, for a ban; HELD is any other hold.
    """

    OPEN = "open"
    FULL = "full"
    GAP = "gap"
    AT_CAP = "at_cap"
    HELD = "held"
    GUARD = "guard"
    DISCONNECTED = "disconnected"
    BANNED = "banned"


@dataclass(frozen=True, slots=True)
class NumberNow:
    """
    A number at this moment.

    Attributes:
        new_chats: How many people it has written to for the first time on its local day.
        most_new_chats: How many it may; None without a limit.
    """

    name: str
    state: NumberState
    new_chats: int = 0
    most_new_chats: int | None = None


def read(client: redis.Redis) -> list[NumberNow]:
    """
    The registered numbers.

    Args:
        client: A client that returns bytes.

    Raises:
        redis.RedisError: Redis is away.
    """
    now_ms = round(clock.now(client).timestamp() * 1000)
    since, members = pipelined(client, [("GET", f"{NUMBERS}:desde"), ("SMEMBERS", NUMBERS)])
    names = sorted(member.decode() for member in members)
    hashes = pipelined(client, (("HMGET", number_key(name), *_FIELDS) for name in names))
    about = [dict(zip(_FIELDS, values, strict=True)) for values in hashes]
    days = [(now_ms + _int(of["fuso"], _BRASILIA_MS)) // _DAY_MS for of in about]
    in_flight = pipelined(client, (("SCARD", f"{number_key(name)}:voo") for name in names))
    keys = (f"{number_key(name)}:novos:{day}" for name, day in zip(names, days, strict=True))
    new_chats = pipelined(client, (("SCARD", key) for key in keys))
    return [
        NumberNow(
            name, _state(of, flying, now_ms, _int(since)), new, None if of["novos"] is None else _int(of["novos"])
        )
        for name, of, flying, new in zip(names, about, in_flight, new_chats, strict=True)
    ]


def _state(of: dict[str, Any], in_flight: int, now_ms: int, since_ms: int) -> NumberState:
    if of["par"] is None:
        return NumberState.HELD
    if _int(of["presa"]) > now_ms:
        return _held((of["motivo"] or b"").decode())
    if of["teto"] is not None:
        hour = (now_ms + _int(of["fuso"], _BRASILIA_MS)) // _HOUR_MS
        today = _int(of["hoje"]) if _int(of["dia"], -1) == hour // 24 else 0
        this_hour = _int(of["nesta_hora"]) if _int(of["hora"], -1) == hour else 0
        cap = _int(of["teto"])
        if today >= cap or this_hour >= math.ceil(cap / _HOURS):
            return NumberState.AT_CAP
    if max(_int(of["livre"]), since_ms) > now_ms:
        return NumberState.GAP
    return NumberState.FULL if in_flight >= _int(of["par"]) else NumberState.OPEN


def _held(reason: str) -> NumberState:
    if reason.startswith(OURS):
        return NumberState.GUARD
    by_reason = {BANNED: NumberState.BANNED, DISCONNECTED: NumberState.DISCONNECTED, _REFUSED: NumberState.DISCONNECTED}
    return by_reason.get(reason, NumberState.HELD)


def _int(value: bytes | None, otherwise: int = 0) -> int:
    return otherwise if value is None else int(float(value))
