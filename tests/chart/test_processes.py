"""
ifinu's containers as the chart starts them, with their real probes.

Each process has the rendered command and environment, an unprivileged account, no home and a read-only folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import urllib3
from containers import command, environment, ifinu, scratch, unprivileged
from ledgers import database
from processes import Queue, raw, wait_until
from rendering import Container, Rendered, render, rendered
from sqlalchemy import make_url

from ifinu.embedded import Postgres, Valkey, free_port
from ifinu.simulator import Simulator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="probes are for the programs of a Linux image")

EVERYTHING = {"scheduler": {"enabled": True}}
_STARTS_S = 60.0  # several start at once on a busy machine


class Servers:
    """The servers at the addresses that the chart configures; unreachable until started."""

    def __init__(self, chart: Rendered) -> None:
        worker = environment(chart, chart.container("Deployment", "ifinu-worker"))
        self.valkey = Valkey(config={"requirepass": worker["IFINU_REDIS_PASSWORD"]})
        self.postgres = Postgres()
        self.simulator = Simulator(api_key=worker["IFINU_EVOLUTION_API_KEY"], script={"endings": {}})

    @property
    def places(self) -> dict[str, str]:
        return {
            "redis-queue-service:6379": f"127.0.0.1:{self.valkey.port}",
            "evolution-postgres-service:5432": f"127.0.0.1:{self.postgres.port}",
            "http://evolution-api-headless:8080": self.simulator.url,
        }

    def start(self) -> None:
        self.valkey.start()
        self.postgres.start()
        database(self.postgres.url, "ifinu")

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.valkey.url)


class Process:
    """A running container."""

    def __init__(self, folder: Path, chart: Rendered, container: Container, servers: Servers) -> None:
        self.container, self._folder = container, folder
        self.heartbeat = folder / "heartbeat"
        self._ports = {port["name"]: free_port() for port in container.spec.get("ports", [])}
        given = environment(chart, container, servers.places | {"/tmp/heartbeat": str(self.heartbeat)})
        self.env = given | {"PATH": "/usr/bin:/bin", "IFINU_SENDING_HOLIDAYS": ""}  # today may be a holiday
        self._replacing: dict[str, str] = {}
        for port in container.spec.get("ports", []):
            option = f"--port={port['containerPort']}"
            if option in container.spec["args"]:
                self._replacing[option] = f"--port={self._ports[port['name']]}"
            else:
                assert self.env["IFINU_METRICS_PORT"] == str(port["containerPort"])
                self.env["IFINU_METRICS_PORT"] = str(self._ports[port["name"]])
        self.log = folder / f"{container.spec['name']}.log"
        self.start()

    def start(self) -> None:
        """Start it in a read-only folder."""
        cwd = self._folder / "cwd"
        cwd.mkdir(mode=0o555, exist_ok=True)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*ifinu(), *command(self.container, replacing=self._replacing)],
                env=self.env, cwd=cwd, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def probe(self, name: str) -> bool | None:
        """Whether a probe succeeds; None where there is no such probe."""
        spec = self.container.spec.get(name)
        if spec is None:
            return None
        timeout_s = spec.get("timeoutSeconds", 1)
        if "exec" in spec:
            line = command(self.container, name)
            return (
                subprocess.run(line, env=self.env, timeout=timeout_s, capture_output=True, **unprivileged()).returncode
                == 0
            )
        if "httpGet" in spec:
            path = spec["httpGet"]["path"]
            assert path.startswith("/")
            url = f"http://127.0.0.1:{self._ports[spec['httpGet']['port']]}{path}"
            with contextlib.suppress(urllib3.exceptions.HTTPError), urllib3.PoolManager() as pool:
                answer = pool.request("GET", url, timeout=timeout_s, retries=False)
                return 200 <= answer.status < 400
            return False
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self._ports[spec["tcpSocket"]["port"]]), timeout_s).close()
            return True
        return False

    @property
    def ready(self) -> bool:
        """Ready as Kubernetes defines it: without a probe, while it runs."""
        return self.process.poll() is None and self.probe("readinessProbe") is not False

    @property
    def alive(self) -> bool:
        return self.process.poll() is None and self.probe("livenessProbe") is not False

    def get(self, port: str, path: str) -> str:
        with urllib3.PoolManager() as pool:
            return pool.request("GET", f"http://127.0.0.1:{self._ports[port]}{path}", timeout=20).data.decode()

    def waits(self, fact: Callable[[], Any]) -> None:
        """Wait for a fact, and fail if the process ends first."""
        # A probe starts a process or two and so slows the start of the probed process.
        wait_until(lambda: fact() or self.process.poll() is not None, _STARTS_S, self.text, every_s=0.2)
        assert self.process.poll() is None, self.text()

    def terminate(self, grace_s: float) -> int:
        """Send SIGTERM and return the exit code, within the grace period."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(grace_s)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


class Pods:
    """Starts containers of one chart, and ends them."""

    def __init__(self, chart: Rendered, servers: Servers, stack: contextlib.ExitStack) -> None:
        self.chart, self.servers = chart, servers
        self._stack = stack

    def start(self, name: str, container: str | None = None) -> Process:
        folder = self._stack.enter_context(scratch())
        chosen = self.chart.container("Deployment", name, container)
        process = Process(folder, self.chart, chosen, self.servers)
        self._stack.callback(process.kill)
        return process

    def grace_s(self, name: str) -> float:
        return float(self.chart.pod("Deployment", name)["terminationGracePeriodSeconds"])

    def migrate(self) -> None:
        assert self.start("ifinu-recorder", "migrate").process.wait(60) == 0


Starting = Callable[..., Pods]


@pytest.fixture
def pods_of() -> Iterator[Starting]:
    """Makes the pods of a chart; the servers are not started."""
    with contextlib.ExitStack() as stack:

        def begin(chart: Rendered) -> Pods:
            servers = Servers(chart)
            stack.callback(servers.valkey.stop)
            stack.callback(servers.postgres.stop)
            stack.enter_context(servers.simulator)
            return Pods(chart, servers, stack)

        yield begin


@pytest.fixture
def pods(pods_of: Starting) -> Pods:
    return pods_of(render(EVERYTHING))


@pytest.fixture(scope="module")
def migrated_postgres() -> Iterator[Postgres]:
    """A PostgreSQL with the ledger's tables, shared by tests that do not stop it."""
    with contextlib.ExitStack() as stack:
        servers = Servers(rendered("default"))
        stack.enter_context(servers.postgres)
        database(servers.postgres.url, "ifinu")
        Pods(rendered("default"), servers, stack).migrate()
        yield servers.postgres


@pytest.fixture
def running(pods: Pods, migrated_postgres: Postgres) -> Pods:
    """Pods with all servers running and the ledger migrated."""
    pods.servers.postgres = migrated_postgres
    pods.servers.valkey.start()
    return pods


LONG_RUNNING = ("ifinu-worker", "ifinu-webhook", "ifinu-recorder", "ifinu-scheduler", "ifinu-metrics", "ifinu-flower")


def test_every_container_of_ifinu_is_covered():
    owners = {each.owner.removeprefix("Deployment/") for each in render(EVERYTHING).containers() if each.ours}
    assert owners == {*LONG_RUNNING, "Pod/ifinu-test-doctor"}


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_a_process_becomes_ready_and_stops_cleanly(running: Pods, name: str):
    one = running.start(name)
    one.waits(lambda: one.ready and one.alive)
    assert one.terminate(running.grace_s(name)) == 0, one.text()
    assert "Traceback" not in one.text()
    assert "Permission denied" not in one.text()


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_without_redis_and_the_ledger_a_process_stays_alive_and_waits(pods: Pods, name: str):
    """
    A restart would not help, so the liveness probe must pass.
    """
    one = pods.start(name)
    one.waits(lambda: AWAY[name](one) and one.alive)
    if name in ("ifinu-worker", "ifinu-webhook"):
        assert not one.ready
    pods.servers.start()
    pods.migrate()
    one.waits(lambda: one.ready and THERE[name](one))
    assert one.alive
    assert one.terminate(pods.grace_s(name)) == 0, one.text()


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_without_redis_and_the_ledger_a_process_still_stops_cleanly(pods: Pods, name: str):
    one = pods.start(name)
    one.waits(lambda: AWAY[name](one))
    assert one.terminate(pods.grace_s(name)) == 0, one.text()


# Log lines that show a process waiting for its servers, and having reached them.
AWAY: dict[str, Callable[[Process], Any]] = {
    "ifinu-worker": lambda one: "Trying again in" in one.text(),
    "ifinu-webhook": lambda one: one.alive and not one.ready,
    "ifinu-recorder": lambda one: "standing_by" in one.text() and "Redis" in one.text(),
    "ifinu-scheduler": lambda one: "ifinu.scheduler.waiting" in one.text(),
    "ifinu-metrics": lambda one: one.ready and "ifinu_redis_up 0.0" in one.get("metrics", "/metrics"),
    "ifinu-flower": lambda one: one.alive,
}
THERE: dict[str, Callable[[Process], Any]] = {
    "ifinu-worker": lambda one: one.heartbeat.exists(),
    "ifinu-webhook": lambda one: one.ready,
    "ifinu-recorder": lambda one: "ifinu.recorder.started" in one.text(),
    "ifinu-scheduler": lambda one: "ifinu.scheduler.resumed" in one.text(),
    "ifinu-metrics": lambda one: "ifinu_redis_up 1.0" in one.get("metrics", "/metrics"),
    "ifinu-flower": lambda one: one.ready,
}


def test_migrate_fails_without_a_database_and_is_retried(pods_of: Starting):
    """
    Kubernetes restarts an init container that fails.
    """
    without, pods = pods_of(rendered("default")), pods_of(rendered("default"))
    alone = without.start("ifinu-recorder", "migrate")  # which tries for half a minute; the rest goes on meanwhile
    pods.servers.postgres.start()
    before = pods.start("ifinu-recorder", "migrate")
    assert before.process.wait(60) != 0
    assert "Traceback" not in before.text()
    database(pods.servers.postgres.url, "ifinu")
    assert pods.start("ifinu-recorder", "migrate").process.wait(60) == 0
    again = [pods.start("ifinu-recorder", "migrate") for _ in range(2)]
    assert [one.process.wait(60) for one in again] == [0, 0]
    assert alone.process.wait(60) != 0


def test_migrate_ends_with_its_pod(pods: Pods):
    """
    Even while it waits for a database that accepts the connection and does not answer.
    """
    with socket.create_server(("127.0.0.1", pods.servers.postgres.port)) as silent:
        one = pods.start("ifinu-recorder", "migrate")
        silent.settimeout(_STARTS_S)
        connection, _ = silent.accept()
        with connection:
            one.process.send_signal(signal.SIGTERM)
            assert one.process.wait(pods.grace_s("ifinu-recorder")) != 0


@pytest.mark.parametrize("prefix", ["/flower", "flower/", "ops/flower"])
def test_flower_is_ready_behind_a_prefix(pods_of: Starting, prefix: str):
    pods = pods_of(render({"flower": {"urlPrefix": prefix}}))
    pods.servers.start()
    one = pods.start("ifinu-flower")
    one.waits(lambda: one.ready and one.alive)
    path = one.container.spec["readinessProbe"]["httpGet"]["path"]
    assert path == f"/{prefix.strip('/')}/healthcheck"


def test_the_simulator_stands_in_the_gateways_place(pods_of: Starting):
    pods = pods_of(rendered("simulator"))
    one = pods.start("evolution-api", "simulator")
    one.waits(lambda: one.ready and one.alive)
    assert one.terminate(pods.grace_s("evolution-api")) == 0, one.text()


def test_helm_test_finds_problems(running: Pods):
    """
    It reports no problem on a healthy installation.
    """
    chart, servers = running.chart, running.servers
    container = chart.container("Pod", "ifinu-test-doctor")

    def doctor() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ifinu(), *command(container)],
            env=environment(chart, container, servers.places) | {"PATH": "/usr/bin:/bin"},
            cwd="/", capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    done = doctor()
    assert done.returncode == 0, done.stdout + done.stderr
    servers.simulator.set_instance("ifinu", state="close")
    assert doctor().returncode == 1


class Probed:
    """A worker and the results of its probes."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def says(self) -> tuple[bool | None, bool | None]:
        return self.process.probe("readinessProbe"), self.process.probe("livenessProbe")

    def age(self, seconds: float) -> None:
        """Set back the time of its heartbeat."""
        then = time.time() - seconds
        os.utime(self.process.heartbeat, (then, then))


PERSON = {"telefone": "77 998616740", "nome": "Maria", "valor": "10.00", "vencimento": "2026-12-01"}
CONSUMES, WAITS, STUCK = (True, True), (False, True), (False, False)


@pytest.fixture
def worker(running: Pods) -> Probed:
    process = running.start("ifinu-worker")
    probed = Probed(process)
    process.waits(lambda: probed.says() == CONSUMES)
    return probed


def test_a_worker_that_is_stuck_is_dead_after_two_minutes(worker: Probed):
    """
    A worker stopped by SIGSTOP writes no heartbeat. The test sets back the heartbeat's time instead of waiting.
    """
    worker.process.process.send_signal(signal.SIGSTOP)
    try:
        worker.age(20)
        assert worker.says() == CONSUMES
        worker.age(40)
        assert worker.says() == WAITS
        worker.age(110)
        assert worker.says() == WAITS
        worker.age(130)
        assert worker.says() == STUCK
    finally:
        worker.process.process.send_signal(signal.SIGCONT)
    worker.process.waits(lambda: worker.says() == CONSUMES)


def test_a_worker_without_redis_is_alive(running: Pods, worker: Probed):
    running.servers.valkey.terminate()
    worker.process.waits(lambda: not worker.process.heartbeat.exists())
    assert worker.says() == WAITS
    running.servers.valkey.start()
    worker.process.waits(lambda: worker.says() == CONSUMES)


def test_a_worker_that_drains_is_alive(running: Pods, worker: Probed):
    """
    A draining worker finishes its sends and takes no more messages.
    """
    running.servers.simulator.set_fault(latency_ms=5_000)
    with running.servers.client() as client:
        queue = Queue(client)
        queue.push(raw(1, **PERSON))
        wait_until(lambda: running.servers.simulator.summary()["posts"]["total"], 20, worker.process.text)
        worker.process.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not worker.process.heartbeat.exists(), 20, worker.process.text)
        assert worker.says() == WAITS
        assert worker.process.process.wait(running.grace_s("ifinu-worker")) == 0, worker.process.text()
        assert queue.idle()
        assert len(running.servers.simulator.sends) == 1


def test_a_new_worker_is_not_judged_by_the_previous_ones_heartbeat(running: Pods, worker: Probed):
    """
    The heartbeat file of a killed worker remains, since it belongs to the pod.
    """
    worker.process.kill()
    worker.age(600)
    running.servers.valkey.terminate()
    assert worker.says() == STUCK
    worker.process.start()
    worker.process.waits(lambda: not worker.process.heartbeat.exists())
    assert worker.says() == WAITS
    running.servers.valkey.start()
    worker.process.waits(lambda: worker.says() == CONSUMES)


def test_the_database_has_the_charts_address():
    """
    The address is the only difference between these tests' pods and the chart's.
    """
    url = make_url(environment(rendered("default"), rendered("default").container("Deployment", "ifinu-recorder"))
                   ["IFINU_DATABASE_URL"])  # fmt: skip
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "ifinu", None, "evolution-postgres-service", 5432, "ifinu",
    )  # fmt: skip
