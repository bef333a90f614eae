"""
What one webhook of the gateway says.

    event                                  says
    messages.update                        Receipt, of a message of ours
    send.message, messages.upsert (ours)   SentEcho: the gateway has it, so it was sent
    messages.upsert (a person's)           Inbound
    connection.update, status.instance,    Connection
    logout.instance

Anything else says nothing. Hooks come twice and in any order, and their `date_time` lies (local time with a `Z`), so
nothing here depends on either. A message is known by its key's id alone: addresses may be LIDs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from ifinu import phone as phones
from ifinu.ledger.states import State


class NotAHook(ValueError):  # noqa: N818 - what it is, not what failed
    """The body is none that the gateway sends; the message says why, without any of it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """WhatsApp's word on a message of ours: `status` is one of `states.RECEIPTS`."""

    instance: str
    key_id: str
    status: State


@dataclass(frozen=True, slots=True)
class SentEcho:
    """A text that went out, through the gateway or typed on the phone itself; `phone` as that of `Inbound`."""

    instance: str
    key_id: str
    text: str = field(repr=False)
    phone: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Inbound:
    """
    A person wrote.

    Attributes:
        instance: Whose phone it reached.
        phone: E.164; None where WhatsApp hides it behind a LID, or it is not Brazilian.
        text: What was written.
        quoted: `key.id` of the message that is answered, or None.
        at: When, or None where the hook does not say.
    """

    instance: str
    phone: str | None = field(repr=False)
    text: str = field(repr=False)
    quoted: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """The state of an instance: open, connecting, close or refused; `code` is WhatsApp's reason, where it gave one."""

    instance: str
    state: str
    code: int | None = None


Said = Receipt | SentEcho | Inbound | Connection

_BAILEYS: Final = {
    "ERROR": State.FAILED,
    "SERVER_ACK": State.SERVER_ACK,
    "DELIVERY_ACK": State.DELIVERED,
    "READ": State.READ,
    "PLAYED": State.READ,
}
_META: Final = {  # of the BUSINESS channel
    "SENT": State.SERVER_ACK,
    "DELIVERED": State.DELIVERED,
    "READ": State.READ,
    "FAILED": State.FAILED,
}
_META_ID = "wamid"  # how the ids of the BUSINESS channel begin
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,200}")
_KEY_ID = re.compile(r"[\x21-\x7e]{1,200}")
_STATES = frozenset({"open", "connecting", "close", "refused"})
_PERSON = "@s.whatsapp.net"
_NOT_A_PERSON = ("@g.us", "@broadcast", "@newsletter")
_LATEST_S = 4_102_444_800  # 2100-01-01; what is beyond is no time in seconds


def read(raw: bytes) -> tuple[Said, ...]:
    """
    Read a body.

    Returns:
        What it says; nothing for an event that is not ours to know, or whose data is malformed.

    Raises:
        NotAHook: It is not the JSON of an event at all.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise NotAHook("is not JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("event"), str):
        raise NotAHook("is not an event of the gateway: an object with `event`")
    reader = _READERS.get(body["event"])
    instance = body.get("instance")
    if reader is None or not _is(instance, _NAME):
        return ()
    data = body.get("data")
    entries = data if isinstance(data, list) else [data]
    return tuple(said for entry in entries if (said := reader(instance, _object(entry))) is not None)


def _receipt(instance: str, data: dict[str, Any]) -> Receipt | None:
    key_id, status, from_me = data.get("keyId"), data.get("status"), data.get("fromMe", True)
    if not _is(key_id, _KEY_ID) or not isinstance(status, str):
        return None
    is_metas = key_id.startswith(_META_ID)
    # The BUSINESS channel says fromMe:false, though Meta tells of nothing but what was sent to people.
    if not (is_metas or from_me is True):
        return None
    state = (_META if is_metas else _BAILEYS).get(status)
    return None if state is None else Receipt(instance, key_id, state)


def _echo(instance: str, data: dict[str, Any]) -> SentEcho | None:
    key = _object(data.get("key"))
    key_id, text = key.get("id"), _text(data.get("message"))
    return SentEcho(instance, key_id, text, _phone(_addresses(key))) if _is(key_id, _KEY_ID) and text else None


def _message(instance: str, data: dict[str, Any]) -> SentEcho | Inbound | None:
    key = _object(data.get("key"))
    if key.get("fromMe") is True:
        return _echo(instance, data)
    addresses = _addresses(key)
    text = _text(data.get("message"))
    if key.get("fromMe") is not False or not addresses or addresses[0].endswith(_NOT_A_PERSON) or not text:
        return None
    quoted = _object(data.get("contextInfo")).get("stanzaId")
    return Inbound(
        instance, _phone(addresses), text, quoted if _is(quoted, _KEY_ID) else None, _time(data.get("messageTimestamp"))
    )


def _connection(instance: str, data: dict[str, Any]) -> Connection | None:
    state = data.get("state")
    if not isinstance(state, str) or state not in _STATES:
        return None
    return Connection(instance, state, _code(data.get("statusReason")))


def _status(instance: str, data: dict[str, Any]) -> Connection | None:
    if data.get("status") != "closed":
        return None
    return Connection(instance, "close", _code(data.get("disconnectionReasonCode")))


def _logout(instance: str, data: dict[str, Any]) -> Connection:
    return Connection(instance, "close")


_READERS: Final[dict[str, Callable[[str, dict[str, Any]], Said | None]]] = {
    "messages.update": _receipt,
    "send.message": _echo,
    "messages.upsert": _message,
    "connection.update": _connection,
    "status.instance": _status,
    "logout.instance": _logout,
}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is(value: object, shape: re.Pattern[str]) -> TypeGuard[str]:
    return isinstance(value, str) and shape.fullmatch(value) is not None


def _text(message: object) -> str | None:
    """The text, also of a chat whose messages vanish after a time, which wraps it once more."""
    content = _object(message)
    content = _object(_object(content.get("ephemeralMessage")).get("message")) or content
    text = content.get("conversation") or _object(content.get("extendedTextMessage")).get("text")
    return text if isinstance(text, str) else None


def _addresses(key: dict[str, Any]) -> list[str]:
    return [address for address in (key.get("remoteJid"), key.get("remoteJidAlt")) if isinstance(address, str)]


def _phone(addresses: list[str]) -> str | None:
    for address in addresses:
        # The EVOLUTION channel gives the digits back that it was asked to write to.
        if address.endswith(_PERSON) or address.isdecimal():
            try:
                return phones.normalize(address)
            except ValueError:
                continue  # another country's
    return None


def _time(value: object) -> datetime | None:
    """Epoch seconds; the gateway writes the phone library's 64-bit number as an object where it misses it."""
    if isinstance(value, dict):
        value = value.get("low")
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        value = int(value)
    if not isinstance(value, int) or not 0 < value < _LATEST_S:
        return None
    return datetime.fromtimestamp(value, UTC)


def _code(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000 else None
