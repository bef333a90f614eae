"""The outcomes of a delivery. The table at the top of `delivery.py` says what the worker does with each."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from ifinu.broker.claims import ClaimState
from ifinu.broker.events import Event
from ifinu.broker.leases import Settled
from ifinu.errors import IdReused, InvalidNotification, MaybeSent, Poison, SendError, UnknownInstance, WrongTenant
from ifinu.gateway.instances import Trouble


class Wait(NamedTuple):
    """
    The message must wait, in the delayed set.

    Attributes:
        wait_s: The wait in seconds.
        at: Start of the wait, by Redis' clock.
        claim: State of its id's claim while it waits: `waiting` or `unknown`.
        token: The token for its next message.
        event: The event to write; None if it was written before.
        instance: The instance to send from.
        reason: One word: `look_up`, `unknown`, or a reason of the event `deferred`.
        free: Whether nothing went to the gateway, so that the pace need not count it.
        lost: Whether the gateway took the request and its connection, or the proxy's, broke.
        error: The gateway's error; None if no send was requested.
        trouble: Its failures so far, for the header of its next message.
        refund: Number of counted tries that were its instance's fault.
        held: Whether it waits because its number, which has a pace, must not send: then that number is held for the
            wait, and the message stays the first in its lane.
    """

    wait_s: float
    at: datetime
    claim: ClaimState
    token: str
    event: Event | None
    instance: str
    reason: str
    free: bool = False
    lost: bool = False
    error: SendError | None = None
    trouble: Trouble | None = None
    refund: int = 0
    held: bool = False


class Retry(NamedTuple):
    """
    Nothing was sent, and the message is tried again. This try counts.

    Attributes:
        error: The gateway's error.
        at: Time of the failure, by Redis' clock.
        token: The token for the retry.
        event: The event to write.
        trouble: Its failures so far, for the header of the retry.
    """

    error: SendError
    at: datetime
    token: str
    event: Event
    trouble: Trouble | None = None


class GiveBack(NamedTuple):
    """
    Nothing was sent, and the message goes back to its queue as it came.

    Attributes:
        error: What is away: the gateway (`breaker.is_outage`) or Redis.
    """

    error: Exception


class Reroute(NamedTuple):
    """
    Nothing was sent, and the message moves to the lane of the number by which it goes.

    Attributes:
        number: Name of that number.
    """

    number: str


class Dead(NamedTuple):
    """
    The message ends in the dead letters.

    Attributes:
        error: Why.
        fields: Fields of its event, the `id` among them.
    """

    error: InvalidNotification | SendError
    fields: dict[str, Any]

    @property
    def maybe_sent(self) -> bool:
        """Whether it may have been sent, so that a person decides."""
        return isinstance(self.error, MaybeSent)

    @property
    def reason(self) -> str:
        """The reason in the dead letters: one of a fixed set of words."""
        match self.error:
            case SendError():
                return self.error.reason
            case IdReused():
                return "id_reused"
            case Poison():
                return "poison"
            case WrongTenant():
                return "wrong_tenant"
            case UnknownInstance():
                return "unknown_instance"
        return "invalid"


Outcome = Settled | Wait | Retry | GiveBack | Reroute | Dead
