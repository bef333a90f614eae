"""One try of a message: what its headers say, what the task made of it, and how it is postponed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ifinu import tracing
from ifinu.broker import intake, lanes
from ifinu.broker.claims import ClaimState, MessageRef
from ifinu.broker.headers import ACCEPTED, FIRST_TRY, LINE, NUMBER, QUEUE, SUSPECT, TAG, TOKEN, TRACEPARENT, TROUBLE
from ifinu.broker.leases import Leases
from ifinu.errors import MaybeSent
from ifinu.gateway.instances import Trouble
from ifinu.notification import Notification
from ifinu.outcome import Outcome, Reroute, Retry, Wait

_LONGEST_HOLD_S = 60.0  # of a number in trouble, between two messages that try it


class Attempt:
    """
    One try of a message. Its request makes it, and its task finds it as `self.request.attempt`, in the same process.

    Args:
        message: The message, as the channel admitted it.

    Attributes:
        ref: The message that brought the notification.
        number: Number of the try, from 1.
        accepted: When a producer handed the message over, as its header says it; None if that is not known.
        first_at: Time of the first try; None if this is it.
        trouble: The message's failures so far.
        suspect: Digest of the message if a worker may have died because of it, else empty.
        traceparent: The trace that its next message continues, or empty.
        notification: The notification, once it was read.
        outcome: What became of it; None until that is decided.
        failure: What was raised instead of an outcome, if it is to be raised again under Celery's tracer.
        moved: Whether it is not this worker's any more: another message has taken its place, or it is in another lane.
    """

    __slots__ = (
        "_message", "accepted", "failure", "first_at", "moved", "notification", "number", "outcome", "ref", "suspect",
        "traceparent", "trouble",
    )  # fmt: skip

    def __init__(self, message: Any) -> None:
        headers = message.headers
        self._message = message
        waited = FIRST_TRY in headers
        self.ref = MessageRef(headers[QUEUE], headers[TAG], headers.get(TOKEN, ""), waited, headers.get(NUMBER, ""))
        self.number: int = headers["retries"] + 1
        self.accepted: str | None = headers.get(ACCEPTED)
        self.first_at = intake.aware(headers.get(FIRST_TRY))
        self.trouble = Trouble.read(headers.get(TROUBLE))
        self.suspect: str = headers.get(SUSPECT, "")
        self.traceparent = tracing.traceparent(headers.get(TRACEPARENT))
        self.notification: Notification | None = None
        self.outcome: Outcome | None = None
        self.failure: Exception | None = None
        self.moved = False

    @property
    def id(self) -> str:
        """The id of the message's task: that of its notification, where a producer gave one."""
        task_id: str = self._message.headers["id"]
        return task_id

    def postpone(self, outcome: Wait | Retry, wait_s: float, *, retries: int) -> None:
        """
        Put the message's successor into the delayed set in its place.

        Args:
            outcome: Why it waits.
            retries: Number of counted tries that the successor has behind it.

        Raises:
            redis.RedisError: Redis cannot take it.
        """
        leases: Leases = self._message.channel.leases
        raw = leases.raw(self.ref.tag)
        if raw is not None:  # else its lease ran out, and it is on its queue again
            if isinstance(outcome.error, MaybeSent):
                leases.doubt(self.ref.tag)
            assert self.notification is not None  # noqa: S101 - it was delivered
            ours = {
                FIRST_TRY: (self.first_at or outcome.at).isoformat(),
                TOKEN: outcome.token,
                ACCEPTED: self.accepted,
                TRACEPARENT: self.traceparent,
                TROUBLE: outcome.trouble,
                LINE: lanes.line(self.notification.tenant, self.notification.instance, self.notification.phone),
            }
            held = False
            if isinstance(outcome, Wait) and outcome.held:
                held = True
                until = outcome.at + timedelta(seconds=wait_s)
                leases.hold_number(self.ref.number, until, outcome.reason, longest_s=_LONGEST_HOLD_S)
            leases.postpone(
                self.ref.tag,
                intake.successor(
                    raw,
                    self._message.headers,
                    reply_to=self._message.properties.get("reply_to"),
                    retries=retries,
                    **{name: value for name, value in ours.items() if value},
                ),
                wait_s,
                state=outcome.claim if isinstance(outcome, Wait) else ClaimState.WAITING,
                notification_id=self.notification.id,
                event=outcome.event,
                aside=held,
            )
        self.moved = True

    def reroute(self, outcome: Reroute) -> None:
        """
        Move the message to the lane of another number, unless that is not registered any more.

        Raises:
            redis.RedisError: Redis cannot do it.
        """
        leases: Leases = self._message.channel.leases
        self.moved = leases.reroute(self.ref.tag, outcome.number)
