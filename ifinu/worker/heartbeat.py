"""
The file for probes: touched while the worker sends, or waits for a known reason.

Fresh: it sends, has nothing to send, or waits for the gateway, its pace or a window. Absent: it starts, reconnects or
drains. Stale: it is stuck. A loop that turns proves nothing, so what it got done decides.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from celery import bootsteps
from celery.worker import state

log = structlog.get_logger(__name__)

_EVERY_S = 5.0
_FIRST_S = 0.5  # by then a connection that is refused has been lost again
_SILENT_S = 30.0  # a fetch answers within a second or so
_LONGEST_PAUSE_S = 60.0  # between two starts, beyond what the pace asks for


class WorkState(NamedTuple):
    """
    How a worker is getting on.

    Attributes:
        waiting: Messages that it has and has not started.
        sending_s: How long each send under way has been going on.
        slots: Sends it can do at the same time.
        paused_s: How long ago one started.
        pace_s: The time between two starts that its pace asks for.
        away: The gateway is, or an instance of it: nothing is to start.
        refused: Redis refuses the claims.
        silent_s: How long ago it asked for messages, while it had room for some; None while it has none.
    """

    waiting: int
    sending_s: tuple[float, ...]
    slots: int
    paused_s: float
    pace_s: float
    away: bool
    refused: bool
    silent_s: float | None


def stuck_by(work: WorkState, patience_s: float) -> str:
    """
    Why a worker gets nothing done, in one word; empty while it does, or has a reason not to.

    Args:
        work: How it is getting on.
        patience_s: The longest that one send may take.
    """
    if work.refused:
        return "claims_refused"
    if len(work.sending_s) >= work.slots and min(work.sending_s) > patience_s:
        return "sends_hang"
    idle = work.waiting and not work.sending_s and not work.away
    if idle and work.paused_s > work.pace_s + _LONGEST_PAUSE_S:
        return "nothing_starts"
    if work.silent_s is not None and work.silent_s > _SILENT_S:
        return "nothing_fetched"
    return ""


class Heartbeat(bootsteps.StartStopStep):
    """
    Touches the file.

    A file that cannot be written (its folder is gone, its disk is full) is said once, and stops nothing.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        config = c.app.settings
        self._file: Path | None = config.heartbeat_file
        # A look-up asks more than once.
        self._patience_s = 3 * (config.evolution_connect_timeout_s + config.evolution_read_timeout_s)
        self._timers: list[Any] = []
        self._failed = False
        self._said = ""
        self._started = -1
        self._started_at = time.monotonic()
        self._remove()  # it may have outlived a restart of the container

    def start(self, c: Any) -> None:
        """The worker consumes."""
        if self._file is not None:
            self._started_at = time.monotonic()
            self._timers = [
                c.timer.call_after(_FIRST_S, self._beat, (c,)),
                c.timer.call_repeatedly(_EVERY_S, self._beat, (c,)),
            ]

    def stop(self, c: Any) -> None:
        """It does so no more."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        self._remove()

    shutdown = stop

    def _beat(self, c: Any) -> None:
        reason = stuck_by(self._look(c), self._patience_s)
        if reason and reason != self._said:
            log.error("ifinu.heartbeat.withheld", reason=reason)
        self._said = reason
        if not reason and self._file is not None:
            self._write(self._file.touch)

    def _look(self, c: Any) -> WorkState:
        now, wall = time.monotonic(), time.time()
        started = sum(state.total_count.values())
        if started != self._started or c.app.breaker.is_open or c.app.claiming.is_refused:
            self._started, self._started_at = started, now
        bucket = c.app.bucket
        channel = c.task_consumer and c.task_consumer.channel
        asked_at = getattr(channel, "_brpop_sent_at", None) if channel and channel.qos.can_consume() else None
        return WorkState(
            waiting=0 if bucket is None else len(bucket.contents),
            sending_s=tuple(
                wall - request.time_start for request in tuple(state.active_requests) if request.time_start
            ),
            slots=c.pool.num_processes,
            paused_s=now - self._started_at,
            pace_s=0.0 if bucket is None else 1 / bucket.rate_per_s,
            away=c.app.breaker.is_open,
            refused=c.app.claiming.is_refused,
            silent_s=None if asked_at is None else now - asked_at,
        )

    def _remove(self) -> None:
        if self._file is not None:
            self._write(self._file.unlink, missing_ok=True)

    def _write(self, do: Any, **how: Any) -> None:
        try:
            do(**how)
        except OSError as exc:
            if not self._failed:
                log.error("ifinu.heartbeat.unwritable", file=str(self._file), error=exc.strerror or type(exc).__name__)
            self._failed = True
        else:
            self._failed = False
