from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import requests
from processes import Fleet, Queue, Simulated, raw, wait_until

from ifinu.embedded import Valkey, free_port


def test_flower_sees_workers_queues_and_tasks_and_no_personal_data(
    tmp_path: Path, valkey: Valkey, fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    `celery -A ifinu flower`, beside a worker that sends events.
    """
    fleet.start("-E").ready()
    port = free_port()
    log = tmp_path / "flower.log"
    with log.open("wb") as out:
        flower = subprocess.Popen(
            [
                sys.executable, "-m", "celery", "-A", "ifinu", "flower", "--address=127.0.0.1", f"--port={port}",
                "--basic-auth=ops:secret",
            ],
            env={**os.environ, "IFINU_REDIS_URL": valkey.url},
            stdout=out,
            stderr=out,
        )  # fmt: skip

    def ask(route: str) -> dict:
        try:
            answer = requests.get(f"http://127.0.0.1:{port}/api/{route}", auth=("ops", "secret"), timeout=10)
        except requests.ConnectionError:
            return {}
        return answer.json() if answer.ok else {}

    try:
        wait_until(lambda: ask("workers?refresh=1"), 40, log.read_text)
        queue.push(raw(1, nome="Zulmira Canario", telefone="77 99861-5555"))
        (task,) = wait_until(lambda: ask("tasks").values(), 20, log.read_text)
        assert (task["name"], task["uuid"], task["args"]) == ("ifinu.send_notification", "test_1", "<lembrete>")
        wait_until(lambda: ask("tasks")["test_1"]["state"] == "SUCCESS")
        assert ask("tasks")["test_1"]["result"].startswith("'sent 3EB0")
        assert ask("workers?refresh=1")["w0@test"]["active_queues"][0]["name"].startswith("ifinu:fila:")
        assert not any(secret in str(ask("tasks")) for secret in ("Zulmira", "99861"))
    finally:
        flower.terminate()
        flower.wait(20)
