"""
Claims: one notification id, one send.

A worker claims the id just before it sends. The claim is a hash, `ifinu:claim:<id>`, that lives for days:

    state      sending   its holder is about to send, sends, or died of it
               waiting   a retry or a deferral is in the delayed set
               sent      the gateway took it; `key_id` is the gateway's id
               unknown   it may have been sent: it is in the dead letters
               dead      it was not and will not be sent: it is in the dead letters
    digest     of the content, so that an id used for something else is noticed
    tag        of the message that claimed it, and
    in_flight  where that message is while its holder lives
    token      what its retry shows to be let through

                  claim            settle
    (none), dead ──────▶ sending ────────▶ sent
                        ▲   │ │ ╰── bury ──▶ dead | unknown ── replay ──▶ (none)
                  claim │   │ ╰──── release ──▶ (none)
                        ╰── waiting ◀── postpone

A second message with the id finds `sending`, `waiting`, `sent` or `unknown`: it is a duplicate.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import redis

from ifinu.broker.keys import Keys, Scripts, claim_key
from ifinu.broker.line import Line


class Verdict(enum.StrEnum):
    """What a claim allows."""

    GO = "go"  # send it
    DUPLICATE = "duplicate"  # another message with this id was sent, is being sent, or waits for its retry
    REUSED = "reused"  # the id belongs to other content


class Claim(NamedTuple):
    """The verdict, the state that the record was in before ('' for none), and the token for a retry."""

    verdict: Verdict
    before: str
    token: str


class Claims:
    """
    The claims at one Redis server.

    Args:
        client: A connection that returns bytes; may be shared by threads.
        ttl_s: How long an id is remembered after its last change, in seconds.
    """

    def __init__(self, client: redis.Redis, ttl_s: float) -> None:
        self._client = client
        self._line = Line(client)
        self._ttl_ms = int(ttl_s * 1000)
        self._scripts = Scripts()

    def claim(self, notification_id: str, *, queue: str, tag: str, digest: str, token: str = "") -> Claim:
        """
        Ask to send.

        Args:
            notification_id: The id.
            queue: The queue that the message came from.
            tag: Its delivery tag.
            digest: Of its content; empty where content is not compared.
            token: What the message carries if it is a retry.

        Raises:
            redis.RedisError: Nothing is known; nothing may be sent.
        """
        keys = claim_key(notification_id), Keys.of(queue).in_flight
        answer = self._line.run(self._scripts.claim, keys, (tag, digest, token, self._ttl_ms))
        verdict, before, its_token = (part.decode() for part in answer)
        return Claim(Verdict(verdict), before, its_token)

    def release(self, notification_id: str, tag: str) -> None:
        """
        Nothing was sent and the message goes back to its queue as it is: as if it had not claimed.

        Args:
            notification_id: The id.
            tag: Of the message that claimed it.

        Raises:
            redis.RedisError: The claim stays, and is found to be orphaned when the message comes again.
        """
        self._scripts.release(self._client, (claim_key(notification_id),), (tag,))

    def state(self, notification_id: str) -> str | None:
        """What became of an id; None when nothing is remembered."""
        state = self._client.hget(claim_key(notification_id), "state")
        return state.decode() if isinstance(state, bytes) else None
