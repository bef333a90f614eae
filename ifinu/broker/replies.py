"""
People's replies that are still open: `ifinu:respostas`, a HASH of id -> record (`Reply`, as JSON).

    stop           an opt-out, whose tenant or phone is not known yet
    wrong_person   the phone is not the customer's; it gets no messages until an operator has decided
    maybe          perhaps an opt-out; nothing follows until an operator has decided

Redis remembers for some weeks which tenant wrote to a person, the ledger for longer. A reply that Redis cannot settle
is an opt-out from *all* tenants, until the recorder, which reads both, narrows it (`ledger/reply_resolution.py`).
Replies that the ledger cannot settle stay here, for `ifinu optout unresolved`.

Only the text of the last two kinds is kept: the operator needs it to decide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

import redis

from ifinu.broker.keys import EVENTS, EVERY_TENANT, NEW_REPLIES, REPLIES, optout_key, script
from ifinu.broker.optouts import Confirmation, event_data, opt_out

STOP, WRONG_PERSON, MAYBE = "stop", "wrong_person", "maybe"
WHATSAPP = "whatsapp"  # the source of opt-outs by reply

_MOST_MAYBES = 5_000
_LONGEST_TEXT = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """
    A person's reply.

    Attributes:
        id: Derived from the message, so that a webhook that comes twice is one reply.
        wish: `stop`, `wrong_person` or `maybe`.
        instance: The instance that received it.
        at: When it was written.
        hash: Pseudonym of the person's phone; None if the gateway hides the phone.
        phone: The phone, masked, or None.
        quoted: `key.id` of the message of ours that it quotes, or None.
        key_id: Its own `key.id`, or None.
        text: Its text, if an operator has to read it.
        tenants: Tenants that it is an opt-out from; an empty string for messages without a tenant, `*` for all.
        known: Whether these tenants are known to have written to the person.
    """

    id: str
    wish: str
    instance: str
    at: datetime
    hash: str | None = None
    phone: str | None = None
    quoted: str | None = None
    key_id: str | None = None
    text: str | None = field(default=None, repr=False)
    tenants: tuple[str, ...] = ()
    known: bool = False

    @staticmethod
    def id_of(*parts: str) -> str:
        """The id of a reply, derived from parts that identify it."""
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]

    @property
    def source(self) -> str:
        """The source of the opt-outs that follow from it."""
        return WRONG_PERSON if self.wish == WRONG_PERSON else WHATSAPP

    def encode(self) -> str:
        return json.dumps(asdict(self) | {"at": round(self.at.timestamp() * 1000), "text": self._kept()})

    def _kept(self) -> str | None:
        return self.text[:_LONGEST_TEXT] if self.text and self.wish != STOP else None

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        fields = json.loads(raw)
        at = datetime.fromtimestamp(fields["at"] / 1000, UTC)
        return cls(**fields | {"at": at, "tenants": tuple(fields["tenants"])})


class Replies:
    """
    The open replies at one Redis server. All methods raise redis.RedisError when Redis is away.

    Args:
        client: A connection that returns bytes; may be shared by threads.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def take(self, reply: Reply, *, stays: bool, confirmation: Confirmation | None = None) -> tuple[bool, bool]:
        """
        Record a reply and its opt-outs in one step.

        Args:
            reply: The reply, with the tenants that it is an opt-out from. Unless these are `known`, the opt-outs are
                valid until it is settled.
            stays: Whether the reply stays open; else only its opt-outs are recorded.
            confirmation: The message to send if an opt-out is new.

        Returns:
            Whether an opt-out is new, and whether the reply is.
        """
        return self._run(reply, stays=stays, confirmation=confirmation)

    def settle(self, reply: Reply, tenants: Iterable[str], *, source: str | None = None, stays: bool = False) -> bool:
        """
        Opt the person out of these tenants, in place of the reply's opt-outs until now.

        Args:
            reply: The reply, with `hash` and `phone`.
            tenants: The tenants; if there are none, the reply's opt-outs until now are lifted.
            source: Source of the opt-outs; by default that of the reply.
            stays: Whether the reply stays open.
        """
        settled = replace(reply, tenants=tuple(tenants), known=True)
        new, _ = self._run(settled, stays=stays, source=source, settles=True)
        if stays:
            self._client.srem(NEW_REPLIES, reply.id)
        return new

    def mark_unresolved(self, reply: Reply) -> None:
        """Record that the ledger cannot settle a reply, so that it is not looked up there again."""
        self._client.srem(NEW_REPLIES, reply.id)

    def dismiss(self, reply: Reply) -> None:
        """Close a reply without effect: lift its opt-outs, unless the person also opted out in another way."""
        for tenant in reply.tenants:
            entry: Any = self._client.hget(optout_key(tenant or None), reply.hash or "")
            if entry and self._follows(reply, json.loads(entry)):
                data = event_data(tenant or None, reply.hash or "", reply.phone or "", "person", on=False)
                script("optin")(self._client, (optout_key(tenant or None), EVENTS), (reply.hash, data))
        self._forget((reply.id,))

    def all(self) -> list[Reply]:
        """All open replies, the oldest first."""
        found = [Reply.decode(raw) for _, raw in self._client.hscan_iter(REPLIES, count=1000)]
        return sorted({reply.id: reply for reply in found}.values(), key=lambda reply: reply.at)

    def new(self, most: int) -> list[Reply]:
        """Some of the replies that were not looked up in the ledger yet, at most `most`."""
        members: Any = self._client.srandmember(NEW_REPLIES, most)
        ids = [id_.decode() for id_ in members]
        records: Any = self._client.hmget(REPLIES, ids) if ids else []
        gone = [id_ for id_, raw in zip(ids, records, strict=True) if raw is None]
        if gone:
            self._client.srem(NEW_REPLIES, *gone)
        return [Reply.decode(raw) for raw in records if raw is not None]

    def find(self, reply_id: str) -> Reply | None:
        raw: Any = self._client.hget(REPLIES, reply_id)
        return None if raw is None else Reply.decode(raw)

    def forget_person(self, pseudonym: str) -> int:
        """Delete a person's open replies and return their number; the opt-outs stay."""
        return self._forget([reply.id for reply in self.all() if reply.hash == pseudonym])

    def forget_maybes(self, before: datetime) -> int:
        """Delete the `maybe` replies older than `before` and return their number."""
        return self._forget([reply.id for reply in self.all() if reply.wish == MAYBE and reply.at < before])

    def _forget(self, ids: Iterable[str]) -> int:
        gone = tuple(ids)
        if not gone:
            return 0
        self._client.srem(NEW_REPLIES, *gone)
        return int(self._client.hdel(REPLIES, *gone))

    def _follows(self, reply: Reply, entry: dict[str, Any]) -> bool:
        return entry.get("open") == reply.id or (reply.known and entry["source"] == WRONG_PERSON == reply.source)

    def _run(
        self,
        reply: Reply,
        *,
        stays: bool,
        confirmation: Confirmation | None = None,
        source: str | None = None,
        settles: bool = False,
    ) -> tuple[bool, bool]:
        person = reply.hash or "", reply.phone or "", source or reply.source
        reply_arguments = (
            reply.id,
            reply.encode() if stays else "",
            "" if reply.known or settles else "1",
            _MOST_MAYBES if reply.wish == MAYBE else "",
            event_data(EVERY_TENANT, *person, on=False) if settles else "",
        )
        tenants = [tenant or None for tenant in reply.tenants]
        return opt_out(self._client, tenants, person, reply.at, confirmation, reply_arguments)
