"""The result of a send if the gateway answers, stalls, resets or hangs up, and the use of connections."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_gateway import (
    DEADLINE_S,
    KEY,
    RESET_ON_CLOSE,
    Act,
    Gateway,
    Request,
    connecting,
    raw,
    reply,
    reset,
    sent,
    serving,
)

from ifinu import errors
from ifinu.embedded import free_port
from ifinu.errors import MaybeSent, Misconfigured, NotSent, Reason, Throttled
from ifinu.gateway import Evolution, Management, Sent, http_transport

PHONE = "+5577998616740"
# A certificate for localhost and 127.0.0.1, valid for a hundred years, for these tests only.
TLS = Path(__file__).with_name("gateway_tls.pem")


@pytest.fixture
def serve() -> Iterator[Callable[..., Gateway]]:
    with serving() as start:
        yield start


@pytest.fixture
def connect() -> Iterator[Callable[..., Evolution]]:
    with connecting(Evolution) as client:
        yield client


def failure(client: Evolution, text: str = "Olá") -> errors.SendError:
    with pytest.raises(errors.SendError) as raised:
        client.send_text("wa1", PHONE, text)
    for secret in (KEY, "99861", text):
        assert secret not in f"{raised.value} {raised.value.answer} {client!r}"
    return raised.value


def test_a_text_is_posted_once_in_the_gateways_format(serve: Any, connect: Any) -> None:
    gateway = serve(reply(201, sent()))
    result = connect(gateway.url + "/api/", worker="pod-3").send_text("wa 1/2?", PHONE, "Olá\0 você 🙂\ud83d")
    assert result == Sent("3EB0", "PENDING", "557798616740@s.whatsapp.net")
    (request,) = gateway.requests
    assert request.line == "POST /api/message/sendText/wa%201%2F2%3F HTTP/1.1"
    assert request.json == {"number": "5577998616740", "text": "Olá você 🙂?", "linkPreview": False}
    assert request.headers == {
        "host": gateway.url.removeprefix("http://"),
        "apikey": KEY,
        "x-ifinu-worker": "pod-3",
        "content-type": "application/json",
        "content-length": str(len(request.body)),
    }


def test_the_environments_proxy_is_not_used(serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert connect(serve(reply(201, sent())).url).send_text("wa1", PHONE, "Olá").key_id == "3EB0"


def test_a_refused_connection_is_not_sent(connect: Any) -> None:
    error = failure(connect(f"http://127.0.0.1:{free_port()}"))
    assert (type(error), error.reason, error.status) == (NotSent, Reason.UNREACHABLE, None)
    assert str(error) == (
        "wa1: not delivered: ConnectionRefusedError: [Errno 111] Connection refused; "
        "check IFINU_EVOLUTION_URL, and that the gateway is up"
    )


def test_an_unknown_host_is_not_sent(connect: Any) -> None:
    error = failure(connect("http://gateway.invalid"))
    assert (type(error), error.reason) == (NotSent, Reason.UNREACHABLE)


def test_a_server_that_does_not_accept_is_not_sent(connect: Any) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with contextlib.ExitStack() as full:
            for _ in range(2):  # fills the queue of connections; further ones get no answer
                waiting = full.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            error = failure(connect(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=0.2))
    assert (type(error), error.reason) == (NotSent, Reason.UNREACHABLE)


def test_a_failed_tls_handshake_is_not_sent(connect: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        failed = pool.submit(failure, connect(f"https://127.0.0.1:{listener.getsockname()[1]}"))
        with listener.accept()[0] as sock:
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            error = failed.result(DEADLINE_S)
    assert (type(error), error.reason) == (NotSent, Reason.UNREACHABLE)


def test_an_untrusted_certificate_is_not_sent(serve: Any, connect: Any) -> None:
    gateway = serve(reply(201, sent()), tls=server_context())
    error = failure(connect(gateway.url))
    assert (type(error), error.reason, gateway.requests) == (NotSent, Reason.UNREACHABLE, [])


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS)
    return context


def test_https_is_spoken_and_its_connection_kept(serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS))
    gateway = serve(reply(201, sent()), tls=server_context())
    client = connect(gateway.url)
    for _ in range(3):
        assert client.send_text("wa1", PHONE, "Olá").key_id == "3EB0"
    assert gateway.connections == [1, 1, 1]


@pytest.mark.parametrize(("read_timeout_s", "hangs_up"), [(0.2, False), (DEADLINE_S, True)], ids=["stalls", "resets"])
def test_a_request_not_written_completely_is_not_sent(connect: Any, read_timeout_s: float, hangs_up: bool) -> None:
    """A request larger than the sockets' buffers, to a server that does not read it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        client = connect(f"http://127.0.0.1:{listener.getsockname()[1]}", read_timeout_s=read_timeout_s)
        failed = pool.submit(failure, client, "x" * 20_000_000)
        with listener.accept()[0] as sock:
            sock.recv(1)
            sock.setsockopt(*RESET_ON_CLOSE)
            if not hangs_up:
                futures.wait([failed], DEADLINE_S)
        error = failed.result(DEADLINE_S)
    assert (type(error), error.reason) == (NotSent, Reason.UNREACHABLE)


@pytest.mark.parametrize(
    "act",
    [
        reset,
        raw(b""),
        raw(b"HTTP/1.1 201 Crea"),
        raw(b"HTTP/1.1 201 Created\r\nContent-Len"),
        raw(b'HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{"key":{"id":"3EB0"}}'),
        raw(b'HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n{"key":{"id":"3EB0"}}'),
        raw(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
        raw(b"HTTP/1.1 abc\r\n\r\n"),
        raw(b"HTTP/3.0 201 Created\r\n\r\n"),
        raw(b"HTTP/1.1 201 Created\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"),
        raw(b"HTTP/1.1 201 Created\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
    ],
    ids=[
        "reset",
        "closed",
        "half a status",
        "half a header",
        "half a body",
        "no last chunk",
        "a broken chunk",
        "not HTTP",
        "no status",
        "another HTTP",
        "too many headers",
        "too long a header",
    ],
)
def test_an_answer_lost_on_the_way_may_be_sent(serve: Any, connect: Any, act: Act) -> None:
    gateway = serve(act, reply(201, sent()))
    client = connect(gateway.url)
    error = failure(client)
    assert (type(error), error.reason, error.status) == (MaybeSent, Reason.CONNECTION_LOST, None)
    assert len(gateway.requests) == 1, "it was tried again"
    assert client.send_text("wa1", PHONE, "Olá").key_id == "3EB0"
    assert gateway.connections == [1, 2]


def test_a_gateway_that_does_not_answer_may_have_sent(serve: Any, connect: Any) -> None:
    def stall(_sock: socket.socket, _request: Request) -> bool:
        return gateway.released.wait(DEADLINE_S)

    gateway: Gateway = serve(stall)
    error = failure(connect(gateway.url, read_timeout_s=0.2))
    assert (type(error), error.reason) == (MaybeSent, Reason.TIMEOUT)
    assert len(gateway.requests) == 1


def test_an_answer_may_take_longer_than_a_connection(serve: Any, connect: Any) -> None:
    def late(sock: socket.socket, request: Request) -> bool:
        gateway.released.wait(0.4)
        return reply(201, sent())(sock, request)

    gateway = serve(late)
    assert connect(gateway.url, connect_timeout_s=0.2).send_text("wa1", PHONE, "Olá").key_id == "3EB0"


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 201 Created\r\nX: ", b"HTTP/1.1 201 Created\r\nContent-Length: 999\r\n\r\n"]
)
def test_a_trickling_answer_is_cut_off_at_the_deadline(serve: Any, connect: Any, head: bytes) -> None:
    def trickle(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(head)
        while not gateway.released.wait(0.02):
            sock.sendall(b"x")
        return False

    gateway = serve(trickle)
    error = failure(connect(gateway.url, read_timeout_s=0.2))
    assert (type(error), error.reason) == (MaybeSent, Reason.TIMEOUT)


def test_a_connection_is_kept_between_sends(serve: Any, connect: Any) -> None:
    gateway = serve(reply(201, sent()), reply(400, b""), reply(204), reply(201, sent()))
    client = connect(gateway.url)
    client.send_text("wa1", PHONE, "Olá")
    failure(client)
    failure(client)
    client.send_text("wa1", PHONE, "Olá")
    assert gateway.connections == [1, 1, 1, 1]


def test_a_connection_is_not_used_after_four_seconds_of_idleness(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(http_transport, "time", SimpleNamespace(monotonic=lambda: clock.now))
    gateway = serve(reply(201, sent()))
    client = connect(gateway.url)
    for now in (100.0, 103.9, 107.9):
        clock.now = now
        client.send_text("wa1", PHONE, "Olá")
    assert gateway.connections == [1, 1, 2]


def together(count: int) -> Act:
    """Answer once `count` requests have arrived, which takes as many connections."""
    barrier = threading.Barrier(count)

    def act(sock: socket.socket, request: Request) -> bool:
        barrier.wait(DEADLINE_S)
        return reply(201, sent())(sock, request)

    return act


def send_together(client: Evolution, count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(client.send_text, "wa1", PHONE, "Olá") for _ in range(count)]:
            assert done.result(DEADLINE_S).key_id == "3EB0"


def test_the_number_of_idle_connections_is_bounded(serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_transport, "_MOST_IDLE", 2)
    gateway = serve(together(4))
    client = connect(gateway.url)
    send_together(client, 4)
    send_together(client, 4)
    assert len(set(gateway.connections)) == 4 + 2


def test_a_connection_left_unused_is_closed_while_another_is_busy(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(http_transport, "time", SimpleNamespace(monotonic=lambda: clock.now))
    two = together(2)
    gateway = serve(two, two, reply(201, sent()))
    client = connect(gateway.url)
    send_together(client, 2)
    for now in (103.0, 105.0):
        clock.now = now
        client.send_text("wa1", PHONE, "Olá")
    assert gateway.hung_up.wait(DEADLINE_S)
    assert len(set(gateway.connections)) == 2


def test_a_connection_the_gateway_has_closed_is_not_used(serve: Any, connect: Any) -> None:
    gateway = serve(reply(201, sent(), keep=False), reply(201, sent()))
    client = connect(gateway.url)
    client.send_text("wa1", PHONE, "Olá")
    assert gateway.hung_up.wait(DEADLINE_S)
    client.send_text("wa1", PHONE, "Olá")
    assert gateway.connections == [1, 2]


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 21\r\n\r\n{"key":{"id":"3EB0"}}',
        b'HTTP/1.1 201 Created\r\n\r\n{"key":{"id":"3EB0"}}',
        b'HTTP/1.0 201 Created\r\nContent-Length: 21\r\n\r\n{"key":{"id":"3EB0"}}',
        b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n\r\n{"key":{"id":"3EB0"}}',
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b'8\r\n{"key":{\r\nd\r\n"id":"3EB0"}}\r\n0\r\n\r\n',
    ],
    ids=["close", "until closed", "HTTP/1.0", "100", "chunked"],
)
def test_an_answer_is_read_in_every_framing(serve: Any, connect: Any, answer: bytes) -> None:
    assert connect(serve(raw(answer)).url).send_text("wa1", PHONE, "Olá") == Sent("3EB0")


def test_a_connection_is_kept_after_a_chunked_answer(serve: Any, connect: Any) -> None:
    def chunked(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n")
        sock.sendall(b'{"key":{\r\nd\r\n"id":"3EB0"}}\r\n0\r\n\r\n')
        return True

    gateway = serve(chunked)
    client = connect(gateway.url)
    assert [client.send_text("wa1", PHONE, "Olá").key_id for _ in range(2)] == ["3EB0", "3EB0"]
    assert gateway.connections == [1, 1]


def test_an_interim_answer_is_not_used_for_the_next_request(serve: Any, connect: Any) -> None:
    def early(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
        gateway.released.wait(0.05)
        with contextlib.suppress(OSError):
            sock.sendall(b'HTTP/1.1 201 Created\r\nContent-Length: 20\r\n\r\n{"key":{"id":"OLD"}}')
        return True

    gateway = serve(early, reply(201, sent("NEW")))
    client = connect(gateway.url)
    assert type(failure(client)) is MaybeSent
    assert client.send_text("wa1", PHONE, "Olá").key_id == "NEW"


def test_an_answer_too_large_is_cut(serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_transport, "LARGEST_BODY_BYTES", 1000)
    gateway = serve(reply(201, sent("x" * 2000)), reply(201, sent()))
    client = connect(gateway.url)
    error = failure(client)
    assert (type(error), error.reason) == (MaybeSent, Reason.UNEXPECTED_ANSWER)
    client.send_text("wa1", PHONE, "Olá")
    assert gateway.connections == [1, 2]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(serve: Any, connect: Any, status: int) -> None:
    elsewhere = serve(reply(201, sent()))
    gateway = serve(reply(status, None, f"Location: {elsewhere.url}/message/sendText/wa1"))
    error = failure(connect(gateway.url))
    assert (type(error), error.reason, elsewhere.requests) == (Misconfigured, Reason.REDIRECTED, [])


def test_retry_after_is_honoured(serve: Any, connect: Any) -> None:
    error = failure(connect(serve(reply(429, None, "Retry-After: 7")).url))
    assert isinstance(error, Throttled)
    assert error.retry_after_s == 7.0


def test_a_gateway_that_repeats_key_phone_and_text_does_not_get_them_into_the_error(serve: Any, connect: Any) -> None:
    def echo(sock: socket.socket, request: Request) -> bool:
        said = f"headers {request.headers} body {request.body.decode()}"
        return reply(500, {"response": {"message": said}})(sock, request)

    error = failure(connect(serve(echo).url), text='Sua fatura "de março"\nvence hoje')
    assert "fatura" not in str(error)
    assert "vence hoje" not in str(error)


def test_threads_share_a_client_and_each_gets_its_own_answer(serve: Any, connect: Any) -> None:
    def echo(sock: socket.socket, request: Request) -> bool:
        return reply(201, sent(request.json["text"]))(sock, request)

    gateway = serve(echo)
    client = connect(gateway.url)
    texts = [f"text {n}" for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda text: client.send_text("wa1", PHONE, text).key_id, texts))
    assert ids == texts
    assert len(set(gateway.connections)) <= 8


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "ftp://gateway",
        "http://",
        "http://:8080",
        "http://gateway:port",
        "http://gateway:99999",
        "http://gateway:0",
        "http://[::1",
        "http://gate way",
        "http://gateway/\r\nX: y",
        "http://gâteway",
        f"http://{'a' * 64}",
        "http://user:password@gateway",
        "http://gateway?instanceName=other",
        "http://gateway#x",
    ],
)
@pytest.mark.parametrize("kind", [Evolution, Management])
def test_a_url_that_cannot_be_used_is_refused_at_once(kind: type, url: str) -> None:
    with pytest.raises(errors.ConfigurationError) as raised:
        kind(url, KEY)
    assert "password" not in str(raised.value)


@pytest.mark.parametrize("key", ["", "  ", "s3cr3t\r\nX: y", "s3cr3t-ç", "s3cr3t\0"])
@pytest.mark.parametrize("kind", [Evolution, Management])
def test_a_key_that_cannot_be_sent_is_refused_without_repeating_it(kind: type, key: str) -> None:
    with pytest.raises(errors.ConfigurationError) as raised:
        kind("http://gateway", key)
    assert "s3cr3t" not in str(raised.value)
    assert "apikey" in str(raised.value)


def test_the_key_is_in_no_repr() -> None:
    client = Evolution("http://gateway:8080", KEY)
    assert repr(client) == "Evolution('http://gateway:8080')"
    assert repr(client._transport) == "HttpTransport('http://gateway:8080')"
    management = Management("http://gateway:8080", KEY)
    assert repr(management) == "Management('http://gateway:8080')"
    assert repr(management._transport) == "RequestsTransport('http://gateway:8080')"
