"""What persons reply: heard, durable, and where they want no more messages confirmed, in one step."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
import structlog

from ifinu import phone as phones
from ifinu import wire
from ifinu.broker import clock
from ifinu.broker.keys import EVERY_TENANT, URGENT, senders_key
from ifinu.broker.optouts import Confirmation
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.replies import Replies, Reply
from ifinu.notification import Kind, Notification, Priority
from ifinu.receipts.stop_words import Wish
from ifinu.receipts.webhook_events import Inbound

CONFIRMED = (
    "Pronto! Você não vai mais receber nossas mensagens por aqui. "
    "Se mudar de ideia, é só avisar a empresa que enviou a cobrança."
)

_MONTHS = 3  # Redis remembers for two, the first of which may have begun in the third

log = structlog.get_logger()


class ReplyHandler:
    """
    Takes what persons reply. Its methods block for as long as Redis takes; threads may share it.

    Args:
        client: A connection that returns bytes, with deadlines.
        phone_key: `IFINU_PHONE_KEY`, or None.

    Attributes:
        taken: How many opted out.
        unresolved: How many wanted to, and the gateway does not say which phone they have.
        unclear: How many replies a person has to read, by what they may have asked for.
    """

    def __init__(self, client: redis.Redis, phone_key: str | None) -> None:
        self._client = client
        self._pseudonyms = Pseudonyms.load(client, phone_key)
        self._replies = Replies(client)
        self.taken = self.unresolved = 0
        self.unclear: Counter[str] = Counter()

    def take(self, inbound: Inbound, wish: Wish) -> None:
        """
        Record what a person asks for.

        A person who wants no more messages is opted out at once, of the tenant that wrote to them last from this
        instance. Where Redis does not know that tenant, it is all of them until the ledger was asked; see
        `broker/replies.py`. The confirmation goes out in the step that records the opt-out.

        Raises:
            redis.RedisError: It is not known to be durable; to take it again does no harm.
        """
        reply = self._reply(inbound, wish)
        if wish is Wish.STOP and inbound.phone is not None:
            confirmation = _confirmation(inbound, inbound.phone, reply)
            # A quoted message may be of another tenant than the last one.
            stays = not reply.known or reply.quoted is not None
            new, _ = self._replies.take(reply, stays=stays, confirmation=confirmation)
            if new:
                self.taken += 1
                instance = phones.mask_in(reply.instance)
                log.info("ifinu.optout.taken", instance=instance, tenant=reply.tenants[0], phone=reply.phone)
            return
        _, is_new = self._replies.take(reply, stays=True)
        if not is_new:
            return
        instance = phones.mask_in(reply.instance)
        if wish is Wish.STOP:
            self.unresolved += 1
            log.warning("ifinu.optout.unresolved", instance=instance, quoted=reply.quoted, count=self.unresolved)
        else:
            self.unclear[wish.value] += 1
            log.info("ifinu.optout.unclear", instance=instance, phone=reply.phone, wish=wish.value)

    def _reply(self, inbound: Inbound, wish: Wish) -> Reply:
        said_at = inbound.at or datetime.now(UTC)
        own = inbound.key_id or f"{inbound.phone} {said_at.isoformat()} {inbound.text}"
        reply = Reply(
            id=Reply.id_of(inbound.instance, own),
            wish=wish.value,
            instance=inbound.instance,
            at=said_at,
            quoted=inbound.quoted,
            key_id=inbound.key_id,
            text=inbound.text,
        )
        if inbound.phone is None:
            return reply
        reply = replace(reply, hash=self._pseudonyms.of(inbound.phone), phone=phones.mask(inbound.phone))
        if wish is Wish.MAYBE:
            return reply
        tenant = self._tenant(inbound.instance, reply.hash or "")
        return replace(reply, tenants=(EVERY_TENANT if tenant is None else tenant,), known=tenant is not None)

    def pseudonym(self, phone: str) -> str:
        """
        What stands for a phone in Redis.

        Raises:
            redis.RedisError: The key of pseudonyms is there, and Redis does not reply.
        """
        return self._pseudonyms.of(phone)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _tenant(self, instance: str, pseudonym: str) -> str | None:
        """Who wrote to them last from this instance, empty for no tenant; None where Redis does not know."""
        month = clock.now(self._client).replace(day=1)
        for _ in range(_MONTHS):
            tenant: Any = self._client.hget(senders_key(instance, f"{month:%Y-%m}"), pseudonym)
            if tenant is not None:
                return str(tenant.decode())
            month = (month - timedelta(days=1)).replace(day=1)
        return None


def _confirmation(inbound: Inbound, phone: str, reply: Reply) -> Confirmation:
    notification = Notification(
        # Follows from what they wrote: a hook that comes again, even after they opted in, is not confirmed again.
        id=f"optout:{reply.hash}:{int(reply.at.timestamp() * 1000)}",
        kind=Kind.REMINDER,
        phone=phone,
        instance=inbound.instance,
        tenant=reply.tenants[0] if reply.known and reply.tenants[0] else None,
        priority=Priority.URGENT,
        text=CONFIRMED,
    )
    message = json.dumps(wire.encode(notification), ensure_ascii=False).encode()
    return Confirmation(notification.id, URGENT, message)
