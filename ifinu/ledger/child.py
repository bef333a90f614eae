"""
The recorder as a child process of the worker that leads: both ends of the pipes between them.

    worker ── stdin ───▶ child   no data; its end means: record what is there, and end
    worker ◀── stdout ── child   once a second the child's `Progress`, as a line of JSON
    environment                  the worker's settings
    stderr                       shared: the child's log lines stand among the worker's

The kernel closes the worker's end of stdin however the worker ends, so the child never outlives it for long.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import IO

from ifinu import logs, settings
from ifinu.broker import connections
from ifinu.ledger.leader import Leadership
from ifinu.ledger.progress import Progress
from ifinu.ledger.standby import Beside, record, resigning
from ifinu.settings import Settings

FINISH_S = 5.0  # to record the last events; the next leader records the rest
_EVERY_S = 1.0
# A terminal's Ctrl-C, and systemd's SIGTERM, reach the child too; it ends with its worker, after the last send.
_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


class RecorderError(RuntimeError):
    """
    The child ended by itself.

    Attributes:
        code: Its exit code; negative, the signal that killed it.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"the recorder ended with {code}")
        self.code = code


def record_in_child(
    config: Settings, stop: threading.Event, progress: Progress, leadership: Leadership, module: str = __name__
) -> None:
    """
    Let a child process record until `stop` is set or another process leads.

    Args:
        config: The worker's settings.
        stop: Ends it, within `FINISH_S`.
        progress: Updated as the child reports; its counts go on where the last child's ended.
        leadership: Held by this process; the child renews it.
        module: What the child runs: this module, or one that calls `main`.

    Raises:
        RecorderError: The child failed or was killed.
    """
    before = replace(progress, guard_steps=dict(progress.guard_steps))
    with _started(config, leadership.name, module) as child:
        assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - for mypy
        while child.poll() is None and not stop.wait(_EVERY_S):
            _read(child.stdout, before, progress)
        child.stdin.close()
        try:
            child.wait(FINISH_S)
        except subprocess.TimeoutExpired:
            child.kill()
        code = child.wait()
        _read(child.stdout, before, progress)
    progress.active = False
    if code and not stop.is_set():
        raise RecorderError(code)


def _started(config: Settings, name: str, module: str) -> subprocess.Popen[bytes]:
    # The command line may have overridden these two.
    overridden = {"IFINU_LOG_LEVEL": config.log_level, "IFINU_WORKER_NAME": config.worker_name or ""}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)  # the child inherits this
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", module, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | overridden,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert child.stdout is not None  # noqa: S101 - for mypy
    os.set_blocking(child.stdout.fileno(), False)
    return child


def _read(reports: IO[bytes], before: Progress, progress: Progress) -> None:
    # A line is shorter than PIPE_BUF, so there is never half of one.
    for line in (reports.read() or b"").splitlines()[-1:]:
        counted = Progress(**json.loads(line))
        progress.active, progress.lag = counted.active, counted.lag
        progress.recorded = before.recorded + counted.recorded
        progress.refused = before.refused + counted.refused
        progress.gaps = before.gaps + counted.gaps
        for step, count in counted.guard_steps.items():
            progress.guard_steps[step] = before.guard_steps[step] + count


def main(beside: Callable[[Settings, Progress], Beside] | None = None) -> None:
    """
    Record. The one argument of the command line is the name by which the worker leads.

    Args:
        beside: Makes what runs in a thread beside the recorder.
    """
    config = settings.load()
    logs.configure(config.log_level, config.log_format, config.log_limit, config.worker_name)
    stop, progress = threading.Event(), Progress()
    threading.Thread(target=_attend, args=(stop, progress), name="worker", daemon=True).start()
    with contextlib.closing(connections.connect(config.redis_url.get_secret_value())) as client:
        leadership = Leadership(client, sys.argv[1])
        with resigning(leadership):
            if leadership.keep():  # the worker's lease may have expired meanwhile
                record(client, config, stop, progress, leadership, beside and beside(config, progress))
    _report(progress)


def _attend(stop: threading.Event, progress: Progress) -> None:
    """Report to the worker until it closes the pipe or ends; then end this process, `FINISH_S` later at the latest."""
    while not select.select([sys.stdin], [], [], _EVERY_S)[0]:
        _report(progress)
    stop.set()
    time.sleep(FINISH_S)
    logs.flush()
    os._exit(1)


def _report(progress: Progress) -> None:
    with contextlib.suppress(BrokenPipeError):  # the worker has ended
        os.write(sys.stdout.fileno(), json.dumps(asdict(progress)).encode() + b"\n")


if __name__ == "__main__":
    main()
