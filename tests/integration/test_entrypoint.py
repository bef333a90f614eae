"""The image's entrypoint, run without the image: a container's stop and the sends under way."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import API_KEY, SANDBOX, Queue, numbered, wait_until
from programs import program
from scripted_gateway import Act, Gateway, Request, reply, sent, serving

from ifinu.embedded import Valkey

DOCKERFILE = Path(__file__).parents[2] / "docker" / "Dockerfile"
OWN_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")
MESSAGES, SLOTS = 60, 10
DEADLINE_S = 60.0


def entrypoint() -> list[str]:
    """The Dockerfile's entrypoint; the test is skipped without its program."""
    (words,) = re.findall(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE)
    command: list[str] = json.loads(words)
    program(command[0])
    return command


def namespace() -> tuple[str, ...]:
    """The command prefix that makes a command process 1 of a PID namespace, or nothing where that is not allowed."""
    if shutil.which(OWN_NAMESPACE[0]) is None:
        return ()
    tried = subprocess.run([*OWN_NAMESPACE, "true"], capture_output=True, check=False)
    return () if tried.returncode else OWN_NAMESPACE


class Contained:
    """A command run as a container runs it."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._mark = f"ENTRYPOINT_TEST={uuid.uuid4()}"
        name, _, value = self._mark.partition("=")
        self._prefix = namespace()
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*self._prefix, *command],
                env={
                    **os.environ,
                    **environment,
                    name: value,
                    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                },
                stdout=out,
                stderr=out,
            )

    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def first(self) -> int:
        """The process that a container's stop signals, by its id outside of the namespace."""
        if not self._prefix:
            return self.process.pid
        (child,) = (pid for pid in self.processes() if _parent(pid) == self.process.pid)
        return child

    def processes(self) -> list[int]:
        """All processes with the container's mark in their environment."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours
                if entry.name.isdecimal() and self._mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def held_back(gateway: Gateway) -> Act:
    """Take a message, and answer once the gateway is released."""

    def act(sock: socket.socket, request: Request) -> bool:
        gateway.released.wait()
        return reply(201, sent())(sock, request)

    return act


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with serving() as start:
        made = start(reply(404))
        made.acts[:] = [held_back(made)]
        yield made


def test_sigterm_to_the_container_finishes_current_sends_and_requeues_the_rest(
    tmp_path: Path, valkey: Valkey, queue: Queue, gateway: Gateway
):
    """
    SIGTERM to process 1 reaches Celery's main process only: ten sends end in order, fifty messages wait, exit code 0.
    """
    queue.push(*numbered(MESSAGES))
    environment = {
        "IFINU_REDIS_URL": valkey.url,
        "IFINU_EVOLUTION_URL": gateway.url,
        "IFINU_EVOLUTION_API_KEY": API_KEY,
        "IFINU_SANDBOX_NUMBER": SANDBOX,
        "IFINU_RECORDER": "false",
    }
    contained = Contained([*entrypoint(), "worker"], environment, tmp_path / "log")
    try:
        wait_until(lambda: len(gateway.requests) == SLOTS, DEADLINE_S, contained.text)
        os.kill(contained.first(), signal.SIGTERM)
        wait_until(lambda: queue.counts()["ready"] == MESSAGES - SLOTS, DEADLINE_S, contained.text)
        assert contained.process.poll() is None  # it waits for the ten answers
        assert (len(gateway.requests), queue.counts()["in_flight"]) == (SLOTS, SLOTS)
        gateway.released.set()
        assert contained.process.wait(DEADLINE_S) == 0, contained.text()
        assert contained.processes() == []
    finally:
        contained.stop()
    assert {request.line for request in gateway.requests} == {"POST /message/sendText/ifinu HTTP/1.1"}
    assert len(gateway.requests) == SLOTS
    assert queue.counts() == {
        "ready": MESSAGES - SLOTS,
        "delayed": 0,
        "in_flight": 0,
        "deadlines": 0,
        "dead": 0,
        "in_lanes": 0,
    }
    states = [queue.client.hget(key, "state") for key in queue.client.scan_iter("ifinu:claim:*")]
    assert states == [b"sent"] * SLOTS
