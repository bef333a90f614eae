"""The stream `ifinu:eventos`: read in batches, which are deleted once they are recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import redis

from ifinu.broker.keys import EVENTS, script
from ifinu.broker.keys import LEDGER_GROUP as GROUP
from ifinu.ledger.entries import position

# One name for all recorders, so that the next one gets the entries that another left unrecorded at once.
_CONSUMER = "recorder"

Fields = dict[bytes, bytes]


class Taken(NamedTuple):
    """
    A batch, and the position of the consumer group.

    Attributes:
        before: Id up to which the group had read before.
        pending: Number of entries read before and not acknowledged.
        length: Entries in the stream, all of which are not recorded yet.
        entries: The batch, by id. An entry that was deleted meanwhile has no fields.
    """

    before: tuple[int, int]
    pending: int
    length: int
    entries: dict[bytes, Fields]


class Stream:
    """
    The stream and its consumer group. Every method raises redis.RedisError if Redis is away.

    Args:
        client: A connection that returns bytes, with a read timeout well above a second.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def make_group(self) -> bool:
        """Create the group, reading from the beginning; False if it exists."""
        try:
            self._client.xgroup_create(EVENTS, GROUP, id="0", mkstream=True)
        except redis.ResponseError as exc:
            if "BUSYGROUP" in str(exc):
                return False
            raise
        return True

    def take(self, count: int, *, again: bool, recorded_to: tuple[int, int]) -> Taken | None:
        """
        Read a batch; None if there is no group. A group that is behind `recorded_to` gets no entries.

        Args:
            count: The most entries.
            again: Whether to read the entries read before and not acknowledged, instead of new ones.
            recorded_to: Id up to which the ledger is recorded at least.

        Raises:
            redis.RedisError: Redis is away; entries that were read can be read `again`.
        """
        found = script("read_events")(
            self._client, (EVENTS,), (GROUP, _CONSUMER, count, "0" if again else ">", *recorded_to)
        )
        if not found:
            return None
        before, pending, length, entries = found
        return Taken(position(before), pending, length, {id_: _flat_to_fields(flat) for id_, flat in entries})

    def take_over(self, count: int, idle_ms: int) -> dict[bytes, Fields]:
        """Take over entries that any consumer read `idle_ms` ago or earlier and did not acknowledge."""
        _, entries, *_ = self._client.xautoclaim(EVENTS, GROUP, _CONSUMER, idle_ms, count=count)
        return {id_: fields or {} for id_, fields in entries if id_ is not None}

    def acknowledge(self, ids: Iterable[bytes]) -> None:
        """
        Acknowledge recorded entries, and delete them unless another group needs them.

        Raises:
            redis.RedisError: Redis is away; they are read again.
        """
        script("forget_events")(self._client, (EVENTS,), (GROUP, *ids))

    def wait(self, after: tuple[int, int], seconds: float) -> None:
        """Wait for an entry later than `after`, for `seconds` at most."""
        ms, seq = after
        with contextlib.suppress(redis.ResponseError):  # the stream was deleted or replaced meanwhile: read it again
            self._client.xread({EVENTS: f"{ms}-{seq}"}, count=1, block=int(seconds * 1000))


def _flat_to_fields(flat: list[bytes] | None) -> Fields:
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}
