"""Entries of the stream, checked and cleaned so that a database can store them."""

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
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # neither PostgreSQL nor SQLite stores these
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|\xed[\xa0-\xbf]")  # JSON without these decodes to none of them

# Fields without which an event of this name is invalid.
_NEEDED = {
    Name.RECEIPT: ("key_id", "status"),
    Name.OPTOUT: ("hash",),
    Name.CONNECTION: ("instance",),
    Name.NUMBER: ("number",),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One event and its id in the stream.

    Attributes:
        ms: First part of the id: Redis' time in ms.
        seq: Second part of the id.
    """

    ms: int
    seq: int
    event: Event

    @classmethod
    def read(cls, id_: bytes, fields: dict[bytes, bytes]) -> Entry:
        """
        Read an entry as Redis gives it.

        Raises:
            ValueError: It is not an event.
        """
        event = events.decode(fields)
        data = _storable(event.data) if _SUSPECT.search(fields[b"data"]) else event.data
        entry = cls(*position(id_), Event(event.name, _storable(event.id), data))
        for name in _NEEDED.get(event.name, ()):
            if entry.text(name, LONGEST_ID) is None:
                raise ValueError(f"not an event: {event.name} without {name}")
        if event.name is Name.RECEIPT and entry.event.data["status"] not in RECEIPTS:
            raise ValueError("not an event: receipt of another status")
        return entry

    @property
    def at(self) -> datetime:
        """Redis' time of the event."""
        return datetime.fromtimestamp(self.ms / 1000, UTC)

    @property
    def notification_id(self) -> str | None:
        """The id of its notification; None if it has none, or one that is too long."""
        return self.event.id if 0 < len(self.event.id) <= LONGEST_ID else None

    def text(self, name: str, longest: int = _LONGEST_TEXT) -> str | None:
        """A text of its data, cut to `longest` characters; None for a value of another type."""
        value = self.event.data.get(name)
        return value[:longest] if isinstance(value, str) and value else None

    def number(self, name: str) -> int | None:
        """A count of its data; None for a value of another type or range."""
        value = self.event.data.get(name)
        return value if type(value) is int and 0 <= value <= _LARGEST else None  # a bool is an int too

    def flag(self, name: str) -> bool | None:
        """A boolean of its data; None for a value of another type."""
        value = self.event.data.get(name)
        return value if isinstance(value, bool) else None

    def time(self, name: str) -> datetime | None:
        """A time of its data, which is stored there in ms since the epoch; None if it is not one."""
        value = self.event.data.get(name)
        try:
            return datetime.fromtimestamp(value / 1000, UTC)  # type: ignore[operator]  # caught below
        except (TypeError, ValueError, OverflowError, OSError):
            return None


def position(id_: bytes) -> tuple[int, int]:
    """An id of the stream as (ms, seq), so that ids compare in their order."""
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
