"""
What the gateway's routes answer, as values.

A `read_…` function takes parsed JSON and raises ValueError, TypeError or KeyError when it is not what the
route answers. Tokens, addresses and texts are left out of every `repr`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


class ConnectionState(enum.StrEnum):
    """
    An instance's connection to WhatsApp, as the gateway last heard of it.

    A dead socket can stay OPEN for long: it is the last event, not a probe.
    """

    OPEN = "open"
    CONNECTING = "connecting"
    CLOSE = "close"
    ABSENT = "absent"  # the instance exists, but this gateway process does not hold it


class Integration(enum.StrEnum):
    """What an instance speaks to."""

    BAILEYS = "WHATSAPP-BAILEYS"  # WhatsApp Web, paired with a QR code
    BUSINESS = "WHATSAPP-BUSINESS"  # Meta's Cloud API
    EVOLUTION = "EVOLUTION"  # nothing at all: accepts every message; for trying out the plumbing


@dataclass(frozen=True, slots=True)
class QrCode:
    """
    What pairs a phone.

    Attributes:
        code: The text inside the QR code.
        image: The QR code as a `data:image/png;base64,…` URL.
        pairing_code: Eight characters to type instead, when the instance was created with its number.
    """

    code: str | None = field(repr=False)
    image: str | None = field(repr=False)
    pairing_code: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pairing:
    """State of an instance, and what pairs it while it waits for that."""

    state: ConnectionState
    qr: QrCode | None = None


@dataclass(frozen=True, slots=True)
class CreatedInstance:
    """
    A new instance.

    Attributes:
        token: Opens the routes of this instance alone. It is shown this once.
    """

    name: str
    id: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Instance:
    """
    One instance of this gateway process.

    Attributes:
        owner_jid: The paired phone's address; None before pairing.
        disconnection_code: WhatsApp's last reason to close; 401, 402, 403 and 406 need a new pairing.
    """

    name: str
    id: str
    state: ConnectionState
    channel: str
    owner_jid: str | None = field(default=None, repr=False)
    disconnection_code: int | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where an instance's events go. `headers` often hold a secret."""

    url: str
    events: tuple[str, ...]
    enabled: bool
    headers: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class FoundMessage:
    """
    A message of ours that the gateway has stored.

    Attributes:
        acks: Receipts it has seen (`SERVER_ACK`, `DELIVERY_ACK`, `READ`, `ERROR`), in no order; may be empty
            for good.
    """

    key_id: str
    remote_jid: str = field(repr=False)
    text: str | None = field(repr=False)
    sent_at: datetime
    acks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundMessages:
    """One page, newest first; `page` counts from 1 to `pages`."""

    messages: tuple[FoundMessage, ...]
    total: int
    page: int
    pages: int


def read_connection(answer: Any) -> Pairing:
    """Read `instance/connectionState`, `connect` or `restart`: a state, or a QR code to pair with."""
    if "instance" in answer:
        return Pairing(ConnectionState(answer["instance"].get("state", ConnectionState.ABSENT)))
    if "count" not in answer:
        raise ValueError("neither a state nor a QR code")
    qr = QrCode(answer.get("code"), answer.get("base64"), answer.get("pairingCode"))
    return Pairing(ConnectionState.CONNECTING, qr if qr.code or qr.pairing_code else None)


def read_created(answer: Any) -> CreatedInstance:
    """Read `instance/create`."""
    instance, token = answer["instance"], answer["hash"]
    return CreatedInstance(instance["instanceName"], instance["instanceId"], token)


def read_instances(answer: Any) -> tuple[Instance, ...]:
    """Read `instance/fetchInstances`."""
    return tuple(
        Instance(
            name=row["name"],
            id=row["id"],
            state=ConnectionState(row["connectionStatus"]),
            channel=row["integration"],
            owner_jid=row.get("ownerJid"),
            disconnection_code=row.get("disconnectionReasonCode"),
        )
        for row in answer
    )


def read_webhook(answer: Any) -> Webhook:
    """Read `webhook/set`."""
    return Webhook(answer["url"], tuple(answer["events"] or ()), answer["enabled"], dict(answer.get("headers") or {}))


def read_found_webhook(answer: Any) -> Webhook | None:
    """Read `webhook/find`, which answers `null` when none was set."""
    return None if answer is None else read_webhook(answer)


def read_messages(answer: Any) -> FoundMessages:
    """Read `chat/findMessages`."""
    page = answer["messages"]
    return FoundMessages(
        tuple(_message(record) for record in page["records"]),
        page["total"],
        page["currentPage"],
        page["pages"],
    )


def _message(record: Any) -> FoundMessage:
    content = record.get("message") or {}
    return FoundMessage(
        key_id=record["key"]["id"],
        remote_jid=record["key"]["remoteJid"],
        text=content.get("conversation") or (content.get("extendedTextMessage") or {}).get("text"),
        sent_at=datetime.fromtimestamp(record["messageTimestamp"], UTC),
        acks=tuple(update["status"] for update in record.get("MessageUpdate") or ()),
    )
