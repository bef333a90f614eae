"""The HTTP layer, byte by byte."""

import contextlib
import http.client
import json
import socket

import pytest

from ifinu.simulator.server import BODY_LIMIT_BYTES, PIPELINE_LIMIT

BODY = json.dumps({"number": "5511987654321", "text": "oi"}).encode()


def request(body=BODY, extra="", version="1.1", path="/message/sendText/ifinu"):
    head = f"POST {path} HTTP/{version}\r\nHost: x\r\napikey: global-key\r\nContent-Type: application/json\r\n"
    return f"{head}{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.contextmanager
def line_to(api):
    """A socket to the simulator, and a reader of its answers."""
    with (
        socket.create_connection(("127.0.0.1", api.simulator.port), timeout=10) as line,
        line.makefile("rb") as file,
    ):
        yield line, lambda: read_answer(file)


def read_answer(file):
    """(status, headers, body), or None at the end of the connection."""
    start = file.readline().decode()
    if not start:
        return None
    headers = http.client.parse_headers(file)
    return int(start.split()[1]), dict(headers), file.read(int(headers.get("Content-Length", 0)))


def test_a_connection_serves_many_requests_and_says_how_long_it_waits(api):
    with line_to(api) as (line, answer):
        for _ in range(3):
            line.sendall(request())
            status, headers, _ = answer()
            assert (status, headers["Connection"], headers["Keep-Alive"]) == (201, "keep-alive", "timeout=5")


def test_an_idle_connection_is_closed_by_the_server(start):
    api = start(keep_alive_s=0.1)
    with line_to(api) as (line, answer):
        line.sendall(request())
        assert answer()[0] == 201
        assert answer() is None


def test_a_connection_that_waits_for_its_answer_is_not_idle(start):
    api = start(keep_alive_s=0.05, script={"latency_ms": 400})
    with line_to(api) as (line, answer):
        line.sendall(request() + request())
        assert [answer()[0], answer()[0]] == [201, 201]


def test_pipelined_requests_are_answered_in_order(api):
    count = PIPELINE_LIMIT * 3
    texts = [f"text {n}" for n in range(count)]
    slow = {"number": "5511987654321", "text": "text 0", "delay": 100}
    bodies = [json.dumps(slow)] + [json.dumps({"number": "5511987654321", "text": t}) for t in texts[1:]]
    with line_to(api) as (line, answer):
        line.sendall(b"".join(request(body.encode()) for body in bodies))
        got = [json.loads(answer()[2])["message"]["conversation"] for _ in range(count)]
    assert got == texts
    assert [send.text for send in api.simulator.sends] == texts


def test_a_request_may_come_byte_by_byte(api):
    with line_to(api) as (line, answer):
        for byte in request():
            line.sendall(bytes([byte]))
        assert answer()[0] == 201


def test_a_chunked_body_is_put_together(api):
    head = b"POST /message/sendText/ifinu HTTP/1.1\r\nHost: x\r\napikey: global-key\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:], b""))
    with line_to(api) as (line, answer):
        line.sendall(head + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        assert answer()[0] == 201


@pytest.mark.parametrize(("extra", "version"), [("Connection: close\r\n", "1.1"), ("", "1.0")])
def test_a_connection_is_closed_if_the_client_asks_for_it(api, extra, version):
    with line_to(api) as (line, answer):
        line.sendall(request(extra=extra, version=version))
        status, headers, _ = answer()
        assert (status, headers["Connection"]) == (201, "close")
        assert answer() is None


def test_a_client_that_expects_100_continue_gets_it(api):
    head, _, body = request(extra="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with line_to(api) as (line, answer):
        line.sendall(head + b"\r\n\r\n")
        assert answer()[0] == 100
        line.sendall(body)
        assert answer()[0] == 201


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(api):
    head = b"POST /message/sendText/ifinu HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with line_to(api) as (line, answer):
        line.sendall(head % (BODY_LIMIT_BYTES + 1))
        status, _, body = answer()
        assert (status, json.loads(body)["response"]["message"]) == (413, "request entity too large")
        assert answer() is None


def test_a_request_that_is_not_http_is_answered_400(api):
    with line_to(api) as (line, answer):
        line.sendall(b"EHLO gateway\r\n\r\n")
        assert answer()[0] == 400
        assert answer() is None


def test_a_send_goes_on_when_the_client_hangs_up(api, eventually, pauses):
    api.simulator.set_fault(latency_ms=200)
    with line_to(api) as (line, _):
        line.sendall(request())
        eventually(lambda: (api.simulator.summary()["posts"]["total"], pauses.seconds), (1, [0.2]))
    eventually(lambda: len(api.simulator._host._server.connections), 0)
    assert api.simulator.sends == []
    pauses.go_on()
    eventually(lambda: (len(api.simulator.sends), api.simulator.summary()["posts"]["by_outcome"]), (1, {"ok": 1}))


def test_a_delay_holds_the_request_open(api, eventually, pauses):
    with line_to(api) as (line, answer):
        line.sendall(request(json.dumps({"number": "5511987654321", "text": "oi", "delay": 300}).encode()))
        eventually(lambda: (api.simulator.summary()["posts"]["total"], pauses.seconds), (1, [0.3]))
        assert api.simulator.sends == []
        pauses.go_on()
        assert answer()[0] == 201
    assert len(api.simulator.sends) == 1


def test_the_worker_header_groups_the_arrivals(api):
    with line_to(api) as (line, answer):
        for worker in ("pod-a", "pod-b", "pod-a"):
            line.sendall(request(extra=f"X-Ifinu-Worker: {worker}\r\n"))
            answer()
        line.sendall(request())
        answer()
    clients = api.simulator.summary()["clients"]
    assert {name: figures["total"] for name, figures in clients.items()} == {"-": 1, "pod-a": 2, "pod-b": 1}
