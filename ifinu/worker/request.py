"""What Celery does with a task that will not run again: here it becomes a dead letter."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import exceptions
from celery.worker.request import Request as CeleryRequest

from ifinu.errors import InvalidNotification, SendError

# These do not end a message: it is retried, returned to the queue, or dealt with by Celery.
_NOT_THE_END = (
    exceptions.Retry, exceptions.Ignore, exceptions.Reject, exceptions.WorkerLostError, exceptions.Terminated,
    SystemExit, KeyboardInterrupt, MemoryError,
)  # fmt: skip

FIRST_TRY = "ifinu_first_at"  # message header, set by the first retry: when the first try was


def first_try_at(headers: dict[str, Any] | None) -> datetime:
    """When a message was first tried: now, unless a retry says otherwise."""
    stamp = (headers or {}).get(FIRST_TRY)
    return datetime.fromisoformat(stamp) if isinstance(stamp, str) else datetime.now(UTC)


def reason_of(exc: BaseException) -> str:
    """The dead-letter reason of an exception: a word from a bounded set."""
    if isinstance(exc, SendError):
        return exc.reason
    return "invalid" if isinstance(exc, InvalidNotification) else "error"


class Request(CeleryRequest):
    """Runs in the worker's main process, where the message is at hand."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """A task raised; unless it will run again, its message moves to the dead letters before it is acknowledged."""
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if not isinstance(exc, _NOT_THE_END):
            self._bury(exc)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _bury(self, exc: BaseException) -> None:
        # Words of our own errors are masked; those of others may quote what they choked on.
        error = str(exc) if isinstance(exc, (SendError, InvalidNotification)) else type(exc).__name__
        tries = self.request_dict.get("retries", 0)
        self.message.channel.bury(
            self.message.delivery_tag,
            reason=reason_of(exc),
            error=error,
            attempts=tries + 1 if isinstance(exc, SendError) else tries,
            first_at=first_try_at(self.request_dict),
        )

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        self.message.channel.bury(
            self.message.delivery_tag,
            reason="expired" if expired else "revoked",
            error=f"{reason} before it was sent",
        )
        super()._announce_revoked(reason, terminated, signum, expired)
