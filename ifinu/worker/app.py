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
from typing import Any

import billiard
import kombu
import redis
from celery import Celery, signals
from celery.app.amqp import AMQP
from celery.exceptions import CPendingDeprecationWarning
from kombu import Exchange, Queue
from prometheus_client import CollectorRegistry

from ifinu import logs, settings, tracing
from ifinu.broker import NORMAL, QUEUES, connections, rights
from ifinu.broker.claims import Claims
from ifinu.broker.keys import CONTROL, TASK_EVENTS
from ifinu.broker.locations import Locations
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.trace_links import TraceLinks
from ifinu.delivery import Delivery
from ifinu.errors import ConfigurationError
from ifinu.gateway import gateway_of
from ifinu.gateway.breaker import Breaker
from ifinu.gateway.instances import Instances
from ifinu.ledger.progress import Progress
from ifinu.metrics import endpoint, recorder_series
from ifinu.metrics.worker_series import WorkerSeries
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
from ifinu.worker.bootsteps import Heartbeat, Metrics, RecorderThread, TakeOver, WarmUp
from ifinu.worker.claim_gate import ClaimGate
from ifinu.worker.token_bucket import TokenBucket

# Fetched messages per slot: with a pace of 5/s per slot this keeps the bucket fed and lets a trip bring eight at once.
_PREFETCH_MULTIPLIER = 4


class _Connection(kombu.Connection):
    """Flower and the logs know a broker by its URL, and this one's is that of any Redis."""

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        """As stock, with the scheme that it was given."""
        return f"redis://{super().as_uri(*args, **kwargs).partition('://')[2]}"


class _Messages(AMQP):
    Connection = _Connection


class Application(Celery):
    """
    Celery with typed settings, read from the environment when first needed.

    Attributes:
        breaker: Of this process' gateway; its consumer asks it.
        claiming: Likewise, of the claims.
        bucket: That the task takes its tokens from, once there is a consumer.
        progress: How far this process is with the ledger, where it writes it.
    """

    amqp_cls = _Messages
    bucket: TokenBucket | None = None
    _settings: Settings | None = None
    _delivery: Delivery | None = None
    _making = threading.Lock()  # tasks of several threads may be the first to ask

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.breaker = Breaker()
        self.claiming = ClaimGate()
        self.progress = Progress()

    @property
    def settings(self) -> Settings:
        """
        What the environment says.

        Raises:
            ConfigurationError: Something is wrong in it.
        """
        if self._settings is None:
            try:
                self._settings = settings.load()
            except ConfigurationError as exc:
                raise Disagreement(str(exc)) from exc
        return self._settings

    @functools.cached_property
    def series(self) -> CollectorRegistry:
        """What this process tells Prometheus."""
        made = endpoint.registry()
        recorder_series.RecorderSeries(made, self.progress)
        return made

    @functools.cached_property
    def sending(self) -> WorkerSeries:
        """What it counts of that."""
        return WorkerSeries(self.series)

    @functools.cached_property
    def trails(self) -> TraceLinks:
        """Where receipts find the traces of what it sends."""
        return TraceLinks(self.settings.redis_url.get_secret_value())

    @property
    def delivery(self) -> Delivery:
        """
        What sends, made by the process that sends.

        Raises:
            ConfigurationError: There is no key for the gateway.
        """
        if self._delivery is None:
            with self._making:
                if self._delivery is None:
                    self._delivery = delivery_of(self.settings)
        return self._delivery

    def check(self) -> None:
        """
        See that Celery would use what the settings say, whichever way it was told of something else.

        Raises:
            ConfigurationError: It would not; names both.
        """
        self.connection_for_read()
        self.connection_for_write()
        check_result_backend(self.conf.result_backend, self._result_backend)

    def check_rights(self) -> None:
        """
        See that Redis lets this worker do what it has to; while Redis is away there is nothing to see.

        Raises:
            ConfigurationError: It does not, and says what is missing.
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
        return super()._get_backend()

    def use(self, config: Settings) -> None:
        """Take these settings instead of the environment's; before the application is first used."""
        self._settings = config


def delivery_of(config: Settings) -> Delivery:
    """
    What sends, by these settings.

    Args:
        config: The settings.

    Raises:
        ConfigurationError: There is no key for the gateway, or traces are wanted and cannot be had.
    """
    key = None if config.phone_key is None else config.phone_key.get_secret_value()
    # Redis' client opens connections of its own in a forked process.
    url = config.redis_url.get_secret_value()
    client = connections.connect(url)
    gateway = gateway_of(config, worker=config.worker_name or socket.gethostname(), memory=Locations(url))
    return Delivery(
        gateway=gateway,
        renderer=Renderer(config.templates, reference=config.reference, codes_apart=config.pix_separate),
        claims=Claims(client, config.claim_ttl_s),
        instances=Instances(
            config.misconfigured_wait_s, sharded=config.evolution_sharded, names=gateway.instance_names
        ),
        missing_ttl_s=config.instance_missing_ttl_s,
        windows=Windows.load(
            config.sending_window, config.sending_windows_file, rest=config.sending_holidays is not None
        ),
        pseudonyms=Pseudonyms.load(client, key),
        instance=config.evolution_instance,
        on_unknown=config.on_unknown,
        grace_s=config.unknown_grace_s,
        # Sandbox data change from day to day, and load tests use their ids again.
        compares=config.sandbox_number is None,
        tracer=tracing.tracer(config.tracing, tracing.WORKER, gateway_url=config.evolution_url),
    )


def configuration(config: Settings) -> dict[str, Any]:
    """Celery's settings, by ours."""
    url = config.redis_url.get_secret_value()
    return {
        "broker_url": url,
        "broker_transport": "ifinu.broker.transport:Transport",
        "broker_transport_options": {
            "lease_s": config.lease_s,
            "max_message_bytes": config.max_message_bytes,
            "wait_on": NORMAL,
            "queue_order_strategy": "priority",
            "priority_steps": [0],  # one plain list a queue, so that LLEN is the backlog
            "body_encoding": "utf-8",
            # Without them a half-open connection hangs the worker for ever.
            "socket_timeout": 10, "socket_connect_timeout": 5, "socket_keepalive": True, "health_check_interval": 10,
        },
        # Kombu speaks TLS only when it is told to; options in the URL (`?ssl_ca_certs=…`) win.
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
        "worker_pool": config.pool.value,
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
app.steps["consumer"].update((TakeOver, WarmUp, Heartbeat, RecorderThread, Metrics))


@app.on_configure.connect
def _configure(sender: Application, **_: Any) -> None:
    sender.config_from_object(configuration(sender.settings))


@signals.worker_init.connect
def _make_ready(sender: Any, **_: Any) -> None:
    """Before the first message, so that none waits for it and a burst follows; children of a pool inherit it."""
    try:
        app.check()
        check_worker(sender.pool_cls)
        app.delivery  # noqa: B018 - making it is the point
        app.check_rights()
    except Exception as exc:  # Celery would log it and go on, and each message would end as an error
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201 - to the person who starts the worker
        raise SystemExit(2) from exc


@signals.worker_process_init.connect
def _connect(**_: Any) -> None:
    """A child of a pool of processes, as `WarmUp` for threads."""
    app.delivery.claims.connect()


@signals.celeryd_after_setup.connect
def _say_nothing_of_a_default(**_: Any) -> None:
    """Celery warns at each reconnect that it will cancel, one day, what is being sent; here it does not, by choice."""
    warnings.filterwarnings("ignore", r"\s*In Celery 5\.1 we introduced", CPendingDeprecationWarning)


_told_before = itertools.count()


@signals.worker_shutting_down.connect
def _mind_the_second(sig: str, how: str, **_: Any) -> None:
    """
    The first signal lets what is being sent finish; a second one ends the worker at once.

    A second one can come while the first is still being handled, by Celery or here: then both are told of here.
    """
    if next(_told_before):
        _end_now()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_now)


def _end_now(*_: Any) -> None:
    """What was not started went back already. What is being sent comes back when its lease ends, and is looked up."""
    for child in billiard.active_children():  # which have no kill() of their own
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    os._exit(1)


@signals.worker_process_shutdown.connect
def _report_floods(**_: Any) -> None:
    """A child of a pool of processes ends without what Python does at the end."""
    logs.flush()


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def _export_what_is_left(**_: Any) -> None:
    app.delivery.tracer.close()


@signals.setup_logging.connect
def _set_up_logs(**_: Any) -> None:
    logs.configure(app.settings.log_level, app.settings.log_format, app.settings.log_limit, app.settings.worker_name)
