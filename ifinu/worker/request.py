"""Celery's request, so that a message is settled, postponed or dead-lettered when its task ends."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis
import structlog
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import signals
from celery.exceptions import TaskRevokedError
from celery.utils.saferepr import saferepr
from celery.worker import state
from celery.worker.request import Request as CeleryRequest

from ifinu import wire
from ifinu.broker import intake
from ifinu.broker.claims import ClaimState
from ifinu.broker.clock import Difference
from ifinu.broker.headers import TRACEPARENT
from ifinu.broker.leases import DUPLICATE, Settled
from ifinu.errors import Reason, SendError
from ifinu.logs import exceptions as log_exceptions
from ifinu.outcome import Dead, GiveBack, Reroute, Retry, Wait
from ifinu.worker import spans
from ifinu.worker.attempt import Attempt

log = structlog.get_logger(__name__)

_NO_HEADERS: dict[str, Any] = {}  # else Celery searches a message's headers for those that are not its own
_SIGNALS = signals.task_prerun, signals.task_postrun, signals.task_success
_Traced = tuple[int, Any, float | None]  # whether the task raised; what it raised, or the repr of its result; seconds


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
            self.app.ended(self.message.delivery_tag)
            self._bury_unforeseen(f"{type(exc).__name__} after the task")
            return None

    return call


class Request(CeleryRequest):
    """
    One message in a worker.

    Args:
        message: The message, as the channel admitted it.
        consumer: The worker's consumer.

    Attributes:
        attempt: What its task finds of it, and leaves of its outcome.
    """

    def __init__(self, message: Any, *, task: Any, app: Any, on_ack: Any, on_reject: Any, consumer: Any) -> None:
        super().__init__(
            message,
            task=task,
            app=app,
            on_ack=on_ack,
            on_reject=on_reject,
            hostname=consumer.hostname,
            eventer=consumer.event_dispatcher,
            connection_errors=consumer.connection_errors,
            body=message.payload,
            decoded=True,
        )
        self.attempt = Attempt(message)

    def execute_using_pool(self, pool: Any, **_: Any) -> None:
        """Run the task in the pool, which is in this process: the outcome stays in `attempt`."""
        if self.may_be_revoked and self.revoked():
            raise TaskRevokedError(self.id)
        pool.apply_async(self._run, accept_callback=self.on_accepted, callback=self.on_success, correlation_id=self.id)

    def _run(self) -> _Traced:
        tracer = self.app.delivery.tracer
        if not tracer.on:
            return self._trace()
        span = spans.begin(tracer, self.attempt)
        try:
            with span.current():
                failed, returned, took_s = self._trace()
            spans.record(span, self.attempt, returned.exception if failed else None)
            outcome = self.attempt.outcome
            if span.sampled and isinstance(outcome, Settled) and outcome.key_id:
                self.app.trails.leave(outcome.key_id, span.traceparent)
        finally:
            span.end()
        return failed, returned, took_s

    def _trace(self) -> _Traced:
        """
        Run the task, under Celery's tracer where that has something to do: signals, a result, a retry, an error.

        The tracer runs the task again, which then ends as it did before.
        """
        if self._ignore_result and not any(signal.receivers for signal in _SIGNALS):
            attempt, began = self.attempt, time.monotonic()
            if len(self._args) == 1 and not self._kwargs:  # else Celery says what is wrong with them
                try:
                    attempt.outcome = self.task.outcome_of(attempt, self._args[0])
                except Exception as exc:
                    attempt.failure = exc
            if isinstance(attempt.outcome, Settled):
                shown = saferepr(str(attempt.outcome)) if self._has_listeners else ""
                return 0, shown, time.monotonic() - began
        self._request_dict.update(attempt=self.attempt, headers=_NO_HEADERS, is_eager=False)
        try:
            returned, info, took_s, shown = self.task.__trace__(self.id, self._args, self._kwargs, self._request_dict)
        except Exception:  # the pool would swallow it, and the message would stay in flight
            return 1, ExceptionInfo(), None
        return (1, returned, took_s) if info else (0, shown, took_s)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The task starts: count it, without the counter that stock makes for each message."""
        self.worker_pid, self.time_start = pid, time.time()
        state.task_accepted(self, add_to_total_count=_count)
        self.send_event("task-started")
        if self._terminate_on_ack is not None:
            self.terminate(*self._terminate_on_ack)

    @_ending
    def on_success(self, failed__retval__runtime: _Traced, **kwargs: Any) -> Any:
        """The task ended: carry out its outcome before the message is acknowledged."""
        failed, shown, took_s = failed__retval__runtime
        if failed:
            return super().on_success(failed__retval__runtime, **kwargs)
        self._conclude("failed outside of the task", tried=True)
        state.task_ready(self)  # not as `successful`: Celery would keep its id to find duplicates, which claims do
        self.acknowledge()
        self.send_event("task-succeeded", result=shown, runtime=took_s)
        return None

    @_ending
    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """The task raised, as it also does for a message that waits or goes back: carry out its outcome."""
        exc = exc_info.exception
        name = type(exc.exc if isinstance(exc, ExceptionWithTraceback) else exc).__name__
        self._conclude(name, tried=False)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _conclude(self, failure: str, *, tried: bool) -> None:
        """
        Carry out the outcome of the task.

        Args:
            failure: The error, if there is no outcome.
            tried: Whether this counts as a try, if there is no outcome.
        """
        outcome, claiming = self.attempt.outcome, self.app.claiming
        self.app.ended(self.message.delivery_tag)
        if isinstance(outcome, GiveBack) and isinstance(outcome.error, redis.RedisError):
            claiming.refused(outcome.error)
        else:
            claiming.answered()
        match outcome:
            case Settled():
                self._settle(outcome)
            case Wait() if self.attempt.moved:
                self._waits(outcome)
            case Retry() if self.attempt.moved:
                self._gateway_answered()
                self.app.sending.failed(outcome.error, retried=True)
            case Reroute() if self.attempt.moved:
                self._is_free()
            case GiveBack():
                if isinstance(outcome.error, SendError):
                    self._gateway_away(outcome.error)
                    self.app.sending.failed(outcome.error, retried=False)
            case Dead():
                self._bury(outcome)
            case _:  # it failed before it had an outcome, or before the outcome took effect
                self._bury_unforeseen(failure, tried=tried)

    def _settle(self, settled: Settled) -> None:
        tag, leases, sent = self.message.delivery_tag, self.message.channel.leases, settled.state is ClaimState.SENT
        if sent:
            self._gateway_answered()
        else:
            self._is_free()
        if settled.state == DUPLICATE:
            leases.ack(tag, settled.event)
        else:
            # After one of Meta's templates Meta takes no text: such a template shows the codes itself.
            codes = sent and self.app.settings.pix_separate and "template" not in settled.event.data
            then = self._codes() if codes else ()
            ref, ttl_s = self.attempt.ref, self.app.settings.claim_ttl_s
            leases.settle(tag, settled, queue=ref.queue, ttl_s=ttl_s, then=then, number=ref.number)
        started_at = None if self.attempt.ref.waited else self.time_start
        self.app.sending.settled(settled, accepted_at=intake.aware(self.attempt.accepted), started_at=started_at)

    def _codes(self) -> list[tuple[str, bytes]]:
        """Ids and JSON of the messages that follow it with its payment codes."""
        notification = self.attempt.notification
        assert notification is not None  # noqa: S101 - it was sent
        more = {TRACEPARENT: self.attempt.traceparent} if self.attempt.traceparent else {}
        more["criado_em"] = self._clock.now().isoformat(timespec="milliseconds")
        instance = notification.instance or self.attempt.ref.number or self.app.settings.evolution_instance
        return [
            (code.id, json.dumps({**wire.encode(code), **more}, ensure_ascii=False).encode())
            for code in notification.code_messages(instance)
        ]

    def _waits(self, wait: Wait) -> None:
        self.app.sending.waits(wait)
        if wait.free:
            self._is_free()
        elif wait.lost:  # if this repeats, every send would end in doubt
            part = wait.instance if self.app.settings.evolution_sharded else ""
            self._gateway_away("it takes requests and does not answer", part)
        elif (
            wait.error is not None
            and wait.error.reason is Reason.GATEWAY_DATABASE
            and not self.app.settings.evolution_sharded  # otherwise only its instances are held back
        ):
            self._gateway_away(wait.error)

    def _is_free(self) -> None:
        if self.app.bucket is not None:
            self.app.bucket.put_back()  # nothing went to the gateway: its token is free again

    def _gateway_away(self, error: object, part: str = "") -> None:
        if self.app.breaker.failed(part):
            log.error("ifinu.gateway.away", error=str(error))

    def _gateway_answered(self) -> None:
        if self.app.breaker.answered():
            log.info("ifinu.gateway.back")

    def _bury(self, dead: Dead) -> None:
        tried = isinstance(dead.error, SendError)
        if isinstance(dead.error, SendError):
            self._gateway_answered()
            self.app.sending.failed(dead.error, retried=False)
        self._dead_letter(
            dead.reason,
            str(dead.error),
            attempts=self.attempt.number - (not tried),
            fields=dead.fields,
            maybe_sent=dead.maybe_sent,
        )

    def _bury_unforeseen(self, error: str, *, tried: bool = True) -> None:
        """Dead-letter a message as one that may have been sent: the error may come from the middle of a send."""
        fields = {"id": self.id}
        if (notification := self.attempt.notification) is not None:
            with contextlib.suppress(Exception):  # its cause may be the cause of this one too
                fields = {"id": notification.id, **self.app.delivery.event_fields(notification)}
        attempts = self.attempt.number - (not tried)
        self._dead_letter("error", error, attempts=attempts, fields=fields, maybe_sent=True)

    def _dead_letter(self, reason: str, error: str, *, attempts: int, fields: dict[str, Any], maybe_sent: bool) -> None:
        self.message.channel.bury(
            self.message.delivery_tag,
            reason=reason,
            error=error,
            attempts=attempts,
            first_at=self.attempt.first_at or self._clock.now(),
            event_fields=fields,
            maybe_sent=maybe_sent,
        )

    @property
    def _clock(self) -> Difference:
        clock: Difference = self.message.channel.leases.clock
        return clock

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """Send a task event if anyone asked for them, without the texts of exceptions: they may quote personal data."""
        if not self._has_listeners:
            return
        if "exception" in fields:
            raised, where = str(fields["exception"]), str(fields.get("traceback") or "")
            fields |= {"exception": log_exceptions.retold(raised), "traceback": log_exceptions.frames_in(where)}
        super().send_event(type, **fields)

    @property
    def _has_listeners(self) -> bool:
        """Whether task events are on (`-E`, `control enable_events`); if not, Celery makes each one and drops it."""
        eventer = self._eventer
        return eventer is not None and eventer.enabled and (not eventer.groups or "task" in eventer.groups)

    def announce(self) -> None:
        """Send the event `task-received`."""
        if not self._has_listeners:
            return
        self.send_event(
            "task-received",
            name=self.name,
            args=self.argsrepr,
            kwargs=self.kwargsrepr,
            root_id=self.root_id,
            parent_id=self.parent_id,
            retries=self.attempt.number - 1,
            eta=None,
            expires=self.expires and self.expires.isoformat(),
        )

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Answer `inspect` without the arguments."""
        fields: dict[str, Any] = super().info(safe=True)
        return fields

    @property
    def may_be_revoked(self) -> bool:
        """Whether `revoked`, which costs more, has something to look at; an admitted message has no stamps."""
        return self._expires is not None or self._already_revoked or self.id in state.revoked

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


def _count(started: Mapping[str, int]) -> None:
    for name, number in started.items():
        state.total_count[name] += number
