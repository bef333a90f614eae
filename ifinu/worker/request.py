"""Celery's request, so that a message is settled, postponed or dead-lettered when its task ends."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import redis
import structlog
from billiard.einfo import ExceptionWithTraceback
from celery import exceptions
from celery.worker import state
from celery.worker.request import Request as CeleryRequest
from kombu.exceptions import OperationalError

from ifinu import wire
from ifinu.broker import intake
from ifinu.broker.claims import ClaimState
from ifinu.broker.clock import Difference
from ifinu.broker.headers import ACCEPTED, FIRST_TRY, QUEUE, TRACEPARENT
from ifinu.broker.leases import DUPLICATE
from ifinu.delivery import Wait
from ifinu.errors import ConfigurationError, IdReused, InvalidNotification, MaybeSent, Poison, Reason, SendError
from ifinu.gateway.breaker import is_outage
from ifinu.logs import exceptions as log_exceptions
from ifinu.notification import Notification
from ifinu.worker import outcome

log = structlog.get_logger(__name__)

# These do not end a message: it is retried, returned to the queue, or handled by Celery.
_NOT_THE_END = (
    exceptions.Retry, exceptions.Ignore, exceptions.Reject, exceptions.WorkerLostError, exceptions.Terminated,
    SystemExit, KeyboardInterrupt, MemoryError,
)  # fmt: skip


def first_try_at(headers: dict[str, Any] | None, now: datetime) -> datetime:
    """Time of a message's first try: from its header if it is a retry, otherwise now."""
    return intake.aware((headers or {}).get(FIRST_TRY)) or now


def reason_of(exc: BaseException) -> str:
    """The dead-letter reason of an exception: one of a fixed set of words."""
    if isinstance(exc, SendError):
        return exc.reason
    if isinstance(exc, IdReused):
        return "id_reused"
    if isinstance(exc, Poison):
        return "poison"
    return "invalid" if isinstance(exc, InvalidNotification) else "error"


def _ending(callback: Callable[..., Any]) -> Callable[..., Any]:
    """
    Decorate a callback of `Request` to dead-letter the message if the callback fails.

    The pool swallows exceptions of callbacks, and would leave the message in flight for ever.
    """

    @functools.wraps(callback)
    def call(self: Request, *args: Any, **kwargs: Any) -> Any:
        try:
            return callback(self, *args, **kwargs)
        except Exception as exc:
            log.exception("ifinu.message.unfinished", id=self.id)
            state.task_ready(self)
            self._bury("error", f"{type(exc).__name__} after the task")
            return None

    return call


class Request(CeleryRequest):
    """One message in the worker's main process."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make the subclass that Celery derives for each task settle a message before it acknowledges it."""
        super().__init_subclass__(**kwargs)
        acknowledge = cls.on_success

        def on_success(self: Request, failed__retval__runtime: tuple[Any, Any, Any], **kwargs: Any) -> Any:
            failed, returned, _ = failed__retval__runtime
            if not failed:
                self._settle(returned)  # the repr of the task's result, in either pool
            return acknowledge(self, failed__retval__runtime, **kwargs)

        cls.on_success = _ending(on_success)

    def _settle(self, returned: str | None) -> None:
        if returned is None:  # Celery itself failed around the task, e.g. over an invalid link
            self._bury("error", "failed outside of the task")
            return
        tag, leases = self.message.delivery_tag, self.message.channel.leases
        settled = outcome.decode(returned)
        self._report_to_claim_gate(None)
        if settled.state is ClaimState.SENT:
            self._report_to_breaker(None)
        elif self.app.bucket is not None:
            self.app.bucket.put_back()  # nothing went to the gateway: its token is free again
        if settled.state == DUPLICATE:
            leases.ack(tag, settled.event)
        else:
            queue = self.message.headers[QUEUE]
            then = self._codes() if settled.state is ClaimState.SENT and self.app.settings.pix_separate else ()
            leases.settle(tag, settled, queue=queue, ttl_s=self.app.settings.claim_ttl_s, then=then)
        self.app.sending.settled(settled, accepted_at=self._accepted_at(), started_at=self._first_start())

    def _codes(self) -> list[tuple[str, bytes]]:
        """Ids and JSON of the messages that follow it with its payment codes."""
        notification = self._notification()
        more = {name: self.request_dict[name] for name in (TRACEPARENT,) if self.request_dict.get(name)}
        more["criado_em"] = self.message.channel.leases.clock.now().isoformat(timespec="milliseconds")
        return [
            (code.id, json.dumps({**wire.encode(code), **more}, ensure_ascii=False).encode())
            for code in notification.code_messages(notification.instance or self.app.settings.evolution_instance)
        ]

    @_ending
    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """A task raised: dead-letter its message before it is acknowledged, unless it will run again."""
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        self._report_to_breaker(exc)
        self._report_to_claim_gate(exc)
        self._count(exc)
        if isinstance(exc, exceptions.WorkerLostError):
            self.message.channel.leases.give_back((self.message.delivery_tag,), suspect=True)
        elif isinstance(exc, exceptions.Ignore):
            self._waits(exc.args[0] if exc.args else None)
        elif not isinstance(exc, _NOT_THE_END):
            self._bury_failed(exc)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _waits(self, wait: Any) -> None:
        """Count a message that is in the delayed set now."""
        if not isinstance(wait, Wait):  # from another task, or from Celery
            return
        self.app.sending.waits(wait)
        if wait.free and self.app.bucket is not None:
            self.app.bucket.put_back()  # nothing went to the gateway: its token is free again
        elif wait.lost and self.app.breaker.failed():  # if this repeats, every send would end in doubt
            log.error("ifinu.gateway.away", error="it takes requests and does not answer")
        elif (
            wait.error is not None
            and wait.error.reason is Reason.GATEWAY_DATABASE
            and not self.app.settings.evolution_sharded  # otherwise only its instances are held back
            and self.app.breaker.failed()
        ):
            log.error("ifinu.gateway.away", error=str(wait.error))

    @property
    def _clock(self) -> Difference:
        difference: Difference = self.message.channel.leases.clock
        return difference

    def _count(self, exc: BaseException) -> None:
        """Count an error of the gateway in the metrics."""
        error: Any = exc
        match exc:
            case exceptions.Retry():
                error = exc.exc
            case exceptions.Reject():
                error = exc.reason
        if isinstance(error, SendError):
            self.app.sending.failed(error, retried=isinstance(exc, exceptions.Retry))

    def _accepted_at(self) -> datetime | None:
        """When a producer handed the message over; None if its header does not say."""
        return intake.aware(self.request_dict.get(ACCEPTED))

    def _first_start(self) -> float | None:
        """When the task started, in epoch seconds; None if this is not the message's first start."""
        return None if FIRST_TRY in self.request_dict else self.time_start

    def _report_to_breaker(self, exc: BaseException | None) -> None:
        """Report to the breaker whether the gateway answered; None means that a send succeeded."""
        if isinstance(exc, exceptions.Retry):
            exc = exc.exc
        if isinstance(exc, exceptions.Reject) and is_outage(exc.reason):
            if self.app.breaker.failed():
                log.error("ifinu.gateway.away", error=str(exc.reason))
        elif (exc is None or isinstance(exc, SendError)) and self.app.breaker.answered():
            log.info("ifinu.gateway.back")

    def _report_to_claim_gate(self, exc: BaseException | None) -> None:
        """Report whether Redis let the message claim or wait; None means that it ended."""
        if isinstance(exc, exceptions.Reject) and isinstance(exc.reason, (redis.RedisError, OperationalError)):
            self.app.claiming.refused(exc.reason)
        else:
            self.app.claiming.answered()

    def _bury_failed(self, exc: BaseException) -> None:
        foreseen = isinstance(exc, (SendError, InvalidNotification))
        self._bury(
            reason_of(exc),
            # The texts of our errors are masked; other exceptions may quote personal data.
            str(exc) if foreseen else type(exc).__name__,
            tried=isinstance(exc, SendError),
            # An unforeseen error may come from anywhere, also from the middle of a send.
            maybe_sent=not foreseen or isinstance(exc, MaybeSent),
            # Workers may have died of reading it, so it is not read here.
            about={"id": self.id} if isinstance(exc, Poison) else None,
        )

    def _bury(
        self,
        reason: str,
        error: str,
        *,
        tried: bool = True,
        maybe_sent: bool = True,
        about: dict[str, Any] | None = None,
    ) -> None:
        """Dead-letter the message, by default as one that may have been sent."""
        self.message.channel.bury(
            self.message.delivery_tag,
            reason=reason,
            error=error,
            attempts=self.request_dict.get("retries", 0) + tried,
            first_at=first_try_at(self.request_dict, self._clock.now()),
            event_fields=about or self._event_fields(),
            maybe_sent=maybe_sent,
        )

    def _event_fields(self) -> dict[str, Any]:
        """Fields of the event: those of the notification if it can be read, otherwise the task's id."""
        with contextlib.suppress(InvalidNotification, redis.RedisError, LookupError, TypeError, ConfigurationError):
            notification = self._notification()
            return {"id": notification.id, **self.app.delivery.event_fields(notification)}
        return {"id": self.id}

    def _notification(self) -> Notification:
        """
        Parse the notification in its arguments.

        Raises:
            InvalidNotification: They hold no valid notification.
            LookupError: There are no arguments.
        """
        first = self._args[0]
        body = wire.parse(first) if isinstance(first, str) else first
        return wire.decode(body, sandbox_number=self.app.settings.sandbox_number)

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """Send a task event, without the texts of exceptions that may quote personal data."""
        if "exception" in fields:
            raised, where = str(fields["exception"]), str(fields.get("traceback") or "")
            fields |= {"exception": log_exceptions.retold(raised), "traceback": log_exceptions.frames_in(where)}
        super().send_event(type, **fields)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Answer `inspect` without the arguments."""
        fields: dict[str, Any] = super().info(safe=True)
        return fields

    @_ending
    def on_timeout(self, soft: bool, timeout: float) -> Any:
        """Return a message whose process the pool killed (`--time-limit`): it may have been sent, and is looked up."""
        if not soft:
            self.message.channel.leases.give_back((self.message.delivery_tag,), suspect=True)
        return super().on_timeout(soft, timeout)

    def maybe_expire(self) -> bool:
        """
        Whether its `expires` has passed, by Redis' clock.

        Stock also revokes its id, and with it every other message with that id.
        """
        return self._expires is not None and self._clock.now() > self._expires

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        self.message.channel.bury(
            self.message.delivery_tag,
            reason="expired" if expired else "revoked",
            error=f"{reason} before it was sent",
        )
        super()._announce_revoked(reason, terminated, signum, expired)
