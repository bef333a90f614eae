"""The task `send_notification`, and how it is enqueued, retried and postponed."""

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import redis
import structlog
from celery import Task, exceptions
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from ifinu import loop, producer, tracing, wire
from ifinu.broker import intake, lanes
from ifinu.broker.headers import ACCEPTED, LINE, TRACEPARENT, WAIT
from ifinu.broker.keys import QUEUE_OF
from ifinu.broker.leases import DEATHS, Settled, one_suspect
from ifinu.errors import (
    BrokerUnavailable,
    InvalidNotification,
    Misconfigured,
    NotSent,
    Poison,
    SendError,
    Throttled,
    UnknownInstance,
)
from ifinu.outcome import Dead, GiveBack, Outcome, Reroute, Retry, Wait
from ifinu.tracing import SpanName
from ifinu.worker.app import app
from ifinu.worker.attempt import Attempt
from ifinu.worker.retry import backoff_s

log = structlog.get_logger(__name__)


class NotificationTask(Task):
    """Base of the task: how it is called, and how it waits."""

    Strategy = "ifinu.worker.strategy:strategy"

    @classmethod
    def on_bound(cls, application: Any) -> None:
        """Take the pace, the number of tries and their waits from the application's settings."""
        config = application.settings
        cls.rate_limit = config.rate_limit
        cls.rate_burst = config.rate_burst
        cls.max_retries = config.max_retries
        cls.retry_backoff = config.retry_backoff_s
        cls.retry_backoff_max = config.retry_backoff_max_s

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
        headers = {
            ACCEPTED: _due(countdown, eta).isoformat(),
            LINE: lanes.line(notification.tenant, notification.instance, notification.phone),
        }
        tracer = tracing.tracer(app.settings.tracing, tracing.PRODUCER)
        brought = source.get(TRACEPARENT) if isinstance(source, Mapping) else None
        with tracer.start(SpanName.ENQUEUE, producer.facts_of(notification), parent=brought) as span:
            if span.traceparent:
                headers[TRACEPARENT] = span.traceparent
            try:
                return self.apply_async(
                    args=[wire.encode(notification)],
                    task_id=notification.id,
                    queue=QUEUE_OF[notification.priority],
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

    def retry(self, *args: Any, **options: Any) -> NoReturn:
        """
        Put the message into the delayed set in place of itself, in one step. Celery's autoretry calls this.

        Celery would publish the retry before it acknowledges the message, and wait for whole seconds by the decorator's
        numbers. The wait is drawn here, by the settings.

        Raises:
            Exception: The error of a message that is not tried again.
            exceptions.Retry: It waits for its retry.
            exceptions.Reject: Redis cannot take the retry, and the message itself goes back.
        """
        outcome = self.request.attempt.outcome
        if not isinstance(outcome, Retry):  # `autoretry_for` knows no more than the class of the error
            raise options["exc"]
        wait_s = backoff_s(
            self.request.retries, base_s=self.retry_backoff, most_s=self.retry_backoff_max, jitter=random.random()
        )
        self._postpone(outcome, wait_s, retries=self.request.retries + 1)
        raise exceptions.Retry(exc=outcome.error, when=wait_s)

    def _postpone(self, outcome: Wait | Retry, wait_s: float, *, retries: int) -> None:
        self._move(lambda attempt: attempt.postpone(outcome, wait_s, retries=retries))

    def _move(self, move: Callable[[Attempt], None]) -> None:
        """Move the message within Redis; if Redis cannot, the message itself goes back."""
        attempt: Attempt = self.request.attempt
        try:
            move(attempt)
        except redis.RedisError as exc:
            attempt.outcome = GiveBack(exc)
            raise exceptions.Reject(exc, requeue=True) from exc

    def outcome_of(self, attempt: Attempt, message: str | Mapping[str, object]) -> Outcome:
        """Decode a message and deliver it, unless workers died of it."""
        try:
            with self._refusing_poison(attempt) if attempt.suspect else _NOTHING:
                attempt.notification = notification = wire.decode(
                    wire.parse(message) if isinstance(message, str) else message,
                    sandbox_number=app.settings.sandbox_number,
                    ignored=lambda field: log.warning("ifinu.message.key_ignored", id=attempt.id, field=field),
                )
                return app.delivery.deliver(
                    notification,
                    attempt.ref,
                    attempt=attempt.number,
                    trouble=attempt.trouble,
                    last=attempt.number > self.max_retries,
                    on_fresh=functools.partial(setattr, attempt, "notification"),  # its payment codes follow it
                )
        except redis.RedisError as exc:
            return GiveBack(exc)
        except InvalidNotification as exc:
            return Dead(exc, {"id": attempt.id})

    @contextlib.contextmanager
    def _refusing_poison(self, attempt: Attempt) -> Iterator[None]:
        """
        Run a message that a worker may have died of, and count its start. If this worker survives, it is acquitted.

        A message that was started at a death before runs without another suspect beside it. A harmless message that
        starts beside the killer would otherwise be counted with it.

        Raises:
            Poison: Several workers in a row died of this message.
            redis.RedisError: The count could not be read.
        """
        suspect, queue, claims = attempt.suspect, attempt.ref.queue, app.delivery.claims
        with loop.held(one_suspect) if claims.started(queue, suspect) else contextlib.nullcontext():
            try:
                if claims.starts(queue, suspect) >= DEATHS:
                    raise Poison("", f"{DEATHS} workers died of it in a row")
                yield
            finally:
                with contextlib.suppress(redis.RedisError):  # then it may run alone once more
                    claims.acquit(queue, suspect)


def _due(countdown: float | None, eta: datetime | None) -> datetime:
    """The earliest time to send a message, from which its time in the queue counts."""
    if countdown:
        return datetime.now(UTC) + timedelta(seconds=countdown)
    return eta or datetime.now(UTC)


_NOTHING = contextlib.nullcontext()


@app.task(
    bind=True,
    base=NotificationTask,
    name=intake.TASK,
    acks_late=True,
    # Defaults; `on_bound` takes the settings instead.
    rate_limit="50/s",
    max_retries=3,
    retry_backoff=5,
    retry_backoff_max=600,
    retry_jitter=True,
    autoretry_for=(NotSent, Throttled, Misconfigured),
    throws=(InvalidNotification, SendError),  # they become dead letters with a log line, and need no traceback
)
def send_notification(self: NotificationTask, message: str | Mapping[str, object]) -> str:
    """
    Send one notification; run by a worker.

    Args:
        self: The task.
        message: A wire object, or its JSON text.

    Returns:
        How it ended, and the gateway's id of it: `sent 3EB0…`.
    """
    attempt: Attempt = self.request.attempt
    if attempt.failure is not None:
        raise attempt.failure
    if attempt.outcome is None:
        attempt.outcome = self.outcome_of(attempt, message)
    match outcome := attempt.outcome:
        case Settled():
            return str(outcome)
        case Wait():
            # Its instance or the gateway is at fault, or its time has not come: no try is counted.
            self._postpone(outcome, outcome.wait_s, retries=max(0, self.request.retries - outcome.refund))
            raise exceptions.Ignore(outcome.reason)
        case Reroute():
            self._move(lambda attempt: attempt.reroute(outcome))
            if not attempt.moved:  # the registry has changed: its next worker decides anew
                attempt.outcome = GiveBack(UnknownInstance("instance", "is not registered any more"))
                raise exceptions.Reject("reroute", requeue=True)
            raise exceptions.Ignore("reroute")
        case GiveBack():
            raise exceptions.Reject(outcome.error, requeue=True)
        case Retry() | Dead():
            raise outcome.error
