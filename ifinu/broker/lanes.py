"""
Lanes: messages that wait for their number (see `keys.py`), and the holds of numbers.

A fetch moves a message into a lane, and out of it when the number may send. `LLEN` of a queue does not count them.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import redis

from ifinu.broker import clock
from ifinu.broker.keys import QUEUES, in_lanes_key, number_key, script, turns_key

_BATCH = 1_000  # commands of a pipeline: a few milliseconds of Redis
_PAGE = 200  # messages of a call, which takes Redis about a millisecond


class Lane(NamedTuple):
    """
    One lane.

    Attributes:
        queue: The queue that its messages came from.
        number: The number that they wait for.
        tenant: Their tenant, or empty.
        length: How many they are.
        next_ms: When the number is looked at next, in ms by Redis' clock.
    """

    queue: str
    number: str
    tenant: str
    length: int
    next_ms: float

    @property
    def key(self) -> str:
        return f"{self.queue}:espera:{self.number}:{self.tenant}"


class Hold(NamedTuple):
    """A hold of a number that is in force: its end in ms by Redis' clock, and why."""

    until_ms: int
    reason: str


class Found(NamedTuple):
    """A message in a lane, and how many of that lane are served before it."""

    lane: Lane
    ahead: int


def line(tenant: str | None, instance: str | None, phone: str) -> str:
    """
    The header `ifinu_linha` of an envelope, by which the scripts find its lane.

    Args:
        tenant: Its tenant, if it has one.
        instance: The instance that it names, if any.
        phone: Its recipient.
    """
    return "\t".join((tenant or "", instance or "", "".join(filter(str.isdigit, phone))[-8:]))


def total(client: redis.Redis, queue: str) -> int:
    """
    How many messages of a queue are in lanes.

    Raises:
        redis.RedisError: Redis is away.
    """
    return int(client.get(in_lanes_key(queue)) or 0)


def counts(client: redis.Redis, queues: Sequence[str] = QUEUES, number: str | None = None) -> list[Lane]:
    """
    The lanes of some queues.

    Args:
        number: Only those of this number.

    Raises:
        redis.RedisError: Redis is away.
    """
    found = []
    for queue in queues:
        turns: Any = client.zrange(turns_key(queue), 0, -1, withscores=True)
        names = [(name.decode(), next_ms) for name, next_ms in turns if number in (None, name.decode())]
        rings = pipelined(client, [("LRANGE", f"{number_key(name)}:roda:{queue}", 0, -1) for name, _ in names])
        lanes = [
            Lane(queue, name, tenant.decode(), 0, next_ms)
            for (name, next_ms), ring in zip(names, rings, strict=True)
            for tenant in dict.fromkeys(ring)
        ]
        lengths = pipelined(client, [("LLEN", lane.key) for lane in lanes])
        found += [lane._replace(length=length) for lane, length in zip(lanes, lengths, strict=True)]
    return found


def waiting(client: redis.Redis, number: str | None = None) -> Counter[str]:
    """
    How many messages wait for each number, in all queues.

    Args:
        number: Only for this number.

    Raises:
        redis.RedisError: Redis is away.
    """
    found: Counter[str] = Counter()
    for lane in counts(client, number=number):
        found[lane.number] += lane.length
    return found


def peek(client: redis.Redis, lane: Lane, count: int) -> list[bytes]:
    """
    The messages of a lane that are served next, without moving them.

    Raises:
        redis.RedisError: Redis is away.
    """
    found: list[Any] = client.lrange(lane.key, -count, -1)
    return found[::-1]


def scan(client: redis.Redis, queue: str) -> Iterator[bytes]:
    """
    The messages of a queue that are in lanes. One that moves meanwhile may come twice or not at all.

    Raises:
        redis.RedisError: Redis is away.
    """
    for lane in counts(client, (queue,)):
        yield from _messages(client, lane)


def find(client: redis.Redis, is_it: Callable[[bytes], bool], queues: Sequence[str] = QUEUES) -> Found | None:
    """
    Look for a message in the lanes of some queues. Reads them until it is found.

    Raises:
        redis.RedisError: Redis is away.
    """
    for lane in counts(client, queues):
        for ahead, raw in enumerate(_messages(client, lane)):
            if is_it(raw):
                return Found(lane, ahead)
    return None


def move(
    client: redis.Redis, source: str, targets: Sequence[str], tenant: str | None = None, queues: Sequence[str] = QUEUES
) -> int:
    """
    Move what waits for a number to others, all messages to a person to the same one. Those that name the number stay.

    Args:
        source: The number that they wait for.
        targets: The other numbers, at least one.
        tenant: Only this tenant's messages, empty for those without one; None for all.

    Returns:
        How many have moved; none if one of the other numbers is not registered.

    Raises:
        redis.RedisError: Redis went away; what has not moved is where it was.
    """
    moved = 0
    for lane in counts(client, queues, source):
        if tenant not in (None, lane.tenant):
            continue
        passed, looked = 0, 1
        while looked:
            arguments = (source, lane.tenant, json.dumps(list(targets)), passed, _PAGE)
            looked, gone = script("move_lane")(client, (lane.queue,), arguments)
            passed += looked - gone
            moved += gone
    return moved


def return_all(client: redis.Redis, queues: Sequence[str] = QUEUES) -> int:
    """
    Return what waits in lanes to the ends of its queues, for when no number is registered and no fetch looks at lanes.

    Returns:
        How many messages were returned.

    Raises:
        redis.RedisError: Redis went away; what has not moved is where it was.
    """
    returned = 0
    for lane in counts(client, queues):
        while some := int(script("return_lane")(client, (lane.queue,), (lane.number, lane.tenant, _PAGE))):
            returned += some
    return returned


def set_aside(client: redis.Redis, lane: Lane, aside: str) -> bool:
    """Rename the key of a lane's messages, in one step; False while another purge's messages are still set aside."""
    return bool(script("purge_lane")(client, (lane.queue, aside), (lane.number, lane.tenant)))


def hold(client: redis.Redis, number: str, until_ms: float, reason: str) -> Hold | None:
    """
    Hold a number: it sends nothing before a time. A hold for another reason that lasts longer stays.

    Returns:
        The hold that is in force; None if the number is not registered.

    Raises:
        redis.RedisError: Redis is away.
    """
    arguments = (number, math.ceil(until_ms), reason)
    until, why = script("hold_number")(client, (number_key(number),), arguments)
    return Hold(int(until), why.decode()) if int(until) else None


def release(client: redis.Redis, number: str, reason: str = "") -> bool:
    """
    End the hold of a number; False if it is not held for this reason (empty: any).

    Raises:
        redis.RedisError: Redis is away.
    """
    return bool(script("release_number")(client, (number_key(number),), (number, reason)))


def look_at(client: redis.Redis, *numbers: str) -> None:
    """
    Let the next fetch look at numbers whose pace has changed. Else a cap that is raised has no effect until midnight.

    Raises:
        redis.RedisError: Redis is away.
    """
    if numbers:
        now_ms = clock.now(client).timestamp() * 1000
        for queue in QUEUES:  # not earlier than now, since a turn in the past is overdue
            client.zadd(turns_key(queue), dict.fromkeys(numbers, now_ms), xx=True, lt=True)


def _messages(client: redis.Redis, lane: Lane) -> Iterator[bytes]:
    """The messages of a lane, in the order in which they are served."""
    seen = 0
    while page := client.lrange(lane.key, -seen - _PAGE, -seen - 1):
        messages: list[Any] = page[::-1]
        yield from messages
        seen += len(page)


def pipelined(client: redis.Redis, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    """
    The answers to many commands, which are sent a thousand at a time.

    Raises:
        redis.RedisError: Redis is away.
    """
    found: list[Any] = []
    rest = iter(commands)
    while batch := list(itertools.islice(rest, _BATCH)):
        pipe: Any = client.pipeline(transaction=False)
        for command in batch:
            pipe.execute_command(*command)
        found += pipe.execute()
    return found
