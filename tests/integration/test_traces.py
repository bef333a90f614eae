"""
Traces as a collector gets them, from producers, workers and webhooks that run as real processes.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import canaries
import pytest
import redis
from integration.receipts.conftest import SECRET, token
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from processes import API_KEY, Fleet, Queue, Simulated, raw, start, stopping, wait_until

from ifinu.broker.events import decode
from ifinu.broker.keys import EVENTS
from ifinu.broker.trace_links import TTL_S, TraceLinks
from ifinu.embedded import Valkey, free_port
from ifinu.gateway import Management

THEIRS = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")  # the trace and span of another system
RECEIPTS = ["server_ack", "delivered", "read"]
SAMPLED, NOT_SAMPLED = "01", "00"


def theirs(flags: str = SAMPLED) -> str:
    return f"00-{THEIRS[0]}-{THEIRS[1]}-{flags}"


class Span(NamedTuple):
    """One span, as it was exported."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    failed: str
    facts: dict[str, Any]
    links: list[str]
    began_ns: int
    ended_ns: int


class Collector:
    """A collector of OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.heads.append(f"{self.path}\n{self.headers}")
                collector.bodies.append(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self) -> list[Span]:
        return [
            _read(span, _facts(of.resource.attributes)["service.name"])
            for body in list(self.bodies)
            for of in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]

    def trace_of(self, notification: str) -> list[Span]:
        """The spans of the trace in which this id was delivered, by their start."""
        spans = self.spans()
        traces = {s.trace for s in spans if s.facts.get("messaging.message.id") == notification}
        assert len(traces) <= 1, f"{notification} is in {len(traces)} traces"
        return sorted((s for s in spans if s.trace in traces), key=lambda s: s.began_ns)

    def states_of(self, notification: str) -> list[str]:
        return [s.facts["ifinu.state"] for s in self.trace_of(notification) if s.name == "ifinu.receipt"]


def _read(span: Wire, service: str) -> Span:
    return Span(
        service,
        span.name,
        Wire.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.status.message if span.status.code == Status.STATUS_CODE_ERROR else "",
        _facts(span.attributes),
        [link.trace_id.hex() + "-" + link.span_id.hex() for link in span.links],
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )


def _facts(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with stopping(Collector()) as running:
        yield running


@pytest.fixture
def traced(collector: Collector) -> dict[str, str]:
    """The settings that switch traces on."""
    return {
        "IFINU_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200",
    }  # fmt: skip


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulated]:
    """A simulator with an instance for each failing message, so that an instance on hold affects no other message."""
    names = ("ifinu", "at-retried", "at-lost", "at-waiting", "vendas 5577987650042")
    with stopping(Simulated(tmp_path, *(word for name in names for word in ("--instance", name)))) as server:
        server.control.set_fault(receipts_ms={"server_ack": 10, "delivery_ack": 30, "read": 60})
        yield server


@contextlib.contextmanager
def webhook_of(valkey: Valkey, log: Path, **environment: str) -> Iterator[str]:
    """Run `ifinu webhook`, and yield its URL."""
    port = free_port()
    settings = {"IFINU_REDIS_URL": valkey.url, "IFINU_WEBHOOK_SECRET": SECRET}
    arguments = ["webhook", "--host", "127.0.0.1", "--port", str(port)]
    process = start("ifinu", arguments, {**os.environ, **settings, **environment}, log)
    try:
        started = b"startup complete"
        wait_until(lambda: started in log.read_bytes() or process.poll() is not None, seen=log.read_text)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()


def post(url: str, body: bytes) -> int:
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token()}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status)


def registered(simulator: Simulated, url: str, *instances: str) -> None:
    with contextlib.closing(Management(simulator.url, API_KEY)) as gateway:
        for name in instances:
            gateway.set_webhook(name, url, ["MESSAGES_UPDATE", "SEND_MESSAGE"], headers={"jwt_key": SECRET})


def python(code: str, valkey: Valkey, deadline_s: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a producer program to its end."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env={**os.environ, "IFINU_REDIS_URL": valkey.url, **environment},
        capture_output=True, text=True, timeout=deadline_s,
    )  # fmt: skip


def fields(number: str, ending: int, **more: Any) -> dict[str, Any]:
    return {
        "id": number, "tipo_notificacao": "lembrete", "telefone": canaries.phone(ending), "nome": canaries.NAME,
        "valor": "10.00", "vencimento": "2031-12-01", "descricao": canaries.DESCRIPTION,
        "pix_copia_cola": canaries.PIX, **more,
    }  # fmt: skip


def tree(spans: list[Span]) -> list[tuple[str, str]]:
    """Each span's name with its parent's."""
    names = {s.id: s.name for s in spans}
    return [(s.name, names.get(s.parent, s.parent)) for s in spans]


SENT = [
    ("ifinu.claim", "ifinu.deliver"), ("ifinu.render", "ifinu.deliver"), ("ifinu.send", "ifinu.deliver"),
    *[("ifinu.receipt", "ifinu.deliver")] * 3,
]  # fmt: skip


def test_one_trace_goes_from_the_producer_through_the_send_to_the_last_receipt(
    fleet: Fleet, queue: Queue, simulator: Simulated, valkey: Valkey, collector: Collector,
    traced: dict[str, str], tmp_path: Path,
):  # fmt: skip
    """
    This holds for every way of enqueueing; and no exported byte identifies a person.
    """
    phoned = "vendas 5577987650042"
    publish = f"""
from ifinu import enqueue_many, send_notification
send_notification.delay({fields("delayed", 100)!r})
send_notification.enqueue({fields("later", 101)!r}, countdown=0.3)
enqueue_many([{fields("many-1", 102, texto=canaries.TEXT)!r}, {fields("many-2", 103)!r},
    {fields("brought", 104, traceparent=theirs())!r}])
"""
    with webhook_of(valkey, tmp_path / "webhook.log", **traced) as hook:
        registered(simulator, hook, "ifinu", "at-retried", "at-lost", phoned)
        worker = fleet.start(
            IFINU_CONCURRENCY="3", IFINU_RATE_LIMIT="200/s", IFINU_EVOLUTION_READ_TIMEOUT_S="5",
            IFINU_MAX_RETRIES="3", IFINU_LOG_LEVEL="debug", **traced,
        ).ready()  # fmt: skip
        published = python(publish, valkey, **traced)
        assert published.returncode == 0, published.stderr
        other = theirs().replace("0af7", "0af8")
        pushed = {
            "pushed": fields("pushed", 105, traceparent=other),
            "plain": fields("plain", 106),
            "malformed": fields("malformed", 107, traceparent=f"{canaries.NAME} {theirs()}"),
            "retried": fields("retried", 2, instancia="at-retried"),
            "lost": fields("lost", 4, instancia="at-lost"),
            "phoned": fields("phoned", 108, instancia=phoned),
            "no_account": fields("no_account", 1),
            "wrong": fields("wrong", 109, valor=canaries.TEXT, traceparent=theirs().replace("0af7", "0af9")),
        }  # fmt: skip
        queue.push(*(json.dumps(one).encode() for one in pushed.values()))
        receipted = (
            "delayed",
            "later",
            "many-1",
            "many-2",
            "brought",
            "pushed",
            "plain",
            "malformed",
            "retried",
            "phoned",
        )
        seen = lambda: ({one: tree(collector.trace_of(one)) for one in receipted}, worker.text())  # noqa: E731
        wait_until(lambda: queue.idle() and len(queue.dead()) == 2, seen=lambda: (queue.counts(), worker.text()))
        for one in receipted:
            wait_until(lambda one=one: sorted(collector.states_of(one)) == sorted(RECEIPTS), seen=seen)
        assert worker.terminate() == 0
    traces = {one: collector.trace_of(one) for one in (*receipted, "lost", "no_account")}
    assert len({trace[0].trace for trace in traces.values()}) == len(traces)

    for one in ("delayed", "later", "many-1", "many-2"):
        assert tree(traces[one]) == [("ifinu.enqueue", ""), ("ifinu.deliver", "ifinu.enqueue"), *SENT], one
    assert tree(traces["brought"]) == [("ifinu.enqueue", THEIRS[1]), ("ifinu.deliver", "ifinu.enqueue"), *SENT]
    assert traces["brought"][0].trace == THEIRS[0]
    assert tree(traces["pushed"]) == [("ifinu.deliver", THEIRS[1]), *SENT]
    assert traces["pushed"][0].trace == THEIRS[0].replace("0af7", "0af8")
    for one in ("plain", "malformed", "phoned"):
        assert tree(traces[one]) == [("ifinu.deliver", ""), *SENT], one

    enqueued, delivered, claimed, _, sent, *receipts = traces["delayed"]
    assert [s.kind for s in traces["delayed"]] == [
        "PRODUCER", "CONSUMER", "CLIENT", "INTERNAL", "CLIENT", "CONSUMER", "CONSUMER", "CONSUMER",
    ]  # fmt: skip
    assert [s.service for s in traces["delayed"]] == ["ifinu-producer", *["ifinu-worker"] * 4, *["ifinu-webhook"] * 3]
    assert enqueued.facts == {
        "messaging.system": "redis", "messaging.operation.type": "send", "messaging.operation.name": "enqueue",
        "messaging.destination.name": queue.keys.ready, "messaging.message.id": "delayed", "ifinu.kind": "lembrete",
    }  # fmt: skip
    assert delivered.facts == {
        "messaging.system": "redis", "messaging.operation.type": "process", "messaging.operation.name": "deliver",
        "messaging.destination.name": queue.keys.ready, "messaging.message.id": "delayed", "ifinu.kind": "lembrete",
        "ifinu.attempt": 1, "ifinu.outcome": "sent",
    }  # fmt: skip
    assert claimed.facts["ifinu.verdict"] == "go"
    key_id = next(e.data["key_id"] for e in happened(queue.client) if e.name == "sent" and e.id == "delayed")
    host, port = simulator.url.removeprefix("http://").split(":")
    assert sent.facts == {
        "http.request.method": "POST", "url.template": "/message/sendText/{instance}", "server.address": host,
        "server.port": int(port), "ifinu.instance": "ifinu", "ifinu.key_id": key_id,
    }  # fmt: skip
    assert [r.facts for r in receipts] == [
        {"ifinu.state": state, "ifinu.key_id": key_id, "ifinu.instance": "ifinu"} for state in RECEIPTS
    ]
    assert {s.failed for s in traces["delayed"]} == {""}
    assert enqueued.began_ns <= delivered.began_ns <= sent.began_ns <= sent.ended_ns <= delivered.ended_ns
    assert traces["phoned"][3].facts["ifinu.instance"] == "vendas +55 77 9****-0042"

    tries = [s for s in traces["retried"] if s.name == "ifinu.deliver"]
    assert [(s.facts["ifinu.attempt"], s.facts["ifinu.outcome"], s.failed) for s in tries] == [
        (1, "retrying", "connection_closed"), (2, "retrying", "connection_closed"), (3, "sent", ""),
    ]  # fmt: skip
    assert [s.parent for s in tries] == ["", tries[0].id, tries[0].id]
    posts = [s for s in traces["retried"] if s.name == "ifinu.send"]
    assert [s.parent for s in posts] == [s.id for s in tries]
    assert [s.facts.get("http.response.status_code") for s in posts] == [500, 500, None]
    assert {s.parent for s in traces["retried"] if s.name == "ifinu.receipt"} == {tries[2].id}

    doubted = [s for s in traces["lost"] if s.name == "ifinu.deliver"]
    assert (doubted[0].facts["ifinu.outcome"], doubted[0].failed) == ("unknown", "connection_lost")
    assert doubted[-1].facts["ifinu.outcome"] == "sent"
    assert ("ifinu.look_up", "ifinu.deliver") in tree(traces["lost"])
    assert [s.name for s in traces["lost"]].count("ifinu.send") == 1

    (dead,) = (s for s in traces["no_account"] if s.name == "ifinu.deliver")
    assert (dead.facts["ifinu.outcome"], dead.facts["error.type"], dead.failed) == (
        "dead", "Refused", "number_not_on_whatsapp",
    )  # fmt: skip
    (wrong,) = (s for s in collector.spans() if s.trace == THEIRS[0].replace("0af7", "0af9"))
    assert (wrong.facts["ifinu.outcome"], wrong.facts["error.type"], wrong.failed) == (
        "dead", "InvalidNotification", "invalid",
    )  # fmt: skip

    assert all(head.startswith("/v1/traces\n") for head in collector.heads)
    assert canaries.search(b"\n".join(collector.bodies)) == []
    assert canaries.search("\n".join(collector.heads)) == []
    assert canaries.search(worker.text()) == []
    ttls = [queue.client.ttl(key) for key in queue.client.keys("ifinu:rastro:*")]
    assert len(ttls) == len(receipted) + 1
    assert all(TTL_S - 120 < ttl <= TTL_S for ttl in ttls)


def happened(client: redis.Redis) -> list[Any]:
    return [decode(entry) for _, entry in client.xrange(EVENTS)]


def test_an_unsampled_trace_exports_nothing_in_any_process(
    fleet: Fleet, queue: Queue, simulator: Simulated, valkey: Valkey, collector: Collector, traced: dict[str, str]
):
    """
    The sampler of the trace's first process decides for the whole trace: here a producer, and the sender of raw JSON.
    """
    done = python(
        f"from ifinu import send_notification, enqueue_many\nsend_notification.delay({fields('a', 100)!r})\n"
        f"enqueue_many([{fields('b', 101)!r}])", valkey, **traced, OTEL_TRACES_SAMPLER="always_off",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    waiting = [json.loads(one) for one in queue.client.lrange(queue.keys.ready, 0, -1)]
    for parent in (waiting[1]["headers"]["traceparent"], waiting[0]["traceparent"]):
        assert int(parent.rpartition("-")[2], 16) & 1 == 0
    queue.push(json.dumps(fields("c", 2, traceparent=theirs(NOT_SAMPLED))).encode(), raw("d"))
    worker = fleet.start(**traced).ready()
    wait_until(lambda: queue.idle() and simulator.total() == 4, seen=queue.counts)
    assert worker.terminate() == 0
    assert {s.facts.get("messaging.message.id") for s in collector.spans() if s.name == "ifinu.deliver"} == {"test_d"}
    assert len(queue.client.keys("ifinu:rastro:*")) == 1


PATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "300"}  # seconds, so that the exporter does not give up first


def nowhere() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize("hangs", [False, True])
def test_a_collector_outage_affects_no_send(
    hangs: bool, fleet: Fleet, queue: Queue, simulator: Simulated, traced: dict[str, str]
):
    """
    One collector refuses connections, one accepts them and never answers: all is sent, and the worker ends cleanly.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}" if hangs else nowhere()
        queued = {"OTEL_BSP_MAX_QUEUE_SIZE": "20", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10", **PATIENT}
        settings = {**traced, **queued, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "IFINU_RATE_LIMIT": "500/s"}
        worker = fleet.start(IFINU_CONCURRENCY="4", **settings).ready()
        queue.push(*(raw(n) for n in range(200)))
        wait_until(lambda: queue.idle() and simulator.total() == 200, seen=lambda: (queue.counts(), worker.text()))
        assert worker.terminate() == 0
    assert queue.dead() == []
    assert [e.name for e in happened(queue.client)] == ["sent"] * 200


def test_a_producer_ends_despite_a_collector_outage(valkey: Valkey, queue: Queue, traced: dict[str, str]):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        away = {**traced, **PATIENT, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        code = f"from ifinu import enqueue_many\nenqueue_many([{fields('a', 100)!r}] * 3)"
        done = python(code, valkey, deadline_s=25, **away)
    assert done.returncode == 0, done.stderr
    assert queue.counts()["ready"] == 3


# Prints the imported modules of OpenTelemetry when a process of the worker ends.
PRINTING = """
import sys
from celery import signals
from ifinu.worker.app import app

@signals.worker_shutdown.connect
def _tell(**_):
    traces = "opentelemetry.sdk.trace", "opentelemetry.exporter", "ifinu.tracing.sdk"
    print("imported:", [name for name in sys.modules if name.startswith(traces)])
"""


def test_without_traces_nothing_of_them_is_imported_sent_or_kept(
    fleet: Fleet, queue: Queue, simulator: Simulated, valkey: Valkey, tmp_path: Path
):
    publish = f"""
import sys
from ifinu import enqueue_many, send_notification
send_notification.delay({fields("a", 100, traceparent=theirs())!r})
enqueue_many([{fields("b", 101, traceparent=theirs())!r}])
traces = "opentelemetry.sdk.trace", "opentelemetry.exporter", "ifinu.tracing.sdk"
print([name for name in sys.modules if name.startswith(traces)])
"""
    done = python(publish, valkey)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert not any(b"traceparent" in one for one in queue.client.lrange(queue.keys.ready, 0, -1))
    queue.push(json.dumps(fields("c", 102)).encode(), raw("d", telefone=canaries.phone(2), instancia="at-retried"))
    (tmp_path / "printing_app.py").write_text(PRINTING)
    worker = fleet.start(application="printing_app", IFINU_CONCURRENCY="2", PYTHONPATH=str(tmp_path))
    worker.ready()
    wait_until(lambda: simulator.total() == 3, seen=lambda: (queue.counts(), worker.text()))
    wait_until(lambda: queue.idle() and simulator.total() == 4, seen=lambda: (queue.counts(), worker.text()))
    assert worker.terminate() == 0
    printed = [line for line in worker.text().splitlines() if line.startswith("imported:")]
    assert printed == ["imported: []"]
    assert queue.client.keys("ifinu:rastro:*") == []


def test_a_trace_from_another_language_continues_through_a_worker_without_traces(
    fleet: Fleet, queue: Queue, simulator: Simulated, collector: Collector, traced: dict[str, str]
):
    """
    Workers with and without traces may share a queue, as during a deployment.
    """
    simulator.control.set_fault(rates={"lookup_timeout": 1.0})
    worker = fleet.start(IFINU_RETRY_BACKOFF_S="1").ready()
    queue.push(json.dumps(fields("a", 100, traceparent=theirs())).encode())
    wait_until(lambda: [e.name for e in happened(queue.client)][:1] == ["retrying"], seen=queue.counts)
    assert worker.terminate() == 0
    simulator.control.set_fault(rates={})
    fleet.start(**traced).ready()
    wait_until(lambda: queue.idle() and simulator.total() == 1, seen=queue.counts)
    wait_until(lambda: [s for s in collector.spans() if s.name == "ifinu.deliver"])
    (delivered,) = (s for s in collector.spans() if s.name == "ifinu.deliver")
    assert (delivered.trace, delivered.parent) == THEIRS
    assert delivered.facts["ifinu.attempt"] > 1


# An application that has set up OpenTelemetry itself.
THEIR_OWN = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ifinu import enqueue_many, send_notification

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with trace.get_tracer("theirs").start_as_current_span("checkout"):
    send_notification.delay(%r)
    enqueue_many([%r, %r])
delayed, one, two, checkout = exporter.get_finished_spans()
at = checkout.context
assert (delayed.context.trace_id, delayed.parent.span_id, delayed.links) == (at.trace_id, at.span_id, ())
for span in (one, two):
    assert span.parent is None and span.context.trace_id != at.trace_id
    assert [link.context.span_id for link in span.links] == [at.span_id]
assert one.context.trace_id != two.context.trace_id
"""


def test_an_application_with_its_own_traces_gets_ifinus_spans_in_them(
    valkey: Valkey, queue: Queue, collector: Collector, traced: dict[str, str]
):
    """
    One enqueued message belongs to the caller's trace; those of `enqueue_many` only link to it, or it would hold
    thousands.
    """
    done = python(THEIR_OWN % tuple(fields(name, 100 + n) for n, name in enumerate("abc")), valkey, **traced)
    assert done.returncode == 0, done.stderr
    assert queue.counts()["ready"] == 3
    assert collector.spans() == []


def test_open_telemetrys_own_variables_name_the_service(valkey: Valkey, collector: Collector, traced: dict[str, str]):
    code = f"from ifinu import send_notification\nsend_notification.delay({fields('a', 100)!r})"
    named = ({"OTEL_SERVICE_NAME": "caixa"}, {"OTEL_RESOURCE_ATTRIBUTES": "service.name=loja,team=x"}, {})
    for more in named:
        assert python(code, valkey, **traced, **more).returncode == 0
    assert [s.service for s in collector.spans()] == ["caixa", "loja", "ifinu-producer"]
    disabled = python(code, valkey, **traced, OTEL_SDK_DISABLED="true")
    assert (disabled.returncode, len(collector.spans())) == (0, 3), disabled.stderr


WITHOUT = "import sys; sys.modules['opentelemetry'] = None; "


@pytest.mark.parametrize(
    "starts",
    [
        "import ifinu.cli; sys.exit(ifinu.cli.main(['worker']))",
        "import ifinu.cli; sys.exit(ifinu.cli.main(['webhook', '--port', '0']))",
        "import ifinu.cli; sys.exit(ifinu.cli.main(['send', '--id', 'a', '--kind', 'lembrete', '--phone', "
        "'77998616740', '--text', 'Bom dia']))",
    ],
)
def test_tracing_without_its_extra_names_the_package_to_install(starts: str, valkey: Valkey, queue: Queue):
    settings = {"IFINU_EVOLUTION_API_KEY": API_KEY, "IFINU_WEBHOOK_SECRET": SECRET}
    done = python(WITHOUT + starts, valkey, **settings, IFINU_TRACING="1")
    assert done.returncode == 2
    assert "error: IFINU_TRACING is set, and opentelemetry is not installed: pip install 'ifinu[otel]'" in done.stderr
    assert queue.counts()["ready"] == 0


def test_a_worker_whose_variables_of_open_telemetry_are_wrong_does_not_start(fleet: Fleet, traced: dict[str, str]):
    worker = fleet.start(**traced, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="99999")
    wait_until(lambda: worker.process.poll() is not None, seen=worker.text)
    assert worker.process.returncode == 2
    assert "error: OTEL_*: " in worker.text()


def test_a_receipt_that_arrives_before_the_answer_to_its_send_is_in_the_trace(
    queue: Queue, valkey: Valkey, collector: Collector, traced: dict[str, str], tmp_path: Path
):
    """
    The link is stored two seconds after the receipt came.
    """
    hook = {"event": "messages.update", "instance": "ifinu", "data": {"keyId": "3EB0A", "status": "READ"}}
    with webhook_of(valkey, tmp_path / "webhook.log", **traced) as url:
        for key_id in ("3EB0A", "3EB0B"):  # the second one never gets a link
            hook["data"]["keyId"] = key_id
            assert post(url, json.dumps(hook).encode()) == 200
        queue.client.set("two seconds", 1, px=2_000)
        wait_until(lambda: not queue.client.exists("two seconds"))
        TraceLinks(valkey.url).leave("3EB0A", theirs())
        wait_until(collector.spans)
    (receipt,) = collector.spans()
    assert (receipt.trace, receipt.parent, receipt.facts["ifinu.state"]) == (*THEIRS, "read")


def test_a_webhook_that_ends_exports_its_waiting_receipts(
    fleet: Fleet, queue: Queue, simulator: Simulated, valkey: Valkey, collector: Collector, traced: dict[str, str],
    tmp_path: Path,
):  # fmt: skip
    with webhook_of(valkey, tmp_path / "webhook.log", **traced) as hook:
        registered(simulator, hook, "ifinu")
        fleet.start(**traced).ready()
        queue.push(raw(1))
        wait_until(lambda: [e.name for e in happened(queue.client)].count("receipt") == 3)
        wait_until(queue.idle)
    assert sorted(collector.states_of("test_1")) == sorted(RECEIPTS)
