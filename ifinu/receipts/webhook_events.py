"""
The events in a webhook of the gateway.

    event                                  read as
    messages.update                        Receipt, of a message of ours
    send.message, messages.upsert (ours)   SentEcho: the gateway has it, so it was sent
    messages.upsert, messages.edited       Inbound
    (a person's)
    connection.update, status.instance,    ConnectionUpdate
    logout.instance

Other events are ignored. Webhooks come twice and in any order, and their `date_time` is wrong (local time with a `Z`),
so nothing here depends on either. Only its key's id identifies a message, since addresses may be LIDs.

A reply has many forms: a text, a caption, the choice of a button, a list or a poll, an edited text; each may be wrapped
(disappearing messages, messages to view once, documents with a caption). It may have no words, as a voice message. A
reaction is not a reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from ifinu import phone as phones
from ifinu.escapes import CONTROLS, SURROGATES
from ifinu.ledger.states import State


class InvalidWebhook(ValueError):  # noqa: N818 - named after the input
    """The body is not a webhook of the gateway; the message says why, without quoting it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    WhatsApp's receipt for a message of ours.

    Attributes:
        instance: The instance that sent the message.
        key_id: WhatsApp's id of the message.
        status: One of `states.RECEIPTS`.
        posted: The gateway's local time of the webhook, labelled UTC: its time zone is unknown.
    """

    instance: str
    key_id: str
    status: State
    posted: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class SentEcho:
    """
    A text that was sent; `phone` as that of `Inbound`.

    Attributes:
        by_hand: Whether it was typed on the phone itself, not sent through the gateway.
    """

    instance: str
    key_id: str
    text: str = field(repr=False)
    phone: str | None = field(repr=False)
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Inbound:
    """
    A message that a person wrote to an instance.

    Attributes:
        phone: The person's phone, in E.164; None if WhatsApp hides it behind a LID, or it is not Brazilian.
        text: The text written, or chosen; empty if the message has no words.
        quoted: `key.id` of the message that it quotes, or None.
        at: When it was written, or None if the webhook does not say.
        key_id: `key.id` of the message itself, or None.
    """

    instance: str
    phone: str | None = field(repr=False)
    text: str = field(repr=False)
    quoted: str | None = None
    at: datetime | None = None
    key_id: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ConnectionUpdate:
    """The state of an instance: open, connecting, close or refused; `code` is WhatsApp's reason, if it gave one."""

    instance: str
    state: str
    code: int | None = None


WebhookEvent = Receipt | SentEcho | Inbound | ConnectionUpdate

_Fields = dict[str, Any]

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
_NAME = re.compile(rf"[^{CONTROLS}{SURROGATES}]{{1,200}}")
_KEY_ID = re.compile(r"[\x21-\x7e]{1,200}")
_WORDLESS = (
    "audioMessage", "contactMessage", "contactsArrayMessage", "documentMessage", "imageMessage", "locationMessage",
    "ptvMessage", "stickerMessage", "videoMessage",
)  # fmt: skip
_STATES = frozenset({"open", "connecting", "close", "refused"})
_PERSON = "@s.whatsapp.net"
_NOT_A_PERSON = ("@g.us", "@broadcast", "@newsletter")
_DEEPEST = 8  # nested wrappers; at most three were seen
_LATEST_S = 4_102_444_800  # 2100-01-01; a larger number is not a time in seconds


def read(raw: bytes) -> tuple[WebhookEvent, ...]:
    """
    Read a body.

    Returns:
        Its events; none for an event that is ignored, or whose data are malformed.

    Raises:
        InvalidWebhook: The body is not the JSON of an event.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidWebhook("is not JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("event"), str):
        raise InvalidWebhook("is not an event of the gateway: an object with `event`")
    reader = _READERS.get(body["event"])
    instance = body.get("instance")
    if reader is None or not _is(instance, _NAME):
        return ()
    data = body.get("data")
    entries = data if isinstance(data, list) else [data]
    return tuple(event for entry in entries if (event := reader(instance, _object(entry), body)) is not None)


def _receipt(instance: str, data: _Fields, envelope: _Fields) -> Receipt | None:
    key_id, status, from_me = data.get("keyId"), data.get("status"), data.get("fromMe", True)
    if not _is(key_id, _KEY_ID) or not isinstance(status, str):
        return None
    is_metas = key_id.startswith(_META_ID)
    # The BUSINESS channel says fromMe:false, though Meta reports only messages sent to people.
    if not (is_metas or from_me is True):
        return None
    state = (_META if is_metas else _BAILEYS).get(status)
    return None if state is None else Receipt(instance, key_id, state, _posted(envelope.get("date_time")))


def _echo(instance: str, data: _Fields, _: _Fields) -> SentEcho | None:
    key = _object(data.get("key"))
    key_id, text = key.get("id"), _text_in(_content(data.get("message")))
    return SentEcho(instance, key_id, text, _phone(_addresses(key))) if _is(key_id, _KEY_ID) and text else None


def _message(instance: str, data: _Fields, envelope: _Fields) -> SentEcho | Inbound | None:
    key, content = _object(data.get("key")), _content(data.get("message"))
    if key.get("fromMe") is True:
        echo = _echo(instance, data, envelope)
        return echo and replace(echo, by_hand=True)
    quoted = _quoted(data) or next((found for part in content.values() if (found := _quoted(_object(part)))), None)
    text = _text_in(content)
    if text is None and any(isinstance(content.get(kind), dict) for kind in _WORDLESS):
        text = ""
    return _inbound(instance, key, text, quoted, _time(data.get("messageTimestamp")))


def _edited(instance: str, data: _Fields, envelope: _Fields) -> Inbound | None:
    """
    An edited message, under the key of the original.

    The gateway passes the key on as the editor's phone has it: a person's message is `fromMe`, and the chat's address
    is our number, or a LID. So the person is unknown.
    """
    key = _object(data.get("key"))
    text = _text_in(_content(data.get("editedMessage") or data.get("message")))
    quoted, at = _quoted(_object(data.get("editedMessage"))), _time(data.get("messageTimestamp"))
    if key.get("fromMe") is not True:
        return _inbound(instance, key, text, quoted, at)
    addresses = _addresses(key)
    ours = _addresses({"remoteJid": envelope.get("sender")})
    if not text or not addresses or addresses[0].endswith(_NOT_A_PERSON):
        return None
    if (phone := _phone(addresses)) is not None and phone != _phone(ours):
        return None  # we edited our own message to that person
    return Inbound(instance, None, text, quoted, at, _id(key))


def _inbound(instance: str, key: _Fields, text: str | None, quoted: str | None, at: datetime | None) -> Inbound | None:
    addresses = _addresses(key)
    if key.get("fromMe") is not False or not addresses or addresses[0].endswith(_NOT_A_PERSON) or text is None:
        return None
    return Inbound(instance, _phone(addresses), text, quoted, at, _id(key))


def _connection(instance: str, data: _Fields, _: _Fields) -> ConnectionUpdate | None:
    state = data.get("state")
    if not isinstance(state, str) or state not in _STATES:
        return None
    return ConnectionUpdate(instance, state, _code(data.get("statusReason")))


def _status(instance: str, data: _Fields, _: _Fields) -> ConnectionUpdate | None:
    if data.get("status") != "closed":
        return None
    return ConnectionUpdate(instance, "close", _code(data.get("disconnectionReasonCode")))


def _logout(instance: str, data: _Fields, _: _Fields) -> ConnectionUpdate:
    return ConnectionUpdate(instance, "close")


_READERS: Final[dict[str, Callable[[str, _Fields, _Fields], WebhookEvent | None]]] = {
    "messages.update": _receipt,
    "send.message": _echo,
    "messages.upsert": _message,
    "messages.edited": _edited,
    "connection.update": _connection,
    "status.instance": _status,
    "logout.instance": _logout,
}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is(value: object, shape: re.Pattern[str]) -> TypeGuard[str]:
    return isinstance(value, str) and shape.fullmatch(value) is not None


def _content(message: object) -> _Fields:
    """The content of a message without its wrappers, which are objects with a `message`."""
    content = _object(message)
    for _ in range(_DEEPEST):
        if edited := _object(_object(content.get("protocolMessage")).get("editedMessage")):
            content = edited
            continue
        inner = next((found for part in content.values() if (found := _object(_object(part).get("message")))), None)
        if inner is None:
            break
        content = inner
    return content


def _text_in(content: _Fields) -> str | None:
    """The text, the caption, or the words of the choice."""

    def at(*path: str) -> object:
        found: object = content
        for name in path:
            found = _object(found).get(name)
        return found

    texts = (
        at("conversation"),
        at("extendedTextMessage", "text"),
        *(at(kind, "caption") for kind in ("imageMessage", "videoMessage", "documentMessage")),
        at("buttonsResponseMessage", "selectedDisplayText"),
        at("buttonsResponseMessage", "selectedButtonId"),
        at("templateButtonReplyMessage", "selectedDisplayText"),
        at("templateButtonReplyMessage", "selectedId"),
        at("listResponseMessage", "title"),
        at("listResponseMessage", "singleSelectReply", "selectedRowId"),
        at("listResponseMessage", "description"),
        at("interactiveResponseMessage", "body", "text"),
        _button_text(at("interactiveResponseMessage", "nativeFlowResponseMessage", "paramsJson")),
        at("pollUpdateMessage", "vote", "selectedOptions"),
    )
    for text in texts:
        if isinstance(text, list):
            text = "\n".join(one for one in text if isinstance(one, str))
        if isinstance(text, str) and text.strip():
            return text
    return None


def _button_text(parameters: object) -> str | None:
    """The words, or else the id, of a native flow's button, whose reply is JSON in a string."""
    try:
        fields = _object(json.loads(parameters)) if isinstance(parameters, str) else {}
    except (ValueError, RecursionError):
        return None
    words = (fields.get(name) for name in ("display_text", "title", "text", "id"))
    return next((word for word in words if isinstance(word, str) and word.strip()), None)


def _quoted(part: _Fields) -> str | None:
    quoted = _object(part.get("contextInfo")).get("stanzaId")
    return quoted if _is(quoted, _KEY_ID) else None


def _id(key: _Fields) -> str | None:
    return key["id"] if _is(key.get("id"), _KEY_ID) else None


def _addresses(key: dict[str, Any]) -> list[str]:
    return [address for address in (key.get("remoteJid"), key.get("remoteJidAlt")) if isinstance(address, str)]


def _phone(addresses: list[str]) -> str | None:
    for address in addresses:
        # The EVOLUTION channel returns the digits that it was given.
        if address.endswith(_PERSON) or address.isdecimal():
            try:
                return phones.normalize(address)
            except ValueError:
                continue  # another country's
    return None


def _time(value: object) -> datetime | None:
    """Epoch seconds; the gateway sometimes writes a 64-bit number as an object with its low and high half."""
    if isinstance(value, dict):
        value = value.get("low")
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        value = int(value)
    if not isinstance(value, int) or not 0 < value < _LATEST_S:
        return None
    return datetime.fromtimestamp(value, UTC)


def _posted(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else None
    except ValueError:
        return None


def _code(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000 else None
