"""
The processes that the dashboard shows, run locally, and traffic that gives every panel data.

They are a simulated Evolution API, workers, and `ifinu webhook`, `recorder`, `scheduler` and `metrics`. No Kubernetes
runs, so `Cluster` serves the few series of kube-state-metrics that the dashboard uses.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import redis
from processes import API_KEY, Fleet, Simulated, Worker, fleet_of, start, wait_until
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from ifinu import Notification, enqueue_many
from ifinu.broker import QUEUES, Keys
from ifinu.broker.keys import optout_key
from ifinu.broker.optouts import OptOuts
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.cli.instance.webhooks import EVENTS
from ifinu.embedded import free_port
from ifinu.gateway import Management
from ifinu.ledger.engine import connect
from ifinu.notification import Kind, Priority
from ifinu.numbers import answers, cache, registry
from ifinu.numbers.registry import UNTIL_RELEASED, Number
from ifinu.producer import cancel

NAMESPACE = "cobranca"
SECRET = "a-secret-of-the-tests-that-is-long-enough"
INSTANCES = ("ifinu", "loja-centro", "loja-norte", "loja-sul")
WORKER_HPA, GATEWAY_HPA = "ifinu-worker-hpa", "evolution-api-hpa"

_COMMANDS = {
    "webhook": ("webhook", "--host", "127.0.0.1"),
    "recorder": ("recorder",),
    "scheduler": ("scheduler",),
    "metrics": ("metrics", "--host", "127.0.0.1"),
}
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOSED = "noturno"  # a tenant whose window is not open today
HELD = "reserva"  # a registered number that sends nothing; the gateway does not have it
_LEAVES = "clube"  # a tenant whose customer writes SAIR


class Process:
    """An `ifinu` process with its output in a file."""

    def __init__(self, directory: Path, name: str, *arguments: str, environment: Mapping[str, str]) -> None:
        self._log = directory / f"{name}.log"
        self._process = start("ifinu", arguments, {**os.environ, **environment}, self._log)

    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def lives(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Cluster:
    """The series that kube-state-metrics exports of the two autoscalers and of the backup."""

    LEAST, MOST = 2, 4

    def __init__(self, workers: Callable[[], int]) -> None:
        series = CollectorRegistry()

        def export(name: str, label: str, values: Mapping[str, Callable[[], float]]) -> None:
            gauge = Gauge(name, name, ("namespace", label), registry=series)
            for of, value in values.items():
                gauge.labels(NAMESPACE, of).set_function(value)

        def of_autoscalers(name: str, worker: Callable[[], float], gateway: float) -> None:
            both = {WORKER_HPA: worker, GATEWAY_HPA: lambda: gateway}
            export(f"kube_horizontalpodautoscaler_{name}", "horizontalpodautoscaler", both)

        of_autoscalers("status_current_replicas", workers, 1)
        of_autoscalers("status_desired_replicas", lambda: self.LEAST, 1)
        of_autoscalers("spec_min_replicas", lambda: self.LEAST, 1)
        of_autoscalers("spec_max_replicas", lambda: self.MOST, 3)
        backed_up_at = time.time() - 6 * 3600
        export("kube_cronjob_status_last_successful_time", "cronjob", {"ifinu-backup": lambda: backed_up_at})
        self._server, self._thread = start_http_server(0, addr="127.0.0.1", registry=series)
        self.port = self._server.server_port

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Stage:
    """
    The processes; as a context manager it stops them.

    Args:
        directory: Folder for logs and other files.
        redis_url: URL of a Valkey for this stage only.
        database_url: URL of a migrated ledger.
        simulator: The gateway, with the instances `INSTANCES`.
        environment: Further settings of every process.

    Attributes:
        workers: The running workers by pod name.
        client: A connection to the Valkey.
    """

    def __init__(
        self, directory: Path, redis_url: str, database_url: str, simulator: Simulated, **environment: str
    ) -> None:
        self.simulator = simulator
        self.workers: dict[str, Worker] = {}
        self._directory = directory
        self._targets_file = directory / "targets.json"
        self._redis_url = redis_url
        self._environment = {
            "IFINU_REDIS_URL": redis_url,
            "IFINU_DATABASE_URL": database_url,
            "IFINU_EVOLUTION_URL": simulator.url,
            "IFINU_EVOLUTION_API_KEY": API_KEY,
            "IFINU_WEBHOOK_SECRET": SECRET,
            "IFINU_SENDING_WINDOWS_FILE": str(self._windows()),
            "IFINU_LOG_FORMAT": "json",
            **environment,
        }
        self._fleet: Fleet = fleet_of(directory, redis_url, simulator.url)
        self._targets: dict[str, tuple[str, int]] = {}  # job and port by pod
        self._others: dict[str, Process] = {}
        self._webhook_port = free_port()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.client = stack.enter_context(redis.Redis.from_url(self._redis_url))
            self.cluster = Cluster(lambda: len(self.workers))
            stack.callback(self.cluster.stop)
            self._targets["kube-state-metrics"] = ("kube-state-metrics", self.cluster.port)
            stack.callback(self._fleet.stop)
            for name in _COMMANDS:
                self._target(f"ifinu-{name}", f"ifinu-{name}")
                self._start(name)
                stack.callback(self._stop, name)
            for _ in range(Cluster.LEAST):
                self.start_worker()
            for worker in self.workers.values():
                worker.ready()
            for name in _COMMANDS:
                self._wait_for(name)
            self._register_webhook()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def start_worker(self) -> str:
        """Start another worker and return its pod's name."""
        pod = f"ifinu-worker-{len(self._fleet.workers)}"
        own = {"IFINU_METRICS_PORT": str(self._target(pod, "ifinu-worker"))}
        self.workers[pod] = self._fleet.start(**{**self._environment, "IFINU_RECORDER": "false", **own})
        self._write_targets()
        return pod

    def restart(self, *names: str) -> None:
        """Restart some of the processes beside the workers, as a rollout does, and wait until each answers."""
        for name in names:
            self._stop(name)
            self._start(name)
        for name in names:
            self._wait_for(name)

    def address(self, pod: str) -> str:
        """The address at which Prometheus scrapes a pod, which is the target's label `instance`."""
        return f"127.0.0.1:{self._targets[pod][1]}"

    def scrape_config(self, bare: str = "") -> dict[str, Any]:
        """
        A scrape configuration with the labels of the chart's discovery.

        Args:
            bare: Pod scraped as from a static list of addresses, without added labels.
        """
        discovered = {
            "file_sd_configs": [{"files": [str(self._targets_file)], "refresh_interval": "1s"}],
            "relabel_configs": [{"source_labels": ["pod"], "regex": bare or "none", "action": "drop"}],
        }
        alone = {
            **discovered,
            "relabel_configs": [
                {"source_labels": ["pod"], "regex": bare or "none", "action": "keep"},
                {"regex": "pod|namespace", "action": "labeldrop"},
            ],
        }
        jobs = [{"job_name": "pods", **discovered}, {"job_name": "bare", **alone}]
        return {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}

    def _start(self, name: str) -> None:
        arguments = (*_COMMANDS[name], *(("--port", str(self._webhook_port)) if name == "webhook" else ()))
        port = {"IFINU_METRICS_PORT": str(self._targets[f"ifinu-{name}"][1])}
        self._others[name] = Process(self._directory, name, *arguments, environment={**self._environment, **port})

    def _stop(self, name: str) -> None:
        self._others[name].stop()

    def _wait_for(self, name: str) -> None:
        process = self._others[name]
        wait_until(lambda: not process.lives() or self._answers(f"ifinu-{name}"), 40.0, process.text)
        assert process.lives(), process.text()

    def _target(self, pod: str, job: str) -> int:
        port = free_port()
        self._targets[pod] = job, port
        return port

    def _write_targets(self) -> None:
        targets = [
            {"targets": [self.address(pod)], "labels": {"job": job, "pod": pod, "namespace": NAMESPACE}}
            for pod, (job, _) in self._targets.items()
        ]
        new = self._targets_file.with_suffix(".new")
        new.write_text(json.dumps(targets))
        new.replace(self._targets_file)

    def _answers(self, pod: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address(pod)}/metrics", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def _webhook_url(self) -> str:
        return f"http://127.0.0.1:{self._webhook_port}"

    def _windows(self) -> Path:
        file = self._directory / "windows.json"
        later = _DAYS[(datetime.now(UTC).weekday() + 3) % 7]
        file.write_text(json.dumps({"tenants": {_CLOSED: f"{later} 10:00-11:00"}}))
        return file

    def _register_webhook(self) -> None:
        gateway = Management(self.simulator.url, API_KEY, connect_timeout_s=5, read_timeout_s=30, worker="tests")
        try:
            for instance in INSTANCES:
                gateway.set_webhook(instance, self._webhook_url, EVENTS, headers={"jwt_key": SECRET})
        finally:
            gateway.close()

    # -- traffic

    def register_a_held_number(self) -> None:
        """Register a number that the guard has slowed and a person holds, and push messages that wait for it."""
        engine = connect(self._environment["IFINU_DATABASE_URL"])
        try:
            of_meta = Number(HELD, datetime.now(UTC), channel=registry.Channel.BUSINESS, portfolio="acme")
            registry.register(engine, of_meta)
            registry.change(engine, HELD, brake=0.5, held_until=UNTIL_RELEASED, held_reason="by hand")
            cache.load(self.client, engine)
            answers.listen(self.client, HELD)  # as if its webhook had just been set
        finally:
            engine.dispose()
        self.push(notification(instance=HELD) for _ in range(3))

    def backlog(self) -> int:
        return sum(self.client.llen(queue) for queue in QUEUES)

    def dead(self) -> int:
        return sum(self.client.llen(Keys.of(queue).dead) for queue in QUEUES)

    def push(self, notifications: Iterable[Notification]) -> None:
        done = enqueue_many(notifications, client=self.client)
        assert not done.refused, done.refused

    def push_of_each_sort(self) -> None:
        """
        Push messages for each possible outcome, which takes the workers some seconds.

        The last digits of the phones select the simulator's failures.
        """
        ends = (1, 2, 3, 4, 5, 9, 10, 11, 13, 15, 20, 22)
        last = [notification(phone=f"+55779862{end:05d}") for end in ends]
        first = [notification(of=kind, priority=priority) for kind in Kind for priority in Priority]
        opted_out = notification(tenant="clinica")
        OptOuts(self.client, Pseudonyms.load(self.client, None)).add("clinica", opted_out.phone, source="cli")
        called_off = notification()
        cancel(called_off.id, client=self.client)
        self.push([
            *first,
            *last,
            first[0],  # a duplicate
            opted_out,
            called_off,
            notification(valid_until=datetime.now(UTC) - timedelta(minutes=1)),
            notification(tenant=_CLOSED),
            notification(phone="+5577986200026", instance=INSTANCES[3]),  # throttled: its number waits for a minute
        ])  # fmt: skip
        self.client.lpush(QUEUES[1], b"{not json", b"\xff\xfe", b'{"id": "x", "tipo_notificacao": "convite"}')
        self._knock()

    def leave_by_sair(self) -> None:
        """A person answers SAIR and then gets another message."""
        phone = "+5577986200024"
        self.push([notification(tenant=_LEAVES, phone=phone)])
        wait_until(lambda: self.client.hlen(optout_key(_LEAVES)), 60.0)
        self.push([notification(tenant=_LEAVES, phone=phone)])

    def lose_instance(self, name: str, messages: int) -> None:
        """Disconnect an instance while messages for it wait, so that it is held."""
        self.simulator.control.set_instance(name, state="close")
        self.push([notification(instance=name) for _ in range(messages)])

    def find_instance(self, name: str) -> None:
        self.simulator.control.set_instance(name, state="open")

    def _knock(self) -> None:
        """Call the webhook without the secret."""
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(urllib.request.Request(self._webhook_url, b"{}"), timeout=10)
            raise AssertionError("it was let in")


@contextlib.contextmanager
def every(interval_s: float, act: Callable[[], None]) -> Iterator[None]:
    """Call a function at this interval in seconds until the end of the block, which raises its error."""
    stop = threading.Event()
    failed: list[Exception] = []

    def run() -> None:
        due = time.monotonic()
        while not stop.is_set():
            try:
                act()
            except Exception as exc:
                failed.append(exc)
                return
            due += interval_s
            stop.wait(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def notification(of: Kind = Kind.REMINDER, **fields: Any) -> Notification:
    """A notification with a new id; by default to a number with no ending that the simulator knows."""
    number = uuid.uuid4().int
    return Notification(
        **{
            "id": f"n{number:x}",
            "kind": of,
            "phone": f"+5577981{number // 9000 % 100:02d}{1000 + number % 9000}",
            "name": "Cliente de Teste",
            "amount": Decimal("100.00"),
            "due_date": date(2025, 1, 10) if of is Kind.OVERDUE else date(2030, 1, 10),
            "instance": INSTANCES[number % 2],
            **fields,
        }
    )
