"""
Values of the gateway's answers.

A `read_…` function takes parsed JSON and raises ValueError, TypeError or KeyError if its shape is wrong. No `repr`
contains tokens, addresses or texts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


class ConnectionState(enum.StrEnum):
    """
    The last known state of an instance's connection to WhatsApp.

    A dead socket can stay OPEN for long: the gateway reports the last event and does not probe.
    """

    OPEN = "open"
    CONNECTING = "connecting"
    CLOSE = "close"
    ABSENT = "absent"  # the instance exists, but this gateway process does not hold it


class Integration(enum.StrEnum):
    """The service that an instance connects to."""

    BAILEYS = "WHATSAPP-BAILEYS"  # WhatsApp Web, paired with a QR code
    BUSINESS = "WHATSAPP-BUSINESS"  # Meta's Cloud API
    EVOLUTION = "EVOLUTION"  # none: it accepts every message; for tests


@dataclass(frozen=True, slots=True)
class QrCode:
    """
    The codes that pair a phone.

    Attributes:
        code: The text in the QR code.
        image: The QR code as a `data:image/png;base64,…` URL.
        pairing_code: Eight characters to type instead, if the instance was created with its number.
    """

    code: str | None = field(repr=False)
    image: str | None = field(repr=False)
    pairing_code: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pairing:
    """State of an instance, and the codes that pair it while it waits for pairing."""

    state: ConnectionState
    qr: QrCode | None = None


@dataclass(frozen=True, slots=True)
class CreatedInstance:
    """
    A new instance.

    Attributes:
        token: Key for the routes of this instance only. The gateway shows it once.
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
        disconnection_code: WhatsApp's last reason for closing; 401, 402, 403 and 406 need a new pairing.
    """

    name: str
    id: str
    state: ConnectionState
    channel: str
    owner_jid: str | None = field(default=None, repr=False)
    disconnection_code: int | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """The target of an instance's events. `headers` often hold a secret."""

    url: str
    events: tuple[str, ...]
    enabled: bool
    headers: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class FoundMessage:
    """
    A message that this instance sent and the gateway stored.

    Attributes:
        acks: Its receipts so far (`SERVER_ACK`, `DELIVERY_ACK`, `READ`, `ERROR`), unordered; it may stay empty.
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
    """Read `instance/connectionState`, `connect` or `restart`: a state, or a QR code."""
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
    """Read `webhook/find`, which answers `null` if there is no webhook."""
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
