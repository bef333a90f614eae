from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from command_line import Shell
from figures import judge
from processes import API_KEY, Fleet, Queue, Simulated, numbered, wait_until
from sqlalchemy import select

from ifinu.broker.keys import EVENTS
from ifinu.embedded import Valkey, free_port
from ifinu.ledger.engine import connect
from ifinu.ledger.schema import notifications

SECRET = "a-secret-of-the-tests-that-is-long-enough"
FORGED = {"iat": 1, "exp": 4_000_000_000, "app": "evolution"}


class Webhook:
    """`ifinu webhook` as a process that can be killed and restarted on the same port."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = directory / "webhook.log"
        self._environment = {**os.environ, "IFINU_REDIS_URL": redis_url, "IFINU_WEBHOOK_SECRET": SECRET}
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ifinu", "webhook", "--host", "127.0.0.1", "--port", str(self.port)],
                env=self._environment,
                stdout=out,
                stderr=out,
            )
        wait_until(self._answers, seen=self._log.read_text)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(20)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def post(self, hook: dict[str, Any], token: str) -> int:
        request = urllib.request.Request(self.url, json.dumps(hook).encode(), {"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as exc:
            return exc.code


@pytest.fixture
def webhook(tmp_path: Path, valkey: Valkey) -> Iterator[Webhook]:
    server = Webhook(tmp_path, valkey.url)
    yield server
    server.kill()


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey: Valkey, simulator: Simulated) -> Shell:
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_EVOLUTION_URL", simulator.url)
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY", API_KEY)
    monkeypatch.setenv("IFINU_WEBHOOK_SECRET", SECRET)
    return Shell(capsys, monkeypatch)


def states(url: str) -> collections.Counter[str]:
    engine = connect(url)
    try:
        with engine.connect() as connection:
            return collections.Counter(connection.execute(select(notifications.c.state)).scalars())
    finally:
        engine.dispose()


@pytest.mark.fault
@pytest.mark.timeout(900)
def test_repeated_shuffled_forged_and_early_webhooks_leave_each_message_in_its_true_state(
    fleet: Fleet, queue: Queue, simulator: Simulated, webhook: Webhook, ifinu: Shell, tmp_path: Path, sized, report
):
    """
    Half of the hooks come twice, all in disorder; a tenth of the sends is answered after its receipts; the webhook
    is killed in the middle. Forged hooks claim that every message failed.
    """
    messages, kills, forgeries = sized((150, 1, 100), (5_000, 5, 2_000))
    assert ifinu("instance", "webhook", "ifinu", "--url", webhook.url).code == 0
    simulator.control.set_fault(
        receipts_ms={"server_ack": 50, "delivery_ack": 100, "read": 200},
        webhooks={"duplicate": 0.5, "shuffle_ms": 500},
        rates={"hang": 0.1},
        hang_ms=1_000,
    )
    ledger = f"sqlite:///{tmp_path / 'recorded.db'}"
    queue.push(*numbered(messages))
    worker = fleet.start(IFINU_RECORDER="true", IFINU_DATABASE_URL=ledger).ready()
    for step in range(1, kills + 1):
        enough = messages * step // (kills + 1)
        wait_until(lambda: simulator.total() >= enough, 300, worker.text)  # noqa: B023 - asked within the loop
        webhook.kill()
        webhook.start()
    draw = random.Random(3)
    keys = [send.key_id for send in simulator.sends()]
    wrong = [jwt.encode(FORGED, "another-secret-that-is-just-as-long-as-it", "HS256"), "none.of.it", SECRET]
    for _ in range(forgeries):
        data = {"keyId": draw.choice(keys), "fromMe": True, "status": "ERROR"}
        hook = {"event": "messages.update", "instance": "ifinu", "data": data}
        assert webhook.post(hook, draw.choice(wrong)) == 401
    wait_until(queue.idle, 300, queue.counts)
    # The gateway repeats hooks that the dead webhook missed after five seconds, and after ten.
    wait_until(lambda: states(ledger) == {"read": messages}, 120, lambda: states(ledger))
    wait_until(lambda: queue.client.xlen(EVENTS) == 0, 60)
    hooks = simulator.control.summary()["webhooks"]
    seen = states(ledger)
    figures = judge(queue, simulator, messages, events=())
    report(
        "webhooks repeated, shuffled, forged, early",
        f"{hooks['delivered']:,} hooks, {forgeries:,} forged, {kills} kills; {seen['read']:,} read in the ledger",
        figures,
    )
    assert not figures.lost
    assert not figures.twice
    assert seen == {"read": messages}
