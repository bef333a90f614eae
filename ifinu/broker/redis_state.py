"""
The state of Redis, as `ifinu top`, `ifinu status`, `ifinu doctor` and `ifinu metrics` report it.

The recorder's lag is the number of events that are not in the ledger yet: those that the stream's group `ledger` has
not read, and those that it has read and not acknowledged. The stream may be longer, since recorded events stay in it
for as long as another group needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from ifinu.broker import intake
from ifinu.broker.backlog import Backlog, survey
from ifinu.broker.dead_letters import Reasons
from ifinu.broker.keys import EVENTS, LEDGER_GROUP, QUEUES, RECORDER, UNKNOWN

NEWEST_LETTERS = 1_000  # of each queue, whose reasons are counted by default


@dataclass(frozen=True)
class RecorderLag:
    """
    Events that are not in the ledger yet.

    Attributes:
        events: Their number.
        oldest_s: Age of the oldest in seconds; None without one.
        recorded: Whether a recorder runs.
    """

    events: int
    oldest_s: float | None
    recorded: bool


@dataclass(frozen=True)
class RedisState:
    """
    The state at one moment.

    Attributes:
        queues: In the order in which they are served.
        tails: By queue, the bytes of its next message, or None.
        oldest_s: By queue, the age in seconds of its next message; None if the queue is empty or the age not known.
        dead: By queue and reason, the number of dead letters among the newest.
        unknown: Number of ids that may have been sent.
        unknown_oldest_s: Seconds since the oldest of them came in doubt; None without one.
        lag: Events that are not in the ledger yet.
    """

    queues: Sequence[Backlog]
    tails: Mapping[str, bytes | None] = field(repr=False)
    oldest_s: Mapping[str, float | None]
    dead: Mapping[str, Counter[str]]
    unknown: int
    unknown_oldest_s: float | None
    lag: RecorderLag

    @property
    def reasons(self) -> Counter[str]:
        return sum(self.dead.values(), Counter())


class StateReader:
    """
    Reads the state of Redis again and again; unchanged dead letters are read once.

    Args:
        client: A client that returns bytes, with timeouts.
        letters: How many dead letters of each queue, from the newest, are counted by reason.
    """

    def __init__(self, client: redis.Redis, letters: int = NEWEST_LETTERS) -> None:
        self._client = client
        self._reasons = {queue: Reasons(client, queue, letters) for queue in QUEUES}

    def read(self) -> RedisState:
        """
        Read the state.

        Raises:
            redis.RedisError: Redis is away, or refused.
        """
        queues = survey(self._client)
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.zcard(UNKNOWN)
        pipe.zrange(UNKNOWN, 0, 0, withscores=True)
        for queue in QUEUES:
            pipe.lindex(queue, -1)
        now, unknown, in_doubt, *found = pipe.execute()
        tails = dict(zip(QUEUES, found, strict=True))
        return RedisState(
            queues=queues,
            tails=tails,
            oldest_s={queue: _accepted_s(tail, now) for queue, tail in tails.items()},
            dead={queue: reasons.count() for queue, reasons in self._reasons.items()},
            unknown=unknown,
            unknown_oldest_s=_age_s(in_doubt[0][1], now) if in_doubt else None,
            lag=recorder_lag(self._client),
        )


def recorder_lag(client: redis.Redis) -> RecorderLag:
    """
    Count the events that are not in the ledger yet.

    Raises:
        redis.RedisError: Redis is away, or refused.
    """
    pipe = client.pipeline(transaction=False)
    pipe.time()
    pipe.exists(RECORDER)
    pipe.xlen(EVENTS)
    now, recorded, events = pipe.execute()
    oldest: Any = b"-"
    groups: Any = client.xinfo_groups(EVENTS) if events else ()
    for group in groups:
        if group["name"] == LEDGER_GROUP.encode():
            pending: Any = client.xpending(EVENTS, LEDGER_GROUP)
            oldest = pending["min"] or b"(" + group["last-delivered-id"]
            if group["lag"] is not None:  # Redis cannot count it after an XDEL
                events = min(events, group["lag"] + pending["pending"])
    first: Any = client.xrange(EVENTS, min=oldest, count=1) if events else ()
    return RecorderLag(events, _age_s(int(first[0][0].split(b"-")[0]), now) if first else None, bool(recorded))


def _accepted_s(message: bytes | None, now: tuple[int, int]) -> float | None:
    accepted_at = None if message is None else intake.accepted_at(message)
    return None if accepted_at is None else round(_age_s(accepted_at.timestamp() * 1000, now), 1)


def _age_s(since_ms: float, now: tuple[int, int]) -> float:
    seconds, micros = now
    return max(0.0, seconds + micros / 1e6 - since_ms / 1000)
