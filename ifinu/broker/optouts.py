"""
Who wants no messages, tenant by tenant.

    ifinu:optout:<tenant>  HASH  pseudonym of the phone -> {"at": ms, "source": "…", "phone": masked,
                                 "confirmation": id of the one message that may still go, or ""}

The tenant is empty for messages of none, and `*` for a person who wants messages of no tenant at all. An entry with
`open` stands until the answer of that id is settled (see `replies.py`). The pseudonym depends on a key (see
`pseudonyms.py`): under another key nobody here would be found.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import redis

from ifinu import phone as phones
from ifinu.broker import events
from ifinu.broker.keys import ANSWERS, EVENTS, EVERY_TENANT, NEW_ANSWERS, optout_key, script, senders_key
from ifinu.broker.pseudonyms import Pseudonyms


class All(enum.Enum):
    """Stands for every tenant, since None is the one without a name."""

    ALL = enum.auto()


ALL: Final = All.ALL
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Confirmation:
    """
    The last message to who opted out, which tells them so.

    Attributes:
        id: Of the notification; the claim lets this id through.
        queue: The list it is pushed to.
        message: Its bytes.
    """

    id: str
    queue: str
    message: bytes = field(repr=False)  # it holds the phone


@dataclass(frozen=True, slots=True)
class OptOut:
    """
    One person and one tenant.

    Attributes:
        tenant: Whose messages they do not want; None for messages of no tenant.
        hash: Pseudonym of the phone.
        phone: Masked.
        source: Where it was said, such as `whatsapp` or `cli`.
        at: When.
    """

    tenant: str | None
    hash: str
    phone: str
    source: str
    at: datetime

    @classmethod
    def decode(cls, tenant: str | None, pseudonym: bytes, entry: bytes) -> OptOut:
        """Read an entry of the hash above."""
        body = json.loads(entry)
        at = datetime.fromtimestamp(body["at"] / 1000, UTC)
        return cls(tenant, pseudonym.decode(), body["phone"], body["source"], at)


class OptOuts:
    """
    The opt-outs at one Redis server. All methods raise redis.RedisError when it is not there.

    Args:
        client: A connection that returns bytes; may be shared by threads.
        pseudonyms: What hashes the phones.
    """

    def __init__(self, client: redis.Redis, pseudonyms: Pseudonyms) -> None:
        self._client = client
        self._pseudonyms = pseudonyms

    def add(self, tenant: str | None, phone: str, *, source: str, confirmation: Confirmation | None = None) -> bool:
        """
        Send no more of a tenant's messages to a phone.

        Args:
            tenant: The tenant, or None.
            phone: E.164.
            source: Where it was said, in a word.
            confirmation: What is sent to them all the same, once: when they are new here.

        Returns:
            Whether they are new.
        """
        return self._add(tenant, self._pseudonyms.of(phone), phones.mask(phone), source, None, confirmation)

    def restore(self, optout: OptOut) -> bool:
        """Add one that was exported, by its hash; whether it is new."""
        return self._add(optout.tenant, optout.hash, optout.phone, optout.source, optout.at, None)

    def remove(self, tenant: str | None, phone: str, *, source: str = "person") -> bool:
        """Send a tenant's messages to a phone again; whether it had opted out."""
        pseudonym = self._pseudonyms.of(phone)
        data = event_data(tenant, pseudonym, phones.mask(phone), source, on=False)
        return bool(script("optin")(self._client, (optout_key(tenant), EVENTS), (pseudonym, data)))

    def find(self, tenant: str | None, phone: str) -> OptOut | None:
        """What is known of a phone."""
        pseudonym = self._pseudonyms.of(phone)
        entry: Any = self._client.hget(optout_key(tenant), pseudonym)
        return OptOut.decode(tenant, pseudonym.encode(), entry) if entry else None

    def pseudonym(self, phone: str) -> str:
        """What stands for a phone here."""
        return self._pseudonyms.of(phone)

    def all(self, tenant: str | All | None) -> Iterator[OptOut]:
        """Those of a tenant, or of all of them, in no order; one may come twice while others are added."""
        for name in self._tenants() if isinstance(tenant, All) else (tenant,):
            for pseudonym, entry in self._client.hscan_iter(optout_key(name), count=_PAGE):
                yield OptOut.decode(name, pseudonym, entry)

    @property
    def key_mark(self) -> str:
        """Tells one key of pseudonyms from another, and nothing about it."""
        return self._pseudonyms.of("")[:8]

    def _tenants(self) -> list[str | None]:
        prefix = optout_key(None)
        pattern = f"{prefix}*"
        # SCAN may name a key twice.
        found = {key.decode().removeprefix(prefix) for key in self._client.scan_iter(pattern, _PAGE, "hash")}
        return [name or None for name in sorted(found)]

    def _add(
        self,
        tenant: str | None,
        pseudonym: str,
        masked: str,
        source: str,
        at: datetime | None,
        confirmation: Confirmation | None,
    ) -> bool:
        last = confirmation or Confirmation("", EVENTS, b"")
        keys = (EVENTS, ANSWERS, NEW_ANSWERS, optout_key(EVERY_TENANT), last.queue, optout_key(tenant))
        when = "" if at is None else round(at.timestamp() * 1000)
        data = event_data(tenant, pseudonym, masked, source, on=True)
        answer = ("", "", "", "", "")
        args = (pseudonym, masked, source, when, last.id, last.message, *answer, data)
        return bool(script("optout")(self._client, keys, args)[0])


def event_data(tenant: str | None, pseudonym: str, masked: str, source: str, *, on: bool) -> str:
    """The data of the event `optout`, as scripts take them."""
    data = {"tenant": tenant, "phone": masked, "hash": pseudonym, "source": source, "on": on}
    return events.Event(events.Name.OPTOUT, data=data).arguments()[2]


def forget_senders(client: redis.Redis, pseudonym: str) -> None:
    """
    Forget which tenants wrote to a person; should they ask for no more messages later, that holds for every tenant.

    Raises:
        redis.RedisError: Some of it may be left.
    """
    for key in client.scan_iter(senders_key("*", "*"), count=_PAGE):
        client.hdel(key, pseudonym)
