"""
The steps that Celery takes when a worker connects, and undoes when it stops.

    TakeOver         the consumer decides what goes back to the queue
    WarmUp           connect to Redis before the first message, and leave what is loaded out of garbage collection, once
    Heartbeat        touch the file for probes
    RecorderProcess  write the ledger in a child process, with the guard, while this worker is the one that records
    Metrics          serve `/metrics`

Celery calls `start` after each connection, `stop` when the connection is lost or a warm shutdown begins, and
`shutdown` after the last send has ended.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import threading
import time
from pathlib import Path
from typing import Any

import structlog
from celery import bootsteps
from celery.worker import state

from ifinu.billing.charge_check import ChargeCheck
from ifinu.broker import connections
from ifinu.errors import ConfigurationError
from ifinu.ledger.child import FINISH_S, RecorderError, record_in_child
from ifinu.ledger.standby import stand_by
from ifinu.metrics.endpoint import serving
from ifinu.metrics.worker_series import Now
from ifinu.numbers.directory import UNLOADED
from ifinu.settings import Settings
from ifinu.worker.heartbeat import WorkState, stuck_by

log = structlog.get_logger(__name__)

_RECORDER = "ifinu.numbers.guarded_recorder"
_TASKS = "celery.worker.consumer.tasks:Tasks"
_BEAT_EVERY_S = 5.0
_FIRST_BEAT_S = 0.5  # by then a connection that Redis refuses is lost again
_AGAIN_S = (3.0, 5.0, 15.0, 60.0)  # pauses before the next recorder; the longer, the more died in a row
_LONG_S = 60.0  # a recorder that ran longer than this starts a new row
_REAPED_S = 1.0  # for a recorder that had to be killed


class TakeOver(bootsteps.StartStopStep):
    """From here on the consumer, not the channel, decides what goes back to the queue."""

    requires = (_TASKS,)

    def start(self, c: Any) -> None:
        c.leases = c.task_consumer.channel.leases
        c.leases.managed = True
        # A worker that knows numbers reads them again: this may be another Redis, and their gaps be forgotten.
        c.leases.generation = UNLOADED if c.leases.generation else c.app.first_generation
        c.app.claiming.answered()  # what Redis refused on the last connection may be tried at once on this one


class WarmUp(bootsteps.StartStopStep):
    """
    Connects to Redis, and puts what is loaded out of the garbage collector's sight, before there is anything to send.

    Without the connections the first message connects. It is late then and reaches the gateway together with the ones
    after it, so the first second exceeds the pace.
    """

    requires = (TakeOver,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._done = False

    def start(self, c: Any) -> None:
        if self._done or c.leases is None:
            return
        self._done = True
        loop = c.pool.loop
        loop.spawn(c.leases.connect)
        loop.spawn(c.app.delivery.claims.connect)
        loop.run_until(lambda: not loop.tasks)
        # What is loaded by now stays. Each full collection would walk it, and the loop stand still meanwhile.
        gc.collect()
        gc.freeze()


class Heartbeat(bootsteps.StartStopStep):
    """
    Touches the file for probes; see `heartbeat.py`.

    A file that cannot be written (its folder is gone, its disk is full) is logged once and stops nothing.
    """

    requires = (_TASKS,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        config = c.app.settings
        self._file: Path | None = config.heartbeat_file
        # A look-up asks more than once.
        self._patience_s = 3 * (config.evolution_connect_timeout_s + config.evolution_read_timeout_s)
        self._timers: list[Any] = []
        self._failed = False
        self._logged = ""
        self._started = -1
        self._started_at = time.monotonic()
        self._remove()  # it may have outlived a restart of the container

    def start(self, c: Any) -> None:
        if self._file is not None:
            self._started_at = time.monotonic()
            self._timers = [
                c.timer.call_after(_FIRST_BEAT_S, self._beat, (c,)),
                c.timer.call_repeatedly(_BEAT_EVERY_S, self._beat, (c,)),
            ]

    def stop(self, c: Any) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        self._remove()

    shutdown = stop

    def _beat(self, c: Any) -> None:
        reason = stuck_by(self._look(c), self._patience_s)
        if reason and reason != self._logged:
            log.error("ifinu.heartbeat.withheld", reason=reason)
        self._logged = reason
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


class RecorderProcess(bootsteps.StartStopStep):
    """
    Stands by to record, in a thread that mostly sleeps; a child process records while this worker leads.

    Standing by starts once and outlives a lost connection: there is more to record.
    """

    requires = (_TASKS,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self.enabled = c.app.settings.recorder  # otherwise Celery leaves this step out
        self._stop = threading.Event()
        self._progress = c.app.progress
        self._thread: threading.Thread | None = None

    def start(self, c: Any) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(c.app.settings,), name="recorder", daemon=True)
            self._thread.start()

    def stop(self, c: Any) -> None:
        pass

    def shutdown(self, c: Any) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(FINISH_S + _REAPED_S)

    def _run(self, settings: Settings) -> None:
        run = functools.partial(record_in_child, settings, self._stop, self._progress, module=_RECORDER)
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                with contextlib.closing(connections.connect(settings.redis_url.get_secret_value())) as client:
                    stand_by(client, self._stop, run)
                continue
            except RecorderError as exc:
                failures = 1 if time.monotonic() - began > _LONG_S else failures + 1
                again_in_s = _AGAIN_S[min(failures, len(_AGAIN_S)) - 1]
                log.error("ifinu.recorder.died", code=exc.code, again_in_s=again_in_s)
            except Exception:  # sending goes on, whatever fails here
                again_in_s = _AGAIN_S[-1]
                log.exception("ifinu.recorder.failed", again_in_s=again_in_s)
            self._stop.wait(again_in_s)


class Metrics(bootsteps.StartStopStep):
    """Serves `/metrics` from the first connection to the end of the last send, also while Redis is away."""

    requires = (_TASKS,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._open: contextlib.ExitStack | None = None

    def start(self, c: Any) -> None:
        c.app.sending.look = functools.partial(_now, c)
        if self._open is not None:
            return
        self._open = contextlib.ExitStack()
        try:
            self._open.enter_context(serving(c.app.series, c.app.settings.metrics_port))
        except ConfigurationError as exc:
            print(f"error: {exc}", file=sys.stderr)  # noqa: T201 - to the person who starts the worker
            raise SystemExit(2) from exc

    def stop(self, c: Any) -> None:
        pass

    def shutdown(self, c: Any) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _now(c: Any) -> Now:
    bucket, leases = c.app.bucket, c.leases
    now = Now(slots=c.pool.num_processes, busy=len(state.active_requests), breaker_open=c.app.breaker.is_open)
    now.blocked_s = c.pool.watch.blocked_s
    if isinstance(check := c.app.delivery.charges, ChargeCheck):
        now.checks = check.results
    if bucket is not None:
        now.limit_per_s, now.waiting = bucket.rate_per_s, len(bucket.contents)
    else:
        now.limit_per_s = float("inf")
    if leases is not None:
        now.owed, now.tally, now.clock_off_s = leases.pending(), leases.tally, leases.clock.off_s
    return now
