"""The checks of `ifinu doctor` on registered numbers, and on the messages that wait for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import redis

from ifinu.broker import QUEUES, clock, lanes, obstacles
from ifinu.broker.keys import GENERATION
from ifinu.broker.obstacles import Obstacle, Readiness
from ifinu.cli.doctor.findings import Finding, Level
from ifinu.errors import LedgerUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Engine

_LONG_MS = 3_600_000
_SHOWN = 5
_TRIES = 3  # counts that messages move between differ for a moment


def examine_numbers(client: redis.Redis, engine: Engine) -> Iterator[Finding]:
    """Check numbers and lanes; yield nothing while nothing is registered, or when a server does not answer."""
    try:
        yield from _registry(client, engine)
        yield from _lanes(client)
    except (redis.RedisError, LedgerUnavailable):  # other checks report it
        return


def _registry(client: redis.Redis, engine: Engine) -> Iterator[Finding]:
    from ifinu.ledger.engine import exists
    from ifinu.numbers import cache, registry

    if not exists(engine) or not registry.exists(engine):
        return
    known, loaded = len(registry.read(engine).numbers), client.exists(GENERATION)
    fix = "run `ifinu instance sync`; a recorder does the same within seconds"
    if known and not loaded:
        yield Finding("numbers", Level.FAIL, f"{known:,} in the registry, and Redis has no copy of it", fix)
    elif not cache.is_current(client, engine):
        yield Finding("numbers", Level.WARN, "Redis has an older copy of the registry", fix)
    elif known:
        yield Finding("numbers", Level.OK, f"{known:,} in the registry, and Redis has its copy")


def _lanes(client: redis.Redis) -> Iterator[Finding]:
    counted, found = _counts(client)
    waiting: Counter[str] = Counter()
    for lane in found:
        waiting[lane.number] += lane.length
    if counted or waiting:
        if counted == _per_queue(found):
            yield Finding("lanes", Level.OK, f"{waiting.total():,} messages wait for {len(waiting):,} numbers")
        else:
            yield _miscounted(counted, _per_queue(found))
    states = obstacles.read(client, sorted(waiting))
    unregistered = [one for one in states if one.obstacle is Obstacle.UNREGISTERED]
    if unregistered:
        fix = "register them again (`ifinu instance assign`): until then nothing sends these messages"
        yield Finding("unregistered numbers", Level.FAIL, f"messages wait for {_named(unregistered, waiting)}", fix)
    now_ms = clock.now(client).timestamp() * 1000
    if long := [one for one in states if one.obstacle is Obstacle.HELD and one.held_ms - now_ms > _LONG_MS]:
        fix = "`ifinu instance show NAME` says why: connect the phone, or `ifinu instance release NAME`"
        yield Finding("held numbers", Level.WARN, f"messages wait for {_named(long, waiting)}", fix)


def _counts(client: redis.Redis) -> tuple[dict[str, int], list[lanes.Lane]]:
    """How many messages wait, by queue, as the scripts have counted them; and the lanes. Read until they agree."""
    for _ in range(_TRIES):
        counted = {queue: count for queue in QUEUES if (count := lanes.total(client, queue))}
        found = [lane for lane in lanes.counts(client) if lane.length]
        if counted == _per_queue(found):
            break
    return counted, found


def _per_queue(found: Sequence[lanes.Lane]) -> dict[str, int]:
    per_queue: Counter[str] = Counter()
    for lane in found:
        per_queue[lane.queue] += lane.length
    return dict(per_queue)


def _miscounted(counted: dict[str, int], found: dict[str, int]) -> Finding:
    wrong = [queue for queue in QUEUES if counted.get(queue, 0) != found.get(queue, 0)]
    seen = "; ".join(f"{queue}: {counted.get(queue, 0):,} counted, {found.get(queue, 0):,} found" for queue in wrong)
    fix = (
        "if this stays while workers are busy: a lane without a turn is served by nothing; list the lanes with "
        f"`redis-cli --scan --pattern '{wrong[0]}:espera:*'`"
    )
    return Finding("lanes", Level.WARN, seen, fix)


def _named(states: Sequence[Readiness], waiting: Counter[str]) -> str:
    most = sorted(states, key=lambda one: -waiting[one.name])
    parts = [f"{one.name} ({waiting[one.name]:,}{f', {one.reason}' if one.reason else ''})" for one in most[:_SHOWN]]
    more = f" and {len(most) - _SHOWN:,} more" if len(most) > _SHOWN else ""
    return f"{', '.join(parts)}{more}"
