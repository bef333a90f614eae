"""Python processes forked from one that has imported their modules: each starts in a fraction of the time."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# A child answers with the line [pid, null] once it has its session and its files; the parent reports its end with
# [pid, exit code]. The child leaves the loop and runs its script on the top level, so that Python ends it as usual.
_PARENT = """
import gc, json, os, select, signal, sys
gc.freeze()  # or each child walks all that the parent imported, when it ends
woken, waker = os.pipe()
os.set_blocking(waker, False)
signal.set_wakeup_fd(waker)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends pytest, which ends the rest
while True:
    ready, _, _ = select.select([0, woken], [], [])
    if woken in ready:
        os.read(woken, 1000)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            print(json.dumps([pid, os.waitstatus_to_exitcode(status)]), flush=True)
    if 0 not in ready:
        continue
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    script, environment, out, err, truncates = json.loads(line)
    child = os.fork()
    if not child:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (woken, waker):
            os.close(number)
        how = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if truncates else os.O_APPEND)
        files = [os.open(path, how) for path in (os.devnull, out, err)]
        os.setsid()
        print(json.dumps([os.getpid(), None]), flush=True)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        break
exec(compile(script, "<string>", "exec"))
# A script that ends by itself ends here, since to free each object that the parent imported takes longest of all.
import atexit, threading
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
"""

_NOT_COMPARED = ("IFINU_", "PYTEST_CURRENT_TEST")  # the settings are read when a program runs, not at an import


class Ended(NamedTuple):
    """How a script ended: its exit code, or the negative number of the signal, and what it wrote."""

    code: int
    out: str
    err: str


class Forked:
    """A process of `Forks`, with that part of `subprocess.Popen` that the tests use."""

    def __init__(self, parent: Forks, pid: int) -> None:
        self._parent = parent
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = self._parent.ended(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; TimeoutExpired after `timeout` seconds."""
        give_up_at = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if give_up_at is not None and time.monotonic() > give_up_at:
                raise subprocess.TimeoutExpired(f"forked process {self.pid}", timeout or 0)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """
    Runs scripts and modules as `python` does, each in a new process and session.

    Args:
        imports: Statement that the parent runs once, before the first of them.
    """

    def __init__(self, imports: str) -> None:
        self._imports = imports
        self._parent: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._ends: dict[int, int] = {}
        self._lock = threading.RLock()

    def run(self, script: str) -> Ended:
        """Run one script and wait for its end."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            forked = self._start(script, dict(os.environ), out, err, truncates=True)
            try:
                code = forked.wait(timeout=200)
            finally:
                forked.kill()
            return Ended(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    def start(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], out: Path) -> Forked | None:
        """
        Start `python -m MODULE ARGUMENTS`; what it writes is appended to a file.

        Args:
            module: The module.
            arguments: Its arguments.
            environment: The whole environment.
            out: The file.

        Returns:
            The process; None if more than `IFINU_*` differs from the parent's environment. An import may have read it
            there, so that such a process needs an interpreter of its own.
        """
        with self._lock:
            self._ensure_parent()
            if _compared(environment) != self._environment:
                return None
        return self._start(as_module(module, *arguments), environment, out, out, truncates=False)

    def ended(self, pid: int) -> int | None:
        """The exit code of a process that has ended."""
        with self._lock:
            while pid not in self._ends and self._answers():
                self._read()
            return self._ends.get(pid)

    def close(self) -> None:
        """End the parent."""
        if self._parent is not None:
            self._parent.communicate(timeout=20)
            self._parent = None

    def _start(self, script: str, environment: Mapping[str, str], out: Path, err: Path, truncates: bool) -> Forked:
        with self._lock:
            parent = self._ensure_parent()
            assert parent.stdin is not None
            parent.stdin.write(json.dumps([script, dict(environment), str(out), str(err), truncates]).encode() + b"\n")
            parent.stdin.flush()
            while (pid := self._read()) is None:
                pass
            return Forked(self, pid)

    def _ensure_parent(self) -> subprocess.Popen[bytes]:
        if self._parent is None:
            self._environment = _compared(os.environ)
            self._parent = subprocess.Popen(
                [sys.executable, "-c", self._imports + _PARENT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        return self._parent

    def _answers(self) -> bool:
        assert self._parent is not None
        return bool(select.select([self._parent.stdout], [], [], 0)[0])

    def _read(self) -> int | None:
        """Read one line; the pid if it is of a new process."""
        assert self._parent is not None
        assert self._parent.stdout is not None
        pid, code = json.loads(self._parent.stdout.readline())
        if code is None:
            self._ends.pop(pid, None)  # of a former process with this number
            return int(pid)
        self._ends[pid] = code
        return None


def as_module(module: str, *arguments: str) -> str:
    """The script that does what `python -m MODULE ARGUMENTS` does."""
    return (
        f"import runpy, sys; sys.argv[:] = {[module, *arguments]!r}; "
        f"runpy.run_module({module!r}, None, '__main__', True)"
    )


def _compared(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_NOT_COMPARED)}


@functools.cache
def programs() -> Forks:
    """The parent of workers, simulators and other services, until pytest ends. It has not configured the logging."""
    return _until_the_end(
        "import celery.__main__, celery.apps.worker, celery.bin.celery, celery.concurrency.thread, celery.worker\n"
        "import ifinu.cli, ifinu.receipts.webhook_app, ifinu.simulator.process\n"
        "import ifinu.worker.consumer, ifinu.worker.inspection, ifinu.worker.tasks\n"
        "import kombu.transport.redis, uvicorn"
    )


@functools.cache
def bare() -> Forks:
    """A parent that has imported only some modules of Python's library."""
    return _until_the_end("")


@functools.cache
def libraries() -> Forks:
    """A parent that has imported nothing of ifinu, only libraries that each of its commands needs."""
    return _until_the_end("import phonenumbers, pydantic, redis, rich, typer")


def _until_the_end(imports: str) -> Forks:
    forks = Forks(imports)
    atexit.register(forks.close)
    return forks
