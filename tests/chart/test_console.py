"""The filter of the gateway's output: the chart's command, run with a stand-in for `node`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import wait_until
from rendering import rendered

HEAD = "[Evolution API]  [ifinu]  v2.3.7  7   -   Mon Nov 30 2026 05:00:00   INFO   [ChannelStartupService]"
STARTED = "[Evolution API]  v2.3.7  7   -   Mon Nov 30 2026 05:00:00   INFO   [SERVER]  [string]  HTTP - ON: 8080"
PERSONAL = (
    f"{HEAD}  [string]  Maria wrote SAIR",
    "{",
    "  key: { remoteJid: '5577998616740@s.whatsapp.net', fromMe: false },",
    "  pushName: 'Maria',",
    "  message: { conversation: 'SAIR' },",
    "messages.upsert Maria 5577998616740 SAIR",
    f"{HEAD}  [string]  Maria says  INFO  [SAIR]",
    "[Evolution API]  [5577998616740]  7 - Mon  INFO  [Maria]",
    "[Evolution API]  7 - Mon  LOG  [Channel]  [string]  Maria  INFO  [Nothing]",
    '[Evolution API] {"text": "Maria"} INFO [SAIR]',
)


class Gateway:
    """The container's main process, with a script as `node` in place of the server."""

    def __init__(self, directory: Path, node: str) -> None:
        container = rendered("default").container("StatefulSet", "evolution-api", "evolution-api").spec
        program = directory / "bin" / "node"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{node}")
        program.chmod(0o755)
        (script,) = container["args"]
        environment = {
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "CONSOLE_FILTER": next(each["value"] for each in container["env"] if each["name"] == "CONSOLE_FILTER"),
        }
        self.console = directory / "console.log"
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*container["command"], script.replace("/tmp/", f"{directory}/")],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Gateway]]:
    started: list[Gateway] = []

    def start(node: str) -> Gateway:
        started.append(Gateway(tmp_path, node))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def printing(*lines: str) -> str:
    return "cat <<'END'\n" + "\n".join(lines) + "\nEND\n"


def test_known_lines_reach_the_logs_at_once_and_personal_data_never(start):
    gateway = start(printing(*PERSONAL, STARTED) + "exec sleep 60\n")
    wait_until(lambda: "HTTP - ON: 8080" in gateway.log.read_text(), seen=gateway.log.read_text)
    logged = gateway.log.read_text()
    assert logged.splitlines() == [HEAD, HEAD, STARTED.replace("  [string]  ", " ")]
    assert gateway.console.read_text().splitlines() == [
        *PERSONAL,
        STARTED,
    ]  # the complete output, in a file that is not collected


def test_signals_reach_the_server_and_its_exit_code_is_kept(start):
    gateway = start("trap 'exit 7' TERM\n" + printing(STARTED) + "while :; do sleep 0.05; done\n")
    wait_until(lambda: "HTTP - ON" in gateway.log.read_text(), seen=gateway.log.read_text)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 7


def test_the_kept_output_is_bounded(start):
    gateway = start('i=0; while [ $i -lt 400 ]; do printf "%010000d\\n" $i; i=$((i + 1)); done\n')
    assert gateway.process.wait(20) == 0
    last = f"{399:010000d}"
    wait_until(lambda: gateway.console.exists() and gateway.console.read_text().endswith(f"{last}\n"))
    kept = [gateway.console, gateway.console.with_suffix(".log.1")]
    assert sum(file.stat().st_size for file in kept) < 2_200_000
    assert gateway.log.read_text() == ""
