"""The task `send_notification`, and how it is enqueued, retried and postponed."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import redis
import structlog
from celery import Task, exceptions
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from ifinu import loop, producer, tracing, wire
from ifinu.broker import intake
from ifinu.broker.claims import ClaimState, MessageRef
from ifinu.broker.headers import (
    ACCEPTED,
    FIRST_TRY,
    POSTPONES,
    QUEUE,
    SUSPECT,
    TAG,
    TOKEN,
    TRACEPARENT,
    TROUBLE,
    WAIT,
)
from ifinu.broker.leases import DEATHS, Settled, one_suspect
from ifinu.delivery import Failed, Wait
from ifinu.errors import BrokerUnavailable, InvalidNotification, MaybeSent, NotSent, Poison, SendError
from ifinu.gateway.instances import Trouble
from ifinu.notification import Notification
from ifinu.tracing import NO_SPAN, Span, SpanName, Tracer
from ifinu.worker.app import app
from ifinu.worker.outcome import LONGEST, encode
from ifinu.worker.request import first_try_at, reason_of
from ifinu.worker.retry import backoff_s

log = structlog.get_logger(__name__)


class NotificationTask(Task):
    """Base of the task: how it is called, and how it waits."""

    Request = "ifinu.worker.request:Request"
    resultrepr_maxsize = LONGEST

    @classmethod
    def on_bound(cls, application: Any) -> None:
        """Take the pace and the number of tries from the application's settings."""
        config = application.settings
        cls.rate_limit = config.rate_limit
        cls.rate_burst = config.rate_burst
        cls.max_retries = config.max_retries

    def delay(self, *args: Any, **fields: Any) -> AsyncResult:
        """
        Enqueue one notification.

        Args:
            args: One `Notification`, or one wire object (a dict with `tipo_notificacao`, …); or nothing, and
            fields: `id`, `kind`, `phone`, `name`, `amount`, `due_date`, … as `Notification` has them.

        Returns:
            A handle whose `.id` is the notification's id. Results are off by default: `.get()` works only with
            `IFINU_RESULT_BACKEND`. `ifinu show` reports what became of it.

        Raises:
            InvalidNotification: A field is wrong; the error names it.
            BrokerUnavailable: Redis did not take it within a few seconds; it is safe to try again with the same id.
        """
        return self.enqueue(*args, **fields)

    def enqueue(
        self,
        source: producer.Source | None = None,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        **fields: Any,
    ) -> AsyncResult:
        """
        Enqueue one notification, as `delay`, optionally with a wait.

        Args:
            source: A `Notification` or a wire object, instead of fields.
            countdown: Seconds to wait before it is sent.
            eta: Aware time before which it is not sent.
            fields: As for `delay`.
        """
        if source is not None and fields:
            raise InvalidNotification("", "give either one notification or its fields, not both")
        notification = producer.notification_of(
            fields if source is None else source, sandbox_number=app.settings.sandbox_number
        )
        headers = {ACCEPTED: _due(countdown, eta).isoformat()}
        tracer = tracing.tracer(app.settings.tracing, tracing.PRODUCER)
        brought = source.get(TRACEPARENT) if isinstance(source, Mapping) else None
        with tracer.start(SpanName.ENQUEUE, producer.facts_of(notification), parent=brought) as span:
            if span.traceparent:
                headers[TRACEPARENT] = span.traceparent
            try:
                return self.apply_async(
                    args=[wire.encode(notification)],
                    task_id=notification.id,
                    queue=producer.QUEUE_OF[notification.priority],
                    argsrepr=f"<{notification.kind.value}>",  # Flower and the logs see this, and no personal data
                    kwargsrepr="{}",
                    countdown=countdown,
                    eta=eta,
                    headers=headers,
                )
            except OperationalError as exc:
                raise BrokerUnavailable(
                    f"Redis did not take notification {notification.id!r} ({exc}); try again with the same id"
                ) from exc

    def apply_async(self, *args: Any, **options: Any) -> AsyncResult:
        """Same as Celery's, but a `countdown` counts from Redis' time, since this machine's clock may differ."""
        if (countdown := options.pop("countdown", None)) is not None:
            options["headers"] = {**(options.get("headers") or {}), WAIT: max(0, math.ceil(countdown * 1000))}
        return super().apply_async(*args, **options)

    def try_again(self, failed: Failed) -> NoReturn:
        """Retry with our backoff; if Redis cannot take the retry, the message itself goes back."""
        countdown = backoff_s(
            self.request.retries,
            base_s=app.settings.retry_backoff_s,
            most_s=app.settings.retry_backoff_max_s,
            jitter=random.random(),
        )
        headers = self._headers(ClaimState.WAITING, failed)
        try:
            raise self.retry(
                exc=failed.error, countdown=countdown, headers=headers, argsrepr=self.request.argsrepr, kwargsrepr="{}"
            )
        except exceptions.Reject as reject:
            raise exceptions.Reject(reject.reason, requeue=True) from failed.error

    def wait(self, outcome: Wait) -> NoReturn:
        """Wait in the delayed set without counting a try, since the message is not at fault."""
        again = self.signature_from_request(
            self.request,
            countdown=outcome.wait_s,
            retries=max(0, self.request.retries - outcome.refund),
            headers=self._headers(outcome.claim, outcome),
            argsrepr=self.request.argsrepr,
            kwargsrepr="{}",
        )
        try:
            again.apply_async()
        except Exception as error:
            raise exceptions.Reject(error, requeue=True) from error
        raise exceptions.Ignore(outcome)

    def ref(self) -> MessageRef:
        """The message that this task runs for."""
        headers = self.request.headers or {}
        return MessageRef(headers[QUEUE], headers[TAG], headers.get(TOKEN, ""), FIRST_TRY in headers)

    @contextlib.contextmanager
    def refusing_poison(self) -> Iterator[None]:
        """
        Run a message that a worker may have died of, and count its start. If this worker survives, it is acquitted.

        A message that was started at a death before runs without another suspect beside it. A harmless message that
        starts beside the killer would otherwise be counted with it.

        Raises:
            Poison: Several workers in a row died of this message.
            redis.RedisError: The count could not be read.
        """
        headers = self.request.headers or {}
        suspect, claims = headers[SUSPECT], app.delivery.claims
        queue = headers[QUEUE]
        with loop.held(one_suspect) if claims.started(queue, suspect) else contextlib.nullcontext():
            try:
                if claims.starts(queue, suspect) >= DEATHS:
                    raise Poison("", f"{DEATHS} workers died of it in a row")
                yield
            finally:
                with contextlib.suppress(redis.RedisError):  # then it may run alone once more
                    claims.acquit(queue, suspect)

    def give_back(self, notification: Notification, exc: BaseException) -> NoReturn:
        """Return the message to its queue unchanged; no try is counted."""
        with contextlib.suppress(redis.RedisError):  # then the claim is orphaned, and the message is looked up
            app.delivery.claims.release(notification.id, (self.request.headers or {})[TAG])
        raise exceptions.Reject(exc, requeue=True) from exc

    def traced(self) -> contextlib.AbstractContextManager[Span]:
        """A span for this try if tracing is on; an exception within sets its outcome."""
        tracer = app.delivery.tracer
        return self._traced(tracer) if tracer.on else NO_SPAN

    @contextlib.contextmanager
    def _traced(self, tracer: Tracer) -> Iterator[Span]:
        headers = self.request.headers or {}
        facts = {tracing.QUEUE: headers.get(QUEUE, ""), tracing.ATTEMPT: self.request.retries + 1}
        span = tracer.start(SpanName.DELIVER, facts, parent=headers.get(TRACEPARENT))
        # A retry has the parent of its message, or else the first try as its parent.
        self.request.ifinu_traceparent = tracing.traceparent(headers.get(TRACEPARENT)) or span.traceparent
        try:
            with span.current():
                yield span
        except (exceptions.Retry, exceptions.Ignore):
            raise  # it waits, and the outcome is set
        except exceptions.Reject as exc:
            error = exc.reason if isinstance(exc.reason, Exception) else exc
            span.set_attributes({tracing.OUTCOME: "returned"})
            span.fail(error)
            raise
        except Exception as exc:
            dead = isinstance(exc, _EXPECTED) and not isinstance(exc, MaybeSent)
            span.set_attributes({tracing.OUTCOME: "dead" if dead else "held"})
            span.fail(exc, reason_of(exc))
            raise
        finally:
            span.end()

    def trouble(self) -> Trouble | None:
        """The message's failures so far, from its header."""
        return Trouble.read((self.request.headers or {}).get(TROUBLE))

    def _headers(self, claim: ClaimState, outcome: Wait | Failed) -> dict[str, Any]:
        """Headers of the message that takes this one's place."""
        mine, event = self.request.headers or {}, outcome.event
        kept = {ACCEPTED: mine[ACCEPTED]} if ACCEPTED in mine else {}
        if parent := self.request.get("ifinu_traceparent") or tracing.traceparent(mine.get(TRACEPARENT)):
            kept[TRACEPARENT] = parent
        return {
            **kept,
            FIRST_TRY: first_try_at(mine, outcome.at).isoformat(),
            TOKEN: outcome.token,
            **({} if outcome.trouble is None else {TROUBLE: outcome.trouble}),
            POSTPONES: {
                "queue": mine[QUEUE],
                "tag": mine[TAG],
                "id": self.request.ifinu_id,
                "state": claim,
                "event": event and [event.name.value, event.data],
            },
        }


def _due(countdown: float | None, eta: datetime | None) -> datetime:
    """The earliest time to send a message, from which its time in the queue counts."""
    if countdown:
        return datetime.now(UTC) + timedelta(seconds=countdown)
    return eta or datetime.now(UTC)


# They become dead letters with a log line; a traceback would add nothing.
_EXPECTED = (InvalidNotification, SendError)
_NOTHING = contextlib.nullcontext()


@app.task(bind=True, base=NotificationTask, name=intake.TASK, throws=_EXPECTED)
def send_notification(self: NotificationTask, message: str | Mapping[str, object]) -> str:
    """
    Send one notification; run by a worker.

    Args:
        self: The task.
        message: A wire object, or its JSON text.

    Returns:
        The outcome, in the form of `outcome.py`: `sent 3EB0… {…}`.
    """
    with self.traced() as span:
        try:
            with self.refusing_poison() if SUSPECT in (self.request.headers or ()) else _NOTHING:
                body = wire.parse(message) if isinstance(message, str) else message
                notification = wire.decode(
                    body,
                    sandbox_number=app.settings.sandbox_number,
                    ignored=lambda field: log.warning("ifinu.message.key_ignored", id=self.request.id, field=field),
                )
                self.request.ifinu_id = notification.id
                if span.sampled:
                    span.set_attributes({tracing.ID: notification.id, tracing.KIND: notification.kind.value})
                outcome = app.delivery.deliver(
                    notification, self.ref(), attempt=self.request.retries + 1, trouble=self.trouble()
                )
        except redis.RedisError as exc:
            raise exceptions.Reject(exc, requeue=True) from exc
        except NotSent as exc:
            self.give_back(notification, exc)
        if span.sampled:
            _record(span, outcome)
        match outcome:
            case Failed():
                self.try_again(outcome)
            case Wait():
                self.wait(outcome)
        return encode(outcome)


def _record(span: Span, outcome: Settled | Wait | Failed) -> None:
    """Set the outcome of a try on its span; after a send, store the link from receipts to the trace."""
    match outcome:
        case Settled():
            span.set_attributes({tracing.OUTCOME: outcome.state})
            if outcome.key_id:
                app.trails.leave(outcome.key_id, span.traceparent)
        case Failed():
            span.set_attributes({tracing.OUTCOME: "retrying"})
            span.fail(outcome.error)
        case Wait():
            span.set_attributes({tracing.OUTCOME: "unknown" if outcome.claim is ClaimState.UNKNOWN else "deferred"})
            if outcome.error is not None:
                span.fail(outcome.error)
            else:
                span.set_attributes({tracing.REASON: outcome.reason})
