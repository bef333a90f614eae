"""
One worker process: our consumer, channel, leases, request, task and delivery as they are.

What Celery does around them is done here in few lines: connect, consume, reconnect, run a task in the pool, end.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import defaultdict
from collections.abc import Callable
from queue import Empty
from types import SimpleNamespace
from typing import Any

import redis
import structlog
from celery.app.trace import build_tracer
from celery.worker import state as celery_state
from kombu.connection import ConnectionPool
from kombu.pools import ProducerPool

from ifinu import delivery as delivery_module
from ifinu.broker import channel as channels
from ifinu.broker import connections, intake
from ifinu.broker import leases as leases_module
from ifinu.gateway import http_transport
from ifinu.gateway.breaker import Breaker
from ifinu.numbers.directory import EMPTY, UNLOADED
from ifinu.render import Renderer
from ifinu.settings import Settings
from ifinu.worker import app as app_module
from ifinu.worker import tasks
from ifinu.worker.app import app
from ifinu.worker.claim_gate import ClaimGate
from ifinu.worker.consumer import PacedConsumer
from ifinu.worker.pool import TaskPool
from simulation import engine
from simulation import redis as simulated_redis
from simulation.engine import Loop
from simulation.gateway import READ_TIMEOUT_S, Transport
from simulation.world import Process, Task, World, here

RATE, BURST, SLOTS = 5, 2, 3
LEASE_S = 3.0
GRACE_S = 10.0

# What Celery keeps in module globals, one of each per process.
_CELERY = (celery_state.reserved_requests, celery_state.active_requests)


def settings(**overrides: Any) -> Settings:
    return Settings(
        redis_url="redis://simulated:6379/0",
        evolution_url="http://gateway:8080",
        evolution_api_key="k" * 32,
        phone_key="p" * 32,
        concurrency=SLOTS,
        rate_limit=f"{RATE}/s",
        rate_burst=BURST,
        max_retries=2,
        retry_backoff_s=0.5,
        retry_backoff_max_s=4.0,
        misconfigured_wait_s=1.0,
        lease_s=LEASE_S,
        unknown_grace_s=GRACE_S,
        evolution_read_timeout_s=READ_TIMEOUT_S,
        recorder=False,
        **overrides,
    )


def install() -> None:
    """Put the seams of the simulation in place; once in a process."""
    channels.Channel.connection_class = simulated_redis.Connection
    connections.connect = connections.connect_optional = _connect
    connections.ScriptRunner._connection = _connection_of_the_greenlet
    http_transport.HttpTransport = Transport
    app_module.Renderer = functools.cache(Renderer)
    engine.install()
    redis.utils.get_lib_version = functools.cache(redis.utils.get_lib_version)  # reads a file, for every connection
    app.use(settings())
    app.set_current()
    app.set_default()  # as a worker does
    app.finalize()
    channels.Channel.reload_directory = staticmethod(app.reload_directory)
    task = app.tasks[intake.TASK]
    task.__trace__ = build_tracer(task.name, task, app.loader, "simulated", app=app)
    leases_module.one_suspect = tasks.one_suspect = _OfTheProcess("one_suspect")
    delivery_module.one_resend = _OfTheProcess("one_resend")
    _silence()


def _silence() -> None:
    logging.disable(logging.CRITICAL)
    structlog.configure(processors=[_into_the_trace])


def _into_the_trace(_: Any, __: str, event: dict[str, Any]) -> Any:
    event.pop("exc_info", None)
    here().trace("log", **event)
    raise structlog.DropEvent


def _connect(*_: Any, **__: Any) -> Any:
    pool = redis.ConnectionPool(
        connection_class=simulated_redis.Connection, host="simulated", port=6379, db=0, protocol=2,
        socket_timeout=simulated_redis.TIMEOUT_S,
    )  # fmt: skip
    return redis.Redis(connection_pool=pool)


def _connection_of_the_greenlet(self: Any) -> Any:
    """A connection per task, as a thread of the pool has one."""
    notes = here().task().notes
    if self not in notes:
        notes[self] = self._pool.connection_class(**self._pool.connection_kwargs)
    return notes[self]


class _Lock:
    """`threading.Lock` between the greenlets of one process."""

    def __init__(self) -> None:
        self._held = False

    def acquire(self, blocking: bool = True) -> bool:
        while self._held:
            if not blocking:
                return False
            here().sleep(0.01)
        self._held = True
        return True

    def release(self) -> None:
        self._held = False

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _OfTheProcess:
    """A module's global that each process has one of."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _own(self) -> Any:
        return here().process.locks[self._name]

    def acquire(self, blocking: bool = True) -> bool:
        return self._own().acquire(blocking)

    def release(self) -> None:
        self._own().release()

    def __enter__(self) -> Any:
        return self._own().acquire()

    def __exit__(self, *_: object) -> None:
        self._own().release()


class _Event:
    """`threading.Event` of the lease thread."""

    def wait(self, timeout: float) -> None:
        here().sleep(timeout)

    def set(self) -> None:
        pass

    def clear(self) -> None:
        pass


class _Thread:
    """The lease thread, as a greenlet."""

    def __init__(self, worker: Worker, run: Callable[[], None]) -> None:
        self._task = here().spawn(worker, run, "leases")

    def join(self, timeout: float) -> None:
        world = here()
        until = world.now + timeout
        while not self._task.dead and world.now < until:
            world.sleep(0.05)


class _Ordered(tuple):  # type: ignore[type-arg]
    """A set whose order does not depend on hashes."""

    def __or__(self, more: Any) -> _Ordered:
        return _Ordered((*self, *(one for one in more if one not in self)))


class _Pool(TaskPool):
    """Our pool, on the loop of the world."""

    num_processes = SLOTS

    def __init__(self, worker: Worker) -> None:
        super().__init__(SLOTS)
        self.loop = worker.loop


class _Timer:
    """Kombu's timer."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def call_after(self, delay_s: float, do: Callable[..., Any], args: Any = (), **_: Any) -> Any:
        world = here()
        entry = world.after(delay_s, lambda: world.spawn(self._worker, lambda: do(*args), "timer"), self._worker)
        return SimpleNamespace(cancel=lambda: world.cancel(entry))

    def call_at(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("no message waits for its eta in a worker")

    def cancel(self, entry: Any) -> None:
        entry.cancel()

    def clear(self) -> None:
        pass


class _Consumer(PacedConsumer):
    """Our consumer, made without Celery's steps."""

    def __init__(self, worker: Worker) -> None:
        self._timers = {}
        self._no_slot = set()
        self.app = app
        self.hostname = worker.name
        self.pool = _Pool(worker)
        self.timer = _Timer(worker)
        self.hub = SimpleNamespace(call_soon=lambda do, *args: here().spawn(worker, lambda: do(*args), "soon"))
        self.controller = SimpleNamespace(semaphore=None, state=celery_state, exitcode=None)
        self.blueprint = SimpleNamespace(stop=lambda _: None, shutdown=lambda _: None)
        self.connection_errors: tuple[type[Exception], ...] = ()
        self.disable_rate_limits = False
        self.event_dispatcher = None
        self.on_task_message = set()
        self.on_task_request = lambda request: request.execute_using_pool(self.pool)
        self._pending_operations = []
        self._maximum_prefetch_restored = True
        self.restart_count = 0
        self.pool.on_end = lambda: (self._use_slot(), worker.poke())
        self.task_consumer = None
        self.task_buckets = defaultdict(lambda: None)
        self.reset_rate_limits()
        self.strategies = {}

    def connect(self) -> Any:
        """Connect, consume the queues and take over, as the steps of Celery and ours do."""
        self.connection = app.connection_for_read()
        self.connection.connect()
        self.connection_errors = self.connection.connection_errors
        channel = self.connection.default_channel
        channel.basic_qos(0, 4 * SLOTS, False)
        app.amqp.queues.select(here().queues)
        self.task_consumer = app.amqp.TaskConsumer(channel, on_decode_error=self.on_decode_error)
        task = app.tasks[intake.TASK]
        self.strategies = {task.name: task.start_strategy(app, self)}
        self.task_consumer.on_message = self.create_task_handler()
        here().process.adopt(channel.leases)
        self.task_consumer.consume()
        self.leases = channel.leases
        self.leases.managed = True
        self.leases.generation = UNLOADED if self.leases.generation else app.first_generation
        app.claiming.answered()
        return channel

    def disconnect(self) -> None:
        """As Celery after a lost connection."""
        for end in (self.connection.collect, self.connection.close):
            with contextlib.suppress(Exception):
                end()
        self.on_close()


class Worker(Process):
    """
    A worker.

    Attributes:
        starts: When it started each message that it posted, for the pace.
    """

    def __init__(self, world: World, name: str, clock_off_s: float) -> None:
        super().__init__(name, clock_off_s)
        self.world = world
        self.loop = Loop(self)
        self.locks = {"one_suspect": _Lock(), "one_resend": _Lock()}
        self.prefix = ""
        self.stopping = False
        self._globals: dict[str, Any] = {
            "breaker": Breaker(), "claiming": ClaimGate(), "bucket": None, "delivery": None, "pool": None, "leases": {},
            "directory": EMPTY,
        }  # fmt: skip
        self._requests: tuple[list[Any], ...] = ([], [])
        self._waiting: Task | None = None
        self.consumer: _Consumer | None = None
        world.spawn(self, self._main, "loop")

    # -- the module globals that each process has

    def enter(self) -> None:
        mine = self._globals
        app.breaker, app.claiming, app.bucket = mine["breaker"], mine["claiming"], mine["bucket"]
        app._delivery, app.amqp._producer_pool, app.directory = mine["delivery"], mine["pool"], mine["directory"]
        leases_module._of_server = mine["leases"]
        for requests, shared in zip(self._requests, _CELERY, strict=True):
            shared.update(requests)

    def leave(self) -> None:
        mine = self._globals
        mine["bucket"], mine["delivery"], mine["pool"] = app.bucket, app._delivery, app.amqp._producer_pool
        mine["directory"] = app.directory
        for requests, shared in zip(self._requests, _CELERY, strict=True):
            requests[:] = shared
            if requests:
                shared.clear()

    # -- the process

    def adopt(self, leases: Any) -> None:
        """Make the lease thread a greenlet."""
        if isinstance(leases._wake, _Event):
            return
        leases._wake, leases._queues = _Event(), _Ordered()
        self.prefix = leases._id
        leases._thread = _Thread(self, leases._maintain)

    def _main(self) -> None:
        app.delivery  # noqa: B018 - makes it
        app.amqp._producer_pool = ProducerPool(ConnectionPool(app.connection_for_write(), limit=None), limit=None)
        self.consumer = _Consumer(self)
        self.loop.spawn(app.delivery.claims.connect)  # as the step `WarmUp`
        while not self.stopping:
            try:
                channel = self.consumer.connect()
            except self._lost as exc:
                self.world.trace("no connection", error=type(exc).__name__)
                self.world.sleep(self.world.rng.uniform(0.1, 1.0))
                continue
            try:
                self._consume(channel)
            except self._lost as exc:
                self.world.trace("connection lost", error=type(exc).__name__)
                self.consumer.disconnect()
                self.world.sleep(self.world.rng.uniform(0.05, 0.5))
        self._end()

    @property
    def _lost(self) -> tuple[type[BaseException], ...]:
        connection = app.connection_for_read()
        return (*connection.connection_errors, *connection.channel_errors)

    def _consume(self, channel: Any) -> None:
        while not self.stopping:
            if not channel.qos.can_consume():
                self._idle()
                continue
            if channel.client.connection is None:  # as Kombu's poller does
                channel.client.connection = channel.client.connection_pool.get_connection()
            channel._brpop_start()
            channel.client.connection.wait_readable()
            with contextlib.suppress(Empty):
                channel._brpop_read()

    def _idle(self) -> None:
        self._waiting = self.world.task()
        self.world.wait(0.25)
        self._waiting = None

    def poke(self) -> None:
        if self._waiting is not None:
            self.world.wake(self._waiting)

    def terminate(self) -> None:
        """SIGTERM: a warm shutdown."""
        if self.alive and not self.stopping:
            self.world.trace("SIGTERM", process=self.name)
            self.stopping = True

    def _end(self) -> None:
        consumer = self.consumer
        assert consumer is not None
        consumer.stop()
        while celery_state.active_requests or celery_state.reserved_requests:
            self.world.sleep(0.05)
        consumer.shutdown()
        self.world.after(0.0, lambda: self.world.kill(self))
