"""The state of a notification in a sentence or two: its outcome, and what happens next."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from ifinu.broker import DeadLetter
from ifinu.broker.claims import ClaimState
from ifinu.broker.obstacles import Obstacle, Readiness
from ifinu.numbers.directory import UNTIL_RELEASED
from ifinu.window import BRASILIA

if TYPE_CHECKING:
    from ifinu.ledger.queries import Known

_ZONE = ZoneInfo(BRASILIA)
# Only the ledger has what receipts reported; for everything else Redis is ahead of it.
_FROM_RECEIPTS = ("server_ack", "delivered", "read", "failed")
_DETAILED_BY_LEDGER = ("retrying", "deferred", "queued")


@dataclass(frozen=True, slots=True)
class ClaimView:
    """
    The claim of an id in Redis; see `broker.claims`.

    Attributes:
        state: The claim's state; empty if the claim only holds a cancellation.
        key_id: WhatsApp's id of the message, or empty.
        cancelled: Whether the notification was cancelled.
        given_up: Whether it is in doubt and no longer looked up, since its dead letter was deleted.
    """

    state: str
    key_id: str = ""
    cancelled: bool = False
    given_up: bool = False


def clock(at: datetime | None, zone: ZoneInfo = _ZONE) -> str:
    """A time in a time zone, by default São Paulo's; a dash for None."""
    return "–" if at is None else at.astimezone(zone).strftime("%d/%m/%Y %H:%M:%S")


def state_of(known: Known | None, claim: ClaimView | None, letter: DeadLetter | None) -> str:
    """
    The present state, from the source that is ahead.

    Returns:
        One of `ledger.states.State`, or `sending` or `waiting`, which only claims have.
    """
    if known and known.state in _FROM_RECEIPTS:
        return known.state
    if claim and claim.state:
        return (
            known.state
            if known and claim.state == ClaimState.WAITING and known.state in _DETAILED_BY_LEDGER
            else claim.state
        )
    if claim and claim.cancelled:
        return ClaimState.CANCELLED
    if known:
        return known.state
    return ClaimState.DEAD if letter else "queued"


def sentence(
    notification_id: str, state: str, known: Known | None, claim: ClaimView | None, letter: DeadLetter | None
) -> str:
    """
    Describe a state, and what happens next.

    Args:
        state: As `state_of` returns it.
    """
    # If the claim is ahead, the ledger's reason and times belong to an older state.
    now = known if known and known.state == state else None
    match state:
        case "queued":
            return "It is on its queue and will be sent in its turn."
        case ClaimState.SENDING:
            return "A worker is sending it. If that worker dies, another one asks the gateway whether it was sent."
        case ClaimState.WAITING:
            return "It is waiting for its next try."
        case "retrying":
            due = _due(now, " is due at", " has been due since") or " is scheduled"
            return f"A try failed{_reason(now)}. The next one{due}."
        case "deferred":
            due = _due(now, "will be sent no earlier than", "has been due since") or "will be sent later"
            return f"It is waiting{_reason(now)} and {due}. This does not count as a try."
        case ClaimState.UNKNOWN if letter is None and claim and claim.given_up:
            return (
                "It may have been sent. Its dead letter was deleted, so it is neither looked up nor sent again. If you "
                f"know whether it was sent, run `ifinu unknown resolve {shlex.quote(notification_id)}`."
            )
        case ClaimState.UNKNOWN if letter is None and now and now.reason == "purged":
            return (
                "It may have been sent. Its message was deleted from its queue, so it is not looked up. Check the "
                f"phone, then run `ifinu unknown resolve {shlex.quote(notification_id)}`."
            )
        case ClaimState.UNKNOWN if letter is None:
            due = _due(now, " is due at", " has been due since") or " is scheduled"
            return f"It may have been sent: no answer came{_reason(now)}. Its look-up at the gateway{due}."
        case ClaimState.UNKNOWN:
            return (
                "It may have been sent, and a look-up did not settle it. Check the phone, then run "
                f"`ifinu unknown resolve {shlex.quote(notification_id)}`."
            )
        case ClaimState.EXPIRED:
            return f"It was not sent and will not be: it came too late{_reason(now)}."
        case ClaimState.SUPPRESSED:
            return "It was not sent and will not be: the person opted out (`ifinu optout list`)."
        case ClaimState.CANCELLED:
            return "It was not sent and will not be: it was cancelled."
        case "purged":
            return (
                "It was not sent: its message was deleted from its queue. Its id is free again; a message pushed with "
                "it since then is sent in its turn."
            )
        case ClaimState.DEAD if letter is not None:
            id_ = shlex.quote(notification_id)
            return (
                f"It was not sent ({letter.reason}) and is in the dead letters. `ifinu dlq show {id_}` shows why; "
                f"`ifinu dlq replay --id {id_}` sends it again."
            )
        case ClaimState.DEAD:
            return f"It was not sent and will not be{_reason(now)}. Its dead letter was deleted."
        case ClaimState.SENT:
            return _sent(now)
        case "failed":
            return f"The gateway accepted it, but WhatsApp could not deliver it{_at(now, 'failed_at')}."
        case "server_ack":
            return f"WhatsApp accepted it{_at(now, 'server_ack_at')}; it has not reached the phone yet."
        case "delivered":
            return f"It reached the phone{_at(now, 'delivered_at')}; no read receipt has come."
        case "read":
            return f"It was read{_at(now, 'read_at')}."
    return f"Its state is {state}."


def waiting(state: Readiness, ahead: int) -> str:
    """
    Describe what a message in a lane waits for.

    Args:
        state: The state of its number.
        ahead: The messages that its tenant has before it.
    """
    before = f" {ahead:,} messages of its tenant are before it." if ahead else ""
    return f"It waits for its number {state.name}, which {_obstacle(state)}.{before}"


def _obstacle(state: Readiness) -> str:
    until = None if state.until_ms is None else datetime.fromtimestamp(state.until_ms / 1000, UTC)
    match state.obstacle:
        case Obstacle.UNREGISTERED:
            return "is not registered: nothing is sent from it before it is (`ifinu instance assign`)"
        case Obstacle.HELD:
            ends = "until it is released" if until and until >= UNTIL_RELEASED else f"until {clock(until)}"
            return f"is held {ends} ({state.reason}; see `ifinu instance show {shlex.quote(state.name)}`)"
        case Obstacle.RESTARTED:
            return f"sends nothing before {clock(until)}, since Redis was restarted"
        case Obstacle.DAY:
            return f"has sent its {state.per_day:,} messages of the day, and sends again from {clock(until)}"
        case Obstacle.HOUR:
            return f"has sent its share of {state.per_day:,} a day in this hour, and sends again from {clock(until)}"
        case Obstacle.GAP:
            return f"pauses between two sends, until {clock(until)}"
        case Obstacle.BUSY:
            return "has as many messages in flight as it may have"
    return "may send: its turn comes next"


def _sent(now: Known | None) -> str:
    if now is None:
        return "The gateway accepted it. No receipt has come yet."
    accepted = f"The gateway accepted it{_at(now, 'sent_at')}."
    if now.unconfirmed_at:
        return (
            f"{accepted} No receipt has come in time: the phone may be off, or `ifinu webhook` may not be registered. "
            "A gateway that restarts also loses the receipts it has not posted."
        )
    return f"{accepted} No receipt has come yet."


def _reason(now: Known | None) -> str:
    return f" ({now.reason})" if now and now.reason else ""


def _due(now: Known | None, to_come: str, past: str) -> str:
    """The due time after `to_come` or, if it has passed, after `past`; empty if there is none."""
    at = now.due_at if now else None
    return "" if at is None else _at(now, "due_at", to_come if at > datetime.now(UTC) else past)


def _at(now: Known | None, field: str, word: str = " at") -> str:
    at = getattr(now, field) if now else None
    return f"{word} {clock(at)}" if at else ""
