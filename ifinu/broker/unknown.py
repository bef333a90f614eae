"""
Notifications that may have been sent: which, what is done about them, and a person's word on them.

The ids are in `ifinu:desconhecidas`, each until it is settled. Where its message is tells what follows:

    delayed, ready     it is looked up at the gateway when its time or its turn comes
    in_flight          a worker looks it up, or sends it once more
    held               it was not found; it is in the dead letters until a person decides
    gone               its message was purged: nobody will look it up
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import redis

from ifinu.broker import intake
from ifinu.broker.claims import ClaimState
from ifinu.broker.dead_letters import DeadLetter, DeadLetters, Filter, body_of, identity
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, QUEUES, UNKNOWN, Keys, claim_key, script

_PAGE = 500
# Why a message that may have been sent is given up; others with its id are of another message with that id.
_ENDS_IN_DOUBT = ("unknown", "error", "poison")


class Place(enum.StrEnum):
    """Where the message is; see the module."""

    DELAYED = "delayed"
    READY = "ready"
    IN_FLIGHT = "in_flight"
    HELD = "held"
    GONE = "gone"


class Decision(enum.StrEnum):
    """What a person says."""

    SENT = "sent"  # it is on the phone
    RESEND = "resend"  # send it, again or not
    DISCARD = "discard"  # do not send it, whatever became of it


@dataclass(frozen=True, slots=True)
class Doubt:
    """
    One id that may have been sent.

    Attributes:
        id: Of the notification.
        since: When the send in doubt began; None where that is forgotten.
        state: Of its claim: `unknown`, `sending` while it is sent once more, empty when the claim is forgotten.
        resent: It was sent once more already.
        cancelled: It was called off meanwhile: it is looked up, and not sent again.
        place: Where its message is.
        queue: The list that it is of; None when it is gone.
        due: When it is looked up, where it is delayed.
        kind: As its producer wrote it, where its message can be read.
        instance: Likewise; None for the default one.
        letter: Its dead letter, where it is held.
        by_token: Whether its message shows the claim's token.
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
    What came of a decision.

    Attributes:
        done: Whether it holds.
        state: Where it does not, the state of the id by now: `none` when nothing is known of it, `looked_up` when a
            worker looks it up at this moment, `cancelled` also when it was called off, and so is not sent again.
    """

    done: bool
    state: str = ""


_Message = tuple[bytes, Place, datetime | None]  # its bytes, where it is, when it is due


class _Claim(NamedTuple):
    doubt: Doubt
    token: str
    tag: str
    home: str


class Unknowns:
    """
    What may have been sent, of all queues at one Redis server. All methods raise redis.RedisError when it is not there.

    Args:
        client: A connection that returns bytes.
        ttl_s: How long an id is remembered after it was resolved, in seconds.
    """

    def __init__(self, client: redis.Redis, ttl_s: float) -> None:
        self._client = client
        self._ttl_ms = int(ttl_s * 1000)

    def all(self) -> list[Doubt]:
        """All of them, the oldest first. It reads the queues, once."""
        found: list[Any] = self._client.zrange(UNKNOWN, 0, -1, withscores=True)
        return self._placed(self._claims({id_.decode(): float(since) for id_, since in found}))

    def find(self, notification_id: str) -> Doubt | None:
        """One of them, also where its dead letter was purged, after which `all` leaves it out; None when it is none."""
        since: Any = self._client.zscore(UNKNOWN, notification_id)
        (claim,) = self._claims({notification_id: since})
        if since is None and claim.doubt.state != ClaimState.UNKNOWN:
            return None
        return self._placed([claim])[0]

    def state(self, notification_id: str) -> str:
        """What became of an id; `none` where nothing is remembered."""
        state: Any = self._client.hget(claim_key(notification_id), "state")
        return state.decode() if state else "none"

    def resolve(self, doubt: Doubt, decision: Decision, *, key_id: str = "") -> Resolved:
        """
        Do as a person says, unless the doubt has ended by itself.

        Args:
            doubt: As `find` gave it.
            decision: What they say.
            key_id: The gateway's id of the message, where it was sent and they know it.
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
        # In the order in which a message moves, so that one on its way is met.
        for read in (_delayed, _ready, _in_flight):
            for queue in QUEUES:
                left = {claim.doubt.id: claim for claim in claims if claim.doubt.id not in found}
                if left:  # else the backlog need not be read
                    found |= {
                        doubt.id: doubt for doubt in _its_messages(read(self._client, Keys.of(queue)), queue, left)
                    }
        return [found.get(claim.doubt.id, claim.doubt) for claim in claims]

    def _held_now(self, claims: list[_Claim]) -> dict[str, Doubt]:
        """Those whose message a worker holds under their claim."""
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
    """What the claim ends in, and what is told of it."""
    about = {"kind": doubt.kind, "queue": doubt.queue, "instance": doubt.instance}
    told = {name: value for name, value in about.items() if value is not None} | {"by": "person"}
    match decision:
        case Decision.SENT:
            return ClaimState.SENT, Event(Name.SENT, doubt.id, {**told, "key_id": key_id or None})
        case Decision.DISCARD:
            return ClaimState.CANCELLED, Event(Name.CANCELLED, doubt.id, told)
        case Decision.RESEND if doubt.by_token:
            due_ms = None if doubt.due is None else round(doubt.due.timestamp() * 1000)
            return ClaimState.WAITING, Event(Name.RETRYING, doubt.id, {**told, "reason": "unknown", "due_ms": due_ms})
        case Decision.RESEND:
            return "", Event(Name.REPLAYED, doubt.id, {**told, "reason": "unknown"})


def _letters(client: redis.Redis, queue: str, wanted: dict[str, _Claim]) -> Iterator[Doubt]:
    for letter in DeadLetters(client, queue).find(Filter(), datetime.now(UTC)):
        claim = wanted.get(letter.id or "")
        if claim is not None and (letter.reason in _ENDS_IN_DOUBT or _shows_token(letter.raw, claim)):
            yield replace(_at(claim, Place.HELD, queue, letter.raw), letter=letter)


def _delayed(client: redis.Redis, keys: Keys) -> Iterator[_Message]:
    for raw, due_ms in client.zscan_iter(keys.delayed, count=_PAGE):
        yield raw, Place.DELAYED, _instant(due_ms)


def _ready(client: redis.Redis, keys: Keys) -> Iterator[_Message]:
    start = 0  # the newest: what is taken at the other end meanwhile moves nothing
    while page := client.lrange(keys.ready, start, start + _PAGE - 1):
        start += len(page)
        for raw in page:
            yield bytes(raw), Place.READY, None  # type: ignore[arg-type]  # this client returns bytes


def _in_flight(client: redis.Redis, keys: Keys) -> Iterator[_Message]:
    for _, raw in client.hscan_iter(keys.in_flight, count=_PAGE):
        yield raw, Place.IN_FLIGHT, None


def _its_messages(messages: Iterable[_Message], queue: str, wanted: dict[str, _Claim]) -> Iterator[Doubt]:
    """Of the messages of a queue those that will settle one of these claims."""
    # A retry or a look-up is known by its token alone. Where its holder died, any message with the id is let through.
    orphans = {id_ for id_, claim in wanted.items() if claim.tag or not claim.token}
    for raw, place, due in messages:
        if not (orphans or intake.token_of(raw)):
            continue  # spares reading what producers pushed
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
