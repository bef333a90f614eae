"""People's replies: recorded in Redis with the opt-outs that follow, and confirmed, in one step."""

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
from ifinu.broker.keys import EVERY_TENANT, URGENT, month_of, number_key, senders_key
from ifinu.broker.optouts import Confirmation
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.replies import Replies, Reply
from ifinu.notification import CONFIRMATION, Kind, Notification, Priority
from ifinu.receipts.stop_words import Wish
from ifinu.receipts.webhook_events import Inbound

CONFIRMED = (
    "Pronto! Você não vai mais receber nossas mensagens por aqui. "
    "Se mudar de ideia, é só avisar a empresa que enviou a cobrança."
)

_MONTHS = 3  # Redis keeps the senders for two months, which may touch three

log = structlog.get_logger()


class ReplyHandler:
    """
    Handles people's replies. Its methods block while Redis works; threads may share it.

    Args:
        client: A Redis client that returns bytes, with timeouts.
        phone_key: `IFINU_PHONE_KEY`, or None.

    Attributes:
        taken: Number of new opt-outs.
        unresolved: Number of opt-outs from phones that the gateway hides.
        unclear: Number of replies that an operator has to read, by wish.
    """

    def __init__(self, client: redis.Redis, phone_key: str | None) -> None:
        self._client = client
        self._pseudonyms = Pseudonyms.load(client, phone_key)
        self._replies = Replies(client)
        self.taken = self.unresolved = 0
        self.unclear: Counter[str] = Counter()

    def take(self, inbound: Inbound, wish: Wish) -> None:
        """
        Record a reply.

        An opt-out takes effect at once, for the tenant that last wrote to the person from this instance. If Redis does
        not know the tenant, it holds for all tenants until the ledger resolves it; see `broker/replies.py`. The
        confirmation is queued in the same step.

        Raises:
            redis.RedisError: It may not be recorded; recording it again does no harm.
        """
        reply = self._reply(inbound, wish)
        if wish is Wish.STOP and inbound.phone is not None:
            confirmation = _confirmation(inbound, inbound.phone, reply, self._tenant_for(inbound.instance, reply))
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
        The pseudonym of a phone.

        Raises:
            redis.RedisError: The key of pseudonyms has to be read, and Redis does not answer.
        """
        return self._pseudonyms.of(phone)

    def close(self) -> None:
        self._client.close()

    def _tenant_for(self, instance: str, reply: Reply) -> str | None:
        """The tenant of the confirmation: a number that belongs to one sends no other's messages."""
        owner: Any = self._client.hget(number_key(instance), "inquilino")
        return (owner and owner.decode()) or (reply.tenants[0] if reply.known and reply.tenants[0] else None)

    def _tenant(self, instance: str, pseudonym: str) -> str | None:
        """The tenant that last wrote to a person from this instance, empty for no tenant; None if Redis forgot it."""
        month = clock.now(self._client).replace(day=1)
        for _ in range(_MONTHS):
            tenant: Any = self._client.hget(senders_key(instance, month_of(month)), pseudonym)
            if tenant is not None:
                return str(tenant.decode())
            month = (month - timedelta(days=1)).replace(day=1)
        return None


def _confirmation(inbound: Inbound, phone: str, reply: Reply, tenant: str | None) -> Confirmation:
    notification = Notification(
        # Derived from the reply: a webhook that comes again, even after an opt-in, is not confirmed again.
        id=f"{CONFIRMATION}{reply.hash}:{int(reply.at.timestamp() * 1000)}",
        kind=Kind.REMINDER,
        phone=phone,
        instance=inbound.instance,
        tenant=tenant,
        priority=Priority.URGENT,
        text=CONFIRMED,
    )
    message = json.dumps(wire.encode(notification), ensure_ascii=False).encode()
    return Confirmation(notification.id, URGENT, message)
