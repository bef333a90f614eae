"""An entry of the stream, read so that a database can hold it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ifinu.broker import events
from ifinu.broker.events import Event, Name
from ifinu.ledger.states import RECEIPTS

LONGEST_ID = 200  # characters; an index cannot hold any length
_LONGEST_TEXT = 2000  # of an error; the event itself is kept whole
_LARGEST = 2**31 - 1
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # no database of ours takes these

# What an event is nothing without.
_NEEDED = {
    Name.RECEIPT: ("key_id", "status"),
    Name.OPTOUT: ("hash",),
    Name.CONNECTION: ("instance",),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One event and its id in the stream.

    Attributes:
        ms: First part of the id: the time at Redis, in ms.
        seq: Second part.
        event: What happened.
    """

    ms: int
    seq: int
    event: Event

    @classmethod
    def read(cls, id_: bytes, fields: dict[bytes, bytes]) -> Entry:
        """
        Read an entry as Redis gives it.

        Raises:
            ValueError: It is no event.
        """
        event = events.decode(fields)
        entry = cls(*position(id_), Event(event.name, _storable(event.id), _storable(event.data)))
        for name in _NEEDED.get(event.name, ()):
            if entry.text(name, LONGEST_ID) is None:
                raise ValueError(f"not an event: {event.name} without {name}")
        if event.name is Name.RECEIPT and entry.event.data["status"] not in RECEIPTS:
            raise ValueError("not an event: receipt of another status")
        return entry

    @property
    def at(self) -> datetime:
        """When it happened."""
        return datetime.fromtimestamp(self.ms / 1000, UTC)

    @property
    def notification_id(self) -> str | None:
        """Of what it tells; None where that is no notification, or cannot be one for the length of its id."""
        return self.event.id if 0 < len(self.event.id) <= LONGEST_ID else None

    def text(self, name: str, longest: int = _LONGEST_TEXT) -> str | None:
        """A text of its data, at most so long; None where it is something else."""
        value = self.event.data.get(name)
        return value[:longest] if isinstance(value, str) and value else None

    def number(self, name: str) -> int | None:
        """A count of its data."""
        value = self.event.data.get(name)
        return value if type(value) is int and 0 <= value <= _LARGEST else None  # a bool is an int too

    def flag(self, name: str) -> bool | None:
        """A yes or no of its data."""
        value = self.event.data.get(name)
        return value if isinstance(value, bool) else None

    def time(self, name: str) -> datetime | None:
        """A time of its data, which is in ms there."""
        value = self.event.data.get(name)
        try:
            return datetime.fromtimestamp(value / 1000, UTC)  # type: ignore[operator]  # caught below
        except (TypeError, ValueError, OverflowError, OSError):
            return None


def position(id_: bytes) -> tuple[int, int]:
    """An id of the stream, so that the later one is the greater."""
    ms, _, seq = id_.partition(b"-")
    return int(ms), int(seq or 0)


def _storable(value: Any) -> Any:
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case dict():
            return {_storable(key): _storable(inner) for key, inner in value.items()}
        case list():
            return [_storable(inner) for inner in value]
    return value
