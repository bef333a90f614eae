"""
Flower as a web application for production: it requires a login, shows no personal data, has bounded memory, and is
read-only unless controls are allowed.

Nothing in Flower is patched. This application decides whether a request reaches Flower's handler, and replaces the page
of the queues, since Flower's only knows `LLEN`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import logging
import os
import signal
import threading
import time
from typing import Any

import redis
import structlog
from celery.events import EventReceiver
from flower.api.tasks import GetQueueLengths, TaskResult
from flower.app import Flower
from flower.command import extract_settings
from flower.events import Events
from flower.inspector import Inspector
from flower.options import options
from flower.urls import settings
from flower.views.broker import BrokerView
from flower.views.monitor import Healthcheck
from flower.views.tasks import TasksDataTable
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from ifinu import sockets
from ifinu.broker import backlog, connections
from ifinu.cli.flower import shown
from ifinu.errors import ConfigurationError
from ifinu.worker.app import Application

log = structlog.get_logger(__name__)

_COLUMNS = "uuid,args,state,retries,received,runtime,worker,result,exception"
_MOST_WORKERS = 1_000
_OFFLINE_S = 600  # how long a worker that is gone stays listed
_TIDY_MS = 10_000
_MOST_WAITING = 20_000  # events read and not yet kept; more than this are dropped
_DISABLE_S = 5.0
_AGAIN_S = 2.0
_READING = ("GET", "HEAD")


class _Refused(RequestHandler):
    """Answers every request with one status."""

    def initialize(self, status: int, reason: str) -> None:
        self._answer = status, reason

    def prepare(self) -> None:
        status, reason = self._answer
        if status == 401:
            self.set_header("WWW-Authenticate", 'Basic realm="ifinu", charset="UTF-8"')
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.set_status(status)
        self.finish(f"{reason}\n")

    def check_xsrf_cookie(self) -> None:
        """No check, since the handler changes nothing."""


class _Queues:
    """Replaces Flower's broker: reports ready and in-flight messages."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def queues(self, names: list[str]) -> list[dict[str, Any]]:
        """Rows of the page: the queues in the order they are served, then lanes, delayed messages and dead letters."""
        try:
            rows: list[dict[str, Any]] = await self._site.io_loop.run_in_executor(None, self._rows)
        except redis.RedisError as exc:
            raise HTTPError(503, "Redis does not answer") from exc
        return rows

    def _rows(self) -> list[dict[str, Any]]:
        config = self._site.capp.settings
        with contextlib.closing(connections.connect(config.redis_url.get_secret_value())) as client:
            found = backlog.survey(client)
        served = [
            {
                "name": one.queue,
                "messages": one.ready + one.in_flight,
                "messages_unacknowledged": one.in_flight,
                "messages_ready": one.ready,
                "consumers": self._site.consumers(one.queue),
            }
            for one in found
        ]
        delayed = [{"name": f"{one.queue}:agendadas", "messages": one.delayed} for one in found]
        dead = [{"name": f"{one.queue}:dlq", "messages": one.dead} for one in found]
        lanes = [{"name": f"{one.queue}:espera", "messages": one.in_lanes} for one in found if one.in_lanes is not None]
        return [*served, *lanes, *delayed, *dead]


class _QueuesPage(BrokerView):  # type: ignore[misc]  # Flower has no types
    def get_broker(self) -> _Queues:
        return _Queues(self.application)


class _QueueLengths(GetQueueLengths):  # type: ignore[misc]  # as above
    def get_broker(self) -> _Queues:
        return _Queues(self.application)


_OURS = {BrokerView: _QueuesPage, GetQueueLengths: _QueueLengths}


class _Events(Events):  # type: ignore[misc]  # as above
    """Flower's thread that reads events; `on_event` runs in it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._room = threading.BoundedSemaphore(_MOST_WAITING)

    def run(self) -> None:
        """Read events until the process ends; Flower would double its wait after each failure, without bound."""
        while True:
            try:
                with self.capp.connection() as connection:
                    receiver = EventReceiver(connection, handlers={"*": self.on_event}, app=self.capp)
                    receiver.capture(limit=None, timeout=None, wakeup=True)
            except Exception as exc:  # any error: without this thread Flower would show no new events
                log.warning("ifinu.flower.events_away", error=str(exc) or type(exc).__name__)
                time.sleep(_AGAIN_S)

    def on_event(self, event: dict[str, Any]) -> None:
        """Pass an event to the loop; drop it if the loop is too far behind."""
        kept = shown.event(event)
        if kept is not None and self._room.acquire(blocking=False):
            self.io_loop.add_callback(self._keep, kept)

    def _keep(self, event: dict[str, Any]) -> None:
        self._room.release()
        self.state.event(event)


class _Inspector(Inspector):  # type: ignore[misc]  # as above
    """Filters the workers' answers to `inspect`."""

    def _on_update(self, workername: str, method: str, response: Any) -> None:
        if method in self.task_inspect_methods and isinstance(response, list):
            response = [shown.request(one) if isinstance(one, dict) else one for one in response]
        super()._on_update(workername, method, response)


class Site(Flower):  # type: ignore[misc]  # as above
    """
    The web application.

    Args:
        login: `user:password` that each request needs.
        controls: Whether requests may change anything.
    """

    def __init__(self, app: Application, *, login: str, controls: bool) -> None:
        events = _Events(
            app,
            io_loop=IOLoop.current(),
            enable_events=True,
            max_workers_in_memory=options.max_workers,
            max_tasks_in_memory=options.max_tasks,
        )
        super().__init__(capp=app, options=options, events=events, **settings)
        self.inspector = _Inspector(self.io_loop, app, options.inspect_timeout / 1000)
        self._login = login.encode()
        self._controls = controls
        self._tidying = PeriodicCallback(self._tidy, _TIDY_MS)

    def get_handler_delegate(
        self, request: HTTPServerRequest, target_class: type[RequestHandler], *args: Any, **kwargs: Any
    ) -> Any:
        """Choose the handler of a request; Tornado calls this for every request."""
        if (refused := self._refusal(request, target_class)) is not None:
            return super().get_handler_delegate(request, _Refused, refused)
        return super().get_handler_delegate(request, _OURS.get(target_class, target_class), *args, **kwargs)

    def _refusal(self, request: HTTPServerRequest, target: type[RequestHandler]) -> dict[str, Any] | None:
        if issubclass(target, (Healthcheck, StaticFileHandler)) and request.method in _READING:
            return None
        if not self._shows_login(request):
            return {"status": 401, "reason": "log in with the user and the password of IFINU_FLOWER_AUTH"}
        if target is TaskResult:  # it would read the full result from the result backend
            return {"status": 403, "reason": "results are not shown; see `ifinu show ID`"}
        if request.method in _READING or target is TasksDataTable or self._controls:
            return None
        return {"status": 403, "reason": "this Flower is read-only; `ifinu flower --allow-control` allows changes"}

    def _shows_login(self, request: HTTPServerRequest) -> bool:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(credentials.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(given, self._login)

    def consumers(self, queue: str) -> int:
        """Number of workers that consume a queue, by their latest answers."""
        alive = {name for name, worker in tuple(self.events.state.workers.items()) if worker.alive}
        return sum(
            name in alive and any(taken.get("name") == queue for taken in info.get("active_queues", ()))
            for name, info in tuple(self.workers.items())
        )

    def start(self) -> None:
        """Serve until stopped."""
        self._tidying.start()
        self.io_loop.add_callback(self.events.on_enable_events)  # at once; Flower would do so after five seconds
        super().start()

    def _tidy(self) -> None:
        """Drop workers that are gone and query new ones; Flower queries workers once and keeps them forever."""
        self.purge_offline_worker_metrics()
        state, now = self.events.state, time.time()
        for name in {*state.counter, *state.workers, *self.workers}:
            worker = state.workers.get(name)
            asked_at = self.workers[name].get("timestamp", 0) if name in self.workers else 0
            if not (worker and worker.alive) and now - max(_seen_at(worker), asked_at) > _OFFLINE_S:
                state.workers.pop(name, None)
                state.counter.pop(name, None)
                state.tasks_by_worker.pop(name, None)
                self.workers.pop(name, None)
        alive = {name for name, worker in state.workers.items() if worker.alive}
        if any("active_queues" not in self.workers.get(name, ()) for name in alive):
            self.update_workers()


def _seen_at(worker: Any) -> float:
    """Time of a worker's last sign of life, in epoch seconds."""
    return float(max(worker.heartbeats, default=getattr(worker, "timestamp", None) or 0)) if worker else 0.0


def serve(
    app: Application, *, login: str, host: str, port: int, url_prefix: str, max_tasks: int, controls: bool
) -> None:
    """
    Serve until SIGTERM or SIGINT; then disable the workers' task events.

    Args:
        port: Port to listen on; 0 takes a free one.
        url_prefix: Path under which it is served, or empty.
        max_tasks: Messages to keep in memory.
        controls: Whether requests may change anything.

    Raises:
        ConfigurationError: The address is in use or not available.
    """
    # Flower reads these global options in many places. Its own variables and configuration file are not read.
    for name, value in {
        "url_prefix": url_prefix,
        "basic_auth": [login],
        "read_only": not controls,
        "max_tasks": max_tasks,
        "max_workers": _MOST_WORKERS,
        "purge_offline_workers": _OFFLINE_S,
        "tasks_columns": _COLUMNS,
    }.items():
        setattr(options, name, value)
    extract_settings()
    logging.getLogger("tornado.access").setLevel(logging.ERROR)  # without this, one line for each request
    site = Site(app, login=login, controls=controls)
    try:
        listener = sockets.listen(host, port)
    except OSError as exc:
        raise ConfigurationError(f"{host}:{port}: {exc.strerror or exc}") from exc
    listener.setblocking(False)
    HTTPServer(site).add_socket(listener)  # Flower's own `listen` would use one address family
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: site.io_loop.add_callback_from_signal(site.stop))
    path = f"{url_prefix}/" if url_prefix else ""
    log.info("ifinu.flower.listening", url=f"{sockets.url(listener)}/{path}", controls=controls)
    try:
        site.start()
    finally:
        site.stop()
        _end_events(app)


def _end_events(app: Application) -> None:
    """Disable the workers' task events; without Redis, that is not possible."""
    disabling = threading.Thread(target=app.control.disable_events, daemon=True)
    disabling.start()
    disabling.join(_DISABLE_S)
    if disabling.is_alive():
        log.warning("ifinu.flower.events_left_on", error="Redis does not answer")
        os._exit(0)  # Flower's threads would wait for Redis for as long as it is away
