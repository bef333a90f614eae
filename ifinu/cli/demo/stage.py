"""
The processes that the demo starts and stops: a Valkey, a simulated Evolution API, `ifinu webhook` and the workers.

Their files are in one temporary directory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import redis

from ifinu.embedded import Valkey, free_port
from ifinu.errors import IfinuError
from ifinu.settings import PREFIX, Settings
from ifinu.simulator import Control

_GATEWAY_LATENCY_MS = 20
_START_S = 30.0  # longest start of a process
_STOP_S = 10.0  # longest warm shutdown
# `ifinu instance webhook` for several instances, in one process.
_REGISTER = (
    "import sys\n"
    "from ifinu.cli.instance.webhooks import webhook\n"
    "url, *names = sys.argv[1:]\n"
    "for name in names: webhook(name, url=url)\n"
)


class StageError(IfinuError):
    """A process of the demo did not start, or ended unexpectedly; the message names its log."""


class Stage:
    """
    A context manager that starts the processes and stops them; after an error it keeps their logs.

    Its methods raise StageError if a process fails.

    Args:
        settings: `IFINU_*` variables of the workers.
        instances: Names of the gateway's instances.

    Attributes:
        keep_logs: Whether to keep the directory at the end; an error sets it.
    """

    control: Control
    client: redis.Redis

    def __init__(self, workers: int, settings: Mapping[str, str], instances: Sequence[str]) -> None:
        self.names = [f"worker-{number}" for number in range(1, workers + 1)]
        self.keep_logs = False
        self.directory = Path(tempfile.mkdtemp(prefix="ifinu-demo-"))
        self._settings = dict(settings)
        self._instances = tuple(instances)
        self._valkey = Valkey(self.directory / "valkey")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which `ifinu` and the workers find the servers, without the caller's own settings."""
        return {
            "IFINU_REDIS_URL": self._valkey.url,
            "IFINU_EVOLUTION_URL": self.control.url,
            "IFINU_EVOLUTION_API_KEY_FILE": str(self._secret("api-key")),
            "IFINU_WEBHOOK_SECRET_FILE": str(self._secret("webhook-secret")),
            "IFINU_DATABASE_URL": self.database_url,
            **self._settings,
        }

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.directory / 'ledger.db'}"

    def __enter__(self) -> Self:
        try:
            self.keep_logs = True
            self._valkey.start()
            self.client = redis.Redis.from_url(self._valkey.url, socket_timeout=10)
            self._start_simulator()
            self._start_webhook()
            self.keep_logs = False
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.keep_logs |= isinstance(error, Exception)
        self._end()

    def start_workers(self) -> None:
        """Start the workers and wait until each consumes."""
        for name in self.names:
            own = {"IFINU_WORKER_NAME": name, "IFINU_HEARTBEAT_FILE": str(self._heartbeat(name))}
            command = ("-m", "celery", "-A", "ifinu", "worker", "--hostname", f"{name}@%h")
            self._start(name, command, {**self.environment, **own})
        for name in self.names:
            self._wait_for(name, self._heartbeat(name).exists)

    def run(self, name: str, *arguments: str) -> str:
        """Run Python with these arguments to its end; return its output."""
        with self._log(name).open("ab") as log:
            done = subprocess.run(
                [sys.executable, *arguments],
                env=self._inherited() | self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                timeout=_START_S,
                check=False,
            )
        if done.returncode:
            raise StageError(f"{name} failed; see {self._log(name)}")
        return done.stdout.decode()

    def check(self) -> None:
        """Check that all processes are running."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise StageError(f"{name} ended unexpectedly (exit code {process.returncode}); see {self._log(name)}")

    def _secret(self, name: str) -> Path:
        """A file with a random secret, created on first use."""
        file = self.directory / name
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(32), encoding="utf-8")
        return file

    def _heartbeat(self, name: str) -> Path:
        return self.directory / f"{name}.heartbeat"

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _start_simulator(self) -> None:
        key = self._secret("api-key")
        options = ["--api-key-file", str(key), "--latency-ms", str(_GATEWAY_LATENCY_MS)]
        for name in self._instances:
            options += ("--instance", name)
        self._start("simulator", ("-m", "ifinu.simulator", *options), {})
        self._wait_for("simulator", lambda: self._log("simulator").read_text().endswith("\n"))
        self.control = Control(self._log("simulator").read_text().split()[-1], key.read_text(encoding="utf-8"))

    def _start_webhook(self) -> None:
        """Start `ifinu webhook`, and register it at the gateway for each instance."""
        port = free_port()
        self._start("webhook", ("-m", "ifinu", "webhook", "--host", "127.0.0.1", "--port", str(port)), self.environment)
        self._wait_for("webhook", lambda: _listens(port))
        self.run("instance", "-c", _REGISTER, f"http://127.0.0.1:{port}", *self._instances)

    def _start(self, name: str, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *arguments],
                env={**self._inherited(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C goes to the demo only, which then stops them in order
            )

    def _wait_for(self, name: str, ready: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + _START_S
        while not ready():
            self.check()
            if time.monotonic() > give_up_at:
                raise StageError(f"{name} did not start within {_START_S:.0f} s; see {self._log(name)}")
            time.sleep(0.02)

    def _inherited(self) -> dict[str, str]:
        ours = {alias for names in Settings.names().values() for alias in names}
        return {
            name: value
            for name, value in os.environ.items()
            if name not in ours and not name.upper().startswith(PREFIX)
        }

    def _end(self) -> None:
        with _undisturbed():
            self._end_all()

    def _end_all(self) -> None:
        last = [self._processes.pop(name) for name in ("webhook", "simulator") if name in self._processes]
        # Workers first, then the servers that they use.
        for group in (list(self._processes.values()), last):
            for process in group:
                process.terminate()
            for process in group:
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._processes.clear()
        if hasattr(self, "client"):
            self.client.close()
        self._valkey.stop()
        if not self.keep_logs:
            shutil.rmtree(self.directory, ignore_errors=True)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM in the block: a second Ctrl-C must not leave processes behind."""
    usual = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, action in usual.items():
            signal.signal(number, action)
