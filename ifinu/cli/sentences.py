"""What became of a notification and what follows, in a sentence or two."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from ifinu.broker import DeadLetter
from ifinu.broker.claims import ClaimState
from ifinu.window import BRASILIA

if TYPE_CHECKING:
    from ifinu.ledger.queries import Known

_ZONE = ZoneInfo(BRASILIA)
# What WhatsApp has told is known to the ledger alone; in everything else Redis is ahead of it.
_TOLD_BY_RECEIPTS = ("server_ack", "delivered", "read", "failed")
_DETAILED_BY_LEDGER = ("retrying", "deferred", "queued")


@dataclass(frozen=True, slots=True)
class ClaimView:
    """
    What Redis remembers of an id; see `broker.claims`.

    Attributes:
        state: As the claim has it; empty where it holds nothing but that the id was called off.
        key_id: WhatsApp's id of the message, or empty.
        cancelled: It was called off.
        given_up: It may have been sent, and nothing is done about that: its dead letter was deleted.
    """

    state: str
    key_id: str = ""
    cancelled: bool = False
    given_up: bool = False


def clock(at: datetime | None) -> str:
    """A time in São Paulo; a dash for none."""
    return "–" if at is None else at.astimezone(_ZONE).strftime("%d/%m/%Y %H:%M:%S")


def state_of(known: Known | None, claim: ClaimView | None, letter: DeadLetter | None) -> str:
    """
    The state that counts, of all that is known.

    Returns:
        One of `ledger.states.State`, or `sending` or `waiting`, which only a claim can be in.
    """
    if known and known.state in _TOLD_BY_RECEIPTS:
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
    Say it.

    Args:
        notification_id: The id.
        state: As `state_of` gives it.
        known: What the ledger has.
        claim: What Redis remembers.
        letter: Its latest dead letter.
    """
    # Where the claim is ahead, what the ledger says of reasons and times belongs to an older state.
    now = known if known and known.state == state else None
    match state:
        case "queued":
            return "It is on its queue, and will be sent when it is its turn."
        case ClaimState.SENDING:
            return "A worker is sending it. Should the worker die of it, the gateway is asked whether it was sent."
        case ClaimState.WAITING:
            return "It waits for its next try."
        case "retrying":
            return f"A try failed{_why(now)}. The next is due{_due(now, ' at', ' since')}."
        case "deferred":
            later = _due(now, ", not before", ": it is due since")
            return f"It waits{_why(now)}, and is sent later{later}. No try was counted."
        case ClaimState.UNKNOWN if letter is None and claim and claim.given_up:
            return (
                "It may have been sent, and its dead letter was deleted: it is neither looked up nor sent again. If "
                f"you know better, `ifinu unknown resolve {shlex.quote(notification_id)}`."
            )
        case ClaimState.UNKNOWN if letter is None and now and now.reason == "purged":
            return (
                "It may have been sent, and its message was deleted from its queue: it is not looked up. A person "
                f"decides: look at the phone, then `ifinu unknown resolve {shlex.quote(notification_id)}`."
            )
        case ClaimState.UNKNOWN if letter is None:
            asked = _due(now, " at", ", as it was to be at")
            return f"It may have been sent: no answer came{_why(now)}. The gateway is asked for it{asked}."
        case ClaimState.UNKNOWN:
            return (
                "It may have been sent, and the gateway does not say. A person decides: look at the phone, then "
                f"`ifinu unknown resolve {shlex.quote(notification_id)}`."
            )
        case ClaimState.EXPIRED:
            return f"It was not sent and will not be: it came too late{_why(now)}."
        case ClaimState.SUPPRESSED:
            return "It was not sent and will not be: the person wants no messages (`ifinu optout list`)."
        case ClaimState.CANCELLED:
            return "It was not sent and will not be: it was called off."
        case "purged":
            return (
                "It was not sent: its message was deleted from its queue. Its id is free, and a message that is pushed "
                "with it since is sent when it is its turn."
            )
        case ClaimState.DEAD if letter is not None:
            id_ = shlex.quote(notification_id)
            return (
                f"It was not sent ({letter.reason}) and waits in the dead letters: `ifinu dlq show {id_}` "
                f"says more, `ifinu dlq replay --id {id_}` sends it again."
            )
        case ClaimState.DEAD:
            return f"It was not sent and will not be{_why(now)}. Its dead letter was deleted."
        case ClaimState.SENT:
            return _sent(now)
        case "failed":
            return f"The gateway took it, and WhatsApp could not deliver it{_at(now, 'failed_at')}."
        case "server_ack":
            return f"WhatsApp took it{_at(now, 'server_ack_at')}; it is not on the phone yet."
        case "delivered":
            return f"It came to the phone{_at(now, 'delivered_at')}; that it was read is not known."
        case "read":
            return f"It was read{_at(now, 'read_at')}."
    return f"Its state is {state}."


def _sent(now: Known | None) -> str:
    if now is None:
        return "The gateway took it. No receipt has come yet."
    taken = f"The gateway took it{_at(now, 'sent_at')}."
    if now.unconfirmed_at:
        return (
            f"{taken} No receipt has come in time: is the phone off, or `ifinu webhook` not registered? "
            "A gateway that is restarted loses receipts that it has not posted."
        )
    return f"{taken} No receipt has come yet."


def _why(now: Known | None) -> str:
    return f" ({now.reason})" if now and now.reason else ""


def _due(now: Known | None, to_come: str, past: str) -> str:
    """When it is due; a time that has passed is said to have passed."""
    at = now.due_at if now else None
    return "" if at is None else _at(now, "due_at", to_come if at > datetime.now(UTC) else past)


def _at(now: Known | None, field: str, word: str = " at") -> str:
    at = getattr(now, field) if now else None
    return f"{word} {clock(at)}" if at else ""
