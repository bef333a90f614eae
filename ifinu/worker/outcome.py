"""
The outcome of a message, as the task returns it to the worker's main process.

Celery passes on the `saferepr` of a task's result in either pool, and Flower shows it: `sent 3EB0… {…}`.
"""

from __future__ import annotations

import json

from ifinu.broker.claims import ClaimState
from ifinu.broker.events import Event, Name
from ifinu.broker.leases import DUPLICATE, Settled

LONGEST = 16_384  # characters that Celery keeps of it


def encode(settled: Settled) -> str:
    """Encode an outcome: the state, the gateway's id, and the rest in JSON."""
    event = settled.event
    rest = {
        "id": event.id,
        "event": event.name.value,
        "data": event.data,
        "sender": settled.sender,
        "took_s": settled.took_s,
    }
    return f"{settled.state} {settled.key_id} {json.dumps(rest)}"


def decode(returned: str) -> Settled:
    """
    Decode an outcome.

    Args:
        returned: The task's result in quotes, inner quotes escaped by a backslash (`celery.utils.saferepr`).

    Raises:
        ValueError: `encode` did not write it.
    """
    try:
        state, key_id, rest = returned[1:-1].replace("\\'", "'").split(" ", 2)
        fields = json.loads(rest)
        event = Event(Name(fields["event"]), fields["id"], fields["data"])
        return Settled(
            DUPLICATE if state == DUPLICATE else ClaimState(state),
            event,
            key_id,
            fields["sender"] and tuple(fields["sender"]),
            fields["took_s"],
        )
    except (KeyError, TypeError) as exc:
        raise ValueError(f"not an outcome: {type(exc).__name__}") from exc
