"""
Made-up phones, names and texts go every way that a message can take, and the test searches every output for them.

They may stand in payloads only: on the queues, in flight, delayed, and in the `raw` of a dead letter.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import booked
import canaries
import pytest
import redis
import time_machine
from canaries import CONTACT, DESCRIPTION, INBOUND, LID, LINK, NAME, PIX, TEXT, search
from command_line import Shell
from integration.quoting_app import QUOTED
from integration.receipts.conftest import SECRET, token
from processes import API_KEY, Fleet, Queue, Simulated, start, stopping, wait_until
from sqlalchemy import select as sql_select
from sqlalchemy import text as sql

from ifinu.billing import calendars, epoch, outbox, planner, recurrences
from ifinu.billing.billing_schema import metadata as billing_tables
from ifinu.billing.payments import asaas, settlement
from ifinu.billing.payments.provider_events import PaymentRequest
from ifinu.broker import QUEUES, Keys
from ifinu.broker.dead_letters import identity
from ifinu.broker.keys import EVENTS
from ifinu.embedded import Valkey, free_port
from ifinu.errors import InvalidNotification
from ifinu.ledger.engine import connect
from ifinu.ledger.schema import metadata as ledger_tables
from ifinu.worker.tasks import send_notification

PHONE_KEY = "a key of phones of the tests that is long"
TASK = "ifinu.send_notification"
# The last digits choose the simulator's outcome, for a number and for every canary with that ending.
ENDINGS = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
)  # fmt: skip
# Their instances are on hold for longer than the test waits: throttled, or unknown to the gateway.
LEFT_WAITING = {"ending-8", "ending-26", "misconfigured"}
# Ids whose outcome the ledger knows, one for each kind of outcome.
SETTLED = ("ending-9", "ending-23", "free_text", "expired_charge", "opted_out", "cancelled", "quoted", "amount")


# The only columns of the database in which personal data may stand.
MAY_NAME = {
    "customers": ("name", "document", "phone", "email", "address", "notes"),
    "charges": ("description", "payment_link", "pix_code", "boleto_line", "boleto_pdf"),
    "recurrences": ("description",),
}
AT_THE_GATEWAY = {
    "number_not_on_whatsapp", "connection_closed", "lookup_timeout", "gateway_database", "id_reused", "poison",
    "unknown", "error",
}  # fmt: skip
EVENTS_OF_ALL_WAYS = (
    "ifinu.message.sent", "ifinu.message.duplicate", "ifinu.message.expired", "ifinu.message.suppressed",
    "ifinu.message.cancelled", "ifinu.message.dead", "ifinu.message.held", "ifinu.message.not_sent",
    "ifinu.message.unknown", "ifinu.message.resending", "ifinu.message.deferred", "ifinu.instance.misconfigured",
    "ifinu.recorder.waiting", "raised unexpected: ValueError",
)  # fmt: skip


# -- the search itself


@pytest.mark.parametrize("ending", [3, 24])
@pytest.mark.parametrize(
    "disguise",
    [
        str,
        json.dumps,
        lambda text: json.dumps(json.dumps(text, ensure_ascii=True)),
        quote,
        quote_plus,
        html.escape,
        lambda text: repr(text.encode()),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.b64encode(b"x" + text.encode() + b"yz").decode(),
        lambda text: base64.urlsafe_b64encode(b"xy" + text.encode() + b"\xff\xfe").decode(),
    ],
)
def test_the_search_finds_a_planted_canary_in_every_disguise(ending: int, disguise: Callable[[str], str]):
    for canary in (*canaries.spellings(ending), canaries.phone(ending)):
        assert search(f'{{"a":"b {disguise(canary)} c"}}'), canary
    for canary in (NAME, TEXT, DESCRIPTION, PIX, LINK, CONTACT, INBOUND, LID):
        assert search(f"a {disguise(canary)} b".encode()), canary


@pytest.mark.parametrize("alone", ["98765-0003", "8765 0003", "987650003", "'87650003'"])
def test_the_search_finds_a_line_without_its_area_code(alone: str):
    assert search(f"to {alone}.")


@pytest.mark.parametrize(
    "harmless",
    [
        "+55 77 9****-0003", "****03", "3EB0A87650003D", "1764000087650003", "2026-12-01T10:00:00.876500+00:00",
        "77", "Maria", "(11) 98765-1234", "",
    ],
)  # fmt: skip
def test_the_search_reports_no_harmless_text(harmless: str):
    assert search(f"a {harmless} b") == []


def test_the_search_skips_allowed_text_and_finds_a_canary_beside_it():
    payload = json.dumps({"nome": NAME})
    assert search(f"x {payload}", allowed=(payload,)) == []
    assert search(f"{NAME} {payload}", allowed=(payload,))


# -- what is pushed


def notification(number: str, ending: int, **fields: Any) -> dict[str, Any]:
    """A notification with every field that may hold personal data."""
    return {
        "id": number, "tipo_notificacao": "lembrete", "telefone": canaries.spellings(ending)[ending % 6],
        "nome": NAME, "valor": "10.00", "vencimento": "2031-12-01", "descricao": DESCRIPTION, "pix_copia_cola": PIX,
        "link_pagamento": LINK, "anexo": LINK, "instancia": f"at-{number}",
    } | fields  # fmt: skip


def pushed(number: str, ending: int, **fields: Any) -> bytes:
    return json.dumps(notification(number, ending, **fields), ensure_ascii=ending % 2 == 0).encode()


def envelope(number: str, args: list[Any], kwargs: dict[str, Any], **headers: Any) -> bytes:
    """An envelope as any Celery publishes it, with its description of the arguments."""
    described = {"task": TASK, "id": number, "argsrepr": repr(args), "kwargsrepr": repr(kwargs)} | headers
    return json.dumps(
        {
            "headers": described,
            "properties": {"delivery_info": {}, "body_encoding": "base64"},
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "body": base64.b64encode(json.dumps([args, kwargs, {}]).encode()).decode(),
        }
    ).encode()


def unreadable() -> dict[str, tuple[bytes, str]]:
    """Messages that can never be sent, each with the error where personal data stands, and with their reasons."""
    whole = pushed("w", 101)
    charge = {"cobranca": {"cliente": f"{NAME} {canaries.phone(102)}", "valor": TEXT}}
    return {
        "cut_off": (whole[:-40], "not_json"),
        "after_the_end": (whole + f" {NAME} {canaries.phone(103)}".encode(), "not_json"),
        "latin_1": (whole.decode("unicode_escape").encode("latin-1", "replace") + NAME.encode("latin-1"), "not_utf8"),
        "a_text": (json.dumps(f"{NAME} {canaries.phone(104)}").encode(), "not_an_object"),
        "a_list": (json.dumps([notification("l", 105)]).encode(), "not_an_object"),
        "too_large": (pushed("too_large", 106, texto=TEXT * 10_000), "too_large"),
        "twice": (f'{{"{NAME}":1,"{NAME}":2,"telefone":"{canaries.phone(107)}"}}'.encode(), "invalid"),
        "name_an_object": (pushed("name_an_object", 108, nome={"nome": NAME, "fone": canaries.phone(108)}), "invalid"),
        "phone_a_list": (pushed("phone_a_list", 109, telefone=canaries.spellings(109)), "invalid"),
        "phone_a_number": (pushed("phone_a_number", 110, telefone=int(canaries.phone(110)[1:])), "invalid"),
        "phone_and_name": (pushed("phone_and_name", 111, telefone=f"{canaries.phone(111)} {NAME}"), "invalid"),
        "phone_too_long": (pushed("phone_too_long", 112, telefone=canaries.phone(112) + "99"), "invalid"),
        "invalid_phone": (pushed("phone_of_nobody", 113, telefone=f"00987650113 {LID}"), "invalid"),
        "amount": (pushed("amount", 114, valor=f"{TEXT} {canaries.phone(114)}"), "invalid"),
        "due_date": (pushed("due_date", 115, vencimento=f"{NAME} 01/12/2031"), "invalid"),
        "link": (pushed("link", 116, link_pagamento=f"{NAME} {LINK}"), "invalid"),
        "kind": (pushed("kind", 117, tipo_notificacao=f"lembrete {canaries.phone(117)}"), "invalid"),
        "kind_an_object": (pushed("kind_an_object", 118, tipo_notificacao={"de": NAME}), "invalid"),
        "priority": (pushed("priority", 119, prioridade=[canaries.phone(119)]), "invalid"),
        "id_an_object": (pushed("x", 120, id={"nome": NAME, "fone": canaries.phone(120)}), "invalid"),
        "half_a_pair": (whole[:-1] + b',"texto":"' + NAME.encode() + b' \\ud800"}', "invalid"),
        "nested": (pushed("nested", 121, **charge), "invalid"),
        "kwargs": (envelope("kwargs", [], notification("kwargs", 122)), "error"),
        "no_kwargs": (envelope("no_kwargs", [notification("no_kwargs", 123)], {NAME: 1}), "error"),
        "args": (envelope("args", [[NAME, canaries.phone(124)]], {}), "invalid"),
        "text_of_json": (envelope("text_of_json", [f"{NAME} {canaries.phone(125)}"], {}), "invalid"),
        "eta": (envelope("eta", [notification("eta", 126)], {}, eta=f"{NAME} {canaries.phone(126)}"), "bad_envelope"),
        "expires": (envelope("expires", [notification("expires", 127)], {}, expires=NAME), "bad_envelope"),
        "expired": (envelope("expired", [notification("expired", 128)], {}, expires="2020-01-01T00:00:00Z"), "expired"),
        "retries": (envelope("retries", [notification("retries", 129)], {}, retries=NAME), "bad_envelope"),
        "no_task": (envelope("no_task", [notification("no_task", 130)], {}, task="no.such.task"), "unknown_task"),
        "no_list": (envelope("no_list", [], {}).replace(b'"body": "', b'"body": "' + NAME.encode()), "bad_envelope"),
    }  # fmt: skip


def sendable() -> dict[str, bytes]:
    """Messages that reach the gateway, or are stopped right before."""
    ends = {f"ending-{ending}": pushed(f"ending-{ending}", ending) for ending in ENDINGS}
    free = pushed("free_text", 200, texto=f"{TEXT}\nOlá, {NAME}: {canaries.phone(200)}")
    charge = {
        "id": "nested_charge", "tipo_notificacao": "atraso", "usuario_id": "t1", "instancia": "at-nested_charge",
        "cobranca": {
            "valor": 99.9, "vencimento": "2021-12-01", "descricao": DESCRIPTION, "pix_copia_cola": PIX,
            "cliente": {"nome": NAME, "telefone": canaries.spellings(201)[0]},
        },
    }  # fmt: skip
    return ends | {
        "free_text": free,
        "nested_charge": json.dumps(charge).encode(),
        "foreign": envelope("foreign", [notification("foreign", 202)], {}, origin="gen1@other", shadow=None),
        "by_keyword": envelope("by_keyword", [], {"message": notification("by_keyword", 203)}),
        "misconfigured": pushed("misconfigured", 204, instancia="unknown-instance"),
        "expired_charge": pushed("expired_charge", 205, valido_ate="2020-01-01"),
        "opted_out": pushed("opted_out", 206, usuario_id="t2"),
        "cancelled": pushed("cancelled", 207),
        "quoted": pushed("quoted", 208, texto=f"{QUOTED} {TEXT}"),
        "poison": pushed("poison", 209),
    }


# -- at the caller


@pytest.mark.parametrize(
    "wrong",
    [
        {"phone": f"{canaries.phone(400)} {NAME}"},
        {"phone": [canaries.phone(401)]},
        {"name": {"first": NAME}},
        {"amount": TEXT},
        {"due_date": NAME},
        {"payment_link": f"{NAME} {LINK}"},
        {"pix_code": [PIX]},
        {"text": 3, "name": NAME},
        {"nome": NAME},
        {"priority": canaries.phone(402)},
        {"valid_until": canaries.phone(403)},
    ],
)
def test_a_callers_mistake_is_reported_by_field_without_the_value(wrong: dict[str, Any]):
    right = {
        "id": "a", "kind": "lembrete", "phone": canaries.phone(404), "name": NAME, "amount": "10.00",
        "due_date": "2031-12-01", "description": DESCRIPTION, "text": TEXT,
    }  # fmt: skip
    for call in (lambda: send_notification.delay(**right | wrong), lambda: send_notification.delay(right | wrong)):
        with pytest.raises(InvalidNotification) as caught:
            call()
        chain: list[BaseException | None] = [caught.value, caught.value.__cause__, caught.value.__context__]
        assert [search(f"{exc} {exc!r}") for exc in chain] == [[], [], []]


# -- where they are looked for


class Scene:
    """A worker, a webhook application and a gateway, and all their output."""

    def __init__(
        self, directory: Path, valkey: Valkey, simulator: Simulated, client: redis.Redis, log_format: str
    ) -> None:
        self.simulator = simulator
        self.client = client
        self.queue = Queue(client)
        self.ledger_url = f"sqlite:///{directory}/ledger.db"
        self.ports = {"worker": free_port(), "webhook": free_port(), "hook": free_port()}
        self.settings = {
            "IFINU_REDIS_URL": valkey.url, "IFINU_EVOLUTION_URL": simulator.url, "IFINU_EVOLUTION_API_KEY": API_KEY,
            "IFINU_DATABASE_URL": self.ledger_url, "IFINU_PHONE_KEY": PHONE_KEY, "IFINU_WEBHOOK_SECRET": SECRET,
            "IFINU_SANDBOX_NUMBER": "", "IFINU_RECORDER": "true", "IFINU_LOG_LEVEL": "debug",
            "IFINU_LOG_FORMAT": log_format, "IFINU_LOG_LIMIT": "0",
            "IFINU_MAX_RETRIES": "1", "IFINU_UNKNOWN_GRACE_S": "1", "IFINU_EVOLUTION_READ_TIMEOUT_S": "8",
        }  # fmt: skip
        self.worker_log = directory / "worker-0.log"
        self.webhook_log = directory / "webhook.log"
        self._published: list[bytes] = []

    @contextlib.contextmanager
    def webhook(self) -> Iterator[str]:
        """Run `ifinu webhook`, and yield its URL."""
        port = self.ports["hook"]
        environment = {**os.environ, **self.settings, "IFINU_METRICS_PORT": str(self.ports["webhook"])}
        arguments = ["webhook", "--host", "127.0.0.1", "--port", str(port)]
        process = start("ifinu", arguments, environment, self.webhook_log)
        try:
            read = self.webhook_log.read_text
            wait_until(lambda: "startup complete" in read() or process.poll() is not None, seen=read)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record everything published meanwhile: Celery's events, and its remote control's requests and answers."""
        stop = threading.Event()
        pubsub = self.client.pubsub()
        pubsub.psubscribe("*")

        def listen() -> None:
            while not stop.is_set():
                message = pubsub.get_message(timeout=0.2)
                if message is not None and message["type"] == "pmessage":
                    self._published.append(message["data"])

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            pubsub.close()

    def published(self) -> bytes:
        return b"\n".join(self._published)

    def metrics(self, of: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[of]}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def ledger(self) -> dict[str, str]:
        """The content of each table."""
        engine = connect(self.ledger_url)
        with engine.connect() as connection:
            tables = [row[0] for row in connection.execute(sql("SELECT name FROM sqlite_master WHERE type = 'table'"))]
            dump = {
                table: "\n".join(str(tuple(row)) for row in connection.execute(sql(f'SELECT * FROM "{table}"')))
                for table in tables
            }
        engine.dispose()
        return dump

    def rename_table(self, old: str, new: str) -> None:
        engine = connect(self.ledger_url)
        with engine.begin() as connection:
            connection.execute(sql(f'ALTER TABLE "{old}" RENAME TO "{new}"'))
        engine.dispose()

    def redis(self) -> dict[str, str]:
        """The value of each key, without the payloads."""
        payloads = {key for name in QUEUES for key in (name, Keys.of(name).delayed, Keys.of(name).in_flight)}
        dump = {}
        for key in map(bytes.decode, self.client.keys("*")):
            if key in payloads:
                continue
            value = self._value(key)
            if key.endswith(":dlq"):
                letters = [json.loads(record) for record in value]
                value = [{name: letter[name] for name in letter.keys() - {"raw", "raw_b64"}} for letter in letters]
            dump[key] = str(value)
        return dump

    def _value(self, key: str) -> Any:
        match self.client.type(key):
            case b"string":
                return self.client.get(key)
            case b"list":
                return self.client.lrange(key, 0, -1)
            case b"hash":
                return self.client.hgetall(key)
            case b"set":
                return self.client.smembers(key)
            case b"zset":
                return self.client.zrange(key, 0, -1, withscores=True)
            case b"stream":
                return self.client.xrange(key)
        raise AssertionError(f"{key} is of a type that the search does not know")

    def waiting(self) -> set[str | None]:
        """The ids in the delayed set."""
        return {identity(one)[0] for one in self.client.zrange(self.queue.keys.delayed, 0, -1)}

    def hanging(self) -> bool:
        """Whether the gateway has a message that it has not answered yet."""
        return any(send.number.endswith("0006") for send in self.simulator.sends())

    def counts(self) -> Any:
        return self.queue.counts(), self.waiting(), sorted(letter["reason"] for letter in self.queue.dead())

    def at_rest(self) -> bool:
        waiting, counts = self.waiting(), self.queue.counts()
        # A message that moves between the two readings would be in neither.
        unmoved = counts["delayed"] == len(waiting)
        return unmoved and not counts["ready"] and not counts["in_flight"] and waiting <= LEFT_WAITING


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulated]:
    """A simulator with one instance for each message, so that an instance on hold affects no other message."""
    names = ["ifinu", *(f"at-{name}" for name in (*sendable(), *unreadable()))]
    with stopping(Simulated(tmp_path, *(word for name in names for word in ("--instance", name)))) as server:
        yield server


@pytest.fixture
def scene_of(tmp_path: Path, valkey: Valkey, client: redis.Redis, simulator: Simulated) -> Callable[[str], Scene]:
    return lambda log_format: Scene(tmp_path, valkey, simulator, client, log_format)


def post(url: str, body: bytes, **headers: str) -> int:
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token()}"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return int(exc.code)


def hooks(url: str) -> list[int]:
    """Post malformed and unauthorised webhooks. Returns the status of each."""
    person = f"{canaries.phone(300)[1:]}@s.whatsapp.net"
    message = {
        "key": {"fromMe": False, "remoteJid": person, "id": "A1"},
        "pushName": CONTACT,
        "message": {"conversation": INBOUND},
    }
    event = {"event": "messages.upsert", "instance": "ifinu", "data": message, "sender": person}
    whole = json.dumps(event).encode()
    shapes: list[Any] = [
        event | {"data": {**message, "message": f"{INBOUND} {LID}"}},
        event | {"data": {**message, "key": [person, CONTACT]}},
        event | {"data": {**message, "key": {"fromMe": False, "remoteJid": f"{LID}@lid", "id": CONTACT}}},
        event | {"event": f"messages {CONTACT}"},
        event | {"event": {"of": CONTACT}},
        event | {"instance": [CONTACT]},
        [event],
    ]  # fmt: skip
    answers = [post(f"{url}/{quote(CONTACT)}?q={quote(INBOUND)}", json.dumps(shape).encode()) for shape in shapes]
    answers.append(post(url, whole[:-30]))
    answers.append(post(url, whole + b"\xff" + CONTACT.encode()))
    answers.append(post(url, whole, Authorization=f"Bearer {CONTACT}"))
    answers.append(post(url, whole, **{"X-Ifinu-Secret": CONTACT}))
    return answers


@pytest.mark.timeout(600)
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_personal_data_is_written_only_in_payloads(
    log_format: str, scene_of: Callable[[str], Scene], fleet: Fleet, capsys, monkeypatch
):
    """
    In both log formats, at log level debug.
    """
    scene = scene_of(log_format)
    for name, value in scene.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "1000")  # so that no column is cut off
    ifinu = Shell(capsys, monkeypatch)
    good, bad = sendable(), unreadable()
    with scene.webhook() as hook, scene.listening():
        for name in ("ifinu", *(f"at-ending-{ending}" for ending in (9, 10, 22, 23, 24))):
            assert ifinu("instance", "webhook", name, "--url", hook).code == 0
        worker = fleet.start(
            "-E",
            application="quoting_app",
            PYTHONPATH=str(Path(__file__).parent),
            IFINU_METRICS_PORT=str(scene.ports["worker"]),
            **scene.settings,
        ).ready(60)
        scene.simulator.control.set_fault(receipts_ms={"server_ack": 10, "delivery_ack": 20, "read": 30})
        # A person who opted out, a cancelled charge, and a message that killed three workers.
        assert ifinu("optout", "add", canaries.spellings(206)[0], "--tenant", "t2").code == 0
        assert ifinu("cancel", "cancelled").code == 0
        scene.client.hset(scene.queue.keys.suspects, hashlib.sha1(good["poison"]).hexdigest(), 3)
        for variant in ("plain", "lid", "lid_alone"):
            for words in ("Sair", INBOUND):
                scene.simulator.control.inbound(
                    instance="ifinu", number=canaries.phone(301)[1:], text=words, name=CONTACT, variant=variant
                )
        assert {*hooks(hook)} == {200, 400, 401}
        wait_until(lambda: "ifinu.recorder.started" in worker.text(), seen=worker.text)
        wait_until(lambda: scene.client.xlen(EVENTS) == 0, seen=worker.text)
        scene.rename_table("notifications", "away")
        scene.queue.push(*good.values(), good["free_text"], pushed("free_text", 210))
        wait_until(lambda: scene.hanging(), seen=scene.counts)
        asked = inspect("active", *scene.settings.items()) + inspect("query_task", *scene.settings.items(), ids=[*good])
        wait_until(lambda: "ifinu.recorder.waiting" in worker.text(), seen=worker.text)
        scene.rename_table("away", "notifications")
        scene.queue.push(*(message for message, _ in bad.values()))
        wait_until(scene.at_rest, 120, scene.counts)
        wait_until(lambda: scene.client.xlen(EVENTS) == 0, seen=worker.text)
        reasons = [letter["reason"] for letter in reversed(scene.queue.dead())]
        figures = {of: scene.metrics(of) for of in ("worker", "webhook")}
        outputs = {" ".join(command): ifinu(*command) for command in commands(reasons)}
        assert worker.terminate(60) == 0
    leaks = {
        "worker's log": search(worker.text()),
        "webhook's log": search(scene.webhook_log.read_bytes()),
        "published": search(scene.published()),
        "inspect": search(asked),
        **{f"ledger: {table}": search(rows) for table, rows in scene.ledger().items()},
        **{f"redis: {key}": search(value) for key, value in scene.redis().items()},
        **{f"/metrics of the {of}": search(text) for of, text in figures.items()},
        **{f"ifinu {command}": search(ended.out + ended.err) for command, ended in outputs.items()},
    }
    assert {where: found for where, found in leaks.items() if found} == {}
    # Every way was taken, and every searched output had content.
    went = Counter({reason: sum(want == reason for _, want in bad.values()) for reason in {*reasons} - {"unknown"}})
    assert {reason: count for reason, count in went.items() if reasons.count(reason) < count} == {}
    assert {want for _, want in bad.values()} | AT_THE_GATEWAY <= {*reasons}
    assert {event for event in EVENTS_OF_ALL_WAYS if event not in worker.text()} == set()
    assert "ifinu.optout.unresolved" in scene.webhook_log.read_text()
    assert search(scene.client.lindex(scene.queue.keys.dead, 0))
    assert any(search(send.text) for send in scene.simulator.sends())
    assert b"task-failed" in scene.published()
    assert "ending-" in asked
    assert "ifinu_messages_total" in figures["worker"]
    assert "ifinu_receipts_total" in figures["webhook"]
    assert {command: ended.code for command, ended in outputs.items() if ended.code not in (0, 1)} == {}
    assert {"free_text", "quoted"} <= {row.split("'")[1] for row in scene.ledger()["notifications"].splitlines()}
    if log_format == "json":
        lines = [line for line in worker.text().splitlines() if line.startswith("{")]
        assert all(json.loads(line)["event"] for line in lines)


def inspect(what: str, *environment: tuple[str, str], ids: Sequence[str] = ()) -> str:
    """The worker's answer to Celery's remote control."""
    command = [sys.executable, "-m", "celery", "-A", "ifinu", "inspect", "--json", "--timeout", "10", what, *ids]
    command += ["--destination", "w0@test"]  # whose answer it waits for, in place of the whole time
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | dict(environment))
    return ended.stdout + ended.stderr


def commands(reasons: list[str]) -> Iterator[tuple[str, ...]]:
    """
    The commands that show data to a person, without those that print payloads.

    Args:
        reasons: The reasons of the dead letters, in the order of `ifinu dlq list`.
    """
    both = (
        "status", "queue size", "queue peek --queue all", "dlq list --limit 1000", "unknown list", "optout list",
        "doctor",
    )  # fmt: skip
    for command in both:
        yield (*command.split(),)
        yield (*command.split(), "--json")
    yield ("instance", "list")
    yield ("metrics", "--once")
    for id_ in SETTLED:
        yield ("show", id_)
    for reason in {*reasons}:
        yield ("dlq", "show", str(reasons.index(reason) + 1))
    yield ("dlq", "show", "1", "--json")


# -- charges in the database


def rows_of_tables(url: str) -> dict[str, str]:
    """The rows of each table, without the columns in which personal data may stand."""
    engine = connect(url)
    found = {}
    with engine.connect() as connection:
        for table in (*billing_tables.sorted_tables, *ledger_tables.sorted_tables):
            columns = [column for column in table.c if column.name not in MAY_NAME.get(table.name, ())]
            found[table.name] = "\n".join(str(tuple(row)) for row in connection.execute(sql_select(*columns)))
    engine.dispose()
    return found


@time_machine.travel(booked.NOW, tick=False)
def test_personal_data_of_charges_stay_in_their_columns_until_they_are_erased(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    postgres_ledger: str,
    valkey: Valkey,
    client: redis.Redis,
):
    """
    A customer, two charges, a recurrence, a hold, a plan, a push, a provider's event and a payment; then an erasure.
    """
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", postgres_ledger)
    caplog.set_level("DEBUG")
    phone, shell, now, today = canaries.phone(301), Shell(capsys, monkeypatch), booked.NOW, booked.TODAY
    charge = ("--customer", "k-9", "--amount", "149.90", "--description", DESCRIPTION, "--link", LINK, "--pix", PIX)
    commands = (
        ("tenant", "add", "u1", "--legal-name", "Academia Fit LTDA", "--uf", "SP", "--window", "always"),
        (
            "customer", "add", "k-9", "--name", NAME, "--phone", canaries.spellings(301)[0], "--email",
            f"{canaries.WORDS[0]}@example.com", "--address", TEXT, "--notes", f"{INBOUND} {LID}",
        ),
        ("charge", "add", "inv-42", *charge, "--due", today.isoformat()),
        ("charge", "add", "inv-43", *charge, "--due", (today + timedelta(days=30)).isoformat()),
        ("charge", "hold", "inv-43", "--why", "acordo"),
        ("customer", "change", "k-9", "--notes", TEXT),
    )  # fmt: skip
    written = [shell(*command) for command in commands]
    assert [ended.code for ended in written] == [0] * len(commands), written
    engine = connect(postgres_ledger)
    with engine.begin() as connection:
        recurrences.add(
            connection,
            recurrences.Recurrence("u1", "r1", "k-9", Decimal(80), 1, "months", today, description=DESCRIPTION),
            now,
        )
        recurrences.generate(connection, now)
        calendars.fill(connection, today)
        planner.plan_all(connection, now)
    with engine.begin() as connection:
        epoch.check(connection, client, now, claim_ttl_s=604_800)
    with engine.begin() as connection:
        [due] = connection.execute(sql("SELECT max(not_before) FROM intents WHERE state = 'planned'")).scalars()
        later = due + timedelta(seconds=1)
        assert outbox.push(connection, client, later, claim_ttl_s=604_800).count >= 1
    body = {
        "id": "evt_1", "event": "PAYMENT_RECEIVED", "dateCreated": "2026-12-01 10:00:00", "payment": {
            "id": "pay_1", "externalReference": "inv-42", "value": 149.90, "description": DESCRIPTION,
            "customer": NAME, "invoiceUrl": LINK, "pixTransaction": PIX, "phone": phone,
        },
    }  # fmt: skip
    with engine.begin() as connection:
        event = asaas.read(PaymentRequest({}, json.dumps(body).encode()))
        assert settlement.apply(connection, "u1", event, now).state == "applied"
    written += [shell("charge", "pay", "inv-42"), shell("charge", "edit", "inv-43", "--amount", "120")]
    seen = [
        shell(*command.split(), *options)
        for command in (
            "tenant list", "tenant show u1", "customer list", "customer show k-9", "charge list", "charge show inv-42",
            "charge show inv-43", "charge list --status paid", "pay events", "pay unmatched", "report day",
        )
        for options in ((), ("--json",))
    ]  # fmt: skip
    assert [ended.code for ended in (*written, *seen)] == [0] * (len(written) + len(seen)), seen

    outputs = {f"output of {n}": ended.out + ended.err for n, ended in enumerate((*written, *seen))}
    outputs |= rows_of_tables(postgres_ledger) | {"logs": caplog.text}
    assert {name: search(text) for name, text in outputs.items() if search(text)} == {}
    with engine.connect() as connection:  # so that there was something to find
        kept = {name: str(connection.execute(sql(f"SELECT * FROM {name}")).all()) for name in MAY_NAME}
    assert {name for name, text in kept.items() if search(text)} == set(MAY_NAME)

    erased = shell("erase", "--phone", phone, "--yes", "--json")
    assert (erased.code, erased.json["customers"], search(erased.out + erased.err)) == (0, 1, [])
    with engine.connect() as connection:
        left = {name: str(connection.execute(sql(f"SELECT * FROM {name}")).all()) for name in MAY_NAME}
        waiting = connection.execute(sql("SELECT count(*) FROM intents WHERE state IN ('planned', 'merged')")).scalar()
        amounts = connection.execute(sql("SELECT count(*) FROM charges WHERE amount > 0")).scalar()
        open_flags = connection.execute(sql("SELECT count(*) FROM cancel_flags WHERE done_at IS NULL")).scalar()
    assert {name: search(text) for name, text in left.items() if search(text)} == {}
    assert (waiting, amounts, open_flags) == (0, 4, 0)
    assert shell("charge", "show", "inv-43", "--reveal").code == 0
    assert shell("erase", "--phone", phone, "--yes", "--json").json["customers"] == 0
    engine.dispose()
