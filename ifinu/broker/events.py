"""
The events of the stream `ifinu:eventos`, from which the ledger is written.

An entry has three fields: `event` (a name below), `id` (of the notification, or empty) and `data` (a JSON object). The
entry's own id is Redis' time in ms. A script writes the event of a move in the same step, so the stream has every move
and no other. An entry is read at least once, and may be read twice.

Every event of a notification carries what is known of: `kind`, `tenant`, `instance`, `queue`, `phone` (masked), `hash`
(the phone's pseudonym), `attempts` (sends tried so far). Beside these:

    event       state of the notification      data
    sent        sent                           key_id (or null), confirmed (the gateway could store it),
                                               by: gateway | look_up | webhook | person, new: true if it opened a
                                               chat (absent: it did not), template: Meta's, if it was sent as one
    retrying    retrying                       reason, error, due_ms
    deferred    deferred                       reason: window | not_late | instance | throttled | misconfigured |
                                               new_chats | person_cap | pair_gap | portfolio, due_ms
    unknown     unknown                        reason, error, due_ms (of the next look-up, or null)
    resending   unknown                        the gateway did not have it, and it is sent again
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
    uncancelled queued                         the cancellation was withdrawn before anything was dropped
    receipt     server_ack | delivered |       id is empty; key_id, status (one of these states), instance
                read | failed
    optout      (no notification)              id is empty; tenant, phone, hash, source, on: true | false
    connection  (no notification)              id is empty; instance, state, code
    number      (no notification)              id is empty; number, step, signal, until, brake, risk, figures: a step of
                                               the guard (see `numbers/guard.py`). By hand: number,
                                               step (held | released), until, reason. Of a number whose tenant's
                                               others send in its place: number, step (diverted | undiverted), figures
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Any

import redis
import redis.asyncio.client

from ifinu.broker.keys import EVENTS
from ifinu.json_encoder import encoder


class Name(enum.StrEnum):
    """The names of events; see the table above."""

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
    NUMBER = "number"


_encode = encoder(separators=(",", ":"))  # ASCII escapes let half a surrogate pair in an error be stored


@dataclass(frozen=True, slots=True)
class Event:
    """One event; the table above says what `data` holds."""

    name: Name
    id: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> tuple[str, str, str]:
        """The arguments of a script: name, id, data as JSON."""
        return self.name.value, self.id, _encode(self.data)

    def write(self, client: redis.Redis | redis.asyncio.client.Pipeline) -> None:
        """
        Add the event to the stream, if it belongs to no script's move; with a pipeline, when that is executed.

        Raises:
            redis.RedisError: Redis is away.
        """
        name, id_, data = self.arguments()
        client.xadd(EVENTS, {"event": name, "id": id_, "data": data})


def decode(fields: dict[bytes, bytes]) -> Event:
    """
    Read an entry of the stream.

    Raises:
        ValueError: It is not an event of ours.
    """
    try:
        data = json.loads(fields[b"data"])
        if not isinstance(data, dict):
            raise ValueError("data is not an object")
        return Event(Name(fields[b"event"].decode()), fields[b"id"].decode(), data)
    except (KeyError, ValueError, RecursionError) as exc:
        raise ValueError(f"not an event: {exc}") from None
