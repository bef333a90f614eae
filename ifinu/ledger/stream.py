"""The stream `ifinu:eventos` as the recorder reads it: a batch at a time, deleted when it is recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import redis

from ifinu.broker.keys import EVENTS, script
from ifinu.ledger.entries import position

GROUP = "ledger"
# One name for all recorders, so that what one left behind is at once the next one's.
_CONSUMER = "recorder"

Fields = dict[bytes, bytes]


class Taken(NamedTuple):
    """
    What a look at the stream brought.

    Attributes:
        before: Id up to which the group had taken entries before.
        pending: How many of those were not recorded.
        length: Entries in the stream, which are all that are not recorded.
        entries: The batch, by id. What was deleted meanwhile has no fields.
    """

    before: tuple[int, int]
    pending: int
    length: int
    entries: dict[bytes, Fields]


class Stream:
    """
    The stream and its group.

    Args:
        client: A connection that returns bytes, with a read timeout well above a second.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def make_group(self) -> bool:
        """
        Make the group, which is to read from the beginning; False when it is there already.

        Raises:
            redis.RedisError: Redis is away.
        """
        try:
            self._client.xgroup_create(EVENTS, GROUP, id="0", mkstream=True)
        except redis.ResponseError as exc:
            if "BUSYGROUP" in str(exc):
                return False
            raise
        return True

    def take(self, count: int, *, again: bool, recorded_to: tuple[int, int]) -> Taken | None:
        """
        Take a batch; None when there is no group. Of one that is behind `recorded_to` nothing is taken.

        Args:
            count: The most entries.
            again: Those that were taken before and not acknowledged, instead of new ones.
            recorded_to: Id up to which the ledger is recorded at least.

        Raises:
            redis.RedisError: Redis is away; what it gave is given again to who asks `again`.
        """
        found = script("read_events")(
            self._client, (EVENTS,), (GROUP, _CONSUMER, count, "0" if again else ">", *recorded_to)
        )
        if not found:
            return None
        before, pending, length, entries = found
        return Taken(position(before), pending, length, {id_: _flat_to_fields(flat) for id_, flat in entries})

    def take_over(self, count: int, idle_ms: int) -> dict[bytes, Fields]:
        """
        Take what somebody, of any name, took so long ago that they must be dead.

        Raises:
            redis.RedisError: Redis is away.
        """
        _, entries, *_ = self._client.xautoclaim(EVENTS, GROUP, _CONSUMER, idle_ms, count=count)
        return {id_: fields or {} for id_, fields in entries if id_ is not None}

    def acknowledge(self, ids: Iterable[bytes]) -> None:
        """
        Say that entries are recorded, which deletes them unless another group needs them.

        Raises:
            redis.RedisError: Redis is away; they are taken again.
        """
        script("forget_events")(self._client, (EVENTS,), (GROUP, *ids))

    def wait(self, after: tuple[int, int], seconds: float) -> None:
        """
        Wait until there is an entry later than `after`, or the time is over.

        Raises:
            redis.RedisError: Redis is away.
        """
        ms, seq = after
        with contextlib.suppress(redis.ResponseError):  # it was deleted or replaced while we waited: look again
            self._client.xread({EVENTS: f"{ms}-{seq}"}, count=1, block=int(seconds * 1000))


def _flat_to_fields(flat: list[bytes] | None) -> Fields:
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}
