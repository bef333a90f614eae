"""
The copy of the registry in Redis, which scripts and workers read. Any process with the database can write it.

One process writes at a time, under a lock that its steps renew and check. It writes in parts of one script each, and
the generation comes last. So a copy without a generation is incomplete, and the next process that needs it writes it
again.

Of a number that Redis knows, everything but its pace stays: when it may send next, what it has sent today, its hold and
its brake. A number that Redis does not know (it is new, or Redis was wiped) gets them from the registry, and from the
ledger what it has sent today; it sends nothing before its longest gap is over. So a cap outlives a `FLUSHALL`.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import redis
import structlog
from sqlalchemy import Engine

from ifinu.broker import clock, lanes, restarts
from ifinu.broker.keys import GENERATION, LOADING, NUMBERS, SINCE, TENANTS, number_key, script, tenant_key
from ifinu.errors import BrokerUnavailable
from ifinu.numbers import registry
from ifinu.numbers.directory import BANNED
from ifinu.numbers.registry import Number, Registry, Tenant

log = structlog.get_logger(__name__)

_LOCK_MS = 15_000  # longer than the database takes to answer, or a part to be written
_WAIT_S = 60.0  # for another process that writes
_EVERY_S = 0.05
_PART = 200  # numbers a script: a few milliseconds
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000


class _Overtaken(Exception):  # noqa: N818 - a state, not an error
    """The lock has expired and another process writes."""


def is_current(client: redis.Redis, engine: Engine) -> bool:
    """
    Whether Redis has the registry's present generation. It has not after a `FLUSHALL`, a restore or a failover.

    Raises:
        errors.LedgerUnavailable: The database does not answer, or is not migrated.
        redis.RedisError: Redis does not answer.
    """
    return (client.get(GENERATION) or b"") == registry.generation(engine).encode()


def load(
    client: redis.Redis, engine: Engine, *, recount: bool = False, missing: Callable[[], object] = lambda: None
) -> str:
    """
    Write the copy: at once after a change of the registry, and now and then, since a warm-up changes with the day.

    Args:
        recount: Count what each number has sent today in the ledger, even of numbers that Redis knows, as after a
            failover to an older replica; the higher count stays.
        missing: Called if Redis has no copy once this process may write it, or if it is lost meanwhile.

    Returns:
        The registry's generation; empty if nothing ever was registered.

    Raises:
        errors.LedgerUnavailable: The database does not answer, or is not migrated.
        errors.BrokerUnavailable: Another process has been writing the copy for too long.
        redis.RedisError: Redis does not answer.
    """
    while True:
        with _lock(client) as token, contextlib.suppress(_Overtaken):
            return _write(client, engine, token, recount=recount, missing=missing)


@contextlib.contextmanager
def _lock(client: redis.Redis) -> Iterator[str]:
    token = secrets.token_hex(16)
    until = time.monotonic() + _WAIT_S
    while not client.set(LOADING, token, nx=True, px=_LOCK_MS):
        if time.monotonic() >= until:
            raise BrokerUnavailable("another process has been loading the registry for a minute; see its log")
        time.sleep(_EVERY_S)
    try:
        yield token
    finally:
        with contextlib.suppress(redis.RedisError):  # then it expires
            script("resign")(client, [LOADING], [token])


def _write(client: redis.Redis, engine: Engine, token: str, *, recount: bool, missing: Callable[[], object]) -> str:
    now = clock.now(client)
    registry.note_pairings(engine)
    all_ = registry.read(engine)
    generation = all_.generation  # also once no number is left, else workers would wait for the copy to come back
    is_there = client.exists(GENERATION)
    if not is_there:
        missing()
    counted = _counted(client, engine, all_, now, recount=recount)
    tiers = {one.name: one.conversations for one in all_.portfolios}
    numbers = [_number(one, now, counted, tiers) for one in all_.numbers]
    for start in range(0, len(numbers), _PART):
        _step(client, token, numbers=numbers[start : start + _PART])
    gone = [
        *_gone(client, NUMBERS, number_key, {one.name for one in all_.numbers}),
        *_gone(client, TENANTS, tenant_key, {one.name for one in all_.tenants} if all_.numbers else set()),
    ]
    tenants = [_tenant(one, all_.numbers) for one in all_.tenants] if all_.numbers else []
    if counted and not is_there:  # it was lost: what is under way is counted before a number sends
        longest_ms = max(one.pace(now).gap_max_ms / one.brake for one in all_.numbers)
        client.set(SINCE, round(now.timestamp() * 1000 + max(longest_ms, restarts.LEAST_MS)))
    _step(client, token, tenants=tenants, gone=gone, generation=generation)
    if not all_.numbers and (returned := lanes.return_all(client)):
        log.warning("ifinu.numbers.lanes_returned", count=returned)
    return generation


def _step(client: redis.Redis, token: str, **part: Any) -> None:
    whole = {"numbers": [], "tenants": [], "gone": [], **part}
    keys = [LOADING, NUMBERS, TENANTS, GENERATION, *(one["key"] for one in (*whole["numbers"], *whole["tenants"]))]
    if not script("load_numbers")(client, keys, [token, _LOCK_MS, json.dumps(whole)]):
        raise _Overtaken


def _counted(
    client: redis.Redis, engine: Engine, all_: Registry, now: datetime, *, recount: bool
) -> dict[str, dict[int, int]] | None:
    """What each instance sent today, by hour; None if Redis knows all numbers."""
    if not all_.numbers:
        return None
    if not recount:
        pipe = client.pipeline(transaction=False)
        for one in all_.numbers:
            pipe.exists(number_key(one.name))
        if all(pipe.execute()):
            return None
    midnight = min(one.midnight(now) for one in all_.numbers)
    return registry.sent_by_hour(engine, midnight)


def _number(
    one: Number, now: datetime, counted: dict[str, dict[int, int]] | None, tiers: Mapping[str, int | None]
) -> dict[str, Any]:
    pace = one.pace(now)
    now_ms = round(now.timestamp() * 1000)
    offset = one.local(now).utcoffset()
    zone_ms = 0 if offset is None else round(offset.total_seconds() * 1000)
    day, hour = (now_ms + zone_ms) // _DAY_MS, (now_ms + zone_ms) // _HOUR_MS
    limits: dict[str, int | str | None] = {"teto": pace.per_day, "novos": pace.new_chats}
    limits |= {"grupo": one.portfolio, "conversas": None if one.portfolio is None else tiers.get(one.portfolio)}
    set_: dict[str, Any] = {
        "par": pace.parallel, "min": pace.gap_min_ms, "max": pace.gap_max_ms, "fuso": zone_ms,
        "inquilino": one.tenant or "", "canal": one.channel.value, "desde": _ms(one.paired_at),
        **{name: limit for name, limit in limits.items() if limit is not None},
    }  # fmt: skip
    fresh: dict[str, Any] = {
        "livre": now_ms + pace.gap_max_ms, "presa": _ms(one.held_until), "fator": one.brake,
        "motivo": one.held_reason or "", "presa_desde": now_ms,
    }  # fmt: skip
    if one.banned_at is not None:
        ban = {"presa": _ms(registry.UNTIL_RELEASED), "motivo": BANNED}
        set_, fresh = set_ | ban, fresh | ban
    hours = None if counted is None else counted.get(one.name, {})
    today = () if hours is None else (
        day, sum(n for at, n in hours.items() if at >= (day * _DAY_MS - zone_ms) // _HOUR_MS),
        hour, hours.get(now_ms // _HOUR_MS, 0),
    )  # fmt: skip
    return {
        "name": one.name,
        "key": number_key(one.name),
        "set": _pairs(set_),
        "clear": [name for name, limit in limits.items() if limit is None],
        "fresh": _pairs(fresh),
        "counted": [str(each) for each in today],
    }


def _tenant(one: Tenant, numbers: Sequence[Number]) -> dict[str, Any]:
    own = [number.name for number in numbers if number.tenant == one.name]
    values = {"numeros": json.dumps(own, ensure_ascii=False), "politica": one.policy.value, "peso": one.weight}
    return {"name": one.name, "key": tenant_key(one.name), "set": _pairs(values)}


def _gone(client: redis.Redis, names: str, key: Callable[[str], str], known: set[str]) -> list[dict[str, str]]:
    """What Redis has and the registry does not."""
    members = {member.decode() for member in client.smembers(names) if isinstance(member, bytes)}
    return [{"set": names, "name": name, "key": key(name)} for name in sorted(members - known)]


def _pairs(values: dict[str, Any]) -> list[str]:
    return [str(each) for pair in values.items() for each in pair]


def _ms(at: datetime | None) -> int:
    return 0 if at is None else round(at.timestamp() * 1000)
