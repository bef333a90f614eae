"""
What happened, as the ledger reads it from the stream `ifinu:eventos`.

An entry has three fields: `event` (a name below), `id` (of the notification; empty where none is known) and `data` (a
JSON object). Its own id is the time at Redis, in ms. Scripts write an event in the same step as the move it tells of,
so none is missing and none tells of what did not happen. An entry may be read twice, never not at all.

Every event of a notification may carry, where they are known: `kind`, `tenant`, `instance`, `queue`, `phone` (masked),
`hash` (the phone's pseudonym), `attempts` (sends tried so far). Beside these:

    event       state of the notification      data
    sent        sent                           key_id (or null), confirmed (the gateway could store it),
                                               by: gateway | look_up | webhook | person
    retrying    retrying                       reason, error, due_ms
    deferred    deferred                       reason: window | not_late | instance | throttled | misconfigured, due_ms
    unknown     unknown                        reason, error, due_ms (of the next look-up, or null)
    resending   unknown                        it was not at the gateway and is sent once more
    held        unknown, in the dead letters   reason, error
    dead        dead, in the dead letters      reason, error
    replayed    queued
    purged      (unchanged)                    its dead letter was deleted
    unqueued    purged                         reason: purged; its message was deleted from its queue, and was not sent.
                                               The state is dead where `first` says that the id was dead before
    duplicate   (unchanged)                    first: state of the first message with this id
    expired     expired                        reason, in words
    suppressed  suppressed                     reason: opt_out
    cancelled   cancelled
    uncancelled queued                         it is wanted again, before anything was sent
    receipt     server_ack | delivered |       id is empty; key_id, status (one of these states), instance
                read | failed
    optout      (no notification)              id is empty; tenant, phone, hash, source, on: true | false
    connection  (no notification)              id is empty; instance, state, code
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Any

import redis

from ifinu.broker.keys import EVENTS


class Name(enum.StrEnum):
    """The names in the table above."""

    SENT = "sent"
    RETRYING = "retrying"
    DEFERRED = "deferred"
    UNKNOWN = "unknown"
    RESENDING = "resending"
    HELD = "held"
    DEAD = "dead"
    REPLAYED = "replayed"
    PURGED = "purged"
    UNQUEUED = "unqueued"
    DUPLICATE = "duplicate"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"
    UNCANCELLED = "uncancelled"
    RECEIPT = "receipt"
    OPTOUT = "optout"
    CONNECTION = "connection"


# Two of them are made for each message: `json.dumps` with separators would make an encoder each time. As JSON escapes
# it, half a surrogate pair in an error can be stored.
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `data` is what the table says for its name."""

    name: Name
    id: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> tuple[str, str, str]:
        """What a script takes: name, id, data."""
        return self.name.value, self.id, _encode(self.data)

    def write(self, client: redis.Redis) -> None:
        """
        Add it to the stream, where no script does.

        Raises:
            redis.RedisError: It is not there.
        """
        name, id_, data = self.arguments()
        client.xadd(EVENTS, {"event": name, "id": id_, "data": data})


def decode(fields: dict[bytes, bytes]) -> Event:
    """
    Read an entry.

    Raises:
        ValueError: It is none of ours.
    """
    try:
        data = json.loads(fields[b"data"])
        if not isinstance(data, dict):
            raise ValueError("data is no object")
        return Event(Name(fields[b"event"].decode()), fields[b"id"].decode(), data)
    except (KeyError, ValueError, RecursionError) as exc:
        raise ValueError(f"not an event: {exc}") from None
