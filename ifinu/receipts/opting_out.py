"""A person asked for no more messages: heard, durable and confirmed in one step."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import redis
import structlog

from ifinu import phone as phones
from ifinu import wire
from ifinu.broker.keys import URGENT, senders_key
from ifinu.broker.optouts import Confirmation, OptOuts
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.notification import Kind, Notification, Priority
from ifinu.receipts.reading import Inbound

SOURCE = "whatsapp"
CONFIRMED = (
    "Pronto! Você não vai mais receber nossas mensagens por aqui. "
    "Se mudar de ideia, é só avisar a empresa que enviou a cobrança."
)

log = structlog.get_logger()


class OptOutDesk:
    """
    Takes opt-outs. Its methods block for as long as Redis takes; threads may share it.

    Args:
        client: A connection that returns bytes, with deadlines.
        phone_key: `IFINU_PHONE_KEY`, or None.
    """

    def __init__(self, client: redis.Redis, phone_key: str | None) -> None:
        self._client = client
        self._pseudonyms = Pseudonyms.load(client, phone_key)
        self._optouts = OptOuts(client, self._pseudonyms)
        self.taken = self.unresolved = 0

    def take(self, inbound: Inbound) -> None:
        """
        Opt a person out of the tenant that wrote to them last from this instance, and tell them so if that is new.

        Args:
            inbound: What they wrote. Where it has no phone, a person has to see to it: it is logged and counted.

        Raises:
            redis.RedisError: It is not known to be durable; to take it again does no harm.
        """
        instance = phones.mask_in(inbound.instance)
        if inbound.phone is None:
            self.unresolved += 1
            log.warning("ifinu.optout.unresolved", instance=instance, quoted=inbound.quoted, count=self.unresolved)
            return
        said_at = inbound.at or datetime.now(UTC)
        pseudonym = self._pseudonyms.of(inbound.phone)
        tenant = self._tenant(inbound.instance, pseudonym)
        confirmation = _confirmation(inbound, inbound.phone, tenant, pseudonym, said_at)
        if self._optouts.add(tenant, inbound.phone, source=SOURCE, confirmation=confirmation):
            self.taken += 1
            log.info("ifinu.optout.taken", instance=instance, tenant=tenant, phone=phones.mask(inbound.phone))

    def pseudonym(self, phone: str) -> str:
        """
        What stands for a phone in Redis.

        Raises:
            redis.RedisError: The key of pseudonyms is there, and Redis does not answer.
        """
        return self._pseudonyms.of(phone)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _tenant(self, instance: str, pseudonym: str) -> str | None:
        """Who wrote to them last; None for messages of no tenant, and where nobody is known to have."""
        this_month = datetime.now(UTC).replace(day=1)
        for month in (this_month, this_month - timedelta(days=1)):
            tenant = self._client.hget(senders_key(instance, f"{month:%Y-%m}"), pseudonym)
            if tenant is not None:
                return bytes(tenant).decode() or None  # type: ignore[arg-type]  # of a connection that returns bytes
        return None


def _confirmation(inbound: Inbound, phone: str, tenant: str | None, pseudonym: str, said_at: datetime) -> Confirmation:
    notification = Notification(
        # Follows from what they wrote: a hook that comes again, even after they opted in, is not confirmed again.
        id=f"optout:{pseudonym}:{int(said_at.timestamp() * 1000)}",
        kind=Kind.REMINDER,
        phone=phone,
        instance=inbound.instance,
        tenant=tenant,
        priority=Priority.URGENT,
        text=CONFIRMED,
    )
    message = json.dumps(wire.encode(notification), ensure_ascii=False).encode()
    return Confirmation(notification.id, URGENT, message)
