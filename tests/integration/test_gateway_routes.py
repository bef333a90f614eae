"""Every route except sending: the request, how its answer is read, and the error if it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from scripted_gateway import KEY, Gateway, connecting, reply, reset, serving

from ifinu import errors
from ifinu.embedded import free_port
from ifinu.gateway import (
    ConnectionState,
    CreatedInstance,
    Evolution,
    FoundMessage,
    FoundMessages,
    Instance,
    Integration,
    Management,
    Pairing,
    QrCode,
    Webhook,
)

PHONE = "+5577998616740"
SINCE = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
UNTIL = datetime(2026, 3, 1, 9, 30, 0, 500_000, tzinfo=UTC)
QR = {"pairingCode": None, "code": "2@abc", "base64": "data:image/png;base64,AAAA", "count": 1}
ROW = {
    "name": "wa1",
    "id": "u-1",
    "connectionStatus": "close",
    "integration": "WHATSAPP-BAILEYS",
    "token": "t0k3n",
}
WEBHOOK = {
    "id": "w",
    "url": "http://us/hook",
    "headers": {"x": "y"},
    "enabled": True,
    "events": ["MESSAGES_UPDATE"],
}
RECORD = {
    "id": "cm1",
    "key": {"id": "3EB0", "fromMe": True, "remoteJid": "557798616740@s.whatsapp.net"},
    "messageTimestamp": 1772355600,
    "message": {"conversation": "fatura 42"},
    "MessageUpdate": [{"status": "DELIVERY_ACK"}, {"status": "SERVER_ACK"}],
}
EXTENDED = RECORD | {"message": {"extendedTextMessage": {"text": "fatura 43"}}, "MessageUpdate": []}
IMAGE = RECORD | {"message": {"imageMessage": {}}, "MessageUpdate": None}
FOUND = FoundMessage("3EB0", "557798616740@s.whatsapp.net", "fatura 42", SINCE, ("DELIVERY_ACK", "SERVER_ACK"))


def page(*records: dict[str, Any]) -> dict[str, Any]:
    return {"messages": {"total": len(records), "pages": 1, "currentPage": 1, "records": list(records)}}


def found(*messages: FoundMessage) -> FoundMessages:
    return FoundMessages(messages, total=len(messages), page=1, pages=1)


def state(word: str | None) -> dict[str, Any]:
    return {"instance": {"instanceName": "wa1"} | ({"state": word} if word else {})}


def done(message: str) -> dict[str, Any]:
    return {"status": "SUCCESS", "error": False, "response": {"message": message}}


ROUTES = [
    *(
        (f"{client}: connectionState {word or 'on the wrong shard'}",
         lambda c, client=client: getattr(c, client).connection_state("wa1"),
         "GET /instance/connectionState/wa1", None, 200, state(word), found)
        for client in ("sender", "management")
        for word, found in (
            ("open", ConnectionState.OPEN),
            ("connecting", ConnectionState.CONNECTING),
            ("close", ConnectionState.CLOSE),
            (None, ConnectionState.ABSENT),
        )
    ),
    ("find by address",
     lambda c: c.sender.find_messages("wa1", since=SINCE, until=UNTIL, remote_jid="5@s.whatsapp.net"),
     "POST /chat/findMessages/wa1",
     {"where": {"key": {"fromMe": True, "remoteJid": "5@s.whatsapp.net"},
                "messageTimestamp": {"gte": "2026-03-01T09:00:00.000Z", "lte": "2026-03-01T09:30:00.500Z"}},
      "page": 1, "offset": 50},
     200, page(RECORD), found(FOUND)),
    ("find on the second page",
     lambda c: c.sender.find_messages("wa1", since=SINCE, until=UNTIL, page=2),
     "POST /chat/findMessages/wa1",
     {"where": {"key": {"fromMe": True},
                "messageTimestamp": {"gte": "2026-03-01T09:00:00.000Z", "lte": "2026-03-01T09:30:00.500Z"}},
      "page": 2, "offset": 50},
     200, page(), found()),
    ("find other contents", lambda c: c.sender.find_messages("wa1", since=SINCE, until=UNTIL),
     "POST /chat/findMessages/wa1",
     {"where": {"key": {"fromMe": True},
                "messageTimestamp": {"gte": "2026-03-01T09:00:00.000Z", "lte": "2026-03-01T09:30:00.500Z"}},
      "page": 1, "offset": 50},
     200, page(EXTENDED, IMAGE),
     found(FoundMessage("3EB0", FOUND.remote_jid, "fatura 43", SINCE),
           FoundMessage("3EB0", FOUND.remote_jid, None, SINCE))),
    ("create", lambda c: c.management.create_instance("wa1"), "POST /instance/create",
     {"instanceName": "wa1", "integration": "WHATSAPP-BAILEYS"},
     201, {"instance": {"instanceName": "wa1", "instanceId": "u-1"}, "hash": "T0K3N"},
     CreatedInstance("wa1", "u-1", "T0K3N")),
    ("create for Meta",
     lambda c: c.management.create_instance("wa1", channel=Integration.BUSINESS, number="1055", token="EAAG"),
     "POST /instance/create",
     {"instanceName": "wa1", "integration": "WHATSAPP-BUSINESS", "number": "1055", "token": "EAAG"},
     201, {"instance": {"instanceName": "wa1", "instanceId": "u-1"}, "hash": "EAAG"},
     CreatedInstance("wa1", "u-1", "EAAG")),
    ("connect with a QR code", lambda c: c.management.connect_instance("wa1"), "GET /instance/connect/wa1", None,
     200, QR, Pairing(ConnectionState.CONNECTING, QrCode("2@abc", "data:image/png;base64,AAAA", None))),
    ("connect without one yet", lambda c: c.management.connect_instance("wa1"), "GET /instance/connect/wa1", None,
     200, {"count": 0}, Pairing(ConnectionState.CONNECTING)),
    ("connect when paired", lambda c: c.management.connect_instance("wa1"), "GET /instance/connect/wa1", None,
     200, state("open"), Pairing(ConnectionState.OPEN)),
    ("restart", lambda c: c.management.restart_instance("wa1"), "POST /instance/restart/wa1", None,
     200, state("connecting"), Pairing(ConnectionState.CONNECTING)),
    ("logout", lambda c: c.management.logout_instance("wa1"), "DELETE /instance/logout/wa1", None,
     200, done("Instance logged out"), None),
    ("delete", lambda c: c.management.delete_instance("wa1"), "DELETE /instance/delete/wa1", None,
     200, done("Instance deleted"), None),
    ("fetchInstances", lambda c: c.management.fetch_instances(), "GET /instance/fetchInstances", None,
     200, [ROW | {"ownerJid": "557798616740@s.whatsapp.net", "disconnectionReasonCode": 401}, ROW],
     (Instance("wa1", "u-1", ConnectionState.CLOSE, "WHATSAPP-BAILEYS", "557798616740@s.whatsapp.net", 401),
      Instance("wa1", "u-1", ConnectionState.CLOSE, "WHATSAPP-BAILEYS"))),
    ("webhook/set",
     lambda c: c.management.set_webhook("wa1", "http://us/hook", ["MESSAGES_UPDATE"], headers={"x": "y"}),
     "POST /webhook/set/wa1",
     {"webhook": {"enabled": True, "url": "http://us/hook", "events": ["MESSAGES_UPDATE"],
                  "headers": {"x": "y"}}},
     201, WEBHOOK, Webhook("http://us/hook", ("MESSAGES_UPDATE",), enabled=True, headers={"x": "y"})),
    ("webhook/set for all events",
     lambda c: c.management.set_webhook("wa1", "http://us/hook", []), "POST /webhook/set/wa1",
     {"webhook": {"enabled": True, "url": "http://us/hook", "events": []}},
     201, WEBHOOK | {"events": [], "headers": None}, Webhook("http://us/hook", (), enabled=True)),
    ("webhook/find", lambda c: c.management.find_webhook("wa1"), "GET /webhook/find/wa1", None,
     200, WEBHOOK | {"enabled": False, "headers": None},
     Webhook("http://us/hook", ("MESSAGES_UPDATE",), enabled=False)),
    ("webhook/find when none is set", lambda c: c.management.find_webhook("wa1"), "GET /webhook/find/wa1", None,
     200, b"null", None),
]  # fmt: skip
# One call of each route and client.
FAILING = {f"{name.partition(':')[0]} {line}" if ":" in name else line: call for name, call, line, *_ in ROUTES}


@pytest.fixture
def serve() -> Iterator[Callable[..., Gateway]]:
    with serving() as start:
        yield start


class Clients(NamedTuple):
    sender: Evolution
    management: Management


@pytest.fixture
def connect() -> Iterator[Callable[..., Clients]]:
    with connecting(Evolution) as sender, connecting(Management) as management:
        yield lambda url: Clients(sender(url), management(url))


@pytest.mark.parametrize(
    ("call", "line", "body", "status", "answer", "result"),
    [r[1:] for r in ROUTES],
    ids=[r[0] for r in ROUTES],
)
def test_every_route(
    serve: Any, connect: Any, call: Any, line: str, body: Any, status: int, answer: Any, result: Any
) -> None:
    gateway = serve(reply(status, answer))
    assert call(connect(gateway.url)) == result
    (request,) = gateway.requests
    assert request.line == f"{line} HTTP/1.1"
    assert (request.json if request.body else None) == body
    assert request.headers["apikey"] == KEY
    assert ("content-length" in request.headers) == line.startswith("POST")


def envelope(status: int, error: str, message: Any) -> dict[str, Any]:
    return {"status": status, "error": error, "response": {"message": message}}


BOOM = {
    "data": None,
    "isBoom": True,
    "output": {
        "statusCode": 428,
        "payload": {"error": "Precondition Required", "message": "Connection Closed"},
    },
}


@pytest.mark.parametrize(
    ("status", "answer", "message", "words"),
    [
        (401, envelope(401, "Unauthorized", "Unauthorized"),
         "HTTP 401: Unauthorized; check IFINU_EVOLUTION_API_KEY", "Unauthorized"),
        (404, envelope(404, "Not Found", ['The "wa1" instance does not exist']),
         'HTTP 404: The "wa1" instance does not exist', 'The "wa1" instance does not exist'),
        (403, envelope(403, "Forbidden", ['This name "wa1" is already in use.']),
         'HTTP 403: This name "wa1" is already in use.', 'This name "wa1" is already in use.'),
        (400, {"status": 400, "error": "Bad Request", "message": ["numbers is required"]},
         "HTTP 400: numbers is required", "numbers is required"),
        (400, BOOM, "HTTP 400: Connection Closed", "Connection Closed"),
        (400, {}, "HTTP 400", ""),
        (200, {"error": True, "message": "[object Object]"}, "HTTP 200: [object Object]", "[object Object]"),
        (500, envelope(500, "Internal Server Error", ["Error: Connection Closed"]),
         "HTTP 500: Error: Connection Closed", "Error: Connection Closed"),
        (502, b"<html><title>502 Bad Gateway</title></html>", "HTTP 502: 502 Bad Gateway", "502 Bad Gateway"),
        (200, b"<html><title>Welcome</title></html>",
         "HTTP 200: Welcome; check that IFINU_EVOLUTION_URL is an Evolution API", "Welcome"),
        (302, b"",
         "HTTP 302; redirects are not followed: set IFINU_EVOLUTION_URL to the final address", ""),
        (400, envelope(400, "Bad Request", [f"no {KEY} for 5577998616740"]),
         "HTTP 400: no […] for +55 77 9****-6740", "no […] for +55 77 9****-6740"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("call", FAILING.values(), ids=FAILING)
def test_a_failed_route_raises_an_error_with_its_reason(
    serve: Any, connect: Any, call: Any, status: int, answer: Any, message: str, words: str
) -> None:
    with pytest.raises(errors.GatewayError) as raised:
        call(connect(serve(reply(status, answer)).url))
    assert type(raised.value) is errors.GatewayError
    assert str(raised.value).endswith(message)
    assert (raised.value.status, raised.value.answer) == (status, words)


@pytest.mark.parametrize("answer", [b"{}", b"[]", b"[{}]", b"7", b'"word"', b'{"instance":{"state":"odd"}}'])
@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.management.connection_state("wa1"),
        lambda c: c.sender.find_messages("wa1", since=SINCE, until=UNTIL),
        lambda c: c.management.create_instance("wa1"),
        lambda c: c.management.connect_instance("wa1"),
        lambda c: c.management.set_webhook("wa1", "http://us", []),
        lambda c: c.management.find_webhook("wa1"),
    ],
    ids=["connection_state", "find_messages", "create", "connect", "set_webhook", "find_webhook"],
)
def test_an_answer_of_another_shape_is_an_error_and_not_a_crash(
    serve: Any, connect: Any, call: Any, answer: bytes
) -> None:
    with pytest.raises(errors.GatewayError, match="the answer is not understood"):
        call(connect(serve(reply(200, answer)).url))


def test_the_error_for_an_unreachable_gateway_names_the_settings_to_check(connect: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(errors.GatewayError, match=r"fetchInstances|refused") as raised:
        connect(url).management.fetch_instances()
    assert str(raised.value).startswith(url)
    assert str(raised.value).endswith("check IFINU_EVOLUTION_URL, and that the gateway is up")


def test_a_route_whose_answer_is_lost_says_that_it_may_have_taken_effect(serve: Any, connect: Any) -> None:
    with pytest.raises(errors.GatewayError, match="it may be done") as raised:
        connect(serve(reset).url).management.delete_instance("wa1")
    assert type(raised.value) is errors.GatewayError


@pytest.mark.parametrize("name", ["", "  "])
def test_an_instance_without_a_name_is_not_created(name: str) -> None:
    with pytest.raises(errors.ConfigurationError):
        Management("http://gateway", KEY).create_instance(name)


@pytest.mark.parametrize(
    "value",
    [
        CreatedInstance("wa1", "u-1", "T0K3N"),
        FOUND,
        Webhook("http://us", (), enabled=True, headers={"authorization": "T0K3N"}),
        Instance("wa1", "u-1", ConnectionState.OPEN, "WHATSAPP-BAILEYS", owner_jid="557798616740@s.whatsapp.net"),
        QrCode("T0K3N", "T0K3N", "T0K3N"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_secret_and_no_person_shows_in_a_repr(value: object) -> None:
    assert not {word for word in ("T0K3N", "98616740", "fatura") if word in repr(value)}
