"""An optional field given as "" or as blanks counts as absent, at every entry point for notifications."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping

import fakeredis
import pytest
from command_line import Shell

from ifinu import producer, wire
from ifinu.errors import InvalidNotification
from ifinu.notification import Notification
from ifinu.worker.tasks import send_notification

FIELDS = {"id": "a", "kind": "lembrete", "phone": "(77) 99861-6740"}
WHOLE = FIELDS | {"text": "Bom dia"}
CHARGE = FIELDS | {"name": "Maria", "amount": "1.50", "due_date": "2030-12-01"}
WIRE_OF = {
    "id": "id", "kind": "tipo_notificacao", "phone": "telefone", "name": "nome", "amount": "valor",
    "due_date": "vencimento", "description": "descricao", "instance": "instancia", "tenant": "usuario_id",
    "payment_link": "link_pagamento", "pix_code": "pix_copia_cola", "boleto_line": "linha_digitavel",
    "attachment": "anexo", "valid_until": "valido_ate", "priority": "prioridade", "text": "texto",
    "without_reference": "sem_referencia", "charge_ref": "cobranca_ref", "sending_window": "janela",
}  # fmt: skip
OPTIONAL = tuple(WIRE_OF)[3:]
BLANKS = {"empty": "", "spaces": "  ", "others": "\t\r\n\u00a0\u3000"}

Fields = Mapping[str, str]


@pytest.fixture
def pushed(monkeypatch) -> Callable[[], Notification]:
    """The one notification that `enqueue_many` or `ifinu enqueue` pushed."""
    server = fakeredis.FakeServer()
    monkeypatch.setattr("ifinu.broker.connections.connect", lambda url: fakeredis.FakeRedis(server=server))
    client = fakeredis.FakeRedis(server=server)

    def read() -> Notification:
        (queue,) = client.keys("ifinu:fila:*")
        (message,) = client.lrange(queue, 0, -1)
        return wire.decode(wire.parse(message))

    return read


@pytest.fixture
def called(monkeypatch) -> Callable[[], Notification]:
    """The one notification that the task was called with."""
    calls = []
    monkeypatch.setattr("celery.Task.apply_async", lambda self, args=None, kwargs=None, **options: calls.append(args))

    def read() -> Notification:
        ((body,),) = calls
        return wire.decode(body)

    return read


@pytest.fixture(params=["constructor", "delay", "enqueue", "apply_async", "s", "many", "file", "csv", "send"])
def given(request, capsys, monkeypatch, tmp_path) -> Callable[[Fields], Notification]:
    """One entry point: takes fields and returns what they become there."""
    ifinu = Shell(capsys, monkeypatch)
    file = tmp_path / "charges"

    def enqueued(text: str) -> Notification:
        file.write_text(text, encoding="utf-8", newline="")
        ended = ifinu("enqueue", str(file))
        assert ended.code == 0, ended
        return read()

    def many(fields: Fields) -> Notification:
        assert producer.enqueue_many([dict(fields)]).refused == []
        return read()

    def sent(fields: Fields) -> Notification:
        options = [part for name, value in fields.items() for part in (f"--{name.replace('_', '-')}", value)]
        ended = ifinu("send", *options)
        assert ended.code == 0, ended
        return read()

    def after(call: Callable[..., object]) -> Callable[[Fields], Notification]:
        def run(fields: Fields) -> Notification:
            call(fields)
            return read()

        return run

    match request.param:
        case "constructor":
            return lambda fields: Notification(**fields)
        case "many" | "file" | "csv":
            read = request.getfixturevalue("pushed")
        case _:
            read = request.getfixturevalue("called")
    return {
        "delay": after(lambda fields: send_notification.delay(**fields)),
        "enqueue": after(lambda fields: send_notification.enqueue(dict(fields), countdown=5)),
        "apply_async": after(lambda fields: send_notification.apply_async(args=[on_wire(fields)])),
        "s": after(lambda fields: send_notification.s(on_wire(fields)).apply_async()),
        "many": many,
        "file": lambda fields: enqueued(json.dumps(dict(fields))),
        "csv": lambda fields: enqueued(as_csv(fields)),
        "send": sent,
    }[request.param]


def on_wire(fields: Fields) -> dict[str, str]:
    return {WIRE_OF[name]: value for name, value in fields.items()}


def as_csv(fields: Fields) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([list(on_wire(fields)), list(fields.values())])
    return out.getvalue()


@pytest.mark.parametrize("blank", BLANKS.values(), ids=BLANKS)
def test_optional_fields_that_are_blank_are_absent_at_each_door(given, request, blank):
    door = request.node.callspec.params["given"]
    absent = [
        name
        for name in OPTIONAL
        if door != "send" or name not in ("attachment", "without_reference", "charge_ref", "sending_window")
    ]
    whole = WHOLE | {name: blank for name in absent if name != "text"}
    assert given(whole) == Notification(**WHOLE)


def test_a_text_that_is_blank_leaves_the_text_of_the_kind(given):
    assert given(CHARGE | {"text": " "}) == Notification(**CHARGE)


@pytest.mark.parametrize("field", OPTIONAL)
@pytest.mark.parametrize("blank", BLANKS.values(), ids=BLANKS)
def test_each_optional_field_that_is_blank_is_absent_alone(field, blank):
    fields = CHARGE if field == "text" else WHOLE
    assert Notification(**fields | {field: blank}) == Notification(**fields)


def test_every_field_of_a_notification_is_in_these_tables():
    assert set(WIRE_OF) == set(Notification.model_fields)
    assert set(OPTIONAL) == {name for name, field in Notification.model_fields.items() if not field.is_required()}


@pytest.mark.parametrize("blank", ["", "   "])
@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("id", "is empty"),
        ("kind", "is not one of lembrete, vencimento, atraso, pagamento, cobranca_criada"),
        ("phone", "is empty"),
        ("name", "is required for lembrete"),
        ("amount", "is required for lembrete"),
        ("due_date", "is required for lembrete"),
    ],
)
def test_a_blank_field_that_the_message_needs_is_refused_by_its_name(field, reason, blank):
    with pytest.raises(InvalidNotification) as caught:
        producer.notification_of(CHARGE | {field: blank})
    assert (caught.value.field, caught.value.reason) == (field, reason)
