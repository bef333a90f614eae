"""The limits on connections that have not shown the secret."""

import contextlib
import http.client
import json
import socket

import pytest
from integration.receipts.conftest import SECRET, Receiver, token
from processes import stopping, wait_until

from ifinu.receipts import connection_limits

HOOK = json.dumps({"event": "presence.update", "instance": "wa1", "data": {}}).encode()


@pytest.fixture
def receiver(valkey, monkeypatch):
    monkeypatch.setattr(connection_limits, "HEAD_S", 1.0)
    monkeypatch.setattr(connection_limits, "most_connections", lambda: 20)
    with stopping(Receiver(valkey.url)) as running:
        yield running


def connected(receiver, sent=b""):
    line = socket.create_connection(("127.0.0.1", receiver.port), timeout=10)
    line.sendall(sent)
    return line


def is_closed(line):
    line.setblocking(False)
    try:
        return line.recv(65_536) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        line.settimeout(10)


def flooded(line, part, most):
    """The number of bytes sent until the server closes the connection."""
    sent = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        while sent < most:
            line.sendall(part)
            sent += len(part)
    return sent


@pytest.mark.parametrize(
    "beginning",
    [b"POST / HTTP/1.1\r\nX-Long: ", b"POST /", b"POST / HTTP/1.1\r\nHost: x\r\n"],
    ids=["one_value", "path", "many_headers"],
)
def test_an_endless_request_head_is_refused(receiver, beginning):
    part = b"X-Name: value\r\n" * 4_000 if beginning.endswith(b"\r\n") else b"x" * 60_000
    with connected(receiver, beginning) as line:
        assert flooded(line, part, 100_000_000) < 20_000_000  # the kernels' buffers
        assert receiver.ask("GET", "/healthz") == 200


def test_an_endless_trailer_is_refused(receiver):
    head = f"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer {token()}\r\n\r\n"
    with connected(receiver, head.encode() + b"2\r\n{}\r\n0\r\nX-Long: ") as line:
        assert flooded(line, b"x" * 60_000, 100_000_000) < 20_000_000


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_a_request_head_is_closed(receiver, sent):
    with connected(receiver, sent) as line:
        wait_until(lambda: is_closed(line))


def test_a_kept_alive_connection_that_stalls_is_closed(receiver):
    with connected(receiver, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as line:
        assert line.recv(65_536).startswith(b"HTTP/1.1 200")
        line.sendall(b"GET /heal")
        wait_until(lambda: is_closed(line))


@pytest.mark.parametrize(
    "sent", [b"POST / HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["half", "idle"]
)
def test_idle_and_half_open_connections_block_no_other_client(receiver, sent):
    """
    The server has room for twenty connections and sixty are open: the gateway and a probe still get their answers.
    """
    with contextlib.ExitStack() as held:
        for _ in range(60):
            held.enter_context(connected(receiver, sent))
            assert receiver.ask("GET", "/healthz") == 200
        assert receiver.post(HOOK) == 200


def test_a_request_being_served_is_not_closed_to_make_room(receiver):
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(HOOK)}\r\nX-Ifinu-Secret: {SECRET}\r\n\r\n"
    with contextlib.ExitStack() as held, connected(receiver, head.encode() + HOOK[:10]) as served:
        assert receiver.ask("GET", "/healthz") == 200  # the head has been read by now
        for _ in range(40):
            held.enter_context(connected(receiver, b"POST"))
        served.sendall(HOOK[10:])
        assert served.recv(65_536).startswith(b"HTTP/1.1 200")


def test_the_connection_limit_stays_below_the_limit_of_open_files():
    assert 16 <= connection_limits.most_connections() <= 512


def test_a_body_without_the_secret_is_not_read_in_full(receiver):
    with connected(receiver, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000\r\n\r\n") as line:
        assert line.recv(65_536).startswith(b"HTTP/1.1 401")
        wait_until(lambda: is_closed(line))


def test_an_answer_is_a_200_with_a_body(receiver):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)) as line:
        line.request("POST", "/", HOOK, {"X-Ifinu-Secret": SECRET})
        answer = line.getresponse()
        assert (answer.status, answer.read()) == (200, b"ok\n")
