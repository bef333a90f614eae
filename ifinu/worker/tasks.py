"""The one task, and what `.delay` takes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import redis
import structlog
from celery import Task, exceptions
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from ifinu import phone, producer, wire
from ifinu.broker import intake
from ifinu.broker.channel import POSTPONES
from ifinu.broker.claims import Verdict
from ifinu.errors import BrokerUnavailable, IdReused, InvalidNotification, Misconfigured, NotSent, SendError, Throttled
from ifinu.notification import Notification
from ifinu.worker.app import app
from ifinu.worker.breaker import is_outage
from ifinu.worker.request import FIRST_TRY, first_try_at
from ifinu.worker.retry import backoff_s

log = structlog.get_logger(__name__)


class NotificationTask(Task):
    """Base of the task: how it is called, and how it waits."""

    Request = "ifinu.worker.request:Request"

    @classmethod
    def on_bound(cls, application: Any) -> None:
        """The application is configured: take the pace and the tries from its settings."""
        chosen = application.settings
        cls.rate_limit = chosen.rate_limit
        cls.rate_burst = chosen.rate_burst
        cls.max_retries = chosen.max_retries

    def delay(self, *args: Any, **fields: Any) -> AsyncResult:
        """
        Enqueue one notification.

        Args:
            args: One `Notification`, or one wire object (a dict with `tipo_notificacao`, …); or nothing, and
            fields: `id`, `kind`, `phone`, `name`, `amount`, `due_date`, … as `Notification` has them.

        Returns:
            A handle whose `.id` is the notification's id. Results are off by default, so `.get()` cannot work unless
            `IFINU_RESULT_BACKEND` is set; what happened to it is in the DLQ or at the gateway.

        Raises:
            InvalidNotification: At the caller, naming the field.
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
        As `delay`, with a wait.

        Args:
            source: A `Notification` or a wire object, in place of fields.
            countdown: Seconds to wait before it is sent.
            eta: Aware time before which it is not sent.
            fields: As for `delay`.
        """
        if source is not None and fields:
            raise InvalidNotification("", "give either one notification or its fields, not both")
        notification = producer.notification_of(
            fields if source is None else source, sandbox_number=app.settings.sandbox_number
        )
        try:
            return self.apply_async(
                args=[wire.encode(notification)],
                task_id=notification.id,
                queue=producer.QUEUE_OF[notification.priority],
                argsrepr=f"<{notification.kind.value}>",  # Flower and the logs see this, and no personal data
                kwargsrepr="{}",
                countdown=countdown,
                eta=eta,
            )
        except OperationalError as exc:
            raise BrokerUnavailable(
                f"Redis did not take notification {notification.id!r} ({exc}); try again with the same id"
            ) from exc

    def retry(
        self, *args: Any, exc: BaseException | None = None, countdown: float | None = None, **options: Any
    ) -> Any:
        """As Celery's, with our wait; when Redis cannot take the retry, the message itself goes back instead."""
        if countdown is None:
            countdown = backoff_s(
                self.request.retries,
                base_s=app.settings.retry_backoff_s,
                most_s=app.settings.retry_backoff_max_s,
                jitter=random.random(),
            )
        try:
            return super().retry(*args, exc=exc, countdown=countdown, headers=self._headers(), **options)
        except exceptions.Reject as reject:
            raise exceptions.Reject(reject.reason, requeue=True) from exc

    def defer(self, seconds: float, exc: BaseException) -> NoReturn:
        """Wait without counting a try: what is wrong is not this message."""
        again = self.signature_from_request(
            self.request, countdown=seconds, retries=self.request.retries, headers=self._headers()
        )
        try:
            again.apply_async()
        except Exception as error:
            raise exceptions.Reject(error, requeue=True) from exc
        raise exceptions.Ignore from exc

    def claim(self, notification: Notification) -> Verdict:
        """
        Ask whether this message may be sent.

        Raises:
            IdReused: Its id belongs to other content.
            celery.exceptions.Reject: Redis did not answer; the message goes back to the queue.
        """
        headers = self.request.headers or {}
        try:
            claim = app.claims.claim(
                notification.id,
                queue=headers[intake.QUEUE],
                tag=headers[intake.TAG],
                # Sandbox data change from day to day, and load tests use their ids again.
                digest="" if app.settings.sandbox_number else digest_of(notification),
                token=headers.get(intake.TOKEN, ""),
            )
        except redis.RedisError as exc:
            raise exceptions.Reject(exc, requeue=True) from exc
        if claim.verdict is Verdict.REUSED:
            raise IdReused("id", "was used before, for a notification that says something else")
        if claim.verdict is Verdict.DUPLICATE:
            log.info("ifinu.message.duplicate", id=notification.id, kind=notification.kind.value, first=claim.before)
        elif claim.before == "sending":
            log.warning("ifinu.message.recovered", id=notification.id)  # who claimed it before died of it
        self.request.ifinu_token = claim.token
        return claim.verdict

    def give_back(self, notification: Notification, exc: BaseException) -> NoReturn:
        """Return the message to its queue as it is; no try is counted."""
        with contextlib.suppress(redis.RedisError):  # then the claim is orphaned, which lets the message through too
            app.claims.release(notification.id, (self.request.headers or {})[intake.TAG])
        raise exceptions.Reject(exc, requeue=True) from exc

    def _headers(self) -> dict[str, Any]:
        """Headers of the message that takes this one's place."""
        mine = self.request.headers or {}
        return {
            FIRST_TRY: first_try_at(mine).isoformat(),
            intake.TOKEN: getattr(self.request, "ifinu_token", ""),
            POSTPONES: {"queue": mine[intake.QUEUE], "tag": mine[intake.TAG], "id": self.request.id},
        }


def digest_of(notification: Notification) -> str:
    """A digest of everything that a notification says."""
    return hashlib.sha256(json.dumps(wire.encode(notification), sort_keys=True).encode()).hexdigest()[:32]


# They become dead letters, with a line that says so; a traceback says nothing more.
_EXPECTED = (InvalidNotification, SendError)


@app.task(bind=True, base=NotificationTask, name=intake.TASK, autoretry_for=(NotSent,), throws=_EXPECTED)
def send_notification(self: NotificationTask, message: str | Mapping[str, object]) -> str:
    """
    Send one notification; run by a worker.

    Args:
        self: The task.
        message: A wire object, or its JSON text as a producer pushed it.

    Returns:
        `sent` and the gateway's id of the message, or `duplicate`.
    """
    body = wire.parse(message) if isinstance(message, str) else message
    notification = wire.decode(body, sandbox_number=app.settings.sandbox_number)
    if self.claim(notification) is Verdict.DUPLICATE:
        return "duplicate"
    try:
        sent = app.delivery.deliver(notification)
    except Throttled as exc:
        log.warning("ifinu.message.throttled", instance=exc.instance, wait_s=exc.retry_after_s)
        self.defer(exc.retry_after_s, exc)
    except Misconfigured as exc:
        log.error("ifinu.instance.misconfigured", instance=exc.instance, reason=exc.reason, error=str(exc))
        self.defer(app.settings.misconfigured_wait_s, exc)
    except NotSent as exc:
        if is_outage(exc):
            self.give_back(notification, exc)
        log.warning("ifinu.message.not_sent", id=notification.id, reason=exc.reason, retries=self.request.retries)
        raise
    log.info(
        "ifinu.message.sent",
        id=notification.id,
        kind=notification.kind.value,
        phone=phone.mask(notification.phone),
        confirmed=sent.confirmed,
    )
    return f"sent {sent.key_id or ''}"
