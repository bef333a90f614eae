"""
The Celery application, configured from the settings when it is first used.

`celery -A ifinu worker` needs no flags: pool, concurrency, pace, queues, transport and consumer all come from here.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import kombu
import redis
from celery import Celery, signals
from celery.app.amqp import AMQP
from celery.exceptions import CPendingDeprecationWarning
from kombu import Exchange, Queue
from prometheus_client import CollectorRegistry

from ifinu import logs, loop, settings, tracing
from ifinu.billing.charge_check import ChargeCheck
from ifinu.broker import NORMAL, QUEUES, connections, restarts, rights
from ifinu.broker.channel import Channel
from ifinu.broker.claims import Claims
from ifinu.broker.keys import CONTROL, TASK_EVENTS
from ifinu.broker.locations import Locations
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.trace_links import TraceLinks
from ifinu.delivery import Delivery
from ifinu.errors import ConfigurationError
from ifinu.gateway import gateway_of, instance_names_of
from ifinu.gateway.breaker import Breaker
from ifinu.gateway.instances import Instances
from ifinu.ledger.progress import Progress
from ifinu.metrics import endpoint, recorder_series
from ifinu.metrics.worker_series import WorkerSeries
from ifinu.numbers.directory import EMPTY, UNLOADED, Directory
from ifinu.render import Renderer
from ifinu.settings import Settings
from ifinu.window import Windows
from ifinu.worker.agreement import (
    Disagreement,
    check_configuration,
    check_connection,
    check_result_backend,
    check_worker,
)
from ifinu.worker.bootsteps import Heartbeat, Metrics, RecorderProcess, TakeOver, WarmUp
from ifinu.worker.claim_gate import ClaimGate
from ifinu.worker.token_bucket import TokenBucket

# Fetched messages per slot: with a pace of 5/s per slot this keeps the bucket fed and lets a trip bring 16 at once.
_PREFETCH_MULTIPLIER = 4


class _Connection(kombu.Connection):
    """A connection whose shown URL has Redis' scheme, for Flower and the logs."""

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        return f"redis://{super().as_uri(*args, **kwargs).partition('://')[2]}"


class _Messages(AMQP):
    Connection = _Connection


class Application(Celery):
    """
    Celery with typed settings, read from the environment when first needed.

    Attributes:
        breaker: The breaker of the gateway, for the consumer.
        claiming: The gate of the claims, for the consumer.
        bucket: The task's token bucket, once there is a consumer.
        directory: The registered numbers, as this worker knows them.
        progress: Progress of the recorder, if this worker records.
    """

    amqp_cls = _Messages
    bucket: TokenBucket | None = None
    directory: Directory = EMPTY
    _settings: Settings | None = None
    _delivery: Delivery | None = None
    _making = threading.Lock()  # several threads may need it first

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.breaker = Breaker()
        self.claiming = ClaimGate()
        self.progress = Progress()

    @property
    def settings(self) -> Settings:
        """
        The settings from the environment.

        Raises:
            ConfigurationError: A setting is wrong.
        """
        if self._settings is None:
            try:
                self._settings = settings.load()
            except ConfigurationError as exc:
                raise Disagreement(str(exc)) from exc
        return self._settings

    @functools.cached_property
    def series(self) -> CollectorRegistry:
        """The Prometheus registry of this process."""
        made = endpoint.registry()
        recorder_series.RecorderSeries(made, self.progress)
        return made

    @functools.cached_property
    def sending(self) -> WorkerSeries:
        """The worker's series in the registry."""
        return WorkerSeries(self.series)

    @functools.cached_property
    def trails(self) -> TraceLinks:
        """The links from receipts to the traces of sends."""
        return TraceLinks(self.settings.redis_url.get_secret_value())

    @property
    def delivery(self) -> Delivery:
        """
        The delivery, made by the process that sends.

        Raises:
            ConfigurationError: The gateway's key is missing.
        """
        if self._delivery is None:
            with self._making:
                if self._delivery is None:
                    self._delivery = delivery_of(self.settings, self.goes, lambda: self.directory)
        return self._delivery

    @property
    def first_generation(self) -> str:
        """The generation of the directory while nothing is known to be registered."""
        return UNLOADED if self.settings.numbers is settings.Numbers.REGISTERED else ""

    def reload_directory(self) -> str:
        """
        Load the directory of registered numbers from Redis.

        If Redis has restarted, the numbers pause first (`broker/restarts.py`). A worker that knows numbers keeps them
        while Redis has none: then Redis was emptied, and nothing is fetched until the recorder's process has loaded the
        registry again.

        Returns:
            Its generation, without which Redis gives out no message.

        Raises:
            redis.RedisError: Redis does not answer.
        """
        with contextlib.closing(connections.connect(self.settings.redis_url.get_secret_value())) as client:
            restarts.pause_numbers(client)
            found = Directory.load(client)
        if found.generation or not len(self.directory):
            self.directory = found
        return self.directory.generation or self.first_generation

    def goes(self, tag: str) -> None:
        """A message, by its delivery tag, goes to the gateway now: the pace counts it."""
        if self.bucket is not None:
            self.bucket.goes(tag)

    def ended(self, tag: str) -> None:
        """A message that was started ended."""
        if self.bucket is not None:
            self.bucket.ended(tag)

    def check(self) -> None:
        """
        Check that Celery's effective configuration agrees with the settings.

        Raises:
            ConfigurationError: It does not; the message names both.
        """
        self.connection_for_read()
        self.connection_for_write()
        check_result_backend(self.conf.result_backend, self._result_backend)

    def check_rights(self) -> None:
        """
        Check that Redis grants the rights that this worker needs; skipped while Redis is away.

        Raises:
            ConfigurationError: A right is missing; the message names it.
        """
        with (
            contextlib.closing(connections.connect_optional(self.settings.redis_url.get_secret_value())) as client,
            contextlib.suppress(redis.RedisError),
        ):
            rights.check(client)

    @property
    def _result_backend(self) -> str | None:
        config = self.settings.result_backend
        return None if config is None else config.get_secret_value()

    def _connection(self, url: str, *args: Any, **kwargs: Any) -> kombu.Connection:
        made = super()._connection(url, *args, **kwargs)
        ours = configuration(self.settings)
        own = ours["broker_url"]
        check_connection(
            made, _Connection(own, transport=ours["broker_transport"], ssl=ours["broker_use_ssl"] or False), own
        )
        check_configuration(self.conf, ours)
        return made

    def _get_backend(self) -> Any:
        check_result_backend(self.conf.result_backend, self._result_backend)
        backend = super()._get_backend()
        store = backend.store_result
        # In a worker it would hold the event loop, and for long while the backend is away.
        backend.store_result = lambda *args, **kwargs: loop.in_thread(functools.partial(store, *args, **kwargs))
        return backend

    def use(self, config: Settings) -> None:
        """Use these settings instead of the environment's; call it before the application is first used."""
        self._settings = config


def delivery_of(
    config: Settings,
    on_post: Callable[[str], None] = lambda tag: None,
    numbers: Callable[[], Directory] = lambda: EMPTY,
) -> Delivery:
    """
    Make the delivery by these settings.

    Args:
        config: The settings.
        on_post: As for `Delivery`.
        numbers: As for `Delivery`.

    Raises:
        ConfigurationError: The gateway's key is missing, or tracing is on and OpenTelemetry cannot be used.
    """
    key = None if config.phone_key is None else config.phone_key.get_secret_value()
    url = config.redis_url.get_secret_value()
    client = connections.connect(url)
    name = config.worker_name or socket.gethostname()
    gateway = gateway_of(config, worker=name, memory=Locations(url))
    renderer = Renderer(config.templates, reference=config.reference, codes_apart=config.pix_separate)
    database = config.database_url.get_secret_value()
    # Without PostgreSQL there are no charges.
    check = (
        {"charges": ChargeCheck(database, renderer, Breaker(failures_to_open=1))}
        if not database.startswith("sqlite")
        else {}
    )
    return Delivery(
        gateway=gateway,
        renderer=renderer,
        claims=Claims(client, config.claim_ttl_s),
        instances=Instances(
            config.misconfigured_wait_s,
            sharded=config.evolution_sharded,
            names=lambda: instance_names_of(config, worker=name),
        ),
        missing_ttl_s=config.instance_missing_ttl_s,
        windows=Windows.load(
            config.sending_window, config.sending_windows_file, rest=config.sending_holidays is not None
        ),
        pseudonyms=Pseudonyms.load(client, key),
        instance=config.evolution_instance,
        on_unknown=config.on_unknown,
        grace_s=config.unknown_grace_s,
        numbers=numbers,
        registered_only=config.numbers is settings.Numbers.REGISTERED,
        reminders=config.reminders_per_person,
        # Sandbox data change from day to day, and load tests reuse their ids.
        compares=config.sandbox_number is None,
        tracer=tracing.tracer(config.tracing, tracing.WORKER, gateway_url=config.evolution_url),
        on_post=on_post,
        **check,
    )


def configuration(config: Settings) -> dict[str, Any]:
    """Celery's settings, derived from ours."""
    url = config.redis_url.get_secret_value()
    return {
        "broker_url": url,
        "broker_transport": "ifinu.broker.transport:Transport",
        "broker_transport_options": {
            "lease_s": config.lease_s,
            "max_message_bytes": config.max_message_bytes,
            "wait_on": NORMAL,
            "default_instance": config.evolution_instance,
            "queue_order_strategy": "priority",
            "priority_steps": [0],  # one plain list a queue, so that LLEN is the backlog
            "body_encoding": "utf-8",
            # Without them a half-open connection hangs the worker for ever.
            "socket_timeout": 10, "socket_connect_timeout": 5, "socket_keepalive": True, "health_check_interval": 10,
        },
        # Kombu uses TLS only with this option; options in the URL (`?ssl_ca_certs=…`) win.
        "broker_use_ssl": {"ssl_cert_reqs": "required"} if url.startswith("rediss://") else None,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,  # a Redis that is full or loading is away, not gone
        "control_exchange": CONTROL,
        "event_exchange": TASK_EVENTS,
        "task_queues": [Queue(name, Exchange(""), routing_key=name) for name in QUEUES],
        "task_default_queue": NORMAL,
        "task_default_exchange": "",
        "task_default_routing_key": NORMAL,
        "task_create_missing_queues": False,
        "task_serializer": "json", "accept_content": ["json"], "result_serializer": "json",
        "result_backend": config.result_backend and config.result_backend.get_secret_value(),
        "task_ignore_result": config.result_backend is None,
        "task_acks_late": True,
        "task_acks_on_failure_or_timeout": True,
        "task_reject_on_worker_lost": True,
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 1},
        "worker_pool": "ifinu.worker.pool:TaskPool",
        "worker_concurrency": config.concurrency,
        "worker_prefetch_multiplier": _PREFETCH_MULTIPLIER,
        "worker_consumer": "ifinu.worker.consumer:PacedConsumer",
        "worker_send_task_events": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_prefetch_count_reduction": False,  # what is being sent at a reconnect stays with the process
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_state_db": None,
        "enable_utc": True,
        "timezone": "UTC",
    }  # fmt: skip


app = Application("ifinu", include=["ifinu.worker.tasks", "ifinu.worker.inspection"], set_as_current=False)
app.steps["consumer"].update((TakeOver, WarmUp, Heartbeat, RecorderProcess, Metrics))


@app.on_configure.connect
def _configure(sender: Application, **_: Any) -> None:
    sender.config_from_object(configuration(sender.settings))


@signals.worker_init.connect
def _make_ready(sender: Any, **_: Any) -> None:
    """Prepare before the first message, so that none waits and no burst follows."""
    try:
        app.check()
        check_worker(sender.pool_cls)
        app.delivery  # noqa: B018 - making it is the point
        Channel.reload_directory = staticmethod(app.reload_directory)
        app.check_rights()
    except Exception as exc:  # Celery would log it and go on, and each message would end as an error
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201 - to the person who starts the worker
        raise SystemExit(2) from exc


@signals.celeryd_after_setup.connect
def _silence_a_warning(**_: Any) -> None:
    """Silence Celery's warning, at each reconnect, of a future default that ifinu overrides."""
    warnings.filterwarnings("ignore", r"\s*In Celery 5\.1 we introduced", CPendingDeprecationWarning)


_signals = itertools.count()


@signals.worker_shutting_down.connect
def _mind_the_second(sig: str, how: str, **_: Any) -> None:
    """
    Let the first signal finish the sends under way, and a second one end the worker at once.

    The second signal may arrive while Celery still handles the first: then this function is called for both.
    """
    if next(_signals):
        _end_now()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_now)


def _end_now(*_: Any) -> None:
    """End at once. Sends under way return when their lease ends, and are looked up; all else is back on the queue."""
    os._exit(1)


@signals.worker_shutdown.connect
def _export_what_is_left(**_: Any) -> None:
    app.delivery.tracer.close()


@signals.setup_logging.connect
def _set_up_logs(**_: Any) -> None:
    logs.configure(app.settings.log_level, app.settings.log_format, app.settings.log_limit, app.settings.worker_name)
