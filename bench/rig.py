"""The servers of the benches as separate processes: a Valkey, a simulated gateway and workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
import usage
from sqlalchemy import create_engine, make_url
from usage import Usage

from ifinu.embedded import Postgres, Valkey
from ifinu.simulator import Control

API_KEY = "a-key-of-the-benches"


class Rig:
    """
    A context manager that starts a Valkey and a simulator, and finally stops them and every worker.

    Args:
        latency_ms: Duration of each send at the gateway, in milliseconds.
        ledger: `sqlite`, or `postgresql` for an embedded PostgreSQL.
        instances: Names of the gateway's instances; by default the one of the settings.
    """

    client: redis.Redis
    control: Control

    def __init__(self, latency_ms: float, ledger: str = "sqlite", instances: Sequence[str] = ()) -> None:
        self._latency_ms = latency_ms
        self._instances = instances
        self._folder = tempfile.TemporaryDirectory(prefix="ifinu-bench-")
        self.directory = Path(self._folder.name)
        self.directory.chmod(0o755)  # PostgreSQL runs as another account
        self._valkey = Valkey(self.directory / "valkey")
        self._postgres = Postgres(self.directory / "postgres") if ledger == "postgresql" else None
        self._ledgers = 0
        self._simulator: subprocess.Popen[str] | None = None
        self._workers: list[WorkerProcess] = []

    @property
    def redis_url(self) -> str:
        return self._valkey.url

    @property
    def server_pids(self) -> dict[str, int]:
        """Process id of each server."""
        assert self._simulator is not None
        postgres = {} if self._postgres is None else {"PostgreSQL": self._postgres.pid}
        return {"Redis": self._valkey.pid, "gateway": self._simulator.pid, **postgres}

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment without ifinu's variables, plus the servers of this rig."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("IFINU_", "REDIS_ADDR"))}
        return {
            **clean,
            "IFINU_REDIS_URL": self.redis_url,
            "IFINU_EVOLUTION_URL": self.control.url,
            "IFINU_EVOLUTION_API_KEY": API_KEY,
            "IFINU_DATABASE_URL": self._ledger_url(),
        }

    def __enter__(self) -> Self:
        self._valkey.start()
        if self._postgres is not None:
            self._postgres.start()
        self.client = redis.Redis.from_url(self.redis_url)
        key_file = self.directory / "key"
        key_file.write_text(API_KEY)
        command = [sys.executable, "-m", "ifinu.simulator", "--api-key-file", str(key_file), "--plain"]
        command += [part for name in self._instances for part in ("--instance", name)]
        self._simulator = subprocess.Popen(
            [*command, "--latency-ms", str(self._latency_ms)], stdout=subprocess.PIPE, text=True
        )
        assert self._simulator.stdout is not None
        self.control = Control(self._simulator.stdout.readline().split()[-1], API_KEY)
        self.reset()
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        for worker in self._workers:
            worker.end(signal.SIGKILL)
        if self._simulator is not None:
            self._simulator.terminate()
            self._simulator.wait(20)
        if self._postgres is not None:
            self._postgres.stop()
        self._valkey.stop()
        self._folder.cleanup()

    def start(self, *celery: str, **environment: str) -> WorkerProcess:
        """Start `celery …` in the directory of the benches."""
        return self.run([sys.executable, "-m", "celery", *celery], **environment)

    def run(self, command: Sequence[str], **environment: str) -> WorkerProcess:
        """Start another worker there."""
        log = self.directory / f"worker-{len(self._workers)}.log"
        worker = WorkerProcess(command, {**self.environment, **environment}, log)
        self._workers.append(worker)
        return worker

    def sent(self) -> int:
        """The number of messages sent to the gateway since the last `reset`."""
        return self.control.total()

    def reset(self) -> None:
        """Forget all sends, queued messages and known ids, and give the next workers an empty ledger."""
        self.client.flushall()
        self.control.reset()
        self._ledgers += 1
        if self._postgres is not None:
            engine = create_engine(self._postgres.url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.exec_driver_sql(f"CREATE DATABASE ledger_{self._ledgers}")
            engine.dispose()

    def _ledger_url(self) -> str:
        if self._postgres is None:
            return f"sqlite:///{self.directory}/ledger-{self._ledgers}.db"
        url = make_url(self._postgres.url).set(database=f"ledger_{self._ledgers}")
        return url.render_as_string(hide_password=False)


class WorkerProcess:
    """A worker and its child processes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment),
                cwd=Path(__file__).parent,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def usage(self) -> Usage:
        return usage.of(self.pid)[0]

    def ready(self) -> bool:
        """Whether a Celery worker consumes."""
        self.check()
        return "ready." in self._log.read_text(errors="replace")

    def check(self) -> None:
        """End the bench, with the worker's log, if the worker has ended."""
        if self._process.poll() is not None:
            raise SystemExit(f"the worker ended:\n{self._log.read_text(errors='replace')[-3000:]}")

    def send(self, number: signal.Signals) -> None:
        """SIGTERM lets the worker finish its sends; SIGKILL also ends its children."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if number is signal.SIGKILL else os.kill)(self.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal, and wait for the end; SIGKILL if it does not come."""
        self.send(number)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self._process.wait()


def wire(number: int) -> dict[str, Any]:
    """A message to a separate phone, as producers in other languages push it."""
    return {
        "id": f"bench-{number}", "tipo_notificacao": "lembrete", "telefone": f"77 9{81_000_000 + number}",
        "nome": "Maria da Silva", "valor": "1234.50", "vencimento": "2026-12-01",
        "descricao": "Mensalidade de dezembro", "link_pagamento": "https://pay.example/i/42",
    }  # fmt: skip


def raw(number: int) -> bytes:
    return json.dumps(wire(number)).encode()


def push(client: redis.Redis, queue: str, messages: list[Any]) -> None:
    for start in range(0, len(messages), 1_000):
        client.lpush(queue, *messages[start : start + 1_000])


def wait_for(fact: Callable[[], bool], worker: WorkerProcess, deadline_s: float) -> None:
    give_up_at = time.monotonic() + deadline_s
    while not fact():
        worker.check()
        if time.monotonic() > give_up_at:
            raise SystemExit(f"not done after {deadline_s:.0f} s")
        time.sleep(0.05)
