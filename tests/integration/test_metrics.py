"""
Every series that ifinu exports, from real processes, compared with the real events.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from processes import API_KEY, numbered, start, wait_until
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ifinu.billing.scheduler import Figures
from ifinu.broker.keys import EVENTS, NORMAL, UNKNOWN, URGENT, Keys
from ifinu.broker.replies import MAYBE, Replies, Reply
from ifinu.embedded import free_port
from ifinu.ledger.progress import Progress
from ifinu.metrics import endpoint, polls
from ifinu.metrics.labels import Bounded
from ifinu.metrics.payment_series import PaymentSeries
from ifinu.metrics.recorder_series import RecorderSeries
from ifinu.metrics.redis_series import RedisCollector
from ifinu.metrics.scheduler_series import SchedulerSeries
from ifinu.metrics.webhook_series import WebhookSeries
from ifinu.metrics.worker_series import WorkerSeries

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
SECRET = "a-secret-of-the-tests-that-is-long-enough"


class Series:
    """The result of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [one for family in text_string_to_metric_families(text) for one in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name with these labels. Raises KeyError if no sample matches."""
        found = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        if not found:
            raise KeyError(f"{name}{labels}")
        return sum(found)

    def shows(self, value: float, name: str, **labels: str) -> bool:
        """Whether the series exists with this value."""
        try:
            return self(name, **labels) == value
        except KeyError:
            return False

    def by(self, name: str, *labels: str) -> dict:
        """The values, by the values of these labels."""
        picked = (s for s in self.samples if s.name == name)
        return {tuple(s.labels[each] for each in labels) if len(labels) > 1 else s.labels[labels[0]]: s.value
                for s in picked}  # fmt: skip


def plain(prefix: str, count: int) -> list[str]:
    """Messages to the sandbox number, which the simulator accepts."""
    return [json.dumps({"id": f"{prefix}{n}", "tipo_notificacao": "lembrete"}) for n in range(count)]


def scrape(port: int) -> Series:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return Series(answer.read().decode())


def there(port: int) -> bool:
    try:
        scrape(port)
    except OSError:
        return False
    return True


class Command:
    """`ifinu …` as a process."""

    def __init__(self, log, *arguments: str, **environment: str) -> None:
        self.log = log
        self.process = start("ifinu", arguments, {**os.environ, **environment}, log)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def command(tmp_path, valkey) -> Iterator:
    """A function that starts commands that serve `/metrics`; all are stopped at the end."""
    running: list[Command] = []

    def start(*arguments: str, **environment: str) -> int:
        port = free_port()
        own = {"IFINU_REDIS_URL": valkey.url, "IFINU_METRICS_PORT": str(port)}
        own |= {"IFINU_DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db"}
        running.append(Command(tmp_path / f"{arguments[0]}.log", *arguments, **{**own, **environment}))
        wait_until(lambda: there(port), seen=running[-1].log.read_text)
        return port

    yield start
    for one in running:
        assert one.stop() == 0, one.log.read_text()


def test_no_label_holds_a_phone_and_the_number_of_series_is_bounded():
    label = Bounded(most=3)
    assert [label(name) for name in ("ifinu", "vendas 5511987654321", None, "one more")] == [
        "ifinu", "vendas +55 11 9****-4321", "", "other",
    ]  # fmt: skip
    assert label("ifinu") == "ifinu"


def test_a_worker_counts_the_outcomes_of_its_messages(fleet, queue, simulator):
    """
    Every expected number comes from the simulator, the queue or this test.
    """
    port = free_port()
    worker = fleet.start(IFINU_METRICS_PORT=str(port), IFINU_RATE_LIMIT="200/s", IFINU_MAX_RETRIES="1")
    worker.ready()
    accepted = (datetime.now(UTC) - timedelta(seconds=30)).isoformat()
    good = [{"id": f"n{n}", "tipo_notificacao": "lembrete", "criado_em": accepted} for n in range(20)]
    simulator.control.set_fault(latency_ms=20)
    queue.push(*map(json.dumps, good), json.dumps({"id": "n0", "tipo_notificacao": "lembrete"}))
    queue.push(b"not json", json.dumps({"id": "k", "tipo_notificacao": "none"}))
    queue.push(json.dumps({**good[0], "id": "old", "valido_ate": "2020-01-01"}))
    queue.push(json.dumps({"id": "gone", "tipo_notificacao": "atraso", "telefone": "5511987650001", "nome": "A",
                           "valor": "1", "vencimento": "2025-01-06"}))  # fmt: skip
    wait_until(lambda: queue.idle() and len(queue.dead()) == 3, seen=lambda: (queue.counts(), worker.text()))

    def exported() -> Series:
        return scrape(port)

    ends = {
        ("lembrete", "sent"): 20,
        ("lembrete", "duplicate"): 1,
        ("lembrete", "expired"): 1,
        ("atraso", "dead"): 1,
        ("unreadable", "dead"): 2,
    }

    def counted() -> Series | None:
        now = exported()
        by_end = {key: value for key, value in now.by("ifinu_messages_total", "kind", "outcome").items() if value}
        return now if by_end == ends and now.shows(0, "ifinu_slots_busy") else None

    now = wait_until(counted, seen=lambda: exported().text)
    reasons = now.by("ifinu_dead_letters_total", "reason")
    assert reasons == {"not_json": 1, "invalid": 1, "number_not_on_whatsapp": 1}
    posts = simulator.control.summary()["posts"]
    answers = now.by("ifinu_gateway_answers_total", "answer")
    assert answers["sent"] == 20 == posts["by_outcome"]["ok"]
    assert sum(answers.values()) == posts["total"]
    assert now("ifinu_send_seconds_count") == posts["total"]
    assert now("ifinu_send_seconds_sum", result="sent") > 20 * 0.020
    assert now("ifinu_instance_sends_total", whatsapp="ifinu", result="sent") == 20
    assert now("ifinu_instance_held", whatsapp="ifinu") == 0
    assert now("ifinu_queue_seconds_count") >= 21  # the duplicate has no time of acceptance
    assert 30 * 20 <= now("ifinu_end_to_end_seconds_sum") < 90 * 20
    assert now("ifinu_end_to_end_seconds_count") == 20
    assert now("ifinu_pace_limit_per_second") == 200
    assert (now("ifinu_slots"), now("ifinu_slots_busy"), now("ifinu_pace_waiting")) == (10, 0, 0)
    assert (now("ifinu_breaker_open"), now("ifinu_leases_owed"), now("ifinu_leases_reaped_total")) == (0, 0, 0)
    assert now("ifinu_build_info") == 1
    assert now("process_resident_memory_bytes") > 20e6
    assert "5511987650001" not in now.text


def test_a_worker_exports_a_gateway_outage_and_an_instance_on_hold(fleet, queue, simulator):
    port = free_port()
    fleet.start(IFINU_METRICS_PORT=str(port)).ready()
    simulator.control.set_instance("ifinu", state="close")
    queue.push(*plain("a", 12))
    wait_until(lambda: scrape(port).shows(1, "ifinu_instance_held", whatsapp="ifinu"), seen=lambda: scrape(port).text)

    def exported() -> bool:
        seen = scrape(port)
        failed = seen.by("ifinu_instance_sends_total", "whatsapp", "result").get(("ifinu", "failed"), 0)
        return seen.shows(12, "ifinu_deferrals_total", reason="instance") and failed >= 1

    wait_until(exported, seen=lambda: scrape(port).text)
    simulator.control.set_instance("ifinu", state="open")
    wait_until(queue.idle, seen=queue.counts)
    wait_until(lambda: scrape(port)("ifinu_instance_held", whatsapp="ifinu") == 0)
    assert "ifinu_retries_total{" not in scrape(port).text

    simulator.control.set_fault(gateway="unavailable")
    queue.push(*plain("b", 20))
    wait_until(lambda: scrape(port)("ifinu_breaker_open") == 1, seen=lambda: scrape(port).text)
    simulator.control.set_fault(gateway="up")
    wait_until(lambda: queue.idle() and scrape(port)("ifinu_breaker_open") == 0, seen=queue.counts)
    assert scrape(port)("ifinu_gateway_answers_total", answer="unavailable") >= 3


def test_a_worker_counts_a_send_in_doubt_once(fleet, queue, simulator):
    port = free_port()
    fleet.start(IFINU_METRICS_PORT=str(port)).ready()
    simulator.control.set_fault(next=["sent_then_reset"])
    queue.push(*plain("a", 1))
    wait_until(lambda: queue.idle() and simulator.total() == 1, seen=queue.counts)
    wait_until(lambda: scrape(port).shows(1, "ifinu_messages_total", outcome="sent"))
    now = scrape(port)
    assert now("ifinu_doubts_total") == 1
    assert now("ifinu_gateway_answers_total") == 1  # a look-up's success is no answer to a send


def test_a_worker_whose_port_is_in_use_says_so_and_ends(fleet):
    port = free_port()
    fleet.start(IFINU_METRICS_PORT=str(port)).ready()
    second = fleet.start(IFINU_METRICS_PORT=str(port))
    wait_until(lambda: second.process.poll() is not None, seen=second.text)
    assert second.process.wait() == 2
    assert f"IFINU_METRICS_PORT: :::{port}" in second.text()


def test_the_exporter_exports_the_state_of_redis_ledger_and_gateway_without_a_worker(
    client, queue, command, simulator, tmp_path
):
    gateway = {"IFINU_EVOLUTION_URL": simulator.url, "IFINU_EVOLUTION_API_KEY": API_KEY}
    port = command("metrics", **gateway)
    now_ms = int(time.time() * 1000)
    old = datetime.now(UTC) - timedelta(minutes=10)
    client.lpush(NORMAL, json.dumps({"id": "a", "criado_em": old.isoformat()}), *numbered(4))
    client.zadd(Keys.of(NORMAL).delayed, {"late": now_ms - 60_000, "later": now_ms + 600_000})
    client.hset(Keys.of(URGENT).in_flight, "tag", "bytes")
    client.lpush(Keys.of(NORMAL).dead, json.dumps({"reason": "timeout"}), "anything")
    client.set(Keys.of(NORMAL).paused, "2026-11-25T00:00:00Z")
    client.zadd(UNKNOWN, {"x": now_ms - 30_000})
    Replies(client).take(Reply("1", MAYBE, "wa1", datetime.now(UTC)), stays=True)
    client.xadd(EVENTS, {"event": "sent", "id": "x", "data": "{}"}, id=f"{now_ms - 20_000}-0")

    polled = ("ifinu_gateway_up", "ifinu_instance_connected", "ifinu_ledger_up")
    now = wait_until(lambda: (seen := scrape(port)) and {*polled} <= {each.name for each in seen.samples} and seen)
    assert now.by("ifinu_queue_backlog", "queue") == {"urgente": 0, "whatsapp": 5, "baixa": 0}
    assert now("ifinu_queue_delayed", queue="whatsapp") == 2
    assert now("ifinu_queue_in_flight", queue="urgente") == 1
    assert now("ifinu_queue_dead", queue="whatsapp") == 2
    assert now.by("ifinu_queue_dead_by_reason", "queue", "reason") == {("whatsapp", "foreign"): 2}
    assert now.by("ifinu_queue_paused", "queue") == {"urgente": 0, "whatsapp": 1, "baixa": 0}
    assert 600 <= now("ifinu_queue_oldest_seconds", queue="whatsapp") < 700
    assert now("ifinu_queue_oldest_seconds", queue="baixa") == 0
    assert 60 <= now("ifinu_queue_overdue_seconds", queue="whatsapp") < 160
    assert now("ifinu_unknown") == 1
    assert now.by("ifinu_answers_open", "wish") == {"stop": 0, "wrong_person": 0, "maybe": 1}
    assert 30 <= now("ifinu_unknown_oldest_seconds") < 130
    assert now("ifinu_recorder_lag_events") == 1
    assert 20 <= now("ifinu_recorder_lag_seconds") < 120
    assert (now("ifinu_redis_up"), now("ifinu_redis_noeviction"), now("ifinu_redis_evicted_keys_total")) == (1, 1, 0)
    assert now("ifinu_redis_memory_used_bytes") > 100_000
    assert now("ifinu_redis_memory_max_bytes") == int(client.config_get("maxmemory")["maxmemory"])
    assert now("ifinu_redis_aof_enabled") == (client.config_get("appendonly")["appendonly"] == "yes")
    assert now("ifinu_redis_uptime_seconds") >= 0
    assert now("ifinu_gateway_up") == 1
    assert now("ifinu_instance_connected", whatsapp="ifinu") == 1
    assert now("ifinu_ledger_up") == 0  # the ledger was not created yet


def test_the_exporter_exports_a_redis_outage_and_goes_on(tmp_path, queue_server, command):
    port = command("metrics", IFINU_REDIS_URL=queue_server.url)
    assert scrape(port)("ifinu_redis_up") == 1
    queue_server.kill()
    assert scrape(port)("ifinu_redis_up") == 0
    assert "ifinu_queue_backlog" not in scrape(port).text  # an old value would be taken for a current one
    queue_server.start()
    wait_until(lambda: scrape(port)("ifinu_redis_up") == 1)


@pytest.fixture
def queue_server(tmp_path):
    """A Redis for this test only, to be killed."""
    from processes import redis_server

    with redis_server(tmp_path / "own") as server:
        yield server


def test_the_age_of_a_message_without_a_time_counts_from_its_first_reading(client):
    registry = CollectorRegistry()
    RedisCollector(registry, client)

    def oldest() -> float:
        return Series(generate_latest(registry).decode())("ifinu_queue_oldest_seconds", queue="whatsapp")

    client.lpush(NORMAL, "first", "second")
    assert oldest() < 10
    before = oldest()
    wait_until(lambda: oldest() > before + 0.2)
    aged = oldest()
    client.rpop(NORMAL)
    assert oldest() < aged


def test_dead_letters_are_read_again_only_if_they_changed(client):
    registry = CollectorRegistry()
    RedisCollector(registry, client)
    dead = Keys.of(NORMAL).dead

    def by_reason() -> dict:
        return Series(generate_latest(registry).decode()).by("ifinu_queue_dead_by_reason", "reason")

    client.lpush(dead, *(f"foreign {n}" for n in range(1_200)))
    assert by_reason() == {"foreign": 1_200}
    reads = client.info("commandstats").get("cmdstat_lrange", {}).get("calls", 0)
    assert by_reason() == {"foreign": 1_200}
    assert client.info("commandstats").get("cmdstat_lrange", {}).get("calls", 0) == reads
    client.rpop(dead)
    assert by_reason() == {"foreign": 1_199}


def test_the_webhook_application_counts_its_requests_by_outcome(command, client):
    at = free_port()
    port = command("webhook", "--host", "127.0.0.1", "--port", str(at), IFINU_WEBHOOK_SECRET=SECRET)

    def post(hook: object, secret: str = SECRET) -> int:
        request = urllib.request.Request(
            f"http://127.0.0.1:{at}", json.dumps(hook).encode(), {"Authorization": f"Bearer {token(secret)}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as exc:
            return exc.code

    wait_until(lambda: _answers(at))
    update = {
        "event": "messages.update",
        "instance": "ifinu",
        "data": {"keyId": "3EB0A", "status": "READ", "fromMe": True},
    }
    assert post(update) == 200
    assert (
        post({"event": "connection.update", "instance": "ifinu", "data": {"state": "close", "statusReason": 401}})
        == 200
    )
    assert post(update, "another secret that is long enough to be one") == 401
    now = wait_until(lambda: (seen := scrape(port)).shows(3, "ifinu_webhook_seconds_count") and seen)
    assert now.by("ifinu_receipts_total", "state") == {"read": 1}
    assert now.by("ifinu_connection_changes_total", "state") == {"close": 1}
    assert now.by("ifinu_webhook_requests_total", "code") == {"200": 2, "401": 1}
    assert now("ifinu_webhook_seconds_count") == 3
    assert (now("ifinu_opt_outs_total"), now("ifinu_opt_outs_unresolved_total")) == (0, 0)


def token(secret: str) -> str:
    import jwt

    now = int(time.time())
    return jwt.encode({"iat": now, "exp": now + 600, "app": "evolution", "action": "webhook"}, secret, "HS256")


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_the_recorder_exports_its_progress(command, client):
    port = command("recorder")
    wait_until(lambda: scrape(port)("ifinu_recorder_active") == 1)
    client.xadd(EVENTS, {"event": "sent", "id": "x", "data": json.dumps({"kind": "atraso", "key_id": "k"})})
    client.xadd(EVENTS, {"event": "no such event", "id": "x", "data": "{}"})
    wait_until(lambda: scrape(port)("ifinu_recorder_events_total") == 1, seen=lambda: scrape(port).text)
    wait_until(lambda: scrape(port)("ifinu_recorder_refused_total") == 1, seen=lambda: scrape(port).text)
    assert scrape(port)("ifinu_recorder_gaps_total") == 0


@pytest.mark.parametrize("arguments", [("metrics",), ("recorder",), ("webhook", "--port", "0")])
def test_a_port_in_use_is_reported_in_one_line(arguments, tmp_path, valkey):
    import socket

    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {"IFINU_REDIS_URL": valkey.url, "IFINU_METRICS_PORT": str(port), "IFINU_WEBHOOK_SECRET": SECRET}
        environment["IFINU_DATABASE_URL"] = f"sqlite:///{tmp_path}/ledger.db"
        ended = subprocess.run(
            [sys.executable, "-m", "ifinu", *arguments], env={**os.environ, **environment}, capture_output=True,
            text=True, timeout=200,
        )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"error: IFINU_METRICS_PORT: :::{port}: ")


def test_once_prints_the_series_of_redis(valkey, client):
    client.lpush(NORMAL, *numbered(3))
    ended = subprocess.run(
        [sys.executable, "-m", "ifinu", "metrics", "--once"], env={**os.environ, "IFINU_REDIS_URL": valkey.url},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ended.returncode == 0
    assert Series(ended.stdout)("ifinu_queue_backlog", queue="whatsapp") == 3
    away = subprocess.run(
        [sys.executable, "-m", "ifinu", "metrics", "--once"], capture_output=True, text=True, timeout=200,
        env={**os.environ, "IFINU_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"},
    )  # fmt: skip
    assert (away.returncode, away.stdout) == (3, "")


def every_metric(client) -> list[Metric]:
    """The metrics of every process."""
    registry = endpoint.registry()
    WorkerSeries(registry)
    RecorderSeries(registry, Progress())
    WebhookSeries(registry, lambda: (0, 0))
    PaymentSeries(registry)
    SchedulerSeries(registry, Figures(counted=True))
    RedisCollector(registry, client)
    for make in (polls.numbers, polls.ledger, polls.gateway):
        make(registry, None, every_s=60)._polled.set()  # as if the gateway had not answered
    return list(registry.collect())


def test_every_series_is_in_the_docs_with_its_type_and_labels_and_the_docs_have_no_other(client):
    rows = re.findall(r"^\| `(ifinu_\w+)(?:\{([\w,]+)\})?` \| (\w+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    described = {name: kind for name, _, kind in rows}
    assert len(described) == len(rows)
    exported = {
        metric.name + ("_total" if metric.type == "counter" else ""): metric.type
        for metric in every_metric(client)
        if metric.name.startswith("ifinu_")
    }
    assert described == exported


def test_every_series_has_a_help(client):
    assert [metric.name for metric in every_metric(client) if not metric.documentation] == []
