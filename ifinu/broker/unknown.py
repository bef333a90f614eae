"""
Notifications that may have been sent: their ids, where their messages are, and a person's decision on them.

The ids are in `ifinu:desconhecidas` until they are settled. The place of an id's message decides what follows:

    delayed, ready     it is looked up at the gateway when it is due, or served
    lane               it is looked up when its number may send
    in_flight          a worker looks it up, or sends it again
    held               the gateway did not have it; it is in the dead letters until a person decides
    gone               its message was purged, so that no worker looks it up
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import redis

from ifinu.broker import intake, lanes
from ifinu.broker.claims import ClaimState
from ifinu.broker.dead_letters import DeadLetter, DeadLetters, Filter, body_of, identity
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, QUEUES, UNKNOWN, Keys, claim_key, script

_PAGE = 500
# Reasons of dead letters that leave a send in doubt. A letter with another reason is a second message with the id.
_ENDS_IN_DOUBT = ("unknown", "error", "poison")
_ENDS_BEFORE_ITS_CLAIM = ("expired", "revoked")  # in doubt if the worker that held the claim died


class Place(enum.StrEnum):
    """Where the message is; see the table above."""

    DELAYED = "delayed"
    READY = "ready"
    LANE = "lane"
    IN_FLIGHT = "in_flight"
    HELD = "held"
    GONE = "gone"


class Decision(enum.StrEnum):
    """A person's decision."""

    SENT = "sent"  # it is on the phone
    RESEND = "resend"  # send it, even if that is a second time
    DISCARD = "discard"  # do not send it, even if it was not sent


@dataclass(frozen=True, slots=True)
class Doubt:
    """
    One id that may have been sent.

    Attributes:
        since: When the send in doubt began; None if the claim has expired.
        state: State of its claim: `unknown`, `sending` while it is sent again, empty if the claim has expired.
        resent: Whether it was sent again already.
        cancelled: Whether it was cancelled meanwhile: it is looked up, and not sent again.
        place: Where its message is.
        queue: The queue of its message; None when that is gone.
        due: When it is looked up, if it is delayed.
        kind: Its kind as the producer wrote it, if its message can be read.
        instance: Its instance as the producer wrote it; None for the default one.
        letter: Its dead letter, if it is held.
        by_token: Whether its message carries the claim's token.
    """

    id: str
    since: datetime | None
    state: str
    resent: bool
    cancelled: bool
    place: Place = Place.GONE
    queue: str | None = None
    due: datetime | None = None
    kind: str | None = None
    instance: str | None = None
    letter: DeadLetter | None = None
    by_token: bool = False


class Resolved(NamedTuple):
    """
    The result of a decision.

    Attributes:
        done: Whether the decision was carried out.
        state: If not, the state of the id by now: `none` when it has no claim, `looked_up` while a worker looks it up,
            `cancelled` also when a cancellation keeps it from being sent again.
    """

    done: bool
    state: str = ""


_Message = tuple[bytes, Place, datetime | None]  # bytes, place, due time


class _Claim(NamedTuple):
    doubt: Doubt
    token: str
    tag: str
    home: str


class Unknowns:
    """
    The unresolved ids of all queues at one Redis server. All methods raise redis.RedisError when Redis is away.

    Args:
        ttl_s: Seconds for which an id is remembered after it was resolved.
    """

    def __init__(self, client: redis.Redis, ttl_s: float) -> None:
        self._client = client
        self._ttl_ms = int(ttl_s * 1000)

    def all(self) -> list[Doubt]:
        """All unresolved ids, the oldest first. Reads each queue once."""
        found: list[Any] = self._client.zrange(UNKNOWN, 0, -1, withscores=True)
        return self._placed(self._claims({id_.decode(): float(since) for id_, since in found}))

    def find(self, notification_id: str) -> Doubt | None:
        """One unresolved id, even if its dead letter was purged (`all` omits those); None if the id is not in doubt."""
        since: Any = self._client.zscore(UNKNOWN, notification_id)
        (claim,) = self._claims({notification_id: since})
        if since is None and claim.doubt.state != ClaimState.UNKNOWN:
            return None
        return self._placed([claim])[0]

    def state(self, notification_id: str) -> str:
        """The state of an id's claim; `none` if there is no claim."""
        state: Any = self._client.hget(claim_key(notification_id), "state")
        return state.decode() if state else "none"

    def resolve(self, doubt: Doubt, decision: Decision, *, key_id: str = "") -> Resolved:
        """
        Carry out a person's decision, unless the doubt has ended by itself.

        Args:
            doubt: As `find` returned it.
            key_id: The gateway's id of the message, if it was sent and the person knows the id.
        """
        if decision is Decision.RESEND and doubt.letter is not None:
            return self._replay(doubt, doubt.letter)
        becomes, event = _end(doubt, decision, key_id)
        name, id_, data = event.arguments()
        letter = doubt.letter
        keys = (claim_key(id_), UNKNOWN, EVENTS, *((Keys.of(letter.queue).dead,) if letter else ()))
        args = (id_, becomes, key_id, self._ttl_ms, name, data, letter.record if letter else "")
        state = script("resolve")(self._client, keys, args).decode()
        return Resolved(not state, state)

    def _replay(self, doubt: Doubt, letter: DeadLetter) -> Resolved:
        if doubt.cancelled:
            return Resolved(False, ClaimState.CANCELLED)
        if DeadLetters(self._client, letter.queue).replay(letter):
            return Resolved(True)
        return Resolved(False, self.state(doubt.id))

    def _claims(self, since: dict[str, float | None]) -> list[_Claim]:
        claims = []
        ids = list(since)
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            pipe = self._client.pipeline(transaction=False)
            for id_ in page:
                pipe.hgetall(claim_key(id_))
            for id_, fields in zip(page, pipe.execute(), strict=True):
                is_ = {name.decode(): value.decode() for name, value in fields.items()}
                began = float(is_["since"]) if is_.get("since") else since[id_]
                doubt = Doubt(
                    id=id_,
                    since=None if began is None else _instant(began),
                    state=is_.get("state", ""),
                    resent="resent" in is_,
                    cancelled="cancelled" in is_,
                )
                claims.append(_Claim(doubt, is_.get("token", ""), is_.get("tag", ""), is_.get("in_flight", "")))
        return claims

    def _placed(self, claims: list[_Claim]) -> list[Doubt]:
        found = self._held_now(claims)
        for queue in QUEUES:
            left = {claim.doubt.id: claim for claim in claims if claim.doubt.id not in found}
            found |= {doubt.id: doubt for doubt in _letters(self._client, queue, left)}
        # In the order in which a message moves, so that one that moves meanwhile is found.
        for read in (_delayed, _ready, _in_lanes, _in_flight):
            for queue in QUEUES:
                left = {claim.doubt.id: claim for claim in claims if claim.doubt.id not in found}
                if left:  # else the backlog need not be read
                    found |= {
                        doubt.id: doubt for doubt in _its_messages(read(self._client, Keys.of(queue)), queue, left)
                    }
        return [found.get(claim.doubt.id, claim.doubt) for claim in claims]

    def _held_now(self, claims: list[_Claim]) -> dict[str, Doubt]:
        """The ids whose message a worker holds under their claim."""
        queues = {Keys.of(queue).in_flight: queue for queue in QUEUES}
        tagged = [claim for claim in claims if claim.tag and claim.home in queues]
        pipe = self._client.pipeline(transaction=False)
        for claim in tagged:
            pipe.hget(claim.home, claim.tag)
        return {
            claim.doubt.id: _at(claim, Place.IN_FLIGHT, queues[claim.home], raw)
            for claim, raw in zip(tagged, pipe.execute(), strict=True)
            if raw is not None
        }


def _end(doubt: Doubt, decision: Decision, key_id: str) -> tuple[str, Event]:
    """The state that the claim ends in, and the event of it."""
    known = {"kind": doubt.kind, "queue": doubt.queue, "instance": doubt.instance}
    fields = {name: value for name, value in known.items() if value is not None} | {"by": "person"}
    match decision:
        case Decision.SENT:
            return ClaimState.SENT, Event(Name.SENT, doubt.id, {**fields, "key_id": key_id or None})
        case Decision.DISCARD:
            return ClaimState.CANCELLED, Event(Name.CANCELLED, doubt.id, fields)
        case Decision.RESEND if doubt.by_token:
            due_ms = None if doubt.due is None else round(doubt.due.timestamp() * 1000)
            return ClaimState.WAITING, Event(Name.RETRYING, doubt.id, {**fields, "reason": "unknown", "due_ms": due_ms})
        case Decision.RESEND:
            return "", Event(Name.REPLAYED, doubt.id, {**fields, "reason": "unknown"})


def _letters(client: redis.Redis, queue: str, wanted: dict[str, _Claim]) -> Iterator[Doubt]:
    for letter in DeadLetters(client, queue).find(Filter(), datetime.now(UTC)):
        claim = wanted.get(letter.id or "")
        if claim is None:
            continue
        reasons = (*_ENDS_IN_DOUBT, *(_ENDS_BEFORE_ITS_CLAIM if claim.tag else ()))
        if letter.reason in reasons or _shows_token(letter.raw, claim):
            yield replace(_at(claim, Place.HELD, queue, letter.raw), letter=letter)


def _delayed(client: redis.Redis, keys: Keys) -> Iterator[_Message]:
    for raw, due_ms in client.zscan_iter(keys.delayed, count=_PAGE):
        yield raw, Place.DELAYED, _instant(due_ms)


def _ready(client: redis.Redis, keys: Keys) -> Iterator[_Message]:
    start = 0  # from the newest, since messages taken at the other end do not shift these
    while page := client.lrange(keys.ready, start, start + _PAGE - 1):
        start += len(page)
        for raw in page:
            yield bytes(raw), Place.READY, None  # type: ignore[arg-type]  # this client returns bytes


def _in_lanes(client: redis.Redis, keys: Keys) -> Iterator[_Message]:
    for raw in lanes.scan(client, keys.ready):
        yield raw, Place.LANE, None


def _in_flight(client: redis.Redis, keys: Keys) -> Iterator[_Message]:
    for _, raw in client.hscan_iter(keys.in_flight, count=_PAGE):
        yield raw, Place.IN_FLIGHT, None


def _its_messages(messages: Iterable[_Message], queue: str, wanted: dict[str, _Claim]) -> Iterator[Doubt]:
    """The messages of a queue that will settle one of these claims."""
    # Only its token identifies a retry or a look-up. If its holder died, any message with the id may claim it.
    orphans = {id_ for id_, claim in wanted.items() if claim.tag or not claim.token}
    for raw, place, due in messages:
        if not (orphans or intake.token_of(raw)):
            continue  # saves parsing what producers pushed
        claim = wanted.get(identity(raw)[0] or "")
        if claim is not None and (claim.doubt.id in orphans or _shows_token(raw, claim)):
            yield replace(_at(claim, place, queue, raw), due=due)


def _at(claim: _Claim, place: Place, queue: str, raw: bytes) -> Doubt:
    instance = body_of(raw).get("instancia")
    return replace(
        claim.doubt,
        place=place,
        queue=queue,
        kind=identity(raw)[1],
        instance=instance if isinstance(instance, str) and instance else None,
        by_token=_shows_token(raw, claim),
    )


def _shows_token(raw: bytes, claim: _Claim) -> bool:
    return bool(claim.token) and intake.token_of(raw) == claim.token


def _instant(ms: float) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
