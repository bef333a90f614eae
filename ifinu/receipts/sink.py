"""Webhooks -> Redis, where they are durable: events for the ledger, evidence for look-ups, opt-outs, answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import redis
import redis.asyncio
import structlog

from ifinu import phone as phones
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import ANSWERS_TTL_MS, SENDERS_TTL_MS, month_of, number_key, script, seen_key, senders_key
from ifinu.ledger.states import State
from ifinu.numbers.directory import DISCONNECTED, UNTIL_RELEASED
from ifinu.receipts.optout_replies import ReplyHandler
from ifinu.receipts.stop_words import wish_of
from ifinu.receipts.webhook_events import ConnectionUpdate, Inbound, Receipt, SentEcho, WebhookEvent
from ifinu.reference import reference_in

SEEN_TTL_S = 172_800  # longer than any look-up of a message that may have been sent
_UNTIL_OPEN_MS = round(UNTIL_RELEASED.timestamp() * 1000)
_ANSWER_S = 4.0  # limit for one webhook

log = structlog.get_logger()


class Sink:
    """
    Makes webhooks durable.

    Args:
        client: A Redis client with timeouts.
    """

    def __init__(self, client: redis.asyncio.Redis, replies: ReplyHandler) -> None:
        self._client = client
        self._replies = replies

    async def record(self, events: Sequence[WebhookEvent]) -> None:
        """
        Record the content of a webhook. A second call only repeats events in the stream, whose readers are idempotent.

        Raises:
            redis.RedisError, OSError, TimeoutError: Part of it may not be durable: the webhook has to come again.
        """
        async with asyncio.timeout(_ANSWER_S):
            pipe = self._client.pipeline(transaction=False)
            for event in events:
                match event:
                    case SentEcho():
                        await self._seen(pipe, event)
                    case ConnectionUpdate():
                        _hold_or_release(pipe, event)
                        _add(pipe, event)
                    case Inbound():
                        await self._heard(pipe, event)
                    case Receipt():
                        _add(pipe, event)
            if pipe.command_stack:
                await pipe.execute()
            for event in events:
                if isinstance(event, Inbound) and (wish := wish_of(event.text)) is not None:
                    await asyncio.to_thread(self._replies.take, event, wish)
        for event in events:
            if isinstance(event, ConnectionUpdate):
                log.info(
                    "ifinu.instance.state", instance=phones.mask_in(event.instance), state=event.state, code=event.code
                )
            elif isinstance(event, Receipt) and event.status is State.FAILED:
                log.warning("ifinu.receipt.failed", key_id=event.key_id, instance=phones.mask_in(event.instance))

    async def is_redis_there(self) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._client.ping()
        except (redis.RedisError, OSError):  # TimeoutError is an OSError
            return False
        return True

    async def close(self) -> None:
        await self._client.aclose()
        self._replies.close()

    async def _heard(self, pipe: redis.asyncio.client.Pipeline, inbound: Inbound) -> None:
        """Count its writer. A person behind a LID counts once for each message."""
        if inbound.phone is not None:
            writer = await asyncio.to_thread(self._replies.pseudonym, inbound.phone)
        elif inbound.key_id is not None:
            writer = inbound.key_id
        else:
            return
        pipe.eval(script("hear").source, 1, number_key(inbound.instance), writer, ANSWERS_TTL_MS)

    async def _seen(self, pipe: redis.asyncio.client.Pipeline, echo: SentEcho) -> None:
        reference = reference_in(echo.text)
        if echo.phone is None or (reference is None and not echo.by_hand):
            return
        pseudonym = await asyncio.to_thread(self._replies.pseudonym, echo.phone)
        if reference is None:
            people = senders_key(echo.instance, month_of(datetime.now(UTC)))
            keys, arguments = (number_key(echo.instance), people), (pseudonym, echo.key_id, SENDERS_TTL_MS)
            pipe.eval(script("hand_sent").source, len(keys), *keys, *arguments)
            return
        # The first one stays: the text forwarded to the same person must not replace it.
        pipe.set(seen_key(reference, echo.instance, pseudonym), echo.key_id, ex=SEEN_TTL_S, nx=True)


def _hold_or_release(pipe: redis.asyncio.client.Pipeline, update: ConnectionUpdate) -> None:
    """
    Hold a registered number while its connection is closed, so that its messages wait and no worker asks in vain.

    A number that is not registered has no key, and gets none.
    """
    name, key = update.instance, number_key(update.instance)
    if update.state == "close":
        pipe.eval(script("hold_number").source, 1, key, name, _UNTIL_OPEN_MS, DISCONNECTED)
    elif update.state == "open":
        pipe.eval(script("release_number").source, 1, key, name, DISCONNECTED)


def _add(pipe: redis.asyncio.client.Pipeline, event: Receipt | ConnectionUpdate) -> None:
    match event:
        case Receipt():
            receipt = {"key_id": event.key_id, "status": event.status.value, "instance": event.instance}
            Event(Name.RECEIPT, data=receipt).write(pipe)
        case ConnectionUpdate():
            connection = {"instance": event.instance, "state": event.state, "code": event.code}
            Event(Name.CONNECTION, data=connection).write(pipe)
