"""The users of docs/redis-users.md on a real server, each doing its work."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import bills
import pytest
import redis
from command_line import Shell
from integration.receipts.conftest import SECRET, Receiver
from integration.test_flower import LOGIN, Watched, watches
from integration.test_metrics import Command, scrape, there
from processes import API_KEY, Fleet, Queue, Simulated, fleet_of, raw, wait_until
from sqlalchemy import insert

from ifinu import producer
from ifinu.billing.billing_schema import cancel_flags
from ifinu.broker import rights
from ifinu.broker.keys import EPOCH, EVENTS, LEDGER_GROUP, NORMAL, optout_key
from ifinu.embedded import Valkey, free_port
from ifinu.errors import BrokerUnavailable
from ifinu.ledger.engine import connect

DOCUMENT = Path(__file__).parents[2] / "docs/redis-users.md"
LINE = re.compile(r"^ACL SETUSER ifinu-(\w+) (on >\w+ .*)$", re.MULTILINE)
PHONE_KEY = "a key of phones that is long enough for it"
WIRE = {"telefone": "77998616740", "nome": "M", "valor": "1", "vencimento": "2030-12-01", "descricao": "x"}
USERS = dict(LINE.findall(DOCUMENT.read_text(encoding="utf-8")))


@pytest.fixture
def url_of(valkey: Valkey, client: redis.Redis) -> Iterator[Callable[..., str]]:
    """A function that creates a user as documented, with the given changes of its rights. Returns its URL."""
    made = []
    client.execute_command("ACL", "LOG", "RESET")  # entries of earlier tests on the same server

    def make(name: str, *changes: str) -> str:
        user = f"ifinu-{name}"
        client.execute_command("ACL", "SETUSER", user, "reset", *USERS[name].split(), ">secret", *changes)
        made.append(user)
        return f"redis://{user}:secret@{urlsplit(valkey.url).netloc}/0"

    yield make
    client.execute_command("ACL", "LOG", "RESET")
    client.acl_deluser(*made)


@pytest.fixture
def fleet_as(tmp_path: Path, simulator: Simulated) -> Iterator[Callable[[str], Fleet]]:
    """Workers that reach Redis by a given URL."""
    fleets = []

    def make(url: str) -> Fleet:
        fleets.append(fleet_of(tmp_path, url, simulator.url))
        return fleets[-1]

    yield make
    for each in fleets:
        each.stop()


def denied(client: redis.Redis) -> list[tuple[str, str]]:
    """The commands that Redis denied since the start of the test, with their users."""
    return [(entry["username"], entry["object"]) for entry in client.acl_log()]


def test_a_worker_and_a_producer_need_only_the_documented_rights(
    client: redis.Redis, queue: Queue, simulator: Simulated, url_of, fleet_as, monkeypatch
):
    url = url_of("producer")
    monkeypatch.setenv("IFINU_REDIS_URL", url)
    fields = {"kind": "lembrete", "phone": "(77) 99861-6740", "name": "M", "amount": "1", "due_date": "2030-12-01"}
    done = producer.enqueue_many([{"id": f"bulk-{i}", "description": "x", **fields} for i in range(3)])
    assert done.accepted == 3
    assert producer.cancel("bulk-2") == ""
    queue.push(raw(1), raw(3, telefone="1"))
    fleet_as(url_of("worker")).start(IFINU_RECORDER="true").ready()
    wait_until(lambda: simulator.total() == 3 and queue.idle(), seen=queue.counts)
    assert [letter["reason"] for letter in queue.dead()] == ["invalid"]
    assert denied(client) == []


def test_an_operators_commands_need_only_the_documented_rights(
    client: redis.Redis, queue: Queue, url_of, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("IFINU_REDIS_URL", url_of("operator"))
    monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{tmp_path}/ledger.db")
    ifinu = Shell(capsys, monkeypatch)
    queue.push(raw(1))
    for line in ("status --json", "queue pause", "queue resume", "unknown list", "optout add 77998616740", "cancel x"):
        assert ifinu(*line.split()).code == 0, line
    assert ifinu("queue", "purge", "--yes").code == 0
    assert denied(client) == []


@pytest.fixture
def ifinu_as(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Commands that reach Redis by a given URL; all are stopped at the end."""
    with contextlib.ExitStack() as running:

        def start(url: str, *arguments: str, **environment: str) -> Command:
            one = Command(tmp_path / f"{arguments[0]}.log", *arguments, IFINU_REDIS_URL=url, **environment)
            running.callback(one.stop)
            return one

        yield start


def test_webhook_exporter_flower_and_recorder_need_only_the_documented_rights(
    tmp_path: Path, client: redis.Redis, queue: Queue, simulator: Simulated, url_of, fleet_as, ifinu_as
):
    """
    The webhook gets a receipt, a SAIR and a closed instance; exporter, Flower and recorder run beside it.
    """
    url, at, ports = url_of("worker"), free_port(), [free_port(), free_port()]
    ledger = {"IFINU_DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db"}
    gateway = {"IFINU_EVOLUTION_URL": simulator.url, "IFINU_EVOLUTION_API_KEY": API_KEY}
    webhook = ifinu_as(
        url, "webhook", "--host", "127.0.0.1", "--port", str(at), IFINU_WEBHOOK_SECRET=SECRET, IFINU_PHONE_KEY=PHONE_KEY
    )
    exporter = ifinu_as(url, "metrics", IFINU_METRICS_PORT=str(ports[0]), **ledger, **gateway)
    recorder = ifinu_as(url, "recorder", IFINU_METRICS_PORT=str(ports[1]), **ledger)
    fleet = fleet_as(url)
    fleet.start(IFINU_PHONE_KEY=PHONE_KEY).ready()
    queue.push(raw(1, usuario_id="u1"), raw(2, telefone="1"))
    wait_until(lambda: simulator.total() == 1 and queue.idle(), seen=queue.counts)

    flower = Watched(tmp_path / "flower.log", {"IFINU_REDIS_URL": url, "IFINU_FLOWER_AUTH": LOGIN}, "ifinu", "flower")
    try:
        watches(flower, fleet)
        assert all(flower.get(page).ok for page in ("/", "/tasks", "/broker", "/api/queues/length"))
    finally:
        flower.stop()

    post = functools.partial(
        Receiver.post, SimpleNamespace(port=at, ask=functools.partial(Receiver.ask, SimpleNamespace(port=at)))
    )
    wait_until(lambda: answers(at), seen=webhook.log.read_text)
    jid = {"remoteJid": "5577998616740@s.whatsapp.net"}
    for event, data in (
        ("messages.update", {"keyId": "3EB0AA", "fromMe": True, "status": "READ", **jid}),
        ("connection.update", {"state": "close", "statusReason": 401}),
        (
            "messages.upsert",
            {"key": {"id": "A", "fromMe": False, **jid}, "message": {"conversation": "SAIR"}, "messageTimestamp": 1},
        ),
    ):
        assert post({"event": event, "instance": "ifinu", "data": data}) == 200, event
    assert client.hlen(optout_key("u1")) == 1

    wait_until(lambda: scrape(ports[1])("ifinu_recorder_events_total") >= 3, seen=recorder.log.read_text)
    wait_until(lambda: there(ports[0]) and "ifinu_gateway_up" in scrape(ports[0]).text, seen=exporter.log.read_text)
    now = scrape(ports[0])
    assert (now("ifinu_redis_up"), now("ifinu_redis_noeviction"), now("ifinu_queue_dead", queue="whatsapp")) == (
        1,
        1,
        1,
    )
    assert now("ifinu_gateway_up") == 1
    assert denied(client) == []


def test_a_scheduler_needs_only_the_documented_rights(client: redis.Redis, url_of, postgres_ledger: str):
    """
    It pushes a message, and pushes it again after Redis lost its data. What it logs does not mix with its JSON.
    """
    environment = {**os.environ, "IFINU_REDIS_URL": url_of("worker"), "IFINU_DATABASE_URL": postgres_ledger}
    command, now = [sys.executable, "-m", "ifinu", "scheduler", "--once", "--json"], datetime.now(UTC)
    engine = connect(postgres_ledger)
    with engine.begin() as connection:
        bills.tenant(connection)
        bills.customer(connection)
        due = {"not_before": now - timedelta(hours=1), "valid_until": now + timedelta(days=1)}
        bills.intent(connection, bills.charge(connection), "lembrete", **due)
        connection.execute(insert(cancel_flags).values(id="c9.d.261201"))
    engine.dispose()
    for _ in range(2):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["pushed"] == 1
        client.delete(EPOCH, NORMAL)
        with contextlib.suppress(redis.ResponseError):  # it exists
            client.xgroup_create(EVENTS, LEDGER_GROUP, id="$", mkstream=True)
    assert "ifinu.scheduler.redis_lost" in ended.stderr
    assert denied(client) == []


def answers(port: int) -> bool:
    """Whether the webhook is ready."""
    with contextlib.suppress(OSError):
        return Receiver.ask(SimpleNamespace(port=port), "GET", "/readyz") == 200
    return False


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (("-hmget",), "HMGET"),
        (("-blmove",), "BLMOVE"),
        (("-evalsha", "-eval", "-script|load"), "scripts"),
        (("resetkeys", "~ifinu:fila:*", "~ifinu:prova:*"), "ifinu:claim:*"),
    ],
)
def test_a_right_that_a_worker_lacks_is_named(url_of, change, missing):
    with redis.Redis.from_url(url_of("worker")) as whole:
        assert rights.refused(whole) == []
    with redis.Redis.from_url(url_of("worker", *change)) as client, pytest.raises(Exception, match=re.escape(missing)):
        rights.check(client)


def test_doctor_names_a_right_that_is_missing_and_advises_no_new_phone_key(url_of, capsys, monkeypatch):
    ifinu = Shell(capsys, monkeypatch)
    found = {}
    for name, changes in (("whole", ()), ("lacking", ("-hmget",))):
        monkeypatch.setenv("IFINU_REDIS_URL", url_of("worker", *changes))
        found[name] = {one["check"]: one for one in ifinu("doctor", "--json").json["checks"]}
    assert found["whole"]["rights"]["level"] == "ok"
    assert (found["lacking"]["rights"]["level"], found["lacking"]["rights"]["seen"]) == ("fail", "refused: HMGET")
    assert "openssl" not in found["whole"]["phone key"]["fix"]


def test_a_right_that_a_producer_lacks_is_refused_and_nothing_is_pushed(queue: Queue, url_of, monkeypatch):
    monkeypatch.setenv("IFINU_REDIS_URL", url_of("producer", "-lpush"))
    with pytest.raises(BrokerUnavailable):
        producer.enqueue_many([{"id": "x", "tipo_notificacao": "lembrete", **WIRE}])
    assert queue.counts()["ready"] == 0


def test_a_worker_without_a_right_does_not_start_and_says_what_is_missing(url_of, fleet_as):
    fleet = fleet_as(url_of("worker", "-hmget"))
    worker = fleet.start()
    assert worker.process.wait(60) == 2
    assert "Redis does not allow this user HMGET" in worker.text()
    ours = subprocess.run(  # `ifinu worker` ends as `celery -A ifinu worker` does
        [sys.executable, "-m", "ifinu", "worker"], env=os.environ | fleet.environment, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert ours.returncode == 2
    assert "Redis does not allow this user HMGET" in ours.stdout + ours.stderr


def test_a_worker_that_loses_a_right_logs_it_once_and_resumes_once_restored(
    tmp_path: Path, client: redis.Redis, queue: Queue, simulator: Simulated, url_of, fleet_as
):
    beat = tmp_path / "run" / "beat"
    beat.parent.mkdir()
    worker = fleet_as(url_of("worker")).start(IFINU_HEARTBEAT_FILE=str(beat)).ready()
    wait_until(beat.exists)
    beat.unlink()
    beat.parent.rmdir()  # no heartbeat file, though Redis is there
    calls_before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    client.execute_command("ACL", "SETUSER", "ifinu-worker", "-hmget")
    queue.push(*(raw(i, telefone=f"77 99861-{i:04}") for i in range(1000, 1030)))
    wait_until(lambda: "ifinu.claims.refused" in worker.text(), seen=worker.text)
    wait_until(lambda: "ifinu.heartbeat.withheld" in worker.text(), seen=worker.text)
    calls = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0) - calls_before
    assert simulator.total() == 0
    client.execute_command("ACL", "SETUSER", "ifinu-worker", "+hmget")
    wait_until(lambda: simulator.total() == 30 and queue.idle(), seen=queue.counts)
    wait_until(lambda: "ifinu.claims.back" in worker.text(), seen=worker.text)
    text = worker.text()
    assert (text.count("ifinu.claims.refused"), text.count("ifinu.claims.back")) == (1, 1)
    assert "hmget" in text
    assert calls < 1000
    assert "Connection to broker lost" not in text
