"""Workers and a simulator as processes, and a way to wait for facts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from forks import Forked, programs

from ifinu.broker import NORMAL, Keys, lanes
from ifinu.broker.keys import in_lanes_key
from ifinu.embedded import Postgres, Valkey
from ifinu.simulator import Control, Send

API_KEY = "a-key-of-the-tests"
SANDBOX = "+5577998616740"
FIRST_NUMBER = 81_000_000  # prefix of numbered phones, with the ninth digit before it


def wait_until(
    fact: Callable[[], Any], deadline_s: float = 60.0, seen: Callable[[], Any] | None = None, every_s: float = 0.02
) -> Any:
    """The first true value of `fact`; AssertionError with what was seen when the deadline passes."""
    give_up_at = time.monotonic() + deadline_s
    while True:
        value = fact()
        if value:
            return value
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {deadline_s} s; seen: {seen() if seen else value!r}")
        time.sleep(every_s)


def raw(number: int | str, **fields: Any) -> bytes:
    """A message as another language pushes it."""
    return json.dumps({"id": f"test_{number}", "tipo_notificacao": "lembrete", **fields}).encode()


def numbered(count: int) -> list[bytes]:
    """Messages to distinct phones, so that the simulator's ledger can distinguish them."""
    return [raw(i, telefone=f"77 9{FIRST_NUMBER + i}") for i in range(count)]


def start(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes] | Forked:
    """
    `python -m MODULE ARGUMENTS` in a process group of its own, forked where that makes no difference.

    With `FAULT=long` each has an interpreter of its own, as in production.
    """
    if os.environ.get("FAULT") != "long" and (forked := programs().start(module, arguments, environment, log)):
        return forked
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=dict(environment),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def _first_line(log: Path) -> str:
    line, end, _ = log.read_text().partition("\n") if log.exists() else ("", "", "")
    return line if end else ""


class Queue:
    """A queue as an operator sees it."""

    def __init__(self, client: redis.Redis, name: str = NORMAL) -> None:
        self.client = client
        self.keys = Keys.of(name)

    def push(self, *messages: bytes) -> None:
        for start in range(0, len(messages), 1000):
            self.client.lpush(self.keys.ready, *messages[start : start + 1000])

    def counts(self) -> dict[str, int]:
        """All counts in one transaction; otherwise a moving message could count twice or not at all."""
        with self.client.pipeline(transaction=True) as at_once:
            at_once.llen(self.keys.ready).zcard(self.keys.delayed).hlen(self.keys.in_flight)
            at_once.zcard(self.keys.deadlines).llen(self.keys.dead).get(in_lanes_key(self.keys.ready))
            names = ("ready", "delayed", "in_flight", "deadlines", "dead", "in_lanes")
            return {name: int(count or 0) for name, count in zip(names, at_once.execute(), strict=True)}

    def idle(self, besides: str | None = None) -> bool:
        """
        Whether no message waits or is on its way.

        Args:
            besides: A number whose messages without a tenant may wait in its lane.
        """
        counts = self.counts()
        # Counted after the rest, that lane is never longer than it was then.
        may_wait = lanes.Lane(self.keys.ready, besides, "", 0, 0).key if besides else ""
        left = counts["in_lanes"] and counts["in_lanes"] - self.client.llen(may_wait)
        return not (counts["ready"] or counts["delayed"] or counts["in_flight"] or left > 0)

    def dead(self) -> list[dict[str, Any]]:
        """The dead letters, oldest first."""
        return [json.loads(record) for record in reversed(self.client.lrange(self.keys.dead, 0, -1))]


class Simulated:
    """The simulator as a separate process."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        key = directory / "key"
        key.write_text(API_KEY)
        log = directory / f"simulator-{uuid.uuid4().hex}.log"
        self._process = start(
            "ifinu.simulator", ["--api-key-file", str(key), "--seed", "1", *arguments], os.environ, log
        )
        self.url = wait_until(lambda: _first_line(log), seen=self._process.poll, every_s=0.005).split()[-1]
        self.control = Control(self.url, API_KEY)

    def sends(self) -> list[Send]:
        return self.control.sends_since(0)

    def total(self) -> int:
        return self.control.total()

    def unrecorded(self) -> int:
        """How many sends have no row because the gateway was killed between sending and recording."""
        return int(self.control.summary()["posts"]["by_outcome"].get("dropped_before_its_row", 0))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


class Worker:
    """A worker process in a separate process group."""

    def __init__(self, application: str, environment: dict[str, str], log: Path, *arguments: str) -> None:
        self.log = log
        self.process = start("celery", ["-A", application, "worker", *arguments], {**os.environ, **environment}, log)

    def ready(self, deadline_s: float = 60.0) -> Worker:
        """Wait until the worker consumes."""
        wait_until(lambda: self.is_ready() or self.process.poll() is not None, deadline_s, self.text)
        assert self.process.poll() is None, self.text()
        return self

    def is_ready(self) -> bool:
        """Whether it has said that it consumes."""
        return "ready." in self.text()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """Kill the whole process group with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def terminate(self, deadline_s: float = 60.0) -> int:
        """Send SIGTERM and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(deadline_s)

    def memory_mb(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1000

    def cpu_s(self) -> float:
        """CPU time in seconds, including that of children that have ended."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(f) for f in fields[11:15]) / os.sysconf("SC_CLK_TCK")


class Fleet:
    """Makes workers of one environment, and ends them."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self._directory = directory
        self.environment = environment
        self.workers: list[Worker] = []

    def start(self, *arguments: str, application: str = "ifinu", **environment: str) -> Worker:
        number = len(self.workers)
        worker = Worker(
            application,
            {**self.environment, "IFINU_WORKER_NAME": f"w{number}", **environment},
            self._directory / f"worker-{number}.log",
            "--hostname",
            f"w{number}@test",
            *arguments,
        )
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()


def redis_server(directory: Path | None = None, config: Mapping[str, str] | None = None) -> Valkey:
    """The embedded Valkey or the program `REDIS_SERVER`; the tests pass on every server that ifinu supports."""
    return Valkey(directory, config=config, binary=_path_in("REDIS_SERVER"))


def postgres_server() -> Postgres:
    """The embedded PostgreSQL, or the one whose programs are in the folder `POSTGRES_BIN`."""
    return Postgres(binaries=_path_in("POSTGRES_BIN"))


def _path_in(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def fleet_of(directory: Path, redis_url: str, gateway_url: str) -> Fleet:
    """Workers with quick retries and short leases."""
    return Fleet(
        directory,
        IFINU_REDIS_URL=redis_url,
        IFINU_EVOLUTION_URL=gateway_url,
        IFINU_EVOLUTION_API_KEY=API_KEY,
        IFINU_SANDBOX_NUMBER=SANDBOX,
        IFINU_RETRY_BACKOFF_S="0.2",
        IFINU_LEASE_S="3",
        IFINU_UNKNOWN_GRACE_S="4",
        IFINU_RECORDER="false",
        IFINU_DATABASE_URL=f"sqlite:///{directory}/ledger.db",
    )


@contextlib.contextmanager
def stopping(server: Any) -> Iterator[Any]:
    """A context manager that calls `stop` at its end."""
    try:
        yield server
    finally:
        server.stop()
