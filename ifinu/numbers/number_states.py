"""What each registered number is doing now, for monitoring: `broker/obstacles.py` in fewer words."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import redis

from ifinu.broker import obstacles
from ifinu.broker.keys import NUMBERS, answers_key, new_chats_key
from ifinu.broker.lanes import pipelined
from ifinu.broker.obstacles import Obstacle, Readiness
from ifinu.numbers.directory import BANNED, DISCONNECTED
from ifinu.numbers.guard import OURS

_REFUSED = "instance"  # the reason of a hold by a worker to which the gateway said that the number is not connected


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
        answers: How many people have written to it on that day; None if its webhook is not known to report them.
        portfolio: Its portfolio at Meta; empty if it is in none.
        conversations: The most people whom that portfolio's numbers may write to in 24 hours; None without a limit.
    """

    name: str
    state: NumberState
    new_chats: int = 0
    most_new_chats: int | None = None
    answers: int | None = None
    portfolio: str = ""
    conversations: int | None = None


def read(client: redis.Redis) -> list[NumberNow]:
    """
    The registered numbers.

    Args:
        client: A client that returns bytes.

    Raises:
        redis.RedisError: Redis is away.
    """
    members: Any = client.smembers(NUMBERS)
    numbers = obstacles.read(client, sorted(member.decode() for member in members))
    new_chats = pipelined(client, (("SCARD", new_chats_key(one.name, one.day)) for one in numbers))
    people = pipelined(client, (("PFCOUNT", answers_key(one.name, one.day)) for one in numbers))
    return [
        NumberNow(
            one.name,
            _state(one),
            new,
            one.new_chats,
            answers if one.is_heard else None,
            one.portfolio,
            one.conversations,
        )
        for one, new, answers in zip(numbers, new_chats, people, strict=True)
    ]


def _state(one: Readiness) -> NumberState:
    if Obstacle.UNREGISTERED in one.obstacles:  # it is half registered: it has no pace
        return NumberState.HELD
    if Obstacle.HELD in one.obstacles:
        return _held(one.reason)
    for state, found in _BY_OBSTACLE.items():
        if not found.isdisjoint(one.obstacles):
            return state
    return NumberState.OPEN


_BY_OBSTACLE = {
    NumberState.AT_CAP: frozenset({Obstacle.DAY, Obstacle.HOUR}),
    NumberState.GAP: frozenset({Obstacle.GAP, Obstacle.RESTARTED}),
    NumberState.FULL: frozenset({Obstacle.BUSY}),
}


def _held(reason: str) -> NumberState:
    if reason.startswith(OURS):
        return NumberState.GUARD
    by_reason = {BANNED: NumberState.BANNED, DISCONNECTED: NumberState.DISCONNECTED, _REFUSED: NumberState.DISCONNECTED}
    return by_reason.get(reason, NumberState.HELD)
