from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import celery
import pytest
import redis
from kombu import pools
from pix import pix
from processes import Fleet, Queue, Simulated, fleet_of, raw, redis_server, stopping, wait_until

from ifinu import errors
from ifinu.broker import LOW, NORMAL, QUEUES, URGENT, DeadLetters, Filter
from ifinu.broker.intake import TASK
from ifinu.broker.keys import EVENTS, UNKNOWN
from ifinu.broker.purge import purge
from ifinu.embedded import Valkey
from ifinu.settings import load
from ifinu.worker.app import app
from ifinu.worker.tasks import send_notification

FIELDS = {
    "kind": "lembrete", "name": "Maria", "amount": "1234.50", "due_date": "2026-12-01", "description": "Mensalidade",
}  # fmt: skip
GO_FORM = {
    "id": "go-1", "tipo_notificacao": "atraso", "usuario_id": "u1", "tentativas": 0,
    "criado_em": "2026-11-01T10:00:00Z",
    "cobranca": {
        "valor": 99.9, "vencimento": "2025-11-03", "descricao": "Plano",
        "cliente": {"nome": "João", "telefone": "77 99861-5555"},
    },
}  # fmt: skip


@contextlib.contextmanager
def publishing_to(url: str):
    """This process's application, with new connections to `url`."""
    app.use(load(redis_url=url))
    app.conf.broker_url = url
    app._pool = app.amqp._producer_pool = None
    try:
        yield
    finally:
        pools.reset()
        app._pool = app.amqp._producer_pool = None


@pytest.fixture
def producer(valkey: Valkey):
    """The application, publishing to this test's server."""
    with publishing_to(valkey.url):
        yield send_notification


def test_raw_json_the_go_form_and_envelopes_share_one_list(fleet: Fleet, queue: Queue, simulator: Simulated, producer):
    producer.delay(id="inv-42:lembrete", phone="(77) 99861-6740", **FIELDS)
    queue.push(raw(1), json.dumps(GO_FORM).encode())
    assert queue.counts()["ready"] == 3
    fleet.start().ready()
    wait_until(lambda: simulator.total() == 3 and queue.idle(), seen=queue.counts)
    texts = {send.number: send.text for send in simulator.sends()}
    assert "Maria" in simulator.sends()[0].text + simulator.sends()[1].text + simulator.sends()[2].text
    assert any("João" in text and "R$ 99,90" in text for text in texts.values())
    assert queue.dead() == []


def test_a_payment_code_follows_its_notification_in_a_separate_message(
    fleet: Fleet, queue: Queue, simulator: Simulated, producer
):
    """
    The code comes alone and once; no code follows an unsent message or a receipt.
    """
    line = "00190500954014481606906809350314337370000000100"
    codes = {"pix_code": pix(), "boleto_line": line, "valid_until": "2027-12-01T00:00:00Z"}
    producer.delay(id="a", phone="(77) 99861-6740", **FIELDS, **codes)
    producer.delay(id="b", phone="(77) 99861-6741", **{**FIELDS, "kind": "pagamento"}, **codes)
    producer.delay(id="c", phone="(77) 99861-6742", **FIELDS, **{**codes, "valid_until": "2026-01-01T00:00:00Z"})
    fleet.start(IFINU_PIX_SEPARATE="true", IFINU_CONCURRENCY="1").ready()
    wait_until(lambda: simulator.total() == 4 and queue.idle(), seen=queue.counts)
    first, *following = (send for send in simulator.sends() if send.number == "557798616740")
    assert "vêm nas próximas mensagens" in first.text
    assert not {pix(), line} & set(first.text.split())
    assert [send.text for send in following] == [pix(), line]
    assert queue.client.hget("ifinu:claim:a#pix", "state") == b"sent"
    assert queue.dead() == []


# The reason for each kind of bad input; docs/messages.md shows this table.
BAD_INPUT = [
    (b"{not json", "not_json"),
    (b"", "not_json"),
    (b"\xff\xfe\x00{}", "not_utf8"),
    (b"[1, 2]", "not_an_object"),
    (b"null", "not_an_object"),
    (b"42", "not_an_object"),
    (b'"a string"', "not_an_object"),
    (b"[" * 5000 + b"]" * 5000, "not_json"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "not_json"),
    (b'{"id": ' + b"9" * 5000 + b"}", "not_json"),
    (b"{" + b" " * 300_000 + b"}", "too_large"),
    (b"{}", "invalid"),
    (raw("x", tipo_notificacao="lembrte"), "invalid"),
    (raw("x", telefone="123"), "invalid"),
    (raw("x", telefone=77998616740), "invalid"),
    (raw("x", valor="de graca"), "invalid"),
    (raw("x", vencimento="31/02/2026"), "invalid"),
    (raw("x", tipo_notificacao="atraso", vencimento="2999-01-04"), "invalid"),
    (raw("x", texto="{{nome}}"), "invalid"),
    (raw("x", nome="undefined"), "invalid"),
    (raw("x", id=["a", "list"]), "invalid"),
    (raw("x", usuario="u1"), "invalid"),
    (raw("x", cobranca={"validade": "2026-12-01"}), "invalid"),
    (b'{"id":"a","id":"b","tipo_notificacao":"lembrete"}', "invalid"),
    (b'{"headers":{},"properties":{},"body":""}', "bad_envelope"),
    (b'{"headers":{"task":"t","id":"i"},"properties":{"delivery_info":{}},"body":"x"}', "bad_envelope"),
    (b'{"headers":{"task":"t","id":"i","ifinu_token":"\\ud800"},"properties":{},"body":"x"}', "bad_envelope"),
    (
        b'{"headers":{"task":"no.such.task","id":"i"},"properties":{"delivery_info":{},"body_encoding":"utf-8"},'
        b'"content-type":"application/json","content-encoding":"utf-8","body":"[[],{},{}]"}',
        "unknown_task",
    ),
    (
        b'{"headers":{"task":"ifinu.send_notification","id":"i"},"properties":{"delivery_info":{},"body_encoding":"utf-8"},'
        b'"content-type":"application/json","content-encoding":"utf-8","body":"[[],{},{}]"}',
        "error",
    ),
    (
        b'{"headers":{"task":"ifinu.send_notification","id":"i"},"properties":{"delivery_info":{},"body_encoding":"base64"},'
        b'"content-type":"application/json","content-encoding":"utf-8","body":"%%%"}',
        "bad_envelope",
    ),
    (
        b'{"headers":{"task":"ifinu.send_notification","id":"i"},"properties":{"delivery_info":{}},'
        b'"content-type":"application/x-python-serialize","content-encoding":"binary","body":"gASVBQ=="}',
        "bad_envelope",
    ),
    (
        b'{"headers":{"task":"celery.group","id":"i"},"properties":{"delivery_info":{},"body_encoding":"utf-8"},'
        b'"content-type":"application/json","content-encoding":"utf-8","body":"[[],{},{}]"}',
        "unknown_task",
    ),
    (
        b'{"headers":{"task":"ifinu.send_notification","id":"i","retries":-1000000},"properties":{"body_encoding":"utf-8"},'
        b'"content-type":"application/json","content-encoding":"utf-8","body":"[[{}],{},{}]"}',
        "bad_envelope",
    ),
    (
        b'{"headers":{"task":"ifinu.send_notification","id":"i","eta":7},"properties":{"body_encoding":"utf-8"},'
        b'"content-type":"application/json","content-encoding":"utf-8","body":"[[{}],{},{}]"}',
        "bad_envelope",
    ),
    (b'{"id":"\\ud800","tipo_notificacao":"lembrete"}', "invalid"),
    (
        b'{"headers":{"task":"ifinu.send_notification","id":"t","ifinu_token":[1]},'
        b'"properties":{"delivery_info":{},"body_encoding":"utf-8"},'
        b'"content-type":"application/json","content-encoding":"utf-8","body":"[[{}],{},{}]"}',
        "bad_envelope",
    ),
    (
        b'{"headers":{"task":"ifinu.send_notification","id":"l"},'
        b'"properties":{"delivery_info":{},"body_encoding":"utf-8"},'
        b'"content-type":"application/json","content-encoding":"utf-8",'
        b'"body":"[[{}],{},{\\"callbacks\\":[\\"no signature\\"]}]"}',
        "bad_envelope",
    ),
    (
        b'{"headers":{"task":"ifinu.send_notification","id":"old","expires":"2020-01-01T00:00:00+00:00"},'
        b'"properties":{"delivery_info":{},"body_encoding":"utf-8"},'
        b'"content-type":"application/json","content-encoding":"utf-8","body":"[[{}],{},{}]"}',
        "expired",
    ),
]  # fmt: skip


def test_bad_input_of_every_kind_is_dead_lettered_with_its_bytes_and_affects_no_other_message(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    Each stands between two good messages. The worker lives, the queue drains, and the reason and the bytes are kept.
    """
    for number, (message, _) in enumerate(BAD_INPUT):
        queue.push(raw(number), message)
    queue.push(raw("last", descrição="Uma piscina"))
    worker = fleet.start().ready()
    good = len(BAD_INPUT) + 1
    wait_until(lambda: simulator.total() == good and queue.idle(), seen=queue.counts)
    found = [
        ((letter["raw"].encode() if "raw" in letter else base64.b64decode(letter["raw_b64"])), letter["reason"])
        for letter in queue.dead()
    ]
    assert sorted(found) == sorted(BAD_INPUT)
    assert worker.process.poll() is None
    (line,) = [line for line in worker.text().splitlines() if "ifinu.message.key_ignored" in line]
    assert "descricao" in line
    assert "descrição" not in line
    assert "piscina" not in line


def called(number: int, properties: object = None, **headers: object) -> bytes:
    """An envelope of another producer that calls the task for a good message, with additional fields."""
    return json.dumps(
        {
            "headers": {"task": TASK, "id": f"call-{number}", **headers},
            "properties": properties or {},
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "body": json.dumps([[raw(number).decode()], {}, {}]),
        }
    ).encode()


def steering() -> list[bytes]:
    """Good calls with headers that would steer Celery; each must be sent as if the headers were missing."""
    elsewhere = {"exchange": "", "routing_key": "nowhere", "priority": 9}
    fails_twice = {"id": "test_911", "tipo_notificacao": "lembrete", "telefone": "77 99860-0002"}
    retried = json.loads(called(911, {"delivery_info": elsewhere, "priority": 9, "reply_to": NORMAL}, stamps=elsewhere))
    return [
        called(900, stamped_headers=5),
        called(901, stamped_headers=["delivery_info"], stamps={"delivery_info": elsewhere}),
        called(902, timelimit=[10**400, None]),
        called(903, timelimit=[None, 0.001]),
        called(904, {"correlation_id": {}, "priority": "x", "delivery_info": 7}, group=["g"], root_id=7, parent_id={}),
        called(905, replaced_task_nesting="x", group_index=-1, groups=7, origin=[], lang=5, shadow=["x"]),
        called(
            906, argsrepr={}, kwargsrepr=10**400, hostname=[], ifinu_first_at=[], ifinu_accepted_at=7, traceparent=[]
        ),
        called(907, ifinu_tag="x", ifinu_queue="nowhere", ifinu_suspect="x", ifinu_postpones={"queue": "x"}),
        called(908, eta="0001-01-01T00:00:00", expires="9999-12-31T23:59:59"),
        json.dumps({**retried, "body": json.dumps([[fails_twice], {}, {}])}).encode(),
    ]


def test_a_foreign_envelope_controls_nothing_and_200_good_messages_are_sent(
    fleet: Fleet, queue: Queue, simulator: Simulated, client: redis.Redis
):
    """
    One more message makes the pool itself fail: it becomes a dead letter with its bytes, and the worker goes on.
    """
    stumbling = raw("stumbles")
    queue.push(*steering(), stumbling, *(raw(number) for number in range(200)))
    here, quick = str(Path(__file__).parent), {"IFINU_RATE_LIMIT": "200/s", "IFINU_RATE_BURST": "50"}
    worker = fleet.start(application="stumbling_app", STUMBLES_OVER="test_stumbles", PYTHONPATH=here, **quick).ready()
    wait_until(lambda: simulator.total() == 210 and queue.idle(), seen=lambda: (queue.counts(), worker.text()[-3000:]))
    assert [(letter["reason"], letter["raw"].encode()) for letter in queue.dead()] == [("undeliverable", stumbling)]
    assert worker.process.poll() is None
    assert not client.exists("nowhere")


def test_a_countdown_from_a_stock_producer_waits_in_redis(
    fleet: Fleet, queue: Queue, simulator: Simulated, valkey: Valkey
):
    """
    The producer knows only the names of the queue and the task, and nothing else of ifinu.
    """
    fleet.start().ready()
    with celery.Celery("other", broker=valkey.url, set_as_current=False) as other:
        for number, countdown in enumerate((3_600, None, 1)):
            other.send_task(TASK, args=[json.loads(raw(number))], queue=NORMAL, countdown=countdown)
    wait_until(lambda: simulator.total() == 2 and queue.counts()["in_flight"] == 0, seen=queue.counts)
    assert (queue.counts()["ready"], queue.counts()["delayed"], queue.dead()) == (0, 1, [])


def test_a_number_that_fails_twice_is_sent_by_a_retry(fleet: Fleet, queue: Queue, simulator: Simulated):
    queue.push(raw(1, telefone="77 99860-0002"))
    fleet.start().ready()
    wait_until(lambda: simulator.total() == 1 and queue.idle(), seen=queue.counts)
    assert simulator.control.summary()["posts"]["total"] == 3
    assert queue.dead() == []


def test_a_message_that_always_fails_is_tried_four_times_and_dead_lettered(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    message = raw(1, telefone="77 99860-0003")
    queue.push(message)
    fleet.start().ready()
    (letter,) = wait_until(lambda: queue.idle() and queue.dead(), seen=queue.counts)
    assert (letter["reason"], letter["attempts"], letter["id"], letter["kind"]) == (
        "connection_closed", 4, "test_1", "lembrete",
    )  # fmt: skip
    assert letter["first_at"] < letter["last_at"]
    assert simulator.control.summary()["posts"]["total"] == 4
    (found,) = DeadLetters(queue.client, NORMAL).find(Filter(), datetime.now(UTC))
    assert found.original() == message


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("0001", "number_not_on_whatsapp"),
        ("0025", "connection_closed"),
    ],
)
def test_a_message_certainly_not_sent_is_dead_lettered_and_its_id_is_free_again(
    fleet: Fleet, queue: Queue, simulator: Simulated, ending: str, reason: str
):
    queue.push(raw(1, telefone=f"77 99860-{ending}"))
    fleet.start(IFINU_MAX_RETRIES="0").ready()
    (letter,) = wait_until(lambda: queue.idle() and queue.dead(), seen=queue.counts)
    assert (letter["reason"], letter["attempts"]) == (reason, 1)
    assert simulator.total() == 0
    simulator.control.set_fault(endings={ending: ["ok"]})
    queue.push(raw(1, telefone=f"77 99860-{ending}"))
    wait_until(lambda: simulator.total() == 1, seen=queue.counts)


# How often each message is sent in the end, and whether a person has to decide about it.
MAYBE_SENT = {
    "0004": (1, False),  # sent and stored, connection reset: found
    "0006": (1, False),  # sent and stored, no answer in time: found
    "0021": (1, False),  # sent and stored, 504 of a proxy: found
    "0020": (1, False),  # not sent, 502 of a proxy: not found, and sent
    "0011": (0, True),  # not sent, 400 Timed Out, twice: a person decides
    "0013": (2, True),  # sent, not stored, 400 TypeError: no look-up can find it, and one resend is the limit
}


def test_a_message_in_doubt_is_looked_up_and_resent_at_most_once(fleet: Fleet, queue: Queue, simulator: Simulated):
    """
    One message for each ambiguous answer of the gateway, all sent by one worker.
    """
    queue.push(*(raw(ending, telefone=f"77 99860-{ending}") for ending in MAYBE_SENT))
    fleet.start(IFINU_EVOLUTION_READ_TIMEOUT_S="2", IFINU_UNKNOWN_GRACE_S="2").ready()
    wait_until(queue.idle, seen=queue.counts)
    sends = [send.number[-4:] for send in simulator.sends()]
    dead = [(letter["id"], letter["reason"]) for letter in queue.dead()]
    assert {ending: (sends.count(ending), (f"test_{ending}", "unknown") in dead) for ending in MAYBE_SENT} == MAYBE_SENT
    assert len(dead) == sum(decides for _, decides in MAYBE_SENT.values())
    events: dict[str, list[bytes]] = {ending: [] for ending in MAYBE_SENT}
    for _, entry in queue.client.xrange(EVENTS):
        events[entry[b"id"].decode().removeprefix("test_")].append(entry[b"event"])
    for ending, (_, decides) in MAYBE_SENT.items():
        assert events[ending][0] == b"unknown"
        assert events[ending][-1] == (b"held" if decides else b"sent")
    assert queue.client.zcard(UNKNOWN) == len(dead)


def test_a_second_signal_ends_a_worker_at_once_and_its_current_sends_are_looked_up(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    simulator.control.set_fault(latency_ms=600_000)
    queue.push(*(raw(i, telefone=f"77 99861-{i:04}") for i in range(1000, 1010)))
    worker = fleet.start().ready()
    wait_until(lambda: simulator.control.summary()["posts"]["total"] == 10)
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in worker.text(), seen=worker.text)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(60) == 1
    simulator.control.set_fault(latency_ms=1)
    fleet.start().ready()
    wait_until(queue.idle, seen=queue.counts)
    sends = [send.number for send in simulator.sends()]
    assert len(sends) == len(set(sends)) == 10
    assert queue.dead() == []


def test_a_second_signal_counts_even_while_the_first_is_being_handled():
    program = """
import os, signal, types
from celery.apps.worker import install_worker_term_handler
import ifinu.worker.app

def second(worker, sent=[]):
    if not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGTERM)

install_worker_term_handler(types.SimpleNamespace(hostname="w"), callback=second)
os.kill(os.getpid(), signal.SIGTERM)
os._exit(3)
"""
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, timeout=200).returncode == 1


def test_every_thread_is_connected_before_its_first_message(
    fleet: Fleet, queue: Queue, client: redis.Redis, simulator: Simulated
):
    """
    Otherwise the first ones are late, and reach the gateway together with the next ones.
    """
    fleet.start(IFINU_CONCURRENCY="4", IFINU_RECORDER="false", IFINU_PHONE_KEY="k" * 32).ready()
    before = {each["id"] for each in client.client_list()}
    simulator.control.set_fault(latency_ms=500)  # so that all four threads send at once
    queue.push(*(raw(i, telefone=f"77 99861-{i:04}") for i in range(1000, 1008)))
    wait_until(lambda: simulator.total() == 8 and queue.idle(), seen=queue.counts)
    assert [each for each in client.client_list() if each["id"] not in before] == []


def test_a_send_whose_row_was_not_stored_counts_as_sent(fleet: Fleet, queue: Queue, simulator: Simulated):
    queue.push(raw(1, telefone="77 99860-0005"))
    fleet.start().ready()
    wait_until(lambda: simulator.total() == 1 and queue.idle(), seen=queue.counts)
    assert queue.dead() == []


def test_a_message_whose_instance_is_unknown_waits_and_counts_no_try(fleet: Fleet, queue: Queue, simulator: Simulated):
    queue.push(raw(1, instancia="not-there"))
    fleet.start(IFINU_MISCONFIGURED_WAIT_S="0.2").ready()
    wait_until(lambda: simulator.control.summary()["posts"]["total"] >= 6, seen=queue.counts)
    assert queue.dead() == []
    counts = queue.counts()
    assert counts["ready"] + counts["delayed"] + counts["in_flight"] == 1


def test_queues_are_served_in_order_of_urgency(fleet: Fleet, client: redis.Redis, simulator: Simulated):
    for number, name in enumerate((LOW, NORMAL, URGENT)):
        for i in range(10):
            client.lpush(name, raw(f"{name}-{i}", telefone=f"77 99861-{5000 + number * 100 + i}"))
    fleet.start(IFINU_RATE_LIMIT="20/s", IFINU_CONCURRENCY="1").ready()
    wait_until(lambda: simulator.total() == 30)
    hundreds = [send.number[-4:-2] for send in simulator.sends()]
    assert hundreds == ["52"] * 10 + ["51"] * 10 + ["50"] * 10


def test_a_countdown_waits_in_redis_and_not_in_a_worker(fleet: Fleet, queue: Queue, simulator: Simulated, producer):
    worker = fleet.start().ready()
    producer.enqueue(id="later", phone="77998616740", countdown=3_600, **FIELDS)
    assert queue.counts() == {"ready": 0, "delayed": 1, "in_flight": 0, "deadlines": 0, "dead": 0, "in_lanes": 0}
    queue.push(raw(1))
    wait_until(lambda: simulator.total() == 1)
    ((later, _),) = queue.client.zrange(queue.keys.delayed, 0, -1, withscores=True)
    worker.kill()
    queue.client.zadd(queue.keys.delayed, {later: 1})  # the hour has passed
    fleet.start().ready()
    wait_until(lambda: simulator.total() == 2 and queue.idle(), seen=queue.counts)


def test_a_paused_queue_keeps_its_messages(fleet: Fleet, queue: Queue, client: redis.Redis, simulator: Simulated):
    client.set(queue.keys.paused, "1")
    queue.push(raw(1))
    client.lpush(LOW, raw("low"))
    fleet.start().ready()
    wait_until(lambda: simulator.total() == 1)
    assert queue.counts()["ready"] == 1
    client.delete(queue.keys.paused)
    wait_until(lambda: simulator.total() == 2)


def test_sigterm_under_load_finishes_current_sends_and_requeues_the_rest(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    simulator.control.set_fault(latency_ms=300)
    queue.push(*(raw(i, telefone=f"77 99861-{i:04}") for i in range(1000, 1500)))
    worker = fleet.start().ready()
    wait_until(lambda: simulator.total() >= 20)
    assert worker.terminate() == 0
    counts = queue.counts()
    assert counts["in_flight"] == counts["deadlines"] == 0
    assert simulator.total() + counts["ready"] == 500
    assert len({send.number for send in simulator.sends()}) == simulator.total()
    fleet.start(IFINU_RATE_LIMIT="500/s", IFINU_RATE_BURST="50", IFINU_CONCURRENCY="50").ready()
    wait_until(lambda: queue.idle(), seen=queue.counts)
    assert simulator.total() == 500


def test_a_worker_obeys_its_own_applications_control_and_no_others(
    fleet: Fleet, queue: Queue, simulator: Simulated, valkey: Valkey, producer
):
    """
    Inspection and live rate limits work; another application on the same Redis shuts down only its own workers.
    """
    worker = fleet.start(IFINU_RATE_LIMIT="1/m").ready()
    with celery.Celery("other", broker=valkey.url, set_as_current=False) as other:
        other.control.shutdown()
    replies = wait_until(lambda: app.control.ping(timeout=3))
    assert list(replies[0].values()) == [{"ok": "pong"}]
    queue.push(*(raw(i) for i in range(30)))
    wait_until(lambda: queue.counts()["in_flight"] == 29)  # and one was sent
    app.control.rate_limit("ifinu.send_notification", "100/s")
    wait_until(lambda: simulator.total() == 30 and queue.idle(), seen=queue.counts)
    assert worker.process.poll() is None
    stats = wait_until(lambda: app.control.inspect(timeout=3).stats())
    assert stats["w0@test"]["pool"]["max-concurrency"] == 10


def test_a_revoked_message_is_dead_lettered_and_the_others_are_sent(
    fleet: Fleet, queue: Queue, simulator: Simulated, producer
):
    """
    One is revoked while it waits for its turn, and one before the worker has fetched it.
    """
    fleet.start(IFINU_RATE_LIMIT="1/m").ready()
    queue.push(*(raw(i) for i in range(3)))
    wait_until(lambda: simulator.total() == 1 and queue.counts()["in_flight"] == 2, seen=queue.counts)
    wait_until(lambda: app.control.revoke(["test_2", "test_3"], reply=True, timeout=3))
    queue.push(raw(3))
    app.control.rate_limit("ifinu.send_notification", "100/s")
    wait_until(lambda: simulator.total() == 2 and queue.idle(), seen=queue.counts)
    dead = {letter["id"]: letter["reason"] for letter in queue.dead()}
    assert dead == {"test_2": "revoked", "test_3": "revoked"}


def test_the_heartbeat_file_exists_while_the_worker_consumes(tmp_path: Path, fleet: Fleet):
    beat = tmp_path / "beat"
    worker = fleet.start(IFINU_HEARTBEAT_FILE=str(beat)).ready()
    wait_until(beat.exists)
    worker.terminate()
    assert not beat.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_redis_outage_loses_nothing_and_repeats_nothing(tmp_path: Path, simulator: Simulated, number: signal.Signals):
    with redis_server(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as client:
        queue = Queue(client)
        queue.push(*(raw(i, telefone=f"77 99861-{i:04}") for i in range(1000, 1400)))
        simulator.control.set_fault(latency_ms=100)
        with stopping(fleet_of(tmp_path, server.url, simulator.url)) as workers:
            worker = workers.start().ready()
            wait_until(lambda: simulator.total() >= 50)
            server.kill() if number is signal.SIGKILL else server.terminate()
            server.start()
            wait_until(lambda: queue.idle(), seen=lambda: (queue.counts(), worker.text()[-3000:]))
            assert worker.process.poll() is None
        sends = [send.number for send in simulator.sends()]
        assert len(set(sends)) == 400
        assert len(sends) == 400


def test_a_worker_logs_a_redis_outage_without_a_traceback(tmp_path: Path, simulator: Simulated):
    with (
        redis_server(tmp_path / "redis") as server,
        redis.Redis.from_url(server.url) as client,
        stopping(fleet_of(tmp_path, server.url, simulator.url)) as workers,
    ):
        worker = workers.start().ready()
        server.kill()
        wait_until(lambda: "Cannot connect to redis" in worker.text(), seen=worker.text)
        server.start()
        client.lpush(NORMAL, raw(1))
        wait_until(lambda: simulator.total() == 1, seen=worker.text)
        text = worker.text()
    assert [word for word in ("Traceback", "Error on", "Deprecat") if word in text] == []


def test_a_producer_gets_one_clear_error_when_redis_is_away():
    with publishing_to("redis://127.0.0.1:1/0"), pytest.raises(errors.BrokerUnavailable, match="inv-1"):
        send_notification.delay(id="inv-1", phone="77998616740", **FIELDS)


def test_a_worker_without_the_gateways_key_does_not_start(fleet: Fleet):
    worker = fleet.start(IFINU_EVOLUTION_API_KEY="")
    assert worker.process.wait(60) == 2
    assert "error: IFINU_EVOLUTION_API_KEY is not set" in worker.text()


def test_a_worker_whose_texts_are_wrong_does_not_start(fleet: Fleet, tmp_path: Path):
    (tmp_path / "lembrete.txt.j2").write_text("Olá\n{{ nme }}", encoding="utf-8")
    worker = fleet.start(IFINU_TEMPLATES=str(tmp_path))
    assert worker.process.wait(60) == 2
    assert f"error: {tmp_path}/lembrete.txt.j2:2: no value is called nme; did you mean nome?" in worker.text()


def test_every_queue_is_a_plain_list(producer, client: redis.Redis):
    for number, priority in enumerate(("urgente", "normal", "baixa")):
        producer.delay(id=f"p{number}", phone="77998616740", priority=priority, **FIELDS)
    assert [client.llen(name) for name in QUEUES] == [1, 1, 1]


def test_a_second_message_with_the_same_id_is_not_sent(fleet: Fleet, queue: Queue, simulator: Simulated, producer):
    """
    The second one comes before, during or after the first, raw or as an envelope.
    """
    simulator.control.set_fault(latency_ms=300)
    message = raw(1, telefone="77 99861-6740", nome="Maria", valor="10.00", vencimento="2026-12-01")
    queue.push(message, message, message)
    fleet.start(IFINU_SANDBOX_NUMBER="").ready()
    wait_until(lambda: simulator.total() == 1)
    queue.push(message)
    wait_until(queue.idle, seen=queue.counts)
    producer.delay(json.loads(message))
    wait_until(queue.idle, seen=queue.counts)
    assert simulator.control.summary()["posts"]["total"] == 1
    assert queue.dead() == []


def test_an_id_reused_with_other_content_is_a_conflict(fleet: Fleet, queue: Queue, simulator: Simulated):
    whole = {"telefone": "77 99861-6740", "nome": "Maria", "vencimento": "2026-12-01"}
    queue.push(raw(1, valor="10.00", **whole))
    fleet.start(IFINU_SANDBOX_NUMBER="").ready()
    wait_until(lambda: simulator.total() == 1 and queue.idle())
    queue.push(raw(1, valor="20.00", **whole))
    (letter,) = wait_until(lambda: queue.idle() and queue.dead(), seen=queue.counts)
    assert letter["reason"] == "id_reused"
    assert simulator.total() == 1


def test_a_duplicate_of_a_message_that_waits_for_its_retry_is_not_sent(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    message = raw(1, telefone="77 99860-0002")
    queue.push(message)
    fleet.start(IFINU_RETRY_BACKOFF_S="3").ready()
    wait_until(lambda: queue.counts()["delayed"] == 1, seen=queue.counts)
    queue.push(message)
    wait_until(lambda: queue.idle() and simulator.total() == 1, seen=queue.counts)
    assert simulator.control.summary()["posts"]["total"] == 3


def test_a_replayed_dead_letter_is_sent_again(fleet: Fleet, queue: Queue, simulator: Simulated):
    """
    Both a message that failed for good and one in doubt, since a person decided it.
    """
    queue.push(raw(1, telefone="77 99860-0003"), raw(2, telefone="77 99860-0011"))
    fleet.start(IFINU_MAX_RETRIES="0", IFINU_ON_UNKNOWN="hold", IFINU_UNKNOWN_GRACE_S="1").ready()
    wait_until(lambda: len(queue.dead()) == 2)
    assert sorted(letter["reason"] for letter in queue.dead()) == ["connection_closed", "unknown"]
    simulator.control.set_fault(endings={"0003": ["ok"], "0011": ["ok"]})
    letters = DeadLetters(queue.client, NORMAL)
    assert letters.clear(Filter(), datetime.now(UTC), letters.replay) == 2
    wait_until(lambda: queue.idle() and simulator.control.summary()["posts"]["total"] == 4, seen=queue.counts)
    assert queue.dead() == []


def test_the_id_of_a_purged_retry_can_be_sent_again(fleet: Fleet, queue: Queue, simulator: Simulated):
    message = raw(1, telefone="77 99860-0003")
    queue.push(message)
    fleet.start(IFINU_RETRY_BACKOFF_S="600").ready()
    wait_until(lambda: queue.counts()["delayed"] == 1, seen=queue.counts)
    simulator.control.set_fault(endings={"0003": ["ok"]})
    assert purge(queue.client, queue.keys, delayed=True) == (1, 0)
    queue.push(message)
    wait_until(lambda: simulator.total() == 1 and queue.idle(), seen=queue.counts)


def test_results_are_kept_where_a_backend_is_set(fleet: Fleet, valkey: Valkey, simulator: Simulated):
    """
    A separate program uses the documented fields and `.get()`.
    """
    program = (
        "from ifinu import send_notification; "
        "handle = send_notification.delay(kind='lembrete', phone='(77) 99861-6740', name='Maria', amount='1234.50', "
        "due_date='2026-12-01', description='Mensalidade', id='inv-42:lembrete'); "
        "print(handle.id, handle.get(timeout=20))"
    )
    backend = {"IFINU_RESULT_BACKEND": valkey.url, "IFINU_REDIS_URL": valkey.url}
    fleet.start(**backend).ready()
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **backend}, capture_output=True, text=True, timeout=200
    )
    assert done.stdout.startswith("inv-42:lembrete sent 3EB0"), done.stderr
    assert simulator.total() == 1


def test_a_result_backend_that_hangs_holds_no_other_message(fleet: Fleet, queue: Queue, simulator: Simulated):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        worker = fleet.start(IFINU_RESULT_BACKEND=url, IFINU_RATE_LIMIT="200/s").ready()
        queue.push(called(1), *(raw(number) for number in range(10, 60)))
        wait_until(lambda: simulator.total() == 51, seen=lambda: (queue.counts(), worker.text()[-3000:]))
        wait_until(lambda: queue.counts()["in_flight"] <= 1, seen=queue.counts)
        assert "ifinu.loop.blocked" not in worker.text()
        worker.kill()
