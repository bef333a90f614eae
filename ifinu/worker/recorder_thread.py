"""The worker writes the ledger beside its sends, if it is its turn: one of all workers does."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import structlog
from celery import bootsteps

from ifinu.broker import connections
from ifinu.ledger.standby import stand_by
from ifinu.settings import Settings

log = structlog.get_logger(__name__)

_AGAIN_S = 15.0  # after what nobody has foreseen
_STOPPED_S = 5.0  # for the last events; what is not recorded by then is recorded by the next worker


class RecorderThread(bootsteps.StartStopStep):
    """A thread that stands by to record; started once, whatever becomes of the worker's connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self.enabled = c.app.settings.recorder  # else Celery leaves this step out
        self._stop = threading.Event()
        self._progress = c.app.progress
        self._thread: threading.Thread | None = None

    def start(self, c: Any) -> None:
        """Connected, maybe again."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(c.app.settings,), name="recorder", daemon=True)
            self._thread.start()

    def stop(self, c: Any) -> None:
        """The connection is lost, or sends are still to finish: there is more to record."""

    def shutdown(self, c: Any) -> None:
        """The last send has ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOPPED_S)

    def _run(self, settings: Settings) -> None:
        """Sending goes on, whatever happens here."""
        while not self._stop.is_set():
            try:
                with contextlib.closing(connections.connect(settings.redis_url.get_secret_value())) as client:
                    stand_by(client, settings, self._stop, self._progress)
            except Exception:
                log.exception("ifinu.recorder.failed", again_in_s=_AGAIN_S)
                self._stop.wait(_AGAIN_S)
