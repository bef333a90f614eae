"""The guard, the proxy in the gateway's pod: a real nginx with the chart's command and configuration."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from containers import command, file, scratch, unprivileged
from processes import API_KEY, wait_until
from programs import program
from rendering import rendered
from upstream import Act, Upstream, answer, reset, said

from ifinu import errors
from ifinu.embedded import free_port
from ifinu.errors import Reason
from ifinu.gateway import ConnectionState, Evolution, Management
from ifinu.simulator import Simulator

_STARTS = 3  # another process may take the free port before nginx binds it
SENT = {"key": {"id": "3EB0", "remoteJid": "557798616740@s.whatsapp.net"}, "status": "PENDING"}
NUMBER = "+5577998616740"
ID = "5a3cf53d-9a4e-4f7e-8b0c-0123456789ab"


class Guard:
    """nginx as in the pod, with other ports and folders."""

    def __init__(self, folder: Path, upstream_port: int, replacing: dict[str, str], ipv6: bool) -> None:
        self._folder = folder
        nginx = program("nginx", variable="NGINX")
        chart = rendered("default")
        started = chart.container("StatefulSet", "evolution-api", "guard")
        config, writable = folder / "guard.conf", folder / "tmp"
        writable.mkdir()
        for attempt in range(_STARTS):
            self.port = free_port()
            places = {
                "/tmp/": f"{writable}/",
                "127.0.0.1:8080": f"127.0.0.1:{upstream_port}",
                "listen 8081": f"listen 127.0.0.1:{self.port}",
            }
            config.write_text(file(chart, "evolution-guard", "guard.conf", places | replacing))
            ours = {
                "exec nginx": f"exec {nginx}",
                "/tmp/listen": f"{writable}/listen",
                "/etc/guard/guard.conf": str(config),
                "[::]:8081": f"[::1]:{self.port}",
            }
            arguments = command(started, replacing=ours if ipv6 else ours | {"/proc/net/if_inet6": "/proc/net/missing"})
            assert arguments[:2] == ["sh", "-c"]
            if unprivileged():
                subprocess.run(["chown", "-R", "nobody", str(writable)], check=True)
            self.log = folder / f"nginx-{attempt}.log"
            with self.log.open("wb") as out:
                self._process = subprocess.Popen(
                    arguments, stdout=out, stderr=out, env={"PATH": os.defpath}, cwd="/", **unprivileged()
                )
            wait_until(lambda: self._listens() or self._process.poll() is not None, 20, self.log.read_text)
            if self._process.poll() is None:
                break
        else:
            raise AssertionError(self.log.read_text())
        self.url = f"http://127.0.0.1:{self.port}"
        # nginx writes here if it buffers a body instead of streaming it.
        for below in writable.iterdir():
            if below.is_dir():
                below.chmod(0)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
            return True
        return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        for below in (self._folder / "tmp").iterdir():
            below.chmod(0o700)


class Raw(NamedTuple):
    status: int
    body: bytes


def ask(port: int, line: bytes, body: bytes = b"", *headers: bytes) -> Raw:
    """Send a request with exactly this first line."""
    head = b"\r\n".join([line, b"Host: x", b"Connection: close", b"Content-Length: %d" % len(body), *headers, b"", b""])
    out = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as peer:
        with contextlib.suppress(ConnectionError):  # it may answer and close before it has read everything
            peer.sendall(head + body)
        with contextlib.suppress(ConnectionResetError):
            while piece := peer.recv(65_536):
                out += piece
    first, _, rest = bytes(out).partition(b"\r\n")
    return Raw(int(first.split(b" ")[1]), rest.partition(b"\r\n\r\n")[2])


Guarding = Callable[..., Guard]


@pytest.fixture
def guarding(upstream: Upstream) -> Iterator[Guarding]:
    """Starts guards in front of a port, and stops them at the end."""
    with contextlib.ExitStack() as running:

        def start(port: int, *, ipv6: bool = True, **replacing: str) -> Guard:
            guard = Guard(running.enter_context(scratch()), port, replacing, ipv6)
            running.callback(guard.stop)
            return guard

        yield start


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A stand-in for the gateway that accepts every request."""
    with Upstream(answer(201, json.dumps(SENT).encode())) as server:
        yield server


@pytest.fixture
def guard(guarding: Guarding, upstream: Upstream) -> Guard:
    return guarding(upstream.port)


@pytest.fixture
def client(guard: Guard) -> Iterator[Evolution]:
    with contextlib.closing(Evolution(guard.url, API_KEY)) as evolution:
        yield evolution


@pytest.mark.parametrize(
    ("ipv6", "families"),
    [(True, {socket.AF_INET, socket.AF_INET6}), (False, {socket.AF_INET})],
    ids=["a kernel with IPv6", "a kernel without"],
)
def test_it_listens_on_each_family_that_the_kernel_has(guarding: Guarding, upstream: Upstream, ipv6, families):
    guard = guarding(upstream.port, ipv6=ipv6)
    found = set()
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, guard.port), timeout=5):
            found.add(family)
    assert found == families


@pytest.mark.parametrize(
    ("asked", "passed"),
    [
        (b"POST /message/sendText/A?instanceName=B HTTP/1.1", "/message/sendText/A"),
        (b"POST /message/sendText/A?instanceName=B&number=1&instanceId=1 HTTP/1.1", "/message/sendText/A"),
        (b"POST http://elsewhere/message/sendText/A?instanceName=B HTTP/1.1", "/message/sendText/A"),
        (b"POST //message///sendText/A?instanceName=B HTTP/1.1", "/message/sendText/A"),
        (b"POST /./message/x/../sendText/A?instanceName=B HTTP/1.1", "/message/sendText/A"),
        (b"POST /message/sendText/A? HTTP/1.1", "/message/sendText/A"),
        (b"POST /message/sendText/A?? HTTP/1.1", "/message/sendText/A"),
        (b"POST /message/sendText/A?x?instanceName=B HTTP/1.1", "/message/sendText/A"),
        (b"POST /message/sendText/A#?instanceName=B HTTP/1.1", "/message/sendText/A"),
        # Part of the instance's name, so it is kept.
        (b"POST /message/sendText/A%3FinstanceName=B HTTP/1.1", "/message/sendText/A%3FinstanceName=B"),
        (b"POST /message/sendText/A%253FinstanceName=B HTTP/1.1", "/message/sendText/A%253FinstanceName=B"),
        (b"POST /message/sendText/A%23B HTTP/1.1", "/message/sendText/A%23B"),
        (b"POST /message/sendText/A;instanceName=B HTTP/1.1", "/message/sendText/A;instanceName=B"),
        (b"POST /message/sendText/A&instanceName=B HTTP/1.1", "/message/sendText/A&instanceName=B"),
        (b"POST /message/sendText/loja%20um?instanceName=B HTTP/1.1", "/message/sendText/loja%20um"),
        (b"POST /message/sendText/S%C3%A3o?instanceName=B HTTP/1.1", "/message/sendText/S%C3%A3o"),
        (b"GET /?instanceName=B HTTP/1.1", "/"),
        (b"GET /manager/?x=1 HTTP/1.1", "/manager/"),
        (b"GET /metrics?x=1 HTTP/1.1", "/metrics"),
        (b"DELETE /instance/delete/A?instanceName=B HTTP/1.1", "/instance/delete/A"),
        (b"PUT /instance/restart/A?instanceName=B HTTP/1.1", "/instance/restart/A"),
        (b"OPTIONS /message/sendText/A?instanceName=B HTTP/1.1", "/message/sendText/A"),
        (b"PURGE /message/sendText/A?instanceName=B HTTP/1.1", "/message/sendText/A"),
        (b"POST /webhook/set/A?instanceName=B HTTP/1.1", "/webhook/set/A"),
        (b"GET /webhook/find/A?instanceName=B HTTP/1.1", "/webhook/find/A"),
        # The kept part of each query.
        (b"GET /instance/connect/A?number=5577998616740 HTTP/1.1", "/instance/connect/A?number=5577998616740"),
        (b"GET /instance/connect/A?instanceName=B&number=55 HTTP/1.1", "/instance/connect/A?number=55"),
        (b"GET /instance/connect/A?number=55%26instanceName=B HTTP/1.1", "/instance/connect/A"),
        (b"GET /instance/connect/A?number=55;instanceName=B HTTP/1.1", "/instance/connect/A"),
        (b"GET /instance/connect/A?number= HTTP/1.1", "/instance/connect/A"),
        (b"GET /instance/connect/A/B?number=55 HTTP/1.1", "/instance/connect/A/B"),
        (b"GET /instance/connect/A%2FB?number=55 HTTP/1.1", "/instance/connect/A/B"),
        (b"POST /instance/restart/A?number=55 HTTP/1.1", "/instance/restart/A"),
        (b"GET /instance/fetchInstances?instanceName=B HTTP/1.1", "/instance/fetchInstances"),
        (
            b"GET /instance/fetchInstances?number=1&instanceName=B&instanceId=%s HTTP/1.1" % ID.encode(),
            f"/instance/fetchInstances?instanceId={ID}",
        ),
        (b"GET /instance/fetchInstances?instanceId=a[b] HTTP/1.1", "/instance/fetchInstances"),
        (b"GET /instance/fetchInstances?instanceId[x]=1 HTTP/1.1", "/instance/fetchInstances"),
    ],
)  # fmt: skip
def test_only_the_query_parameters_of_pairing_and_the_manager_reach_the_gateway(
    guard: Guard, upstream: Upstream, asked: bytes, passed: str
):
    assert ask(guard.port, asked).status == 201
    assert [taken.target for taken in upstream.taken] == [passed]
    assert upstream.taken[0].method == asked.split(b" ")[0].decode()


@pytest.mark.parametrize("route", ["meta", "evolution"])
@pytest.mark.parametrize(
    "spelling",
    [
        "/webhook/{}", "/webhook/{}/", "/webhook/{}//", "/webhook/{}/x", "/webhook/{}?x=1", "/webhook/{}#x",
        "/WebHook/{}", "/WEBHOOK/{}/", "//webhook//{}", "/./webhook/./{}", "/webhook/x/../{}", "/webhook/../webhook/{}",
        "/%77ebhook/{}", "/webhook%2F{}", "/webhook/%2e/{}", "/webhook/x/%2e%2e/{}", "/%2e%2e%2fwebhook/{}",
        "/manager/../webhook/{}", "/webhook/{};x", "/webhook;x/{}", "/webhook/{}%20", "/webhook/{}%00",
        "/webhook\\{}", "/webhook/set/../{}", "/webhook/set%2F..%2F{}", "/webhook/SET/x/../../{}",
        "http://elsewhere/webhook/{}", "http://elsewhere//webhook/{}?x", "/webhook/\N{NO-BREAK SPACE}{}",
    ],
)  # fmt: skip
def test_the_gateways_routes_without_a_key_are_blocked(guard: Guard, upstream: Upstream, spelling: str, route: str):
    """
    In every spelling: nginx checks and forwards the normalised path.
    """
    for method in (b"POST", b"GET"):
        for name in (route, route.title(), f"%{ord(route[0]):02x}{route[1:]}"):
            line = method + b" " + spelling.format(name).encode("latin-1") + b" HTTP/1.1"
            assert ask(guard.port, line, b"{}").status in (400, 404), line
    assert upstream.taken == []
    assert ask(guard.port, b"POST /webhook/set/ifinu HTTP/1.1", b"{}").status == 201


@pytest.mark.parametrize(
    "line", [b"TRACE / HTTP/1.1", b"CONNECT x:80 HTTP/1.1", b"POST /a b HTTP/1.1", b"get / HTTP/1.1"]
)
def test_a_malformed_request_is_refused(guard: Guard, upstream: Upstream, line: bytes):
    assert ask(guard.port, line).status in (400, 405)
    assert upstream.taken == []


NESTED = {"status": 400, "error": "Bad Request", "response": {"message": [['instance requires property "text"']]}}
NOT_THERE = {"message": [{"jid": "557798616740@s.whatsapp.net", "exists": False, "number": "5577998616740"}]}
NO_LICENCE = {"error": "service not activated", "code": "LICENSE_REQUIRED"}


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (201, SENT, None),
        (400, NESTED, errors.Refused),
        (400, {"status": 400, "error": "Bad Request", "response": NOT_THERE}, errors.Refused),
        (401, {"status": 401, "error": "Unauthorized", "response": {"message": "Unauthorized"}}, errors.Misconfigured),
        (404, {"response": {"message": ['The "A" instance does not exist']}}, errors.Misconfigured),
        (429, {}, errors.Throttled),
        (500, {"response": {"message": "Connection Closed"}}, errors.NotSent),
        (502, {"it": "says so itself"}, errors.MaybeSent),
        (503, NO_LICENCE, errors.Misconfigured),
        (504, {"it": "says so itself"}, errors.MaybeSent),
    ],
)
def test_the_gateways_answer_is_passed_on_unchanged(
    guard: Guard,
    upstream: Upstream,
    client: Evolution,
    status: int,
    body: Any,
    error: type[errors.SendError] | None,
):
    raw = json.dumps(body, ensure_ascii=False).encode()
    upstream.act = answer(status, raw, "Content-Type: application/json", "Retry-After: 7")
    asked = json.dumps({"number": "5577998616740", "text": "Olá 🙂 São"}).encode()
    got = ask(guard.port, b"POST /message/sendText/ifinu HTTP/1.1", asked, b"apikey: k", b"X-Ifinu-Worker: w1")
    assert got == (status, raw)
    (taken,) = upstream.taken
    assert (taken.body_bytes, taken.body_sha256) == (len(asked), hashlib.sha256(asked).hexdigest())
    assert (taken.headers["apikey"], taken.headers["x-ifinu-worker"]) == ("k", "w1")
    if error is None:
        assert client.send_text("ifinu", NUMBER, "Olá").key_id == "3EB0"
    else:
        with pytest.raises(error) as raised:
            client.send_text("ifinu", NUMBER, "Olá")
        assert raised.value.status == status


def test_large_bodies_pass_either_way_and_touch_no_disk(guard: Guard, upstream: Upstream):
    """
    30 MB, the size of a large PDF in base64. The folder for buffered bodies is not writable.
    """
    body = b'{"media":"' + b"QUJD" * 7_500_000 + b'"}'
    upstream.act = answer(200, body)
    got = ask(guard.port, b"POST /message/sendMedia/ifinu HTTP/1.1", body)
    assert got.status == 200
    assert got.body == body
    (taken,) = upstream.taken
    assert (taken.body_bytes, taken.body_sha256) == (len(body), hashlib.sha256(body).hexdigest())


def test_a_body_beyond_the_gateways_limit_is_refused_before_it_is_sent(guard: Guard, upstream: Upstream):
    with socket.create_connection(("127.0.0.1", guard.port), timeout=20) as peer:
        peer.sendall(b"POST /message/sendMedia/A HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (136 * 2**20 + 1))
        assert peer.recv(100).startswith(b"HTTP/1.1 413 ")
    assert upstream.taken == []


def test_a_body_in_chunks_passes(guard: Guard, upstream: Upstream):
    with socket.create_connection(("127.0.0.1", guard.port), timeout=20) as peer:
        peer.sendall(
            b"POST /message/sendText/A HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n'
        )
        assert peer.recv(100).startswith(b"HTTP/1.1 201 ")
    (taken,) = upstream.taken
    assert (taken.body_bytes, taken.body_sha256) == (7, hashlib.sha256(b'{"a":1}').hexdigest())


def test_no_connection_to_the_gateway_is_used_twice(guard: Guard, upstream: Upstream, client: Evolution):
    """
    The gateway closes idle connections, and a send that meets the close would have an unknown outcome.
    """
    seen = set()

    def once(connection: socket.socket, taken: Any) -> bool:
        if taken.connection in seen:
            return reset(connection, taken)
        seen.add(taken.connection)
        return answer(201, json.dumps(SENT).encode(), "Connection: keep-alive", "Keep-Alive: timeout=5")(
            connection, taken
        )

    upstream.act = once
    for _ in range(20):
        assert client.send_text("ifinu", NUMBER, "Olá").key_id == "3EB0"
    assert len(seen) == len(upstream.taken) == 20
    assert {taken.headers["connection"] for taken in upstream.taken} == {"close"}


def test_an_unreachable_gateway_answers_503(guarding: Guarding):
    """
    ifinu retries after 503, since nothing was sent.
    """
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening
        guard = guarding(closed.getsockname()[1])
        with contextlib.closing(Evolution(guard.url, API_KEY)) as client:
            for text in ("Olá", "Olá" * 1_000_000):
                with pytest.raises(errors.NotSent) as raised:
                    client.send_text("ifinu", NUMBER, text)
                assert (raised.value.status, raised.value.reason) in (
                    (503, Reason.UNAVAILABLE),
                    (None, Reason.UNREACHABLE),
                )
        assert ask(guard.port, b"POST /message/sendText/A HTTP/1.1", b"{}").status == 503


def hang_up(_connection: socket.socket, _taken: Any) -> bool:
    return False


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(reset, id="is-killed"),
        pytest.param(hang_up, id="hangs-up"),
        pytest.param(said(b"nonsense\r\n\r\n"), id="talks-nonsense"),
        pytest.param(said(b"HTTP/1.1 201 Created\r\nContent-Le"), id="breaks-off-in-its-head"),
        pytest.param(said(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"), id="breaks-off-in-its-body"),
        pytest.param(said(b""), id="says-nothing"),
    ],
)  # fmt: skip
def test_a_gateway_that_dies_during_a_request_answers_504(
    guard: Guard, upstream: Upstream, client: Evolution, act: Act
):
    """
    ifinu looks the message up after 504. The gateway got the request once.
    """
    upstream.act = act
    with pytest.raises(errors.MaybeSent) as raised:
        client.send_text("ifinu", NUMBER, "Olá")
    assert raised.value.status in (504, None)
    assert len(upstream.taken) == 1


def test_a_gateway_that_takes_too_long_answers_504(guarding: Guarding, upstream: Upstream):
    """
    The test's limit is a second instead of ten minutes.
    """
    upstream.act = upstream.stall
    guard = guarding(upstream.port, **{"proxy_read_timeout 600s": "proxy_read_timeout 1s"})
    with contextlib.closing(Evolution(guard.url, API_KEY)) as client, pytest.raises(errors.MaybeSent) as raised:
        client.send_text("ifinu", NUMBER, "Olá")
    assert raised.value.status == 504
    assert len(upstream.taken) == 1


def test_nothing_of_a_request_is_logged(guard: Guard, upstream: Upstream, client: Evolution):
    """
    A path contains the instance's name, which may be its phone.
    """
    upstream.act = reset
    with pytest.raises(errors.MaybeSent):
        client.send_text("loja-5577998616740", NUMBER, "Olá")
    assert ask(guard.port, b"GET /instance/connect/loja?number=5577998616740 HTTP/1.1").status == 504
    assert guard.log.read_text() == ""


def test_every_gateway_request_of_ifinu_works_through_the_guard(guarding: Guarding):
    with Simulator(api_key=API_KEY, instances=("ifinu", "other"), pairing_ms=60_000.0, seed=1) as simulator:
        guard = guarding(simulator.port)
        with (
            contextlib.closing(Evolution(guard.url, API_KEY)) as client,
            contextlib.closing(Management(guard.url, API_KEY)) as management,
        ):
            assert client.send_text("ifinu", NUMBER, "Olá 🙂 São").key_id
            (send,) = simulator.sends
            assert send.instance == "ifinu"
            now = datetime.now(UTC)
            around = {"since": now - timedelta(hours=1), "until": now + timedelta(hours=1)}
            assert client.find_messages("ifinu", **around).total == 1
            assert client.connection_state("ifinu") is ConnectionState.OPEN
            assert management.set_webhook("ifinu", "http://127.0.0.1:9/", ["MESSAGES_UPDATE"]).enabled
            found = management.find_webhook("ifinu")
            assert found is not None
            assert found.url == "http://127.0.0.1:9/"
            name = "loja 1? São"
            management.create_instance(name)
            assert management.connect_instance(name).qr
            code = management.connect_instance(name, number="5577998616740").qr
            assert code is not None
            assert code.pairing_code
            assert {instance.name for instance in management.fetch_instances()} == {"ifinu", "other", name}
            management.restart_instance("ifinu")
            management.logout_instance("other")
            management.delete_instance("other")


def test_a_key_of_one_instance_opens_no_other(guarding: Guarding):
    """
    The guard answers as the gateway itself does.
    """
    with Simulator(api_key=API_KEY, instances=("mine", "yours"), script={"endings": {}}) as simulator:
        guard = guarding(simulator.port)
        body = json.dumps({"number": "5577998616740", "text": "Olá"}).encode()
        headers = (b"Content-Type: application/json", b"apikey: " + simulator.token("mine").encode())
        line = b"POST /message/sendText/mine?instanceName=yours HTTP/1.1"
        assert ask(simulator.port, line, body, *headers).status == 201
        assert ask(guard.port, line, body, *headers).status == 201
        assert [send.instance for send in simulator.sends] == ["yours", "mine"]


def test_the_managers_page_of_an_instance_shows_that_instance(guarding: Guarding):
    """
    The page queries by id and uses the first result.
    """
    with Simulator(api_key=API_KEY, instances=("first", "second")) as simulator:
        guard = guarding(simulator.port)
        key = b"apikey: " + API_KEY.encode()
        every = json.loads(ask(guard.port, b"GET /instance/fetchInstances HTTP/1.1", b"", key).body)
        assert [one["name"] for one in every] == ["first", "second"]
        for one in every:
            line = b"GET /instance/fetchInstances?instanceId=%s HTTP/1.1" % one["id"].encode()
            assert [found["name"] for found in json.loads(ask(guard.port, line, b"", key).body)] == [one["name"]]
