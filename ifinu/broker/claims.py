"""
Claims: one notification id, one send.

A worker claims the id just before it sends. The claim is a hash, `ifinu:claim:<id>`, that lives for days:

    state      a `ClaimState`; with `sent` there is `key_id`, the gateway's id
    content    keyed digest of the content, so that an id used for something else is noticed
    tag        of the message that claimed it (empty while its token alone tells it), and
    in_flight  where that message is while its holder lives
    token      what its retry shows to be let through
    since      when the first send in doubt began, ms of Redis' clock
    started    when the last send began
    letter     digest of the dead letter that it ended in
    resent     there once it was sent again because the gateway did not have it
    cancelled  there while it is called off
    codes      ids of the messages with its payment codes, which were put on the queue when it was sent (JSON)
    codes_off  there if it was called off while it was being sent: then none follow

                  claim            settle
    (none), dead ──────▶ sending ────────▶ sent | expired | suppressed | cancelled
                        ▲ ▲ │ │ ╰── bury ──▶ dead ── replay ──▶ (none)
                  claim │ │ │ ╰──── release ──▶ (none)
                        ╰─│─┴─ postpone ──▶ waiting
                   resend ╰─ unknown ◀── postpone; claim, when the holder died
                                ╰── settle ──▶ sent;  bury ──▶ unknown, held

A second message with the id finds any of these but `dead`: it is a duplicate.
"""

from __future__ import annotations

import enum
import json
from datetime import UTC, datetime
from typing import NamedTuple

import redis

from ifinu.broker import clock
from ifinu.broker.connections import ScriptRunner
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, EVERY_TENANT, UNKNOWN, Keys, claim_key, optout_key, script

_CANCELLED_TTL_MS = 90 * 86_400_000  # a message may be scheduled for long after it was called off


class ClaimState(enum.StrEnum):
    """The states of a claim; the values are what Redis stores and the scripts compare."""

    SENDING = "sending"  # its holder is about to send, is sending, or died doing so
    WAITING = "waiting"  # a retry or a deferral is in the delayed set
    UNKNOWN = "unknown"  # it may have been sent: it is being looked up, or held in the dead letters
    SENT = "sent"  # the gateway took it
    EXPIRED = "expired"  # it was not sent, since its validity ended
    SUPPRESSED = "suppressed"  # it was not sent, since the person opted out
    CANCELLED = "cancelled"  # it was not sent, since it was cancelled
    DEAD = "dead"  # it was not sent and will not be: it is in the dead letters


class Verdict(enum.StrEnum):
    """What a claim allows."""

    GO = "go"  # send it
    HELD = "held"  # it might be sent, but for its instance, which is held back; nothing is claimed
    LOOK_UP = "look_up"  # it may have been sent: ask the gateway first
    DUPLICATE = "duplicate"  # another message with this id was sent, is being sent, or waits for its retry
    REUSED = "reused"  # the id belongs to other content
    CANCELLED = "cancelled"  # it was called off
    OPTED_OUT = "opted_out"  # the person wants no messages of this tenant


class Resend(enum.StrEnum):
    """Whether what the gateway does not have may be sent again."""

    GO = "go"
    AGAIN = "again"  # it was sent once more already
    CANCELLED = "cancelled"  # it was called off meanwhile
    OPTED_OUT = "opted_out"  # the person asked for no more meanwhile
    LOST = "lost"  # another message carries the id by now


class MessageRef(NamedTuple):
    """
    The message that asks.

    Attributes:
        queue: It came from.
        tag: Its delivery tag.
        token: What it carries if it is a retry or a look-up; empty for a first message.
        waited: Whether it was in the delayed set before.
    """

    queue: str
    tag: str
    token: str = ""
    waited: bool = False


class Claim(NamedTuple):
    """
    What may be done.

    Attributes:
        verdict: That.
        before: State of the record before; empty for none.
        token: What its retry has to carry.
        since: When the first send in doubt began; None where there is none.
        started: When the last one began.
        resent: Whether it was sent again already.
        seen: The gateway's id of it, where a webhook told that it was sent.
        at: Redis' time.
        off_s: How far this machine's clock is ahead of that, in seconds.
    """

    verdict: Verdict
    before: str
    token: str
    since: datetime | None
    started: datetime | None
    resent: bool
    seen: str
    at: datetime
    off_s: float


class Withdrawn(NamedTuple):
    """
    What became of the wish that a notification be sent after all.

    Attributes:
        done: Whether it is not called off any more.
        state: Of its record until now; empty for none. `cancelled` and not done: its message came and was not sent.
    """

    done: bool
    state: str


class Claims:
    """
    The claims at one Redis server.

    Args:
        client: A connection that returns bytes; may be shared by threads.
        ttl_s: How long an id is remembered after its last change, in seconds.
    """

    def __init__(self, client: redis.Redis, ttl_s: float) -> None:
        self._client = client
        self._runner = ScriptRunner(client)
        self._ttl_ms = int(ttl_s * 1000)

    def connect(self) -> None:
        """Connect the thread that asks, before it has anything to claim."""
        self._runner.open()

    def claim(
        self,
        ref: MessageRef,
        about: Event,
        *,
        digest: str,
        tenant: str | None,
        pseudonym: str,
        seen: str,
        held: bool = False,
    ) -> Claim:
        """
        Ask to send. A claim that was given is confirmed by asking again, and its send then begins at that time.

        Args:
            ref: The message.
            about: The event `unknown` with the id, told if it turns out that its last holder died.
            digest: Of its content; empty where content is not compared.
            tenant: On whose behalf.
            pseudonym: Of the phone.
            seen: Where a webhook would have recorded that it was sent (`keys.seen_key`).
            held: Whether its instance is held back: what would be sent is not claimed.

        Raises:
            redis.RedisError: Nothing is known; nothing may be sent.
        """
        _, notification_id, data = about.arguments()
        keys = (
            claim_key(notification_id),
            Keys.of(ref.queue).in_flight,
            optout_key(tenant),
            seen,
            UNKNOWN,
            EVENTS,
            optout_key(EVERY_TENANT),
        )
        args = (ref.tag, digest, ref.token, self._ttl_ms, notification_id, pseudonym, data, int(held))
        question = clock.Question()
        answer = self._runner.run(script("claim"), keys, args)
        verdict, before, token, since, started, resent, seen, at_ms = (part.decode() for part in answer)
        at = datetime.fromtimestamp(int(at_ms) / 1000, UTC)
        off_s = question.off_s(int(at_ms) / 1000)
        return Claim(Verdict(verdict), before, token, _instant(since), _instant(started), bool(resent), seen, at, off_s)

    def resend(self, ref: MessageRef, about: Event, *, tenant: str | None, pseudonym: str) -> Resend:
        """
        Ask to send again what the gateway does not have.

        Args:
            ref: The message, whose claim was answered with LOOK_UP.
            about: The event `resending` with the id.
            tenant: On whose behalf; None for nobody in particular.
            pseudonym: What stands for the phone.

        Raises:
            redis.RedisError: Nothing is known; nothing may be sent.
        """
        _, notification_id, data = about.arguments()
        keys = claim_key(notification_id), EVENTS, optout_key(tenant), optout_key(EVERY_TENANT)
        arguments = ref.tag, notification_id, data, pseudonym
        return Resend(self._runner.run(script("resend"), keys, arguments).decode())

    def release(self, notification_id: str, tag: str) -> None:
        """
        Nothing was sent and the message goes back to its queue as it is: as if it had not claimed.

        Args:
            notification_id: The id.
            tag: Of the message that claimed it.

        Raises:
            redis.RedisError: The claim stays, and is found to be orphaned when the message comes again.
        """
        script("release")(self._client, (claim_key(notification_id),), (tag,))

    def started(self, queue: str, digest: str) -> int:
        """
        How often a message was started before, since a worker died that had it.

        Args:
            queue: It came from.
            digest: Of the message, as `fetch.lua` gave it.

        Raises:
            redis.RedisError: As the server answers, or because it does not.
        """
        return int(self._client.hget(Keys.of(queue).suspects, digest) or 0)

    def acquit(self, queue: str, digest: str) -> None:
        """
        A message was started, and its worker lived: forget that others died.

        Args:
            queue: It came from.
            digest: Of the message, as `fetch.lua` gave it.

        Raises:
            redis.RedisError: It stays suspect.
        """
        self._client.hdel(Keys.of(queue).suspects, digest)

    def starts(self, queue: str, digest: str) -> int:
        """
        How often a message was started, this time included, since a worker died that had it.

        Args:
            queue: It came from.
            digest: Of the message, as `fetch.lua` gave it.

        Raises:
            redis.RedisError: As the server answers, or because it does not.
        """
        return int(self._runner.run(script("suspect"), (Keys.of(queue).suspects,), (digest,)))

    def cancel(self, notification_id: str) -> str:
        """
        Call a notification off, and the messages with its payment codes that were to follow it.

        Returns:
            Its state until now, empty for none. Where that is `sending`, `sent` or an end of another kind, it was too
            late for the notification itself.

        Raises:
            redis.RedisError: It may or may not be called off.
        """
        _, _, data = Event(Name.CANCELLED, notification_id).arguments()
        keys = claim_key(notification_id), EVENTS
        args = notification_id, max(self._ttl_ms, _CANCELLED_TTL_MS), data
        state, codes = (part.decode() for part in script("cancel")(self._client, keys, args))
        for code_id in json.loads(codes or "[]"):
            self.cancel(code_id)
        return str(state)

    def uncancel(self, notification_id: str) -> Withdrawn:
        """
        Withdraw that a notification was called off, if nothing came of it yet.

        Raises:
            redis.RedisError: It may or may not be withdrawn.
        """
        _, _, data = Event(Name.UNCANCELLED, notification_id).arguments()
        done, state = script("uncancel")(self._client, (claim_key(notification_id), EVENTS), (notification_id, data))
        return Withdrawn(bool(done), state.decode())

    def state(self, notification_id: str) -> str | None:
        """What became of an id; None when nothing is remembered."""
        state = self._client.hget(claim_key(notification_id), "state")
        return state.decode() if isinstance(state, bytes) else None


def _instant(ms: str) -> datetime | None:
    return datetime.fromtimestamp(int(float(ms)) / 1000, UTC) if ms else None
