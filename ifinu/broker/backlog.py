"""Looking at the queues: how many messages are where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis

from ifinu.broker.keys import QUEUES, Keys


@dataclass(frozen=True)
class Backlog:
    """
    One queue at one instant.

    Attributes:
        queue: Its list.
        ready: Messages that could be taken now.
        delayed: Messages that wait for their time: retries, deferrals, schedules.
        next_due_in_s: Seconds until the first of those, or None; zero or less when it is due.
        in_flight: Messages that workers hold.
        dead: Dead letters.
        paused_since: ISO time at which somebody paused it, or None.
    """

    queue: str
    ready: int
    delayed: int
    next_due_in_s: float | None
    in_flight: int
    dead: int
    paused_since: str | None

    @property
    def unsettled(self) -> int:
        """Messages that are still on their way, wherever they are."""
        return self.ready + self.delayed + self.in_flight

    def as_json(self) -> dict[str, Any]:
        """The fields, for a program."""
        return asdict(self)


def survey(client: redis.Redis, queues: Sequence[str] = QUEUES) -> list[Backlog]:
    """
    Look at several queues at once.

    Args:
        client: A connection that returns bytes.
        queues: Their lists.

    Raises:
        redis.RedisError: Redis is away, or a key is of another type.
    """
    pipe = client.pipeline(transaction=True)  # so that a message on its way is not counted twice, or never
    pipe.time()
    for queue in queues:
        keys = Keys.of(queue)
        pipe.llen(keys.ready)
        pipe.zcard(keys.delayed)
        pipe.zrange(keys.delayed, 0, 0, withscores=True)
        pipe.hlen(keys.in_flight)
        pipe.llen(keys.dead)
        pipe.get(keys.paused)
    (seconds, micros), *answers = pipe.execute()
    now_ms = seconds * 1000 + micros / 1000
    found = []
    for index, queue in enumerate(queues):
        ready, delayed, first, in_flight, dead, paused = answers[index * 6 : index * 6 + 6]
        next_due_in_s = round((first[0][1] - now_ms) / 1000, 3) if first else None
        since = None if paused is None else paused.decode(errors="replace")
        found.append(Backlog(queue, ready, delayed, next_due_in_s, in_flight, dead, since))
    return found
