"""Counts of messages per queue and state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis

from ifinu.broker.keys import NUMBERS, QUEUES, Keys, in_lanes_key


@dataclass(frozen=True)
class Backlog:
    """
    One queue at one instant.

    Attributes:
        queue: Key of its list.
        ready: Messages that a worker could take now.
        delayed: Messages that wait for their time: retries, deferrals, scheduled messages.
        next_due_in_s: Seconds until the first of those is due, zero or less when it is due; None without any.
        in_flight: Messages that workers hold.
        paused_since: ISO time since which the queue is paused, or None.
        in_lanes: Messages that wait for their number; None while no number is registered and none wait.
    """

    queue: str
    ready: int
    delayed: int
    next_due_in_s: float | None
    in_flight: int
    dead: int
    paused_since: str | None
    in_lanes: int | None = None

    @property
    def unsettled(self) -> int:
        """Messages that have not ended: ready, delayed, in lanes and in flight."""
        return self.ready + self.delayed + self.in_flight + (self.in_lanes or 0)

    def document(self) -> dict[str, Any]:
        """Its fields, for JSON; without `in_lanes` where that is None."""
        fields = asdict(self)
        if self.in_lanes is None:
            del fields["in_lanes"]
        return fields


def survey(client: redis.Redis, queues: Sequence[str] = QUEUES) -> list[Backlog]:
    """
    Count the messages of several queues at one instant.

    Args:
        queues: Keys of their lists.

    Raises:
        redis.RedisError: Redis is away, or a key is of another type.
    """
    pipe = client.pipeline(transaction=True)  # so that a message that moves is not counted twice, or not at all
    pipe.time()
    pipe.exists(NUMBERS)
    for queue in queues:
        keys = Keys.of(queue)
        pipe.llen(keys.ready)
        pipe.zcard(keys.delayed)
        pipe.zrange(keys.delayed, 0, 0, withscores=True)
        pipe.hlen(keys.in_flight)
        pipe.llen(keys.dead)
        pipe.get(keys.paused)
        pipe.get(in_lanes_key(queue))
    (seconds, micros), registered, *answers = pipe.execute()
    now_ms = seconds * 1000 + micros / 1000
    found = []
    for index, queue in enumerate(queues):
        ready, delayed, first, in_flight, dead, paused, waiting = answers[index * 7 : index * 7 + 7]
        next_due_in_s = round((first[0][1] - now_ms) / 1000, 3) if first else None
        since = None if paused is None else paused.decode(errors="replace")
        in_lanes = int(waiting or 0) if registered or int(waiting or 0) else None
        found.append(Backlog(queue, ready, delayed, next_due_in_s, in_flight, dead, since, in_lanes))
    return found
