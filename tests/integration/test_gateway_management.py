"""How the management client connects, waits and gives up. `test_gateway_routes.py` tests its routes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scripted_gateway import DEADLINE_S, KEY, Act, Gateway, Request, connecting, raw, reply, reset, serving

from ifinu.embedded import free_port
from ifinu.errors import GatewayError
from ifinu.gateway import ConnectionState, Management, requests_transport

TLS = Path(__file__).with_name("gateway_tls.pem")  # for localhost and 127.0.0.1
OPEN = {"instance": {"instanceName": "wa1", "state": "open"}}
LOST = "wa1: DELETE instance/delete: no answer, so it may be done: "


@pytest.fixture
def serve() -> Iterator[Callable[..., Gateway]]:
    with serving() as start:
        yield start


@pytest.fixture
def connect() -> Iterator[Callable[..., Management]]:
    with connecting(Management) as client:
        yield client


def failure(client: Management) -> str:
    """The text of the error of a deletion that fails."""
    with pytest.raises(GatewayError) as raised:
        client.delete_instance("wa1")
    assert type(raised.value) is GatewayError
    assert KEY not in f"{raised.value} {raised.value.answer} {client!r}"
    return str(raised.value)


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS)
    return context


def test_a_request_has_only_the_headers_that_the_gateway_needs(serve: Any, connect: Any) -> None:
    gateway = serve(reply(200, OPEN))
    assert connect(gateway.url + "/api/", worker="doctor").connection_state("wa 1/2?") is ConnectionState.OPEN
    (request,) = gateway.requests
    assert request.line == "GET /api/instance/connectionState/wa%201%2F2%3F HTTP/1.1"
    assert request.headers == {
        "host": gateway.url.removeprefix("http://"),
        "apikey": KEY,
        "x-ifinu-worker": "doctor",
        "user-agent": "ifinu",
        "accept-encoding": "identity",
        "connection": "close",
    }


@pytest.mark.parametrize("name", [".", "..", "%2e%2e", "a/../../x"])
def test_an_instance_name_with_dots_does_not_change_the_route(serve: Any, connect: Any, name: str) -> None:
    gateway = serve(reply(200, {"status": "SUCCESS"}))
    connect(gateway.url).delete_instance(name)
    (request,) = gateway.requests
    assert request.line == f"DELETE /instance/delete/{name.replace('%', '%25').replace('/', '%2F')} HTTP/1.1"


def test_no_proxy_and_no_password_is_taken_from_the_environment(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password theirs")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    gateway = serve(reply(200, OPEN))
    assert connect(gateway.url).connection_state("wa1") is ConnectionState.OPEN
    assert "authorization" not in gateway.requests[0].headers


def test_no_cookie_is_kept(serve: Any, connect: Any) -> None:
    gateway = serve(reply(200, OPEN, "Set-Cookie: a=b; Path=/"))
    client = connect(gateway.url)
    for _ in range(2):
        client.connection_state("wa1")
    assert all("cookie" not in request.headers for request in gateway.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(serve: Any, connect: Any, status: int) -> None:
    elsewhere = serve(reply(200, OPEN))
    gateway = serve(reply(status, None, f"Location: {elsewhere.url}/instance/delete/wa1"))
    assert failure(connect(gateway.url)).endswith(
        "redirects are not followed: set IFINU_EVOLUTION_URL to the final address"
    )
    assert elsewhere.requests == []


def test_each_call_has_its_own_connection(serve: Any, connect: Any) -> None:
    gateway = serve(reply(200, OPEN))
    client = connect(gateway.url)
    with ThreadPoolExecutor(4) as pool:
        assert {*pool.map(client.connection_state, ["wa1"] * 20)} == {ConnectionState.OPEN}
    assert sorted(gateway.connections) == list(range(1, 21))


# -- failures before the request is written


def test_a_refused_connection_is_reported_with_the_settings_to_check(connect: Any) -> None:
    assert failure(connect(f"http://127.0.0.1:{free_port()}")) == (
        "wa1: ConnectionRefusedError: [Errno 111] Connection refused; "
        "check IFINU_EVOLUTION_URL, and that the gateway is up"
    )


def test_an_unknown_host_is_reported_with_the_settings_to_check(connect: Any) -> None:
    said = failure(connect("http://gateway.invalid"))
    assert said.startswith("wa1: gaierror: ")
    assert said.endswith("; check IFINU_EVOLUTION_URL, and that the gateway is up")


def test_a_server_that_accepts_no_connection_is_given_up(connect: Any) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with contextlib.ExitStack() as full:
            for _ in range(2):  # fills the queue of connections; further ones get no answer
                waiting = full.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            client = connect(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=0.2)
            assert (
                failure(client) == "wa1: TimeoutError: timed out; check IFINU_EVOLUTION_URL, and that the gateway is up"
            )


def test_a_certificate_of_an_unknown_authority_is_refused(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the system's authorities count, not those that the environment names for `requests`."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(TLS))
    gateway = serve(reply(200, OPEN), tls=server_context())
    said = failure(connect(gateway.url))
    assert "certificate verify failed" in said
    assert said.endswith("; check IFINU_EVOLUTION_URL, and that the gateway is up")
    assert gateway.requests == []


def test_https_works(serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS))
    gateway = serve(reply(200, OPEN), tls=server_context())
    assert connect(gateway.url).connection_state("wa1") is ConnectionState.OPEN


# -- failures after the request is written


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"], ids=["its head", "its body"])
def test_tls_that_breaks_in_the_answer_is_a_lost_answer(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS))

    def garble(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(head)
        socket.socket.send(sock, b"no record of TLS")
        return False

    said = failure(connect(serve(garble, tls=server_context()).url))
    assert said.startswith(LOST)
    assert "[SSL" in said


@pytest.mark.parametrize(
    "act",
    [
        reset,
        raw(b""),
        raw(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"status":"SUCCESS"}'),
        raw(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{"status":"SUCCESS"}'),
        raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
        raw(b"HTTP/1.1 abc\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
    ],
    ids=[
        "reset",
        "closed",
        "half a body",
        "no last chunk",
        "not HTTP",
        "no status",
        "too long a header",
    ],
)
def test_after_a_lost_answer_the_request_is_not_repeated(serve: Any, connect: Any, act: Act) -> None:
    gateway = serve(act, reply(200, {"status": "SUCCESS"}))
    assert failure(connect(gateway.url)).startswith(LOST)
    assert len(gateway.requests) == 1


def test_an_incomplete_head_is_an_error(serve: Any, connect: Any) -> None:
    gateway = serve(raw(b"HTTP/1.1 200 OK\r\nContent-Le"))
    assert failure(connect(gateway.url)).endswith("HTTP 200; check that IFINU_EVOLUTION_URL is an Evolution API")


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"],
    ids=["nothing", "a head", "a body"],
)
def test_the_wait_for_a_trickling_answer_ends(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, head: bytes, tls: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS))

    def trickle(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(head)
        while not gateway.released.wait(0.02):
            if head:
                sock.sendall(b"x")
        return False

    gateway = serve(trickle, tls=server_context() if tls else None)
    client = connect(gateway.url, read_timeout_s=0.2)
    began = time.monotonic()
    said = failure(client)
    assert said.startswith(f"{LOST}TimeoutError: ")
    assert said.endswith("timed out")  # the words before it are OpenSSL's
    assert time.monotonic() - began < DEADLINE_S


def test_a_large_answer_is_cut(serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_transport, "LARGEST_BODY_BYTES", 1000)
    gateway = serve(reply(500, b"<title>" + b"x" * 900 + b"</title>" + b"y" * 100_000_000))
    with pytest.raises(GatewayError) as raised:
        connect(gateway.url).fetch_instances()
    assert raised.value.status == 500
    assert gateway.hung_up.wait(DEADLINE_S), "it still reads"


def test_the_error_hides_a_key_that_the_gateway_repeats(serve: Any, connect: Any) -> None:
    def echo(sock: socket.socket, request: Request) -> bool:
        return reply(500, {"response": {"message": f"headers {request.headers}"}})(sock, request)

    assert "HTTP 500" in failure(connect(serve(echo).url))
