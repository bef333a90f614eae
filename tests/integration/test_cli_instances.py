"""`ifinu instance`, doctor, status and the exporter, with one gateway process and with several."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import segno
from command_line import Shell
from ledgers import migrated
from processes import API_KEY, wait_until
from prometheus_client import CollectorRegistry
from rich.console import Console
from shards import HELD, HOSTS, management_of, pods, pods_of_commands

from ifinu.broker.keys import creation_key
from ifinu.cli import qr
from ifinu.embedded import Valkey, free_port
from ifinu.gateway import ConnectionState, Evolution, Management, flaps
from ifinu.metrics import polls
from ifinu.receipts.auth import headers_of
from ifinu.simulator import Cluster as Pods
from ifinu.simulator import Simulator

SECRET = "a-secret-of-the-tests-that-is-long-enough"
HOOK = {"IFINU_WEBHOOK_URL": "http://ifinu-webhook:8090", "IFINU_WEBHOOK_SECRET": SECRET}
PHONE = "77 99861-6740"


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey: Valkey, tmp_path) -> Shell:
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY", API_KEY)
    return Shell(capsys, monkeypatch)


@pytest.fixture
def one(monkeypatch) -> Iterator[Simulator]:
    """One gateway process, with a simulated phone that takes a while to scan."""
    with Simulator(api_key=API_KEY, pairing_ms=100, reconnect_ms=50, script={"endings": {}}) as running:
        monkeypatch.setenv("IFINU_EVOLUTION_URL", running.url)
        yield running


@pytest.fixture
def several(monkeypatch) -> Iterator[Pods]:
    """Three gateway processes behind one name."""
    with pods_of_commands(monkeypatch) as running:
        yield running


@pytest.fixture
def at(one: Simulator) -> Iterator[Management]:
    client = Management(one.url, API_KEY)
    yield client
    client.close()


# -- create


def test_an_instance_is_created_and_its_webhook_registered(ifinu, at, monkeypatch):
    for name, value in HOOK.items():
        monkeypatch.setenv(name, value)
    ended = ifinu("instance", "create", "acme")
    assert ended.code == 0
    assert "pair it with `ifinu instance connect acme`" in ended.out
    assert "http://ifinu-webhook:8090" in ended.out
    assert SECRET not in ended.out + ended.err
    found = at.find_webhook("acme")
    assert (found.url, found.headers) == ("http://ifinu-webhook:8090", headers_of("acme", SECRET))
    assert at.connection_state("acme") is ConnectionState.CLOSE


def test_a_name_is_read_as_in_messages_and_shown_quoted_for_the_shell(ifinu, at):
    ended = ifinu("instance", "create", " Loja do João ")
    assert "`ifinu instance connect 'Loja do João'`" in ended.out
    assert at.connection_state("Loja do João") is ConnectionState.CLOSE
    assert "ifinu instance connect 'Loja do João'" in ifinu("instance", "restart", "Loja do João").err


@pytest.mark.parametrize("missing", [*HOOK, None])
def test_without_all_settings_no_webhook_is_registered_and_a_warning_says_so(ifinu, at, monkeypatch, missing):
    for name, value in HOOK.items():
        if missing is not None and name != missing:
            monkeypatch.setenv(name, value)
    ended = ifinu("instance", "create", "acme", "--json")
    assert (ended.json["name"], ended.json["webhook"]) == ("acme", None)
    assert at.find_webhook("acme") is None
    assert "IFINU_WEBHOOK_SECRET" in ifinu("instance", "create", "other").err


def test_a_misspelt_instance_is_no_success_and_the_one_that_is_meant_is_named(ifinu, at):
    for command in (
        ("state", "ifinuu"),
        ("test", "ifinuu"),
        ("delete", "ifinuu", "--yes"),
        ("logout", "ifinuu", "--yes"),
    ):
        ended = ifinu("instance", *command)
        assert (ended.code, ended.out) == (1, ""), command
        assert ended.err.rstrip().endswith("; did you mean ifinu?"), command
    assert "did you mean" not in ifinu("instance", "state", "else").err


def test_a_name_in_use_or_being_created_is_refused(ifinu, at, client: redis.Redis):
    taken = ifinu("instance", "create", "ifinu")
    assert (taken.code, taken.out) == (2, "")
    assert "has an instance ifinu already: `ifinu instance assign TENANT ifinu` registers it" in taken.err
    client.set(creation_key("acme"), "1")
    at_once = ifinu("instance", "create", "acme")
    assert (at_once.code, "somebody is creating it" in at_once.err) == (1, True)
    client.delete(creation_key("acme"))
    assert ifinu("instance", "create", "acme").code == 0
    assert not client.exists(creation_key("acme"))
    assert ifinu("instance", "create", " ").code == 2


def test_the_process_with_the_fewest_instances_creates_a_new_one_and_no_name_twice(ifinu, several):
    assert ifinu("instance", "create", "acme").code == 0
    assert several.holder("acme") == "pod-1"
    again = ifinu("instance", "create", "acme")
    assert (again.code, "already" in again.err) == (2, True)
    several.kill("pod-1")
    assert ifinu("instance", "create", "acme").code == 1
    assert several.holder("acme") == "pod-1"


# -- connect


def modules(page: str) -> list[list[bool]]:
    """The modules of the code drawn on a page; dark modules are true. Off a terminal, light modules are drawn."""
    lines = [line for line in page.splitlines() if line and set(line) <= set("█▀▄ ")]
    rows: list[list[bool]] = []
    for line in lines:
        rows += [[c not in "█▀" for c in line], [c not in "█▄" for c in line]]
    return rows


@pytest.mark.parametrize("shards", [False, True])
def test_the_code_is_drawn_until_it_was_scanned(ifinu, request, shards):
    running = request.getfixturevalue("several" if shards else "one")
    ifinu("instance", "create", "acme")
    ended = ifinu("instance", "connect", "acme")
    assert ended.code == 0
    assert "acme is connected" in ended.out
    assert "Linked devices" in ended.out
    assert len(modules(ended.out)) >= 25
    assert ifinu("instance", "state", "acme").code == 0
    if shards:
        assert running.holder("acme") == "pod-1"


def test_the_drawn_code_is_the_gateways(ifinu, one):
    ifinu("instance", "create", "acme")
    lines = [json.loads(line) for line in ifinu("instance", "connect", "acme", "--json").out.splitlines()]
    (first, last) = lines
    assert first["code"].startswith("2@")
    assert (first["state"], first["pairing_code"]) == ("connecting", None)
    assert last == {"name": "acme", "state": "open"}
    expected = [
        [bool(module) for module in row] for row in segno.make(first["code"], micro=False).matrix_iter(border=2)
    ]
    drawn = modules(qr.drawn(first["code"], coloured=False).plain)
    assert drawn[: len(expected)] == expected


def test_on_a_terminal_the_code_is_black_on_white():
    plain, ours = qr.drawn("2@x", coloured=False), qr.drawn("2@x", coloured=True)
    assert str(ours.style) == "black on white"
    swapped = str.maketrans("█▀▄ ", " ▄▀█")
    assert ours.plain.translate(swapped) == plain.plain


@pytest.fixture
def impatient(monkeypatch):
    """Poll more often, so that each step of a pairing is seen."""
    monkeypatch.setattr(qr, "_EVERY_S", 0.02)


def test_a_code_that_changes_is_drawn_again(ifinu, impatient, monkeypatch):
    monkeypatch.setattr(qr, "_RENEWED_S", 0.02)
    codes_of, seen = qr.codes, []

    def scanned_at_the_third(*args, **kwargs):
        for code in codes_of(*args, **kwargs):
            seen.append(code.code)
            if len(seen) == 3:
                quick.set_instance("acme", phone="scans")
            yield code

    monkeypatch.setattr(qr, "codes", scanned_at_the_third)
    with Simulator(api_key=API_KEY, pairing_ms=600_000, reconnect_ms=50, qr_ms=300) as quick:
        ifinu._monkeypatch.setenv("IFINU_EVOLUTION_URL", quick.url)
        ifinu("instance", "create", "acme")
        lines = [json.loads(line) for line in ifinu("instance", "connect", "acme", "--json").out.splitlines()]
    assert [line["code"] for line in lines[:-1]] == seen
    assert len(set(seen)) == len(seen) >= 3  # another one may have come before the phone was connected
    assert lines[-1] == {"name": "acme", "state": "open"}


@pytest.mark.parametrize("paired", [False, True], ids=["new", "already paired, and reconnecting"])
def test_a_pairing_opens_one_connection(ifinu, impatient, paired):
    """
    After the scan, and after a restart of the gateway, the state is `close` for a moment; no new connection is opened.
    """
    with Simulator(api_key=API_KEY, pairing_ms=100, reconnect_ms=300, boot_ms=300) as slow:
        ifinu._monkeypatch.setenv("IFINU_EVOLUTION_URL", slow.url)
        name = "ifinu" if paired else "acme"
        if paired:
            slow.set_fault(gateway="refuse")
            slow.set_fault(gateway="up")
        else:
            ifinu("instance", "create", name)
        assert ifinu("instance", "connect", name).code == 0
        rows = {row["name"]: row for row in ifinu("instance", "list", "--json").json["instances"]}
    assert (rows[name]["state"], rows[name]["flapping"]) == ("open", False)


def test_a_closed_instance_that_stays_closed_is_connected(ifinu, one, impatient, monkeypatch):
    monkeypatch.setattr(qr, "_CLOSED_S", 0.1)
    monkeypatch.setattr(qr, "_was_open", lambda *_: True)
    one.set_instance("ifinu", state="close")
    assert ifinu("instance", "connect", "ifinu").code == 0


def test_two_connections_of_one_instance_are_detected_and_no_third_is_opened(ifinu, impatient, monkeypatch):
    monkeypatch.setattr(flaps, "_EVERY_S", 0.05)
    with Simulator(api_key=API_KEY, instances=("acme",), reconnect_ms=50) as running:
        ifinu._monkeypatch.setenv("IFINU_EVOLUTION_URL", running.url)
        ifinu._monkeypatch.setenv("IFINU_EVOLUTION_INSTANCE", "acme")
        with contextlib.closing(Management(running.url, API_KEY)) as gateway:
            gateway.logout_instance("acme")
            gateway.connect_instance("acme")
            running.set_instance("acme", phone="scans")
            gateway.connect_instance("acme")
        ended = ifinu("instance", "connect", "acme")
        assert (ended.code, "keeps opening and closing" in ended.err) == (1, True)
        assert running._host.world.instances["acme"].sockets == 2
        (row,) = ifinu("instance", "list", "--json").json["instances"]
        assert row["flapping"] is True
        shown = ifinu("instance", "list")
        assert ("flapping" in shown.out, "acme flaps" in shown.err) == (True, True)
        checks = {one["check"]: one for one in ifinu("doctor", "--json").json["checks"]}
        bad = checks["instance acme"]
        assert (bad["level"], "do not connect it again" in bad["fix"]) == ("fail", True)


def test_a_terminal_shows_one_code_at_a_time(at):
    out = Console(force_terminal=True, width=100, file=open(os.devnull, "w"), record=True)  # noqa: SIM115 - closed below
    at.create_instance("acme")
    qr.show(qr.codes(at, "acme", number="5577998616740", wait_s=20), out)
    out.file.close()
    page = out.export_text()
    assert "Or choose to link with the phone number, and type" in page
    assert at.connection_state("acme") is ConnectionState.OPEN


def test_with_its_number_an_instance_gets_a_code_to_type(ifinu, one):
    ifinu("instance", "create", "acme")
    ended = ifinu("instance", "connect", "acme", "--number", PHONE)
    assert "Or choose to link with the phone number, and type " in ended.out
    assert ifinu("instance", "connect", "acme", "--number", "12").code == 2


def test_an_unscanned_code_ends_with_1(ifinu, capsys):
    with Simulator(api_key=API_KEY, pairing_ms=60_000) as slow:
        ifinu._monkeypatch.setenv("IFINU_EVOLUTION_URL", slow.url)
        ifinu("instance", "create", "acme")
        ended = ifinu("instance", "connect", "acme", "--wait", "1s", "--json")
    assert ended.code == 1
    assert "acme is not connected after 1.0 s" in ended.err
    assert ended.json["state"] == "connecting"


def test_an_instance_already_connected_is_reported_as_connected(ifinu, one):
    assert ifinu("instance", "connect", "ifinu").out == "ifinu is connected\n"
    assert ifinu("instance", "connect", "missing").code == 1


# -- restart


def test_a_restart_reopens_a_dead_connection(ifinu, one, at):
    one.set_instance("ifinu", socket="dead")
    assert ifinu("instance", "restart", "ifinu").out == "open\n"
    wait_until(lambda: at.connection_state("ifinu") is ConnectionState.OPEN)
    with contextlib.closing(Evolution(one.url, API_KEY)) as sender:
        assert sender.send_text("ifinu", "+5577998616740", "oi").key_id
    assert ifinu("instance", "restart", "ifinu", "--json").json == {"name": "ifinu", "before": "open", "state": "open"}


def test_an_unpaired_instance_cannot_be_restarted(ifinu, one):
    one.set_instance("ifinu", state="close")
    ended = ifinu("instance", "restart", "ifinu")
    assert (ended.code, ended.out) == (1, "")
    assert "ifinu instance connect ifinu" in ended.err


def test_only_the_process_that_holds_an_instance_restarts_it(ifinu, several):
    assert ifinu("instance", "restart", "b").out == "open\n"
    several.kill("pod-1")
    ended = ifinu("instance", "restart", "b")
    assert (ended.code, "does not answer" in ended.err) == (1, True)


# -- list, state, doctor, status


def test_a_list_of_several_shows_each_instances_process_and_unanswering_processes(ifinu, several, monkeypatch):
    rows = ifinu("instance", "list", "--json").json
    assert {row["name"]: row["shard"] for row in rows["instances"]} == {
        "a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3", "d": "127.0.0.3", "ifinu": "127.0.0.1",
    }  # fmt: skip
    assert "away" not in rows
    table = ifinu("instance", "list").out
    assert "shard" in table
    assert "127.0.0.2" in table
    resolved_to = dict(several.addresses)
    monkeypatch.setattr(
        type(several), "addresses", property(lambda _: resolved_to)
    )  # the name still resolves to the stopped process
    several.kill("pod-1")
    ended = ifinu("instance", "list", "--json")
    assert ended.json["away"] == ["127.0.0.2"]
    assert "b" not in {row["name"] for row in ended.json["instances"]}
    assert "do not answer: 127.0.0.2" in ifinu("instance", "list").err


def test_one_process_has_no_shards(ifinu, one):
    (row,) = ifinu("instance", "list", "--json").json["instances"]
    assert "shard" not in row
    assert "shard" not in ifinu("instance", "list").out


def gateway_checks(ifinu: Shell) -> dict[str, dict[str, Any]]:
    checks = ifinu("doctor", "--json").json["checks"]
    return {one["check"]: one for one in checks if one["check"] in ("gateway", "instance ifinu")}


def test_doctor_reports_how_many_processes_answer_and_which_holds_the_instance(ifinu, several):
    found = gateway_checks(ifinu)
    assert {one["level"] for one in found.values()} == {"ok"}
    assert found["gateway"]["seen"].startswith("3 of 3 processes")
    assert found["instance ifinu"]["seen"] == "open, at 127.0.0.1"


def test_doctor_warns_of_a_process_that_does_not_answer(ifinu, several, monkeypatch):
    resolved_to = dict(several.addresses)
    monkeypatch.setattr(type(several), "addresses", property(lambda _: resolved_to))
    several.kill("pod-1")
    found = gateway_checks(ifinu)
    assert (found["gateway"]["level"], found["instance ifinu"]["level"]) == ("warn", "ok")
    assert "2 of 3 processes" in found["gateway"]["seen"]
    assert "127.0.0.2" in found["gateway"]["seen"]
    several.kill("pod-0")
    found = gateway_checks(ifinu)
    assert found["instance ifinu"]["seen"] == "held by no process that answers"
    several.kill("pod-2")
    assert [*gateway_checks(ifinu)] == ["gateway"]


@pytest.mark.parametrize(
    ("environment", "fix"),
    [
        ({"IFINU_EVOLUTION_API_KEY": "wrong"}, "correct IFINU_EVOLUTION_API_KEY"),
        ({"IFINU_EVOLUTION_INSTANCE": "missing"}, "create the instance"),
    ],
)
def test_doctor_finds_an_error_common_to_all_processes(ifinu, several, monkeypatch, environment, fix):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (bad,) = gateway_checks(ifinu).values()
    assert (bad["level"], bad["fix"].startswith(fix)) == ("fail", True)


def test_doctor_finds_two_processes_that_hold_one_instance(ifinu, several, monkeypatch):
    both = dict.fromkeys(("10.0.0.1", "10.0.0.2"), ConnectionState.OPEN)
    monkeypatch.setattr("ifinu.gateway.ManagedShards.states", lambda *_: both)
    bad = gateway_checks(ifinu)["instance ifinu"]
    assert (bad["level"], "DATABASE_CONNECTION_CLIENT_NAME" in bad["fix"]) == ("fail", True)
    of_both_families = {
        "10.0.0.1": ConnectionState.OPEN,
        "fd00::1": ConnectionState.OPEN,
    }  # one process with two addresses
    monkeypatch.setattr("ifinu.gateway.ManagedShards.states", lambda *_: of_both_families)
    assert gateway_checks(ifinu)["instance ifinu"]["level"] == "ok"


def test_doctor_finds_one_address_that_several_processes_share(ifinu, one):
    one.set_instance("ifinu", held=False)
    bad = gateway_checks(ifinu)["instance ifinu"]
    assert (bad["level"], "IFINU_EVOLUTION_SHARDED=true" in bad["fix"]) == ("fail", True)


def test_status_shows_the_state_of_several_processes(ifinu, several, tmp_path):
    migrated(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert ifinu("status", "--json", "--no-workers").json["gateway"]["state"] == "open"
    several.kill("pod-0")
    assert ifinu("status", "--json", "--no-workers").json["gateway"]["state"] == "absent"
    for name in ("pod-1", "pod-2"):
        several.kill(name)
    assert ifinu("status", "--json", "--no-workers").json["gateway"]["state"] == "unreachable"


# -- the exporter


def test_the_exporter_asks_all_processes_and_exports_a_dead_ones_instances_as_not_connected():
    with pods(HELD) as running:
        gateway, series = management_of(running), CollectorRegistry()

        def exported(name: str) -> float | None:
            return series.get_sample_value("ifinu_instance_connected", {"whatsapp": name})

        def up() -> float | None:
            return series.get_sample_value("ifinu_gateway_up")

        with polls.gateway(series, gateway, every_s=0.05):
            wait_until(lambda: {exported(name) for names in HELD.values() for name in names} == {1.0})
            running.kill("pod-1")
            wait_until(lambda: (exported("b"), exported("c"), up()) == (0.0, 1.0, 1.0))
            running.revive("pod-1", "127.0.0.9")
            wait_until(lambda: exported("b") == 1.0)
            gateway.delete_instance("b")
            wait_until(lambda: exported("b") is None)
            for name in HOSTS:
                running.kill(name)
            wait_until(lambda: up() == 0.0)
        gateway.close()


# -- the simulator in the gateway's place


def test_the_simulator_replaces_a_gateway(tmp_path):
    """
    It listens on all addresses, answers a probe without a key, and ends cleanly at SIGTERM.
    """
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "ifinu", "simulator", "--host", "0.0.0.0", "--port", str(port)],
        env=os.environ | {"IFINU_EVOLUTION_API_KEY": API_KEY}, cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    late = threading.Timer(60, process.kill)
    late.start()
    try:
        assert process.stdout.readline() == f"listening on http://0.0.0.0:{port}\n"
        with urllib.request.urlopen(f"http://127.0.0.2:{port}/manager/", timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(60)
        late.cancel()
        process.stdout.close()
    assert [*tmp_path.iterdir()] == []
