"""
A number that is banned, gone from the gateway, or held for long gives its tenant's messages to the tenant's others.

The fetch sends new messages elsewhere while the number's hash has `desviada`; what waits in its lanes is moved.
Messages that name the number wait for it. One that may have been sent before is looked up at the number that sent it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

import redis

from ifinu.broker import lanes
from ifinu.broker.keys import number_key
from ifinu.numbers.directory import BANNED
from ifinu.numbers.registry import Number

AFTER = timedelta(minutes=30)  # of a hold; a pause of an hour would cost a morning, one of a minute nothing
_AFTER_MS = AFTER / timedelta(milliseconds=1)


class Diverted(NamedTuple):
    """
    A number whose tenant's messages go by others from now on, or no longer.

    Attributes:
        number: Its name.
        on: Whether they go by others.
        moved: How many messages have left its lanes.
    """

    number: str
    on: bool
    moved: int


def divert(client: redis.Redis, numbers: Iterable[Number], now: datetime) -> list[Diverted]:
    """
    Divert what has to be, and end what is over.

    Args:
        client: A Redis client that returns bytes.
        numbers: All registered numbers.
        now: The time by Redis' clock.

    Returns:
        What has changed.

    Raises:
        redis.RedisError: Redis went away; what is left is done the next time.
    """
    of_tenant: dict[str, list[str]] = {}
    gone = set()
    for number in numbers:
        if number.tenant is not None:
            of_tenant.setdefault(number.tenant, []).append(number.name)
        if number.is_gone(now):
            gone.add(number.name)
    several = [(tenant, names) for tenant, names in of_tenant.items() if len(names) > 1]
    pipe = client.pipeline(transaction=False)
    for _, names in several:
        for name in names:
            pipe.hmget(number_key(name), "presa", "motivo", "presa_desde", "desviada")
    states = iter(pipe.execute() if several else ())
    now_ms = now.timestamp() * 1000
    changed = []
    for tenant, names in several:
        found = {name: next(states) for name in names}
        held = {name for name in names if name in gone or _is_held(found[name][0], found[name][1], now_ms)}
        others = [name for name in names if name not in held]
        for name, (_, reason, since, diverted) in found.items():
            is_long = _text(reason) == BANNED or now_ms - float(since or now_ms) >= _AFTER_MS
            long = name in gone or (name in held and is_long)
            if long and others:
                client.hset(number_key(name), "desviada", 1)  # first, so that nothing follows what is moved
                moved = lanes.move(client, name, others, tenant)
                if moved or not diverted:
                    changed.append(Diverted(name, on=True, moved=moved))
            elif diverted and not long:
                client.hdel(number_key(name), "desviada")
                changed.append(Diverted(name, on=False, moved=0))
    return changed


def _is_held(until: bytes | None, reason: bytes | None, now_ms: float) -> bool:
    return _text(reason) == BANNED or float(until or 0) > now_ms


def _text(value: bytes | None) -> str:
    return (value or b"").decode()
