"""The worker tells Prometheus how it is."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import Any

from celery import bootsteps
from celery.worker import state

from ifinu.errors import ConfigurationError
from ifinu.metrics.endpoint import serving
from ifinu.metrics.worker_series import Now


class Metrics(bootsteps.StartStopStep):
    """Serves `/metrics` from the first connection to the end, whatever becomes of the connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._open: contextlib.ExitStack | None = None

    def start(self, c: Any) -> None:
        """Connected, maybe again."""
        c.app.sending.look = functools.partial(_look, c)
        if self._open is not None:
            return
        self._open = contextlib.ExitStack()
        try:
            self._open.enter_context(serving(c.app.series, c.app.settings.metrics_port))
        except ConfigurationError as exc:
            print(f"error: {exc}", file=sys.stderr)  # noqa: T201 - to the person who starts the worker
            raise SystemExit(2) from exc

    def stop(self, c: Any) -> None:
        """The connection is lost, or sends are still to finish: there is more to tell."""

    def shutdown(self, c: Any) -> None:
        """The last send has ended."""
        if self._open is not None:
            self._open.close()
            self._open = None


def _look(c: Any) -> Now:
    bucket, leases = c.app.bucket, c.leases
    now = Now(slots=c.pool.num_processes, busy=len(state.active_requests), breaker_open=c.app.breaker.is_open)
    if bucket is not None:
        now.limit_per_s, now.waiting = bucket.rate_per_s, len(bucket.contents)
    else:
        now.limit_per_s = float("inf")
    if leases is not None:
        now.owed, now.tally, now.clock_off_s = leases.pending(), leases.tally, leases.clock.off_s
    return now
