"""
Answers of persons that have to be looked into: `ifinu:respostas`, a HASH of id -> record (`Reply`, as JSON).

    stop           it is not known yet whose messages they do not want, or which phone they have
    wrong_person   the text is not for them; their phone is not written to until a person has looked into it
    maybe          they may have asked for no more; nothing follows until a person has looked into it

Whose messages a person does not want, Redis knows for some weeks and the ledger for longer. So an answer that Redis
cannot settle stands as an opt-out from *all* tenants, and the recorder, which has both, narrows it
(`ledger/reply_resolution.py`).
What the ledger cannot settle stays here, for `ifinu optout unresolved`.

Of what was written only the text of the two last kinds is kept, without which nobody could decide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

import redis

from ifinu.broker.keys import ANSWERS, EVENTS, EVERY_TENANT, NEW_ANSWERS, optout_key, script
from ifinu.broker.optouts import Confirmation, event_data

STOP, WRONG_PERSON, MAYBE = "stop", "wrong_person", "maybe"
WHATSAPP = "whatsapp"  # the source of opt-outs that persons answered

_MOST_MAYBES = 5_000
_LONGEST_TEXT = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """
    One answer.

    Attributes:
        id: Follows from the message: a hook that comes twice is one answer.
        wish: `stop`, `wrong_person` or `maybe`.
        instance: Whose phone it reached.
        at: When it was written.
        hash: Pseudonym of the person's phone; None where the gateway hides it.
        phone: Masked, or None.
        quoted: `key.id` of the message of ours that it answers, or None.
        key_id: Its own `key.id`, or None.
        text: What was written, where that has to be read.
        tenants: Whose messages they get no more of because of it; empty for messages of no tenant, `*` for all.
        known: Whether these tenants are known to have written to them.
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
        """The id that follows from what tells an answer from others."""
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]

    @property
    def source(self) -> str:
        """What an opt-out that follows from it names as its source."""
        return WRONG_PERSON if self.wish == WRONG_PERSON else WHATSAPP

    def encode(self) -> str:
        """The record."""
        return json.dumps(asdict(self) | {"at": round(self.at.timestamp() * 1000), "text": self._kept()})

    def _kept(self) -> str | None:
        return self.text[:_LONGEST_TEXT] if self.text and self.wish != STOP else None

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a record."""
        fields = json.loads(raw)
        at = datetime.fromtimestamp(fields["at"] / 1000, UTC)
        return cls(**fields | {"at": at, "tenants": tuple(fields["tenants"])})


class Replies:
    """
    The open answers at one Redis server. All methods raise redis.RedisError when it is not there.

    Args:
        client: A connection that returns bytes; may be shared by threads.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def take(self, answer: Reply, *, stays: bool, confirmation: Confirmation | None = None) -> tuple[bool, bool]:
        """
        Record an answer, and the opt-outs that follow from it at once, in one step.

        Args:
            answer: With the tenants that it is an opt-out from; those stand until it is settled unless they are known.
            stays: Whether it is to be looked into; else it is recorded as opt-outs alone.
            confirmation: What is sent to the person if they are new.

        Returns:
            Whether an opt-out is new, and whether the answer is.
        """
        return self._run(answer, answer.tenants, stays=stays, confirmation=confirmation)

    def settle(self, answer: Reply, tenants: Iterable[str], *, source: str | None = None, stays: bool = False) -> bool:
        """
        Opt the person out of these tenants, in place of what stood until now.

        Args:
            answer: With `hash` and `phone`.
            tenants: Whose messages they do not want; none of them lifts what stood.
            source: Of the opt-outs; by default that of the answer.
            stays: Whether it is still to be looked into.

        Returns:
            Whether an opt-out is new.
        """
        settled = replace(answer, tenants=tuple(tenants), known=True)
        new, _ = self._run(settled, settled.tenants, stays=stays, source=source, settles=True)
        if stays:
            self._client.srem(NEW_ANSWERS, answer.id)
        return new

    def asked(self, answer: Reply) -> None:
        """The ledger was asked, and did not know."""
        self._client.srem(NEW_ANSWERS, answer.id)

    def dismiss(self, answer: Reply) -> None:
        """Nothing follows from it: what it was an opt-out from is lifted, unless the person opted out besides."""
        for tenant in answer.tenants:
            entry: Any = self._client.hget(optout_key(tenant or None), answer.hash or "")
            if entry and self._follows(answer, json.loads(entry)):
                data = event_data(tenant or None, answer.hash or "", answer.phone or "", "person", on=False)
                script("optin")(self._client, (optout_key(tenant or None), EVENTS), (answer.hash, data))
        self._forget((answer.id,))

    def all(self) -> list[Reply]:
        """All of them, the oldest first."""
        found = [Reply.decode(raw) for _, raw in self._client.hscan_iter(ANSWERS, count=1000)]
        return sorted({answer.id: answer for answer in found}.values(), key=lambda answer: answer.at)

    def new(self, most: int) -> list[Reply]:
        """Some of those that the ledger was not asked about."""
        members: Any = self._client.srandmember(NEW_ANSWERS, most)
        ids = [id_.decode() for id_ in members]
        records: Any = self._client.hmget(ANSWERS, ids) if ids else []
        gone = [id_ for id_, raw in zip(ids, records, strict=True) if raw is None]
        if gone:
            self._client.srem(NEW_ANSWERS, *gone)
        return [Reply.decode(raw) for raw in records if raw is not None]

    def find(self, answer_id: str) -> Reply | None:
        """One of them."""
        raw: Any = self._client.hget(ANSWERS, answer_id)
        return None if raw is None else Reply.decode(raw)

    def count(self) -> int:
        """How many there are."""
        return int(self._client.hlen(ANSWERS))

    def forget_person(self, pseudonym: str) -> int:
        """Forget the answers of a person, whose opt-outs stay; how many they were."""
        return self._forget([answer.id for answer in self.all() if answer.hash == pseudonym])

    def forget_maybes(self, before: datetime) -> int:
        """Forget what may have been a request and is older; how many they were."""
        return self._forget([answer.id for answer in self.all() if answer.wish == MAYBE and answer.at < before])

    def _forget(self, ids: Iterable[str]) -> int:
        gone = tuple(ids)
        if not gone:
            return 0
        self._client.srem(NEW_ANSWERS, *gone)
        return int(self._client.hdel(ANSWERS, *gone))

    def _follows(self, answer: Reply, entry: dict[str, Any]) -> bool:
        return entry.get("open") == answer.id or (answer.known and entry["source"] == WRONG_PERSON == answer.source)

    def _run(
        self,
        answer: Reply,
        tenants: tuple[str, ...],
        *,
        stays: bool,
        confirmation: Confirmation | None = None,
        source: str | None = None,
        settles: bool = False,
    ) -> tuple[bool, bool]:
        last = confirmation or Confirmation("", EVENTS, b"")
        pseudonym, masked, source = answer.hash or "", answer.phone or "", source or answer.source
        names = [tenant or None for tenant in tenants]
        keys = (
            *(EVENTS, ANSWERS, NEW_ANSWERS, optout_key(EVERY_TENANT), last.queue),
            *(optout_key(name) for name in names),
        )
        args = (
            *(pseudonym, masked, source, round(answer.at.timestamp() * 1000), last.id, last.message),
            *(answer.id, answer.encode() if stays else "", "" if answer.known or settles else "1"),
            _MOST_MAYBES if answer.wish == MAYBE else "",
            event_data(EVERY_TENANT, pseudonym, masked, source, on=False) if settles else "",
            *(event_data(name, pseudonym, masked, source, on=True) for name in names),
        )
        new, opened = script("optout")(self._client, keys, args)
        return bool(new), bool(opened)
