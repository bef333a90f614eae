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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from ifinu.embedded import Valkey
from ifinu.simulator import Control

_KEY = "a-key-of-the-benches"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Rig:
    """
    A context manager that starts a Valkey and a simulator, and finally stops them and every worker.

    Args:
        latency_ms: Duration of each send at the gateway, in milliseconds.
    """

    client: redis.Redis
    control: Control

    def __init__(self, latency_ms: float) -> None:
        self._latency_ms = latency_ms
        self._folder = tempfile.TemporaryDirectory(prefix="ifinu-bench-")
        self.directory = Path(self._folder.name)
        self._valkey = Valkey(self.directory / "valkey")
        self._simulator: subprocess.Popen[str] | None = None
        self._workers: list[WorkerProcess] = []

    @property
    def redis_url(self) -> str:
        return self._valkey.url

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment without ifinu's variables, plus the servers of this rig."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("IFINU_", "REDIS_ADDR"))}
        return {
            **clean,
            "IFINU_REDIS_URL": self.redis_url,
            "IFINU_EVOLUTION_URL": self.control.url,
            "IFINU_EVOLUTION_API_KEY": _KEY,
            "IFINU_DATABASE_URL": f"sqlite:///{self.directory / 'ledger.db'}",
        }

    def __enter__(self) -> Self:
        self._valkey.start()
        self.client = redis.Redis.from_url(self.redis_url)
        key_file = self.directory / "key"
        key_file.write_text(_KEY)
        command = [sys.executable, "-m", "ifinu.simulator", "--api-key-file", str(key_file), "--plain"]
        self._simulator = subprocess.Popen(
            [*command, "--latency-ms", str(self._latency_ms)], stdout=subprocess.PIPE, text=True
        )
        assert self._simulator.stdout is not None
        self.control = Control(self._simulator.stdout.readline().split()[-1], _KEY)
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        for worker in self._workers:
            worker.end(signal.SIGKILL)
        if self._simulator is not None:
            self._simulator.terminate()
            self._simulator.wait(20)
        self._valkey.stop()
        self._folder.cleanup()

    def start(self, *celery: str, **environment: str) -> WorkerProcess:
        """Start `celery …` in the directory of the benches."""
        log = self.directory / f"worker-{len(self._workers)}.log"
        worker = WorkerProcess(celery, {**self.environment, **environment}, log)
        self._workers.append(worker)
        return worker

    def sent(self) -> int:
        """The number of messages sent to the gateway since the last `reset`."""
        return int(self.control.summary()["sends"]["total"])

    def reset(self) -> None:
        """Forget all sends, queued messages and known ids."""
        self.client.flushall()
        self.control.reset()


class WorkerProcess:
    """A worker and the processes that it starts."""

    def __init__(self, celery: tuple[str, ...], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", *celery],
                env=dict(environment),
                cwd=Path(__file__).parent,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def cpu_s(self) -> float:
        """CPU time of all its processes so far, in seconds."""
        return sum(int(ticks) for stat in self._stats() for ticks in stat[11:13]) * _TICK_S

    def memory_mib(self) -> float:
        """Resident memory of all its processes, in MiB, as `ps` and Kubernetes count; shared pages count for each."""
        return sum(int(stat[21]) for stat in self._stats()) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def check(self) -> None:
        """Raise unless the worker runs."""
        if self._process.poll() is not None:
            raise SystemExit(f"the worker ended:\n{self._log.read_text(errors='replace')[-3000:]}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """SIGTERM lets it finish its sends; SIGKILL also ends its children."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if number is signal.SIGKILL else os.kill)(self._process.pid, number)
        self._process.wait(60)

    def _stats(self) -> Iterator[list[str]]:
        """For each process, the fields of /proc/<pid>/stat after the name; see proc_pid_stat(5)."""
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = file.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == self._process.pid:  # the session id
                yield fields


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


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table, with the first column left-aligned and the others right-aligned."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        others = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join((row[0].ljust(widths[0]), *others)))
