"""
Claims: one notification id, one send.

A worker claims the id just before it sends. The claim is a hash, `ifinu:claim:<id>`, that lives for days:

    state      a `ClaimState`
    key_id     the gateway's id of the message, once it was sent
    content    keyed digest of the content, to notice an id reused for other content
    tag        delivery tag of the message that claimed it; empty while it waits, when only the token identifies it
    in_flight  key of the hash that holds that message while its worker lives
    token      carried by its retry, which may then claim it
    since      when the first send in doubt began, in ms by Redis' clock
    started    when the last send began, likewise
    letter     digest of the dead letter that it ended in
    resent     set once it was sent again because the gateway did not have it
    died       set once a worker died while it sent it
    number     the number that claimed it, if that has a pace: a look-up asks this one
    person     prefix of the keys that count the messages to its person, likewise
    counted    the one of them that holds its id, or empty
    cancelled  set while it is cancelled
    codes      ids of the messages with its payment codes, which were queued when it was sent (JSON)
    template   set before it is sent as one of Meta's templates, which no look-up finds
    codes_off  set if it was cancelled while it was being sent: then no codes follow

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
import secrets
from datetime import UTC, datetime
from typing import Any, NamedTuple

import redis

from ifinu.broker import clock
from ifinu.broker.connections import ScriptRunner
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, EVERY_TENANT, UNKNOWN, Keys, claim_key, number_key, optout_key, script

_SCANNED = 1_000  # keys a call
CANCELLED_TTL_MS = 90 * 86_400_000  # a message may be scheduled for long after it was cancelled


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
    """The outcomes of a claim: may the worker send?"""

    GO = "go"  # send it
    HELD = "held"  # it may be sent once its instance is not held back any more; nothing is claimed
    LOOK_UP = "look_up"  # it may have been sent: ask the gateway first
    DUPLICATE = "duplicate"  # another message with this id was sent, is being sent, or waits for its retry
    REUSED = "reused"  # the id belongs to other content
    CANCELLED = "cancelled"  # it was cancelled
    OPTED_OUT = "opted_out"  # the person opted out of this tenant
    # Of numbers with a pace; nothing is claimed, and `Claim.until` says when the limit ends.
    NEW_CHATS = "new_chats"  # the number may not write to more new people today
    PERSON_CAP = "person_cap"  # the person got as many reminders as one may get a day
    PAIR_GAP = "pair_gap"  # the person got a message seconds ago
    PORTFOLIO = "portfolio"  # the numbers of its portfolio may not write to more people in these 24 hours


class Resend(enum.StrEnum):
    """Whether a message that the gateway does not have may be sent again."""

    GO = "go"
    AGAIN = "again"  # it was sent again already
    CANCELLED = "cancelled"  # it was cancelled meanwhile
    OPTED_OUT = "opted_out"  # the person opted out meanwhile
    LOST = "lost"  # another message holds the claim by now


class MessageRef(NamedTuple):
    """
    The message on whose behalf a claim is made.

    Attributes:
        queue: The queue it came from.
        tag: Its delivery tag.
        token: The token that a retry or a look-up carries; empty for a first message.
        waited: Whether it was in the delayed set before.
        number: The number whose pace it keeps; empty without one.
    """

    queue: str
    tag: str
    token: str = ""
    waited: bool = False
    number: str = ""


class Limits(NamedTuple):
    """
    The limits of a message that goes by a number with a pace, beside that pace.

    Attributes:
        number: Name of the number.
        senders: Keys of the people that it wrote to, this month and last (`keys.senders_key`).
        reminders: The most reminders that the person gets a day from the tenant; None if it does not count as one.
        gap_ms: The least time between two messages to the person; None without one.
    """

    number: str
    senders: tuple[str, str]
    reminders: int | None
    gap_ms: int | None


class Claim(NamedTuple):
    """
    The answer to a claim.

    Attributes:
        verdict: What may be done.
        before: State of the claim before; empty if there was none.
        token: The token that its retry has to carry.
        since: When the first send in doubt began, or None.
        started: When the last send began, or None.
        resent: Whether it was sent again already.
        seen: The gateway's id of it if a webhook reported it as sent; else empty.
        at: Redis' time.
        off_s: Seconds that this machine's clock is ahead of Redis'.
        died: Whether a worker died while it sent it.
        number: The number with a pace that claimed it; empty without one.
        new: Whether that number has not written to the person before.
        until: When the limit ends that it has to wait for, or None.
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
    died: bool = False
    number: str = ""
    new: bool = False
    until: datetime | None = None


class Withdrawn(NamedTuple):
    """
    The result of withdrawing a cancellation.

    Attributes:
        done: Whether it was withdrawn.
        state: State of the claim before; empty if there was none. `cancelled` and not done: its message came and was
            not sent.
    """

    done: bool
    state: str


class Claims:
    """
    The claims at one Redis server.

    Args:
        client: A client that returns bytes.
        ttl_s: How long an id is remembered after its last change, in seconds.
    """

    def __init__(self, client: redis.Redis, ttl_s: float) -> None:
        self._client = client
        self._runner = ScriptRunner(client)
        self._ttl_ms = int(ttl_s * 1000)

    def connect(self) -> None:
        """Connect before the first claim."""
        self._runner.open()

    def claim(
        self,
        ref: MessageRef,
        event: Event,
        *,
        digest: str,
        tenant: str | None,
        pseudonym: str,
        seen: str,
        held: bool = False,
        limits: Limits | None = None,
    ) -> Claim:
        """
        Ask to send. A message that holds the claim may ask again; its send then counts as begun at that time.

        Args:
            event: The event `unknown` with the id, written if the worker that held the claim has died.
            digest: Digest of its content; empty if the content is not compared.
            seen: Key under which a webhook would have recorded it as sent (`keys.seen_key`).
            held: Whether its instance is held back: then a message that might be sent does not claim the id.
            limits: The limits of its number, if that has a pace.

        Raises:
            redis.RedisError: The verdict is unknown; nothing may be sent.
        """
        _, notification_id, data = event.arguments()
        keys: tuple[str, ...] = (
            claim_key(notification_id),
            Keys.of(ref.queue).in_flight,
            optout_key(tenant),
            seen,
            UNKNOWN,
            EVENTS,
            optout_key(EVERY_TENANT),
        )
        args: tuple[Any, ...] = ref.tag, digest, ref.token, self._ttl_ms, notification_id, pseudonym, data, int(held)
        if limits is not None:
            keys = *keys, number_key(limits.number), *limits.senders
            most = ("" if limit is None else limit for limit in (limits.reminders, limits.gap_ms))
            args = *args, limits.number, tenant or "", *most
        question = clock.Question()
        answer = self._runner.run(script("claim"), keys, args)
        verdict, before, token, since, started, resent, seen, at_ms, died, *paced = (part.decode() for part in answer)
        number, new, until = paced or ("", "", "")
        at = datetime.fromtimestamp(int(at_ms) / 1000, UTC)
        off_s = question.off_s(int(at_ms) / 1000)
        return Claim(
            Verdict(verdict),
            before,
            token,
            _instant(since),
            _instant(started),
            bool(resent),
            seen,
            at,
            off_s,
            bool(died),
            number,
            bool(new),
            _instant(until),
        )

    def seen(self, key: str) -> str:
        """
        The gateway's id of a message that a webhook reported as sent; empty if none did.

        Args:
            key: As for `claim`.

        Raises:
            redis.RedisError: The server answered with an error, or not at all.
        """
        return (self._runner.command("GET", key) or b"").decode()

    def resend(self, ref: MessageRef, event: Event, *, tenant: str | None, pseudonym: str) -> Resend:
        """
        Ask to send a message again that the gateway does not have.

        Args:
            ref: The message, whose claim was answered with LOOK_UP.
            event: The event `resending` with the id.

        Raises:
            redis.RedisError: The answer is unknown; nothing may be sent.
        """
        _, notification_id, data = event.arguments()
        keys = claim_key(notification_id), EVENTS, optout_key(tenant), optout_key(EVERY_TENANT)
        arguments = ref.tag, notification_id, data, pseudonym
        return Resend(self._runner.run(script("resend"), keys, arguments).decode())

    def release(self, notification_id: str, tag: str) -> None:
        """
        Undo a claim whose message was not sent and goes back to its queue unchanged.

        Args:
            tag: Delivery tag of the message that claimed it.

        Raises:
            redis.RedisError: The claim stays, and counts as orphaned when the message comes again.
        """
        self._runner.run(script("release"), (claim_key(notification_id),), (tag, notification_id))

    def goes_as_template(self, notification_id: str) -> None:
        """
        Record that the send that is about to begin is one of Meta's templates.

        Raises:
            redis.RedisError: It may not be recorded; nothing may be sent.
        """
        self._runner.command("HSET", claim_key(notification_id), "template", "1")

    def went_as_template(self, notification_id: str) -> bool:
        """
        Whether a send in doubt may have been one of Meta's templates.

        Raises:
            redis.RedisError: The server answered with an error, or not at all.
        """
        return bool(self._runner.command("HEXISTS", claim_key(notification_id), "template"))

    def started(self, queue: str, digest: str) -> int:
        """
        How often a message was started since a worker died with it.

        Args:
            queue: The queue it came from.
            digest: Its digest, as `fetch.lua` returned it.

        Raises:
            redis.RedisError: The server answered with an error, or not at all.
        """
        return int(self._runner.command("HGET", Keys.of(queue).suspects, digest) or 0)

    def acquit(self, queue: str, digest: str) -> None:
        """
        Forget that workers died with a message, since this worker survived it.

        Raises:
            redis.RedisError: It stays suspect.
        """
        self._runner.command("HDEL", Keys.of(queue).suspects, digest)

    def starts(self, queue: str, digest: str) -> int:
        """
        Count a start of a message with which a worker died, and return the count, this start included.

        Raises:
            redis.RedisError: The server answered with an error, or not at all.
        """
        return int(self._runner.run(script("suspect"), (Keys.of(queue).suspects,), (digest,)))

    def cancel(self, notification_id: str) -> str:
        """
        Cancel a notification, and the messages with its payment codes that were to follow it.

        Returns:
            The state of its claim before, empty if there was none. `sending`, `sent` or another end means that it was
            too late for the notification itself.

        Raises:
            redis.RedisError: It may or may not be cancelled.
        """
        _, _, data = Event(Name.CANCELLED, notification_id).arguments()
        keys = claim_key(notification_id), EVENTS
        args = notification_id, max(self._ttl_ms, CANCELLED_TTL_MS), data
        state, codes = (part.decode() for part in script("cancel")(self._client, keys, args))
        for code_id in json.loads(codes or "[]"):
            self.cancel(code_id)
        return str(state)

    def uncancel(self, notification_id: str) -> Withdrawn:
        """
        Withdraw a cancellation, unless a message was dropped because of it.

        Raises:
            redis.RedisError: It may or may not be withdrawn.
        """
        _, _, data = Event(Name.UNCANCELLED, notification_id).arguments()
        done, state = script("uncancel")(self._client, (claim_key(notification_id), EVENTS), (notification_id, data))
        return Withdrawn(bool(done), state.decode())


def _instant(ms: str) -> datetime | None:
    return datetime.fromtimestamp(int(float(ms)) / 1000, UTC) if ms else None


def forget_contacts(client: redis.Redis, pseudonym: str) -> None:
    """
    Forget on which days a person was written to. How many new chats a number has begun today stays known.

    Raises:
        redis.RedisError: Some entries may be left, for two days at most.
    """
    for key in client.scan_iter(f"ifinu:contato:*:{pseudonym}:*", count=_SCANNED):
        client.delete(key)
    for key in client.scan_iter("ifinu:grupo:*", count=_SCANNED):
        if (began := client.zscore(key, pseudonym)) is not None:
            client.zadd(key, {secrets.token_hex(16): began})
            client.zrem(key, pseudonym)
    for key in client.scan_iter(f"{number_key('*')}:novos:*", count=_SCANNED):
        if client.sismember(key, pseudonym):
            client.sadd(key, secrets.token_hex(16))  # first, since an empty set would lose its expiry
            client.srem(key, pseudonym)
