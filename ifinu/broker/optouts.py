"""
Opt-outs, by tenant.

    ifinu:optout:<tenant>  HASH  pseudonym of the phone -> {"at": ms, "source": "…", "phone": masked,
                                 "confirmation": id of the one message that may still go, or ""}

An empty tenant stands for messages without a tenant, `*` for all tenants. An entry with `open` is valid until the
reply of that id is settled (see `replies.py`). The pseudonym depends on a key (see `pseudonyms.py`): with another key
no entry is found.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import redis

from ifinu import phone as phones
from ifinu.broker import events
from ifinu.broker.keys import EVENTS, EVERY_TENANT, NEW_REPLIES, REPLIES, optout_key, script, senders_key
from ifinu.broker.pseudonyms import Pseudonyms


class All(enum.Enum):
    """All tenants; None means messages without a tenant."""

    ALL = enum.auto()


ALL: Final = All.ALL
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Confirmation:
    """
    The message that confirms an opt-out, the last one that the person gets.

    Attributes:
        id: Id of its notification, which may be sent despite the opt-out.
        queue: The list it is pushed to.
        message: Its bytes.
    """

    id: str
    queue: str
    message: bytes = field(repr=False)  # it holds the phone


@dataclass(frozen=True, slots=True)
class OptOut:
    """
    The opt-out of one person from one tenant.

    Attributes:
        tenant: The tenant; None for messages without a tenant.
        hash: Pseudonym of the phone.
        phone: The phone, masked.
        source: How the person opted out, such as `whatsapp` or `cli`.
    """

    tenant: str | None
    hash: str
    phone: str
    source: str
    at: datetime

    @classmethod
    def decode(cls, tenant: str | None, pseudonym: bytes, entry: bytes) -> OptOut:
        """Read an entry of `ifinu:optout:<tenant>`."""
        body = json.loads(entry)
        at = datetime.fromtimestamp(body["at"] / 1000, UTC)
        return cls(tenant, pseudonym.decode(), body["phone"], body["source"], at)


class OptOuts:
    """
    The opt-outs at one Redis server. All methods raise redis.RedisError when Redis is away.

    Args:
        client: A connection that returns bytes; may be shared by threads.
    """

    def __init__(self, client: redis.Redis, pseudonyms: Pseudonyms) -> None:
        self._client = client
        self._pseudonyms = pseudonyms

    def add(self, tenant: str | None, phone: str, *, source: str, confirmation: Confirmation | None = None) -> bool:
        """
        Opt a phone out of a tenant's messages.

        Args:
            phone: The phone, in E.164.
            source: How the person opted out, in a word.
            confirmation: The message to send if the opt-out is new.
        """
        person = self._pseudonyms.of(phone), phones.mask(phone), source
        return opt_out(self._client, (tenant,), person, None, confirmation)[0]

    def restore(self, optout: OptOut) -> bool:
        """Add an exported opt-out; True if it is new."""
        person = optout.hash, optout.phone, optout.source
        return opt_out(self._client, (optout.tenant,), person, optout.at, None)[0]

    def remove(self, tenant: str | None, phone: str, *, source: str = "person") -> bool:
        """Lift the opt-out of a phone from a tenant; False if there was none."""
        pseudonym = self._pseudonyms.of(phone)
        data = event_data(tenant, pseudonym, phones.mask(phone), source, on=False)
        return bool(script("optin")(self._client, (optout_key(tenant), EVENTS), (pseudonym, data)))

    def find(self, tenant: str | None, phone: str) -> OptOut | None:
        """The opt-out of a phone from a tenant, or None."""
        pseudonym = self._pseudonyms.of(phone)
        entry: Any = self._client.hget(optout_key(tenant), pseudonym)
        return OptOut.decode(tenant, pseudonym.encode(), entry) if entry else None

    def pseudonym(self, phone: str) -> str:
        return self._pseudonyms.of(phone)

    def all(self, tenant: str | All | None) -> Iterator[OptOut]:
        """The opt-outs of a tenant, or of all, in no order; one may come twice if others are added meanwhile."""
        for name in self._tenants() if isinstance(tenant, All) else (tenant,):
            for pseudonym, entry in self._client.hscan_iter(optout_key(name), count=_PAGE):
                yield OptOut.decode(name, pseudonym, entry)

    @property
    def key_mark(self) -> str:
        """A fingerprint of the key of pseudonyms, which reveals nothing of it."""
        return self._pseudonyms.of("")[:8]

    def _tenants(self) -> list[str | None]:
        prefix = optout_key(None)
        pattern = f"{prefix}*"
        # SCAN may name a key twice.
        found = {key.decode().removeprefix(prefix) for key in self._client.scan_iter(pattern, _PAGE, "hash")}
        return [name or None for name in sorted(found)]


def opt_out(
    client: redis.Redis,
    tenants: Sequence[str | None],
    person: tuple[str, str, str],
    at: datetime | None,
    confirmation: Confirmation | None,
    reply: tuple[str, str, str, str | int, str] = ("", "", "", "", ""),
) -> tuple[bool, bool]:
    """
    Run `optout.lua`.

    Args:
        person: Pseudonym, masked phone, and source of the opt-outs.
        at: Time of the opt-outs; None for now.
        confirmation: The message to send if an opt-out is new.
        reply: The arguments of the script about a reply, from its id on.

    Returns:
        Whether an opt-out is new, and whether the reply is.
    """
    last = confirmation or Confirmation("", EVENTS, b"")
    keys = (EVENTS, REPLIES, NEW_REPLIES, optout_key(EVERY_TENANT), last.queue, *map(optout_key, tenants))
    when = "" if at is None else round(at.timestamp() * 1000)
    data = (event_data(tenant, *person, on=True) for tenant in tenants)
    new, opened = script("optout")(client, keys, (*person, when, last.id, last.message, *reply, *data))
    return bool(new), bool(opened)


def event_data(tenant: str | None, pseudonym: str, masked: str, source: str, *, on: bool) -> str:
    data = {"tenant": tenant, "phone": masked, "hash": pseudonym, "source": source, "on": on}
    return events.Event(events.Name.OPTOUT, data=data).arguments()[2]


def forget_senders(client: redis.Redis, pseudonym: str) -> None:
    """
    Forget which tenants wrote to a person. A later opt-out by reply then holds for every tenant.

    Raises:
        redis.RedisError: Some entries may be left.
    """
    for key in client.scan_iter(senders_key("*", "*"), count=_PAGE):
        client.hdel(key, pseudonym)
