"""
Producers: a caller's notification -> a message on a queue.

`send_notification.delay` (`worker/tasks.py`) enqueues one notification. `enqueue_many` enqueues many: it pushes bare
JSON, as any other language would, hundreds of messages a round trip. `cancel` cancels one.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis

from ifinu import settings, tracing, wire
from ifinu.broker import connections
from ifinu.broker.claims import Claims
from ifinu.broker.headers import TRACEPARENT
from ifinu.broker.intake import is_text
from ifinu.broker.keys import QUEUE_OF
from ifinu.errors import BrokerUnavailable, InvalidNotification
from ifinu.notification import Notification
from ifinu.tracing import Span, SpanName, Tracer

Source = Notification | Mapping[str, object]

_CHUNK = 500  # messages a round trip
_CHUNK_BYTES = 1_000_000  # and bytes, whichever comes first
_LONGEST_ID = 200  # as notification.Notification.id
_logger = logging.getLogger(__name__)  # the caller may not use structlog


@dataclass(frozen=True)
class RefusedNotification:
    """A refused notification: its position in the input (from 0), its id if it has one, the field and the reason."""

    index: int
    id: str | None
    field: str
    reason: str


@dataclass
class Enqueued:
    """The result of a bulk publish."""

    accepted: int = 0
    refused: list[RefusedNotification] = field(default_factory=list)


class PartlyEnqueued(BrokerUnavailable):
    """
    Redis went away in the middle of a bulk publish.

    Attributes:
        done: The result so far. The next `unsure` messages may or may not be on the queue; enqueueing them again with
            the same ids is harmless.
        unsure: Size of the batch whose answer was lost.
    """

    def __init__(self, message: str, done: Enqueued, unsure: int) -> None:
        super().__init__(message)
        self.done = done
        self.unsure = unsure


def warn_of_ignored_key(field: str) -> None:
    """Log that a key was ignored, and which absent field of the wire it resembles."""
    _logger.warning("a key that looks like %s is ignored: its spelling differs, and the message goes without it", field)


def notification_of(
    source: Source, *, sandbox_number: str | None = None, ignored: Callable[[str], None] = warn_of_ignored_key
) -> Notification:
    """
    Read a caller's notification.

    Args:
        source: A `Notification`; a mapping of its fields (`kind`, `phone`, …); or a wire object (`tipo_notificacao`,
            `telefone`, …).
        sandbox_number: Completes a wire object with test data; see `IFINU_SANDBOX_NUMBER`.
        ignored: As for `wire.decode`.

    Raises:
        InvalidNotification: A field is wrong; the error names it as the caller spelled it.
    """
    if isinstance(source, Notification):
        return source
    if not isinstance(source, Mapping):
        raise InvalidNotification(
            "", f"expected a Notification or a mapping of its fields, not {type(source).__name__}"
        )
    if wire.is_wire(source):
        return wire.decode(source, sandbox_number=sandbox_number, ignored=ignored)
    return wire.from_fields(source)


def facts_of(notification: Notification) -> tracing.Facts:
    return {
        tracing.ID: notification.id,
        tracing.KIND: notification.kind.value,
        tracing.QUEUE: QUEUE_OF[notification.priority],
    }


def enqueue_many(
    sources: Iterable[Source], *, client: redis.Redis | None = None, done: Enqueued | None = None
) -> Enqueued:
    """
    Publish many notifications, with one batch in memory at a time.

    Args:
        sources: As for `notification_of`; read lazily, so a generator over a million rows is fine.
        client: Connection to publish on; by default one to `IFINU_REDIS_URL`.
        done: The result to fill in, so that a caller can read the progress after an exception.

    Returns:
        The number accepted, and each refused notification with its reason. Accepted ones are on the queue, in order.

    Raises:
        PartlyEnqueued: Redis went away; it holds the result so far.
    """
    config = settings.load()
    own = client is None
    connection = connections.connect(config.redis_url.get_secret_value()) if client is None else client
    done = Enqueued() if done is None else done
    try:
        tracer = tracing.tracer(config.tracing, tracing.PRODUCER)
        for batch in _batches(sources, done, config.sandbox_number, tracer):
            _push(connection, batch, done)
            done.accepted += batch.count
    finally:
        if own:
            connection.close()
    return done


def cancel(notification_id: str, *, client: redis.Redis | None = None) -> str:
    """
    Cancel a notification, for example because the charge was paid. Its message may not have arrived yet.

    Args:
        notification_id: The id.
        client: Connection to use; by default one to `IFINU_REDIS_URL`.

    Returns:
        Its state before the call. In these states it is now cancelled and will not be sent:
            empty: it was not tried yet; it is not sent if its message arrives within 90 days
            waiting: a try failed or its window was closed; its retry is not sent
            dead: it is in the dead letters; a replay does not send it
            cancelled: it was cancelled before
            unknown: it may have been sent; it is looked up and not sent again
        In every other state it was too late, and nothing has changed:
            sending: a worker is sending it
            sent: the gateway took it
            expired, suppressed: it had ended without being sent

    Raises:
        InvalidNotification: The id is invalid.
        BrokerUnavailable: Redis did not answer in time. The notification may or may not be cancelled; try again.
    """
    notification_id = id_of(notification_id)
    config = settings.load()
    connection = connections.connect(config.redis_url.get_secret_value()) if client is None else client
    try:
        return Claims(connection, config.claim_ttl_s).cancel(notification_id)
    except redis.RedisError as exc:
        raise BrokerUnavailable(
            f"Redis did not say whether {notification_id!r} is cancelled ({type(exc).__name__}); try again"
        ) from exc
    finally:
        if client is None:
            connection.close()


def id_of(text: str) -> str:
    """
    Normalise an id as `Notification` does.

    Raises:
        InvalidNotification: The id is invalid.
    """
    found = text.strip() if is_text(text) else ""
    if not 0 < len(found) <= _LONGEST_ID:
        raise InvalidNotification("id", f"is not 1 to {_LONGEST_ID} characters")
    return found


@dataclass
class _Batch:
    """The messages of one round trip, by queue, and their spans."""

    messages: dict[str, list[bytes]] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    count: int = 0
    size: int = 0


def _batches(sources: Iterable[Source], done: Enqueued, sandbox_number: str | None, tracer: Tracer) -> Iterator[_Batch]:
    batch = _Batch()
    now = _now()
    warn = functools.cache(warn_of_ignored_key)  # one line a field, not one a message
    for index, source in enumerate(sources):
        try:
            notification = notification_of(source, sandbox_number=sandbox_number, ignored=warn)
        except InvalidNotification as exc:
            done.refused.append(RefusedNotification(index, _id_of(source), exc.field, exc.reason))
            continue
        body = {**wire.encode(notification), "criado_em": now}
        if tracer.on:
            span = _traced(source, notification, tracer)
            batch.spans.append(span)
            body[TRACEPARENT] = span.traceparent
        message = json.dumps(body, ensure_ascii=False).encode()
        batch.messages.setdefault(QUEUE_OF[notification.priority], []).append(message)
        batch.count += 1
        batch.size += len(message)
        if batch.count >= _CHUNK or batch.size >= _CHUNK_BYTES:
            yield batch
            batch = _Batch()
            now = _now()
    if batch.count:
        yield batch


def _traced(source: Source, notification: Notification, tracer: Tracer) -> Span:
    """A separate trace for each notification without one: a hundred thousand in one would be unreadable."""
    brought = source.get(TRACEPARENT) if isinstance(source, Mapping) else None
    return tracer.start(SpanName.ENQUEUE, facts_of(notification), parent=brought, apart=True)


def _push(client: redis.Redis, batch: _Batch, done: Enqueued) -> None:
    pipe = client.pipeline(transaction=True)
    for queue, messages in batch.messages.items():
        pipe.lpush(queue, *messages)
    try:
        pipe.execute()
    except redis.RedisError as exc:
        for span in batch.spans:
            span.fail(exc)
        raise PartlyEnqueued(
            f"Redis did not take a batch of {batch.count} ({type(exc).__name__}) after {done.accepted} were accepted; "
            "give the rest again with the same ids when it is back",
            done,
            batch.count,
        ) from exc
    finally:
        for span in batch.spans:
            span.end()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _id_of(source: Any) -> str | None:
    value = source.get("id") if isinstance(source, Mapping) else None
    return value[:200] if is_text(value) else None
