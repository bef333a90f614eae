"""The control surface over HTTP, by hand and by its client, and the simulator as a process."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from ifinu.errors import ConfigurationError
from ifinu.simulator import Control
from ifinu.simulator.process import main

NUMBER = "5511987654321"


@pytest.fixture
def control(api):
    return Control(api.simulator.url, api.simulator.api_key)


@pytest.mark.parametrize("path", ["ledger", "summary", "faults", "nothing"])
def test_the_control_surface_requires_the_global_key(api, path):
    assert api("GET", f"/_simulator/{path}", key=None).status == 401
    assert api("GET", f"/_simulator/{path}", key=api.simulator.token("ifinu")).status == 401


def test_the_environments_proxy_is_not_used(control, monkeypatch):
    for name in ("http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert control.total() == 0


def test_the_ledger_can_be_read_in_pages(api, control):
    for n in range(5):
        api.send(NUMBER, f"text {n}")
    page = api("GET", "/_simulator/ledger?since=1&limit=2").body
    assert (page["total"], page["next"], [send["text"] for send in page["sends"]]) == (
        5,
        3,
        ["text 1", "text 2"],
    )
    assert [send.text for send in control.sends_since(3)] == ["text 3", "text 4"]
    assert control.sends == api.simulator.sends


def test_the_summary_is_the_same_from_both_sides(api, control):
    api.send(NUMBER)
    api.send("5511987650001")
    summary = control.summary()
    assert summary == api.simulator.summary()
    assert summary["posts"]["by_outcome"] == {"ok": 1, "not_on_whatsapp": 1}
    assert (summary["posts"]["total"], summary["posts"]["worst_window"]) == (2, 2)
    assert summary["sends"] == {"total": 1, "distinct": 1, "duplicates": 0, "worst_window": 1}


def test_faults_and_instances_are_set_from_outside(api, control):
    control.set_fault(next=["rate_overlimit"])
    assert api.send(NUMBER).status == 400
    control.set_instance("ifinu", state="close")
    assert api.send(NUMBER).body["response"]["message"] == ["Error: Connection Closed"]
    assert control.inbound(instance="ifinu", number=NUMBER, text="oi").startswith("3EB0")
    control.reset()
    assert control.summary()["posts"]["total"] == 0


def test_a_gateway_set_down_for_a_while_comes_back(api, control, eventually):

    def status():
        try:
            return api.send(NUMBER).status
        except OSError:
            return "down"

    def down():
        with contextlib.suppress(OSError):  # again, if it was back before we looked
            control.set_fault(gateway="refuse", for_s=0.3)
        return status()

    eventually(down, "down")
    eventually(status, 201)
    assert api("GET", "/_simulator/faults").body["gateway"] == "up"


def test_a_gateway_comes_back_after_another_used_its_port(api, eventually):
    """
    A client that retried so often that its connection reached itself can hold the port.
    """
    taker = socket.socket()
    taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with taker:

        def taken():
            api.simulator.set_fault(gateway="refuse", for_s=0.3)
            with contextlib.suppress(OSError):
                taker.bind(("127.0.0.1", api.simulator.port))
                taker.listen()
                return True

        eventually(taken)
        until = time.monotonic() + 0.6  # past the end of its outage
        eventually(lambda: time.monotonic() > until)

    def status():
        try:
            return api.send(NUMBER).status
        except OSError:
            return "down"

    eventually(status, 201)


def test_a_connection_made_as_the_gateway_goes_down_is_closed(api):
    for _ in range(10):
        lines = [socket.socket() for _ in range(50)]
        down = threading.Timer(0.001, api.simulator.set_fault, kwargs={"gateway": "refuse"})
        down.start()
        for line in lines:
            line.settimeout(5)
            with contextlib.suppress(ConnectionError):
                line.connect(("127.0.0.1", api.simulator.port))
        down.join()
        for line in lines:
            with line, contextlib.suppress(ConnectionError, BrokenPipeError):
                line.sendall(b"GET / HTTP/1.1\r\n")
                assert line.recv(1) == b""
        api.simulator.set_fault(gateway="up")


@pytest.mark.parametrize("gateway", ["reset", "unavailable", "hang"])
def test_the_surface_answers_while_the_gateway_is_down(api, control, gateway):
    control.set_fault(gateway=gateway)
    control.set_fault(gateway="up")
    assert api.send(NUMBER).status == 201


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda c: c.set_fault(gateway="refuse"), "refuse needs for_s"),
        (lambda c: c.set_fault(for_s=3), "for_s must be"),
        (lambda c: c.set_fault(gateway="up", for_s=-1), "for_s must be"),
        (lambda c: c.set_fault(haste=3), "haste: no such fault"),
        (lambda c: c.set_instance("missing", state="open"), "missing: no such instance"),
        (lambda c: c.set_instance("ifinu", state="broken"), "state is open"),
        (lambda c: c.set_instance("ifinu", mood="bad"), "mood: unknown"),
        (lambda c: c.inbound(instance="ifinu", number=NUMBER), "inbound needs"),
        (lambda c: c.inbound(instance="ifinu", number=NUMBER, text="x", variant="y"), "variant must be"),
        (lambda c: c._ask("GET", "ledger?since=x"), "ledger takes since"),
        (lambda c: c._ask("GET", "nothing"), "Cannot GET /_simulator/nothing"),
    ],
)
def test_a_wrong_call_gets_an_explanation(control, ask, says):
    with pytest.raises(ConfigurationError, match=says):
        ask(control)


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "key"
    file.write_text("process-key\n")
    return file


@contextlib.contextmanager
def process(*arguments):
    command = [sys.executable, "-m", "ifinu.simulator", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running, running.stdout.readline().removeprefix("listening on ").strip()
        finally:
            running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_serves_until_sigterm(key_file, tmp_path, number):
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"latency_ms": 1, "next": ["send_closed"]}))
    ledger = tmp_path / "ledger.jsonl"
    options = [
        "--api-key-file",
        key_file,
        "--script",
        script,
        "--ledger",
        ledger,
        "--instance",
        "a",
        "--plain",
    ]
    with process(*options) as (running, url):
        control = Control(url, "process-key")
        assert control._ask("GET", "faults")["endings"] == {}
        assert control._ask("GET", "faults")["next"] == ["send_closed"]
        running.send_signal(number)
        assert running.wait(timeout=200) == 0
    assert ledger.read_bytes() == b""


def test_a_process_that_stops_drops_the_requests_under_way(key_file, eventually):
    with process("--api-key-file", key_file, "--latency-ms", "60000") as (running, url):
        control = Control(url, "process-key")
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=10) as line:
            body = b'{"number":"5511987654321","text":"x"}'
            line.sendall(
                b"POST /message/sendText/ifinu HTTP/1.1\r\nHost: x\r\napikey: process-key\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            eventually(lambda: control.summary()["peak_in_flight"], {"ifinu": 1})
            running.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionResetError):
                line.recv(1)
        assert running.wait(timeout=200) == 0


@pytest.mark.parametrize(
    ("key", "script", "says"),
    [("", "{}", "holds no key"), ("k", "{", "script.json: "), ("k", '{"haste": 1}', "haste: no such fault")],
)
def test_wrong_arguments_are_reported_in_one_line(tmp_path, capsys, key, script, says):
    (tmp_path / "key").write_text(key)
    (tmp_path / "script.json").write_text(script)
    arguments = ["--api-key-file", str(tmp_path / "key"), "--script", str(tmp_path / "script.json")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("simulator: ")
    assert says in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_reported(api, tmp_path, key_file, capsys):
    assert main(["--api-key-file", str(key_file), "--port", str(api.simulator.port)]) == 2
    assert "in use" in capsys.readouterr().err
