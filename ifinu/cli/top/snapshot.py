"""The state of Redis: queues, age of the oldest message, dead letters by reason, unknown ids, the event stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from ifinu.broker import intake
from ifinu.broker.backlog import Backlog, survey
from ifinu.broker.dead_letters import Reasons
from ifinu.broker.keys import EVENTS, QUEUES, UNKNOWN
from ifinu.cli import ledger_status

MOST_LETTERS = 1_000  # the newest of each queue, whose reasons are counted


@dataclass(frozen=True)
class Snapshot:
    """
    The state at one moment.

    Attributes:
        queues: In the order in which they are served.
        oldest_s: By queue, the age in seconds of its next message; None if there is none, or its age is not known.
        dead: By queue and reason, the number of dead letters among the newest `MOST_LETTERS`.
        unknown: Ids that may have been sent.
        unknown_oldest_s: Seconds since the oldest of them came in doubt.
        waiting: Events that are not in the ledger yet.
        waiting_oldest_s: Age of the oldest of them.
        recorded: Whether a recorder runs.
    """

    queues: Sequence[Backlog]
    oldest_s: Mapping[str, float | None]
    dead: Mapping[str, Counter[str]]
    unknown: int
    unknown_oldest_s: float | None
    waiting: int
    waiting_oldest_s: float | None
    recorded: bool

    @property
    def reasons(self) -> Counter[str]:
        """Dead letters of all queues, by reason."""
        return sum(self.dead.values(), Counter())


class SnapshotReader:
    """
    Reads the state of Redis again and again.

    Args:
        client: A client that returns bytes, with timeouts.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._reasons = {queue: Reasons(client, queue, MOST_LETTERS) for queue in QUEUES}

    def look(self) -> Snapshot:
        """
        Read it.

        Raises:
            redis.RedisError: Redis is away, or refused.
        """
        queues = survey(self._client)
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.zrange(UNKNOWN, 0, 0, withscores=True)
        pipe.xrange(EVENTS, count=1)
        for queue in queues:
            pipe.lindex(queue.queue, -1)
        (seconds, micros), unknown, event, *tails = pipe.execute()
        now_s = seconds + micros / 1e6
        waiting = ledger_status.waiting(self._client)
        return Snapshot(
            queues=queues,
            oldest_s={one.queue: _age_s(tail, now_s) for one, tail in zip(queues, tails, strict=True)},
            dead={queue: reasons.count() for queue, reasons in self._reasons.items()},
            unknown=ledger_status.unknown(self._client),
            unknown_oldest_s=max(0.0, now_s - unknown[0][1] / 1000) if unknown else None,
            waiting=waiting,
            # Recorded events are deleted soon afterwards.
            waiting_oldest_s=max(0.0, now_s - int(event[0][0].split(b"-")[0]) / 1000) if event and waiting else None,
            recorded=ledger_status.is_recorded(self._client),
        )


def _age_s(tail: Any, now_s: float) -> float | None:
    accepted_at = None if tail is None else intake.accepted_at(tail)
    return None if accepted_at is None else round(max(0.0, now_s - accepted_at.timestamp()), 1)
