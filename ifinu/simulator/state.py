"""
The state of a gateway pod and its database: instances, stored messages, and the cache of known numbers.

The stored messages are those whose INSERT succeeded. They differ on purpose from the ledger's sends.
"""

from __future__ import annotations

import base64
import collections
import datetime
import enum
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ifinu.simulator.fault_script import Outcome

if TYPE_CHECKING:
    from ifinu.simulator.bans import Record

BAILEYS = "WHATSAPP-BAILEYS"
BUSINESS = "WHATSAPP-BUSINESS"
EVOLUTION = "EVOLUTION"
ELSEWHERE = "another_process"


class Link(enum.StrEnum):
    """`state` of an instance."""

    OPEN = "open"
    CONNECTING = "connecting"
    CLOSE = "close"


def now_iso() -> str:
    """The present as Prisma writes it."""
    now = datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class WebhookSettings:
    """A row of `webhook/set`; no events means all of them."""

    url: str
    enabled: bool
    events: list[str]
    headers: dict[str, Any] | None
    by_events: bool
    base64: bool
    instance_id: str
    id: str = field(default_factory=lambda: f"c{uuid.uuid4().hex[:24]}")
    created_at: str = field(default_factory=now_iso)

    def row(self) -> dict[str, Any]:
        """The row as the API shows it."""
        return {
            "id": self.id,
            "url": self.url,
            "headers": self.headers,
            "enabled": self.enabled,
            "events": self.events,
            "webhookByEvents": self.by_events,
            "webhookBase64": self.base64,
            "createdAt": self.created_at,
            "updatedAt": now_iso(),
            "instanceId": self.instance_id,
        }


@dataclass(slots=True)
class SimulatedInstance:
    """One WhatsApp number. Its state is the last event of its socket, which may be dead since."""

    name: str
    token: str
    client_name: str  # name of the process that holds it; other processes only see the database row
    integration: str = BAILEYS
    number: str | None = None
    state: Link = Link.CLOSE
    stored: Link = Link.CLOSE  # the state in the database, which misses short interruptions
    sockets: int = 0
    generation: int = 0  # scheduled steps of an earlier one are dropped
    has_session: bool = False  # paired, and not logged out since
    ever_connected: bool = False  # has a socket, dead or alive
    socket_alive: bool = True
    banned: bool = False  # no phone can pair it any more
    qr_code: str = ""
    qr_until: float = 0.0  # when WhatsApp replaces it, by `time.monotonic`
    qr_count: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    owner_jid: str | None = None  # the number's own JID, once paired; it outlives a logout
    disconnected: tuple[int, str] | None = None  # reason and time of the end of the last session
    delete_failed: bool = False
    died_at: list[float] = field(default_factory=list)  # times at which its process died
    webhook: WebhookSettings | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: str = field(default_factory=now_iso)

    @property
    def can_send(self) -> bool:
        """Whether its socket works."""
        return self.state is Link.OPEN and self.socket_alive

    @property
    def source(self) -> str:
        """`source` of its own messages."""
        return "web" if self.integration == BAILEYS else "unknown"

    def pair(self) -> None:
        """Set the owner: the JID of the paired phone."""
        if self.integration == BAILEYS:
            self.owner_jid = f"{self.number or '5511900000000'}@s.whatsapp.net"


class Message(NamedTuple):
    """One row of the Message table."""

    key_id: str
    instance: str
    jid: str
    content: str | dict[str, Any]  # the text of a conversation, or the message of another type
    at_monotonic: float
    at: int  # epoch seconds
    outcome: str  # decides its receipts
    from_me: bool
    push_name: str

    @property
    def type(self) -> str:
        """`messageType`."""
        return "conversation" if isinstance(self.content, str) else next(iter(self.content))

    @property
    def message(self) -> dict[str, Any]:
        """`message`."""
        return {"conversation": self.content} if isinstance(self.content, str) else self.content

    @property
    def row_id(self) -> str:
        """The id in the database, which differs from WhatsApp's."""
        return f"cm{self.key_id.lower()[-22:]}"


class Messages:
    """The Message table: by key and, newest last, by contact."""

    def __init__(self) -> None:
        # Plain tuples, as in send_ledger.py.
        self._by_key: dict[str, tuple[Any, ...]] = {}
        self._by_jid: dict[str, list[str]] = {}
        self._counts: collections.Counter[str] = collections.Counter()

    def insert(
        self,
        key_id: str,
        instance: str,
        jid: str,
        content: str | dict[str, Any],
        *,
        outcome: str = Outcome.OK,
        from_me: bool = True,
        push_name: str = "Você",
    ) -> Message:
        """Store one row, stamped now."""
        row = (
            key_id,
            instance,
            jid,
            content,
            time.monotonic(),
            int(time.time()),
            outcome,
            from_me,
            push_name,
        )
        self._by_key[key_id] = row
        self._counts[instance] += 1
        self._by_jid.setdefault(jid, []).append(key_id)
        return Message._make(row)

    def find(self, key_id: str) -> Message | None:
        """One row by WhatsApp's id."""
        row = self._by_key.get(key_id)
        return Message._make(row) if row else None

    def newest_first(self, jid: str | None = None) -> Iterator[Message]:
        """Every row, or those of a contact."""
        keys = reversed(self._by_key) if jid is None else reversed(self._by_jid.get(jid, []))
        return (Message._make(self._by_key[key]) for key in keys if key in self._by_key)

    def count(self, instance: str) -> int:
        return self._counts[instance]

    def forget_instance(self, name: str) -> None:
        for key in [key for key, row in self._by_key.items() if row[1] == name]:
            del self._by_key[key]
        del self._counts[name]

    def clear(self) -> None:
        self._by_key.clear()
        self._by_jid.clear()
        self._counts.clear()


class Storage:
    """
    The database, which several gateway processes may share; they run on one event loop then.

    Attributes:
        known_jids: Table IsOnWhatsapp: canonical JIDs that were looked up before.
        wrote_at: When a person, by digits, last wrote to an instance, by `time.monotonic`; Meta's, not the gateway's.
        ban_records: What WhatsApp remembers of each instance; see `bans.py`.
    """

    def __init__(self) -> None:
        self.instances: dict[str, SimulatedInstance] = {}
        self.messages = Messages()
        self.known_jids: set[str] = set()
        self.wrote_at: dict[tuple[str, str], float] = {}
        self.ban_records: dict[str, Record] = {}


def new_key_id(rng: random.Random) -> str:
    """A message id in Baileys' format."""
    return f"3EB0{rng.getrandbits(72):018X}"


def wamid(rng: random.Random, person: str) -> str:
    """An id of Meta's, which names the person."""
    digits = person.encode()
    raw = (
        b"\x1c\x18"
        + bytes([len(digits)])
        + digits
        + b"\x15\x02\x00\x11\x18\x12"
        + f"{rng.getrandbits(72):018X}".encode()
    )
    return f"wamid.{base64.b64encode(raw + bytes(1)).decode()}"
