"""
The events that an instance sends to its webhooks.

`send.message`, `messages.update`, `messages.upsert`, `connection.update`, `status.instance`, `logout.instance`, each to
the instance's own webhook and to the global one. With no webhook at all nothing here costs more than two look-ups.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
import random
import time
from collections.abc import Callable
from typing import Any

from ifinu.simulator import envelopes, numbers, receipt_timeline
from ifinu.simulator.couriers import Couriers
from ifinu.simulator.fault_script import Faults, Outcome
from ifinu.simulator.state import BUSINESS, Message, Messages, SimulatedInstance, new_key_id, wamid

# The stock image runs in America/Sao_Paulo and writes its wall time with a `Z` that is not true.
_IMAGE_ZONE = datetime.timezone(datetime.timedelta(hours=-3))
_STOP = "SAIR"


class Events:
    """
    Makes the events of a world.

    Args:
        messages: The stored messages, to which messages of people are added.
        everybody: URL of the global webhook, or None.

    Attributes:
        server_url: The gateway's URL; empty until it listens.
    """

    def __init__(
        self, messages: Messages, faults: Faults, couriers: Couriers, rng: random.Random, everybody: str | None
    ) -> None:
        self._messages = messages
        self._faults = faults
        self._couriers = couriers
        self._rng = rng
        self._everybody = everybody
        self._waiting: dict[int, asyncio.TimerHandle] = {}
        self._count = itertools.count()
        self._free_at: dict[str, float] = {}  # when the instance's pending events are done, by `time.monotonic`
        self.server_url = ""

    def sent(self, instance: SimulatedInstance, message: Message, body: dict[str, Any]) -> None:
        """Send the event of a stored message, and schedule those of its receipts."""
        stops = message.outcome == Outcome.ANSWERS_STOP
        if not self._heard(instance) and not stops:
            return
        self._emit(instance, "send.message", body)
        last_ms = 0.0
        for after_ms, status in receipt_timeline.timeline(message.key_id, message.outcome, self._faults):
            self._later(after_ms / 1000, self._receipt, instance, message, status)
            last_ms = max(last_ms, after_ms)
        if stops:
            self._later(last_ms / 1000, self._stop, instance, message)

    def die(self) -> None:
        """Drop scheduled events and deliveries, which were only in memory."""
        for handle in self._waiting.values():
            handle.cancel()
        self._waiting.clear()
        self._free_at.clear()
        self._couriers.die()

    def inbound(
        self, instance: SimulatedInstance, jid: str, text: str, *, quoted: str | None, name: str, variant: str
    ) -> Message:
        """
        Simulate a message from a person.

        Args:
            quoted: `key.id` of the message that it quotes, or None.
            variant: `plain`, `lid` (a LID and the phone beside it) or `lid_alone`.
        """
        if instance.integration == BUSINESS:
            return self._inbound_by_meta(instance, jid, text, quoted, name)
        message = self._messages.insert(new_key_id(self._rng), instance.name, jid, text, from_me=False, push_name=name)
        key: dict[str, Any] = {"remoteJid": jid, "fromMe": False, "id": message.key_id}
        if variant != "plain":
            key["remoteJid"] = receipt_timeline.lid(jid)
            key["addressingMode"] = "lid"
        if variant == "lid":
            key["remoteJidAlt"] = jid
        data: dict[str, Any] = {
            "key": key,
            "pushName": name,
            "status": "DELIVERY_ACK",
            "message": message.message,
            "messageType": message.type,
            "messageTimestamp": message.at,
            "instanceId": instance.id,
            "source": "ios",
        }
        if quoted:
            original = self._messages.find(quoted)
            data["contextInfo"] = {
                "stanzaId": quoted,
                "participant": instance.owner_jid,
                "quotedMessage": original.message if original else {},
            }
        self._emit(instance, "messages.upsert", data)
        return message

    def _inbound_by_meta(
        self, instance: SimulatedInstance, jid: str, text: str, quoted: str | None, name: str
    ) -> Message:
        key_id = wamid(self._rng, numbers.digits(jid))
        message = self._messages.insert(
            key_id, instance.name, numbers.jid(numbers.digits(jid)), text, from_me=False, push_name=name
        )
        context = {"contextInfo": {"stanzaId": quoted}} if quoted else {}
        data = {
            "key": {"id": key_id, "remoteJid": message.jid, "fromMe": False},
            "pushName": name,
            "message": {**message.message, **context},
            **context,
            "messageType": message.type,
            "messageTimestamp": message.at,
            "source": "unknown",
            "instanceId": instance.id,
        }
        self._emit(instance, "messages.upsert", data)
        return message

    def connection(self, instance: SimulatedInstance, reason: int) -> None:
        data: dict[str, Any] = {"instance": instance.name, "state": instance.state, "statusReason": reason}
        if instance.state == "open":
            data |= {"wuid": instance.owner_jid, "profileName": instance.name, "profilePictureUrl": None}
        self._emit(instance, "connection.update", data)

    def lost(self, instance: SimulatedInstance) -> None:
        """Send the two events of a session that WhatsApp ended, before that of the connection."""
        code, at = instance.disconnected or (None, None)
        data = {
            "instance": instance.name,
            "status": "closed",
            "disconnectionAt": at,
            "disconnectionReasonCode": code,
            "disconnectionObject": None if code is None else envelopes.disconnection(code, at),
        }
        self._emit(instance, "status.instance", data)
        self._emit(instance, "logout.instance", None)

    def _receipt(self, instance: SimulatedInstance, message: Message, status: str) -> None:
        data = {
            "keyId": message.key_id,
            "remoteJid": receipt_timeline.jid_in_receipts(message),
            **receipt_timeline.sides(message),
            "status": status,
            "instanceId": instance.id,
            "messageId": message.row_id,
        }
        self._emit(instance, "messages.update", data)

    def _stop(self, instance: SimulatedInstance, message: Message) -> None:
        self.inbound(instance, message.jid, _STOP, quoted=message.key_id, name="Maria", variant="plain")

    def _heard(self, instance: SimulatedInstance) -> bool:
        return bool(self._everybody or (instance.webhook and instance.webhook.enabled))

    def _later(self, after_s: float, work: Callable[..., None], *arguments: Any) -> None:
        number = next(self._count)

        def now() -> None:
            del self._waiting[number]
            work(*arguments)

        self._waiting[number] = asyncio.get_running_loop().call_later(after_s, now)

    def _emit(self, instance: SimulatedInstance, event: str, data: object) -> None:
        """Send an event; if events take time, after the pending ones of its instance."""
        if not self._faults.event_s and instance.name not in self._free_at:
            self._post(instance, event, data)
            return
        now = time.monotonic()
        free_at = self._free_at[instance.name] = max(self._free_at.get(instance.name, 0.0), now) + self._faults.event_s
        self._later(free_at - now, self._post, instance, event, data)

    def _post(self, instance: SimulatedInstance, event: str, data: object) -> None:
        envelope = {
            "event": event,
            "instance": instance.name,
            "data": data,
            "destination": "",
            "date_time": _false_z(),
            "sender": instance.owner_jid if instance.has_session else None,
            "server_url": self.server_url,
            "apikey": instance.token,
        }
        if envelope["sender"] is None:
            del envelope["sender"]
        hook = instance.webhook
        if hook and hook.enabled and (not hook.events or event.upper().replace(".", "_") in hook.events):
            url = f"{hook.url.rstrip('/')}/{event.replace('.', '-')}" if hook.by_events else hook.url
            self._couriers.post(url, {**envelope, "destination": hook.url}, hook.headers or {})
        if everybody := self._everybody:
            self._couriers.post(everybody, {**envelope, "destination": everybody}, {})


def _false_z() -> str:
    now = datetime.datetime.fromtimestamp(time.time(), _IMAGE_ZONE)
    return now.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
