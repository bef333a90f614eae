"""What a worker loads: each package here takes megabytes of every worker, and none of them sends a message."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Fleet, Queue, Simulated, numbered, wait_until

OF_OTHER_COMMANDS = {
    "alembic", "boto3", "botocore", "h11", "holidays", "jwt", "mako", "psycopg2", "python_calamine", "requests",
    "segno", "sqlalchemy", "sqlite3", "starlette", "uvicorn",
}  # fmt: skip
OF_CELERYS_COMMANDS = {"click_repl", "flower", "prompt_toolkit", "tornado"}  # `celery` itself loads them
OF_OURS = {"ifinu.ledger.recorder", "ifinu.receipts", "ifinu.simulator", "ifinu.tracing.sdk"}


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        (["celery", "-A", "ifinu", "worker"], {"ifinu.cli", "typer"}),
        (["ifinu", "worker"], OF_CELERYS_COMMANDS),
    ],
    ids=["celery", "ifinu"],
)
def test_a_worker_that_has_sent_did_not_load_what_other_commands_need(
    fleet: Fleet, queue: Queue, simulator: Simulated, tmp_path: Path, command: list[str], unwanted: set[str]
) -> None:
    queue.push(*numbered(1))
    log = tmp_path / "imports"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-v", "-m", *command],
            env={**os.environ, **fleet.environment},
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(lambda: simulator.total() == 1 and queue.idle(), seen=queue.counts)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    loaded = set(re.findall(r"^import '([\w.]+)' # ", log.read_text(errors="replace"), re.MULTILINE))
    assert "ifinu.worker.tasks" in loaded
    packages = {".".join(name.split(".")[:depth]) for name in loaded for depth in (1, 2, 3)}
    assert packages & (OF_OTHER_COMMANDS | OF_OURS | unwanted) == set()
