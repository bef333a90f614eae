"""The command line against a real Valkey, a real simulator and real workers."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import redis
from command_line import Shell
from processes import API_KEY, redis_server, start, wait_until

from ifinu.broker import LOW, NORMAL, QUEUES, Keys, dead_letters

NOW = datetime.now(UTC)


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey, tmp_path, _sqlite_template):
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{shutil.copy(_sqlite_template, tmp_path / 'ledger.db')}")
    return Shell(capsys, monkeypatch)


def run(*arguments, timeout=200, **environment):
    """Run a command in a new process; here it would configure this process's application."""
    return subprocess.run(
        [sys.executable, "-m", "ifinu", *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def bury(client, number, reason="invalid", *, hours=0, queue=NORMAL, raw=None):
    body = raw or json.dumps(
        {"id": f"n{number}", "tipo_notificacao": "lembrete", "telefone": "77998616740", "nome": "Maria"}
    )
    record = dead_letters.encode(
        body if isinstance(body, bytes) else body.encode(),
        reason=reason,
        error=f"why {number}",
        now=NOW - timedelta(hours=hours),
    )
    client.lpush(Keys.of(queue).dead, record)


@pytest.fixture
def letters(client):
    """Dead letters, oldest first: n1 to n3 from yesterday, n4 and n5 new, and one that is not text."""
    for number in (1, 2, 3):
        bury(client, number, "connection_closed", hours=24)
    bury(client, 4)
    bury(client, 5, queue=LOW)
    bury(client, 6, "not_utf8", hours=1, raw=b"\xff{")
    return client


def counts(client):
    return {queue.rpartition(":")[2]: client.llen(Keys.of(queue).dead) for queue in QUEUES}


# -- dlq


def test_dlq_list(ifinu, letters):
    found = ifinu("dlq", "list", "--json").json
    assert (found["total"], found["by_reason"]) == (6, {"connection_closed": 3, "invalid": 2, "not_utf8": 1})
    assert [one["id"] for one in found["letters"]][2:] == [None, "n1", "n2", "n3"]
    assert {one["id"] for one in found["letters"][:2]} == {"n4", "n5"}
    table = ifinu("dlq", "list", "--limit", "2").out
    assert "3   connection_closed" in table
    assert "n1" not in table
    for secret in ("Maria", "99861"):
        assert secret not in json.dumps(found) + table


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        (("--reason", "invalid"), {"n4", "n5"}),
        (("--reason", "invalid", "--queue", "baixa"), {"n5"}),
        (("--id", "n2"), {"n2"}),
        (("--kind", "lembrete", "--newer-than", "2h"), {"n4", "n5"}),
        (("--older-than", "2h"), {"n1", "n2", "n3"}),
        (("--kind", "atraso"), set()),
    ],
)
def test_dlq_filters(ifinu, letters, filters, ids):
    assert {one["id"] for one in ifinu("dlq", "list", *filters, "--json").json["letters"]} == ids


def test_dlq_show_hides_personal_data_unless_reveal_is_given(ifinu, letters):
    masked = ifinu("dlq", "show", "n4", "--json").json
    assert masked["error"] == "why 4"
    assert json.loads(masked["raw"])["telefone"] == "+55 77 9****-6740"
    assert json.loads(masked["raw"])["nome"] == "…"
    assert json.loads(ifinu("dlq", "show", "n4", "--json", "--reveal").json["raw"])["telefone"] == "77998616740"
    assert "99861" not in ifinu("dlq", "show", "n4").out


def test_dlq_show_by_place_and_for_bytes_that_are_not_text(ifinu, letters):
    place = [one["id"] for one in ifinu("dlq", "list", "--json").json["letters"]].index(None) + 1
    hidden = "(2 bytes without readable fields; --reveal shows them)"
    assert ifinu("dlq", "show", str(place), "--json").json["raw"] == hidden
    assert ifinu("dlq", "show", str(place), "--json", "--reveal").json["raw_b64"] == "/3s="
    for missing in ("0", "7", "missing"):
        ended = ifinu("dlq", "show", missing)
        assert (ended.code, ended.out) == (1, "")


@pytest.mark.parametrize("act", ["replay", "purge"])
@pytest.mark.parametrize(
    ("which", "done"),
    [
        (("--reason", "connection_closed"), 3),
        (("--reason", "connection_closed", "--limit", "2"), 2),
        (("--reason", "invalid", "--limit", "9"), 2),
        (("--older-than", "30m"), 4),
        (("--all",), 6),
    ],
)
def test_dlq_replay_and_purge(ifinu, letters, act, which, done):
    yes = ("--yes",) if act == "purge" else ()
    outcome = {"replay": "replayed", "purge": "deleted"}[act]
    dry = ifinu("dlq", act, *which, "--dry-run", "--json")
    assert (dry.code, dry.json) == (0, {f"would_be_{outcome}": done})
    assert sum(counts(letters).values()) == 6
    assert ifinu("dlq", act, *which, *yes, "--json").json == {outcome: done}
    assert sum(counts(letters).values()) == 6 - done
    on_queues = sum(letters.llen(queue) for queue in QUEUES)
    assert on_queues == (done if act == "replay" else 0)


def test_dlq_replays_a_message_to_its_original_queue(ifinu, letters):
    assert ifinu("dlq", "replay", "--id", "n5", "--rate", "100/s").out == "1 replayed\n"
    (raw,) = letters.lrange(LOW, 0, -1)
    assert json.loads(raw)["telefone"] == "77998616740"


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("purge", "--yes"),
        ("replay", "--all", "--reason", "x"),
        ("purge", "--all"),
        ("replay", "--all", "--rate", "fast"),
    ],
)
def test_dlq_refuses_unclear_arguments(ifinu, letters, arguments):
    ended = ifinu("dlq", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert sum(counts(letters).values()) == 6


def test_dlq_export(ifinu, letters, tmp_path):
    file = tmp_path / "dead.jsonl"
    ended = ifinu("dlq", "export", str(file))
    assert (ended.code, ended.out) == (0, "")
    assert "personal data" in ended.err
    assert file.stat().st_mode & 0o777 == 0o600
    exported = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(exported) == 6
    assert json.loads(exported[0]["raw"])["telefone"] == "77998616740"
    assert ifinu("dlq", "export", str(file)).code == 2  # the file exists
    assert ifinu("dlq", "export", "-", "--reason", "not_utf8").json["raw_b64"] == "/3s="


# -- doctor, status


def test_doctor_reports_a_good_server_and_gateway_as_ok(ifinu, simulator, monkeypatch):
    monkeypatch.setenv("IFINU_EVOLUTION_URL", simulator.url)
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY", API_KEY)
    monkeypatch.setenv("IFINU_PHONE_KEY", "a-key-of-the-tests-of-32-letters")
    ended = ifinu("doctor", "--json")
    assert {one["check"]: one["level"] for one in ended.json["checks"]} == dict.fromkeys(
        ("redis", "version", "appendonly", "maxmemory-policy", "memory", "persistence", "clock", "keys", "rights",
         "ledger", "ledger schema", "recorder", "gateway", "instance ifinu", "phone key", "sandbox"),
        "ok",
    )  # fmt: skip
    assert ended.code == 0


@pytest.mark.parametrize(
    ("environment", "check", "fix"),
    [
        ({"IFINU_EVOLUTION_API_KEY": "wrong"}, "gateway", "correct IFINU_EVOLUTION_API_KEY"),
        ({"IFINU_EVOLUTION_INSTANCE": "missing"}, "gateway", "create the instance"),
        ({"state": "close"}, "instance ifinu", "connect its phone again"),
    ],
)
def test_doctor_finds_errors_at_the_gateway(ifinu, simulator, monkeypatch, environment, check, fix):
    state = environment.pop("state", None)
    if state:
        simulator.control.set_instance("ifinu", state=state)
    for name, value in {
        "IFINU_EVOLUTION_URL": simulator.url, "IFINU_EVOLUTION_API_KEY": API_KEY, **environment
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    ended = ifinu("doctor", "--json")
    (bad,) = [one for one in ended.json["checks"] if one["level"] == "fail"]
    assert ended.code == 1
    assert bad["check"] == check
    assert bad["fix"].startswith(fix)


def test_doctor_refuses_a_server_that_would_lose_messages(ifinu, monkeypatch):
    config = {"appendonly": "no", "maxmemory-policy": "allkeys-lru"}
    with redis_server(config=config) as careless, redis.Redis.from_url(careless.url) as client:
        client.set(NORMAL, "not a list")
        monkeypatch.setenv("IFINU_REDIS_URL", careless.url)
        levels = {one["check"]: one["level"] for one in ifinu("doctor", "--json").json["checks"]}
    assert [name for name, level in levels.items() if level == "fail"] == [
        "appendonly", "maxmemory-policy", "keys", "gateway",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ((), {"ready": 0, "delayed": 1, "low": 1}),
        (("--delayed",), {"ready": 0, "delayed": 0, "low": 1}),
        (("-q", "baixa"), {"ready": 2, "delayed": 1, "low": 0}),
        (("-q", "all", "--delayed"), {"ready": 0, "delayed": 0, "low": 0}),
    ],
)
def test_purge_deletes_the_messages_that_it_reports(ifinu, client, arguments, left):
    client.lpush(NORMAL, "a", "b")
    client.zadd(Keys.of(NORMAL).delayed, {"c": 1})
    client.lpush(LOW, "d")
    client.lpush(Keys.of(NORMAL).dead, "e")
    client.hset(Keys.of(NORMAL).in_flight, "t", "f")
    ended = ifinu("queue", "purge", *arguments, "--yes", "--json")
    assert ended.code == 0
    assert sum(ended.json["deleted"].values()) == 4 - sum(left.values())
    assert {
        "ready": client.llen(NORMAL),
        "delayed": client.zcard(Keys.of(NORMAL).delayed),
        "low": client.llen(LOW),
    } == left
    assert (client.llen(Keys.of(NORMAL).dead), client.hlen(Keys.of(NORMAL).in_flight)) == (1, 1)


@pytest.mark.parametrize(("typed", "code", "left"), [(b"whatsapp\n", 0, 0), (b"yes\n", 1, 1)])
def test_purge_asks_for_the_name_of_the_queue(ifinu, client, monkeypatch, typed, code, left):
    client.lpush(NORMAL, "a")
    monkeypatch.setattr("ifinu.cli.terminal.is_there_somebody", lambda: True)
    ended = ifinu("queue", "purge", stdin=typed)
    assert ended.code == code
    assert "1 messages of ifinu:fila:whatsapp will be deleted" in ended.err
    assert client.llen(NORMAL) == left


def test_status(ifinu, client, simulator, monkeypatch):
    client.lpush(NORMAL, "x")
    client.set(Keys.of(LOW).paused, "2026-12-01T00:00:00+00:00")
    found = ifinu("status", "--json").json
    assert {one["queue"]: one["ready"] for one in found["queues"]}[NORMAL] == 1
    assert found["gateway"] == {"instance": "ifinu", "state": "no key"}
    assert "paused since 2026-12-01" in ifinu("status").out
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY", API_KEY)
    monkeypatch.setenv("IFINU_EVOLUTION_URL", "http://localhost:1")
    assert ifinu("status", "--json").json["gateway"]["state"] == "unreachable"
    monkeypatch.setenv("IFINU_EVOLUTION_URL", simulator.url)
    assert ifinu("status", "--json").json["gateway"]["state"] == "open"


# -- whole processes


def test_a_worker_of_the_command_line_drains_a_load_and_ends_on_sigterm(valkey, client, simulator, tmp_path):
    environment = {
        "IFINU_REDIS_URL": valkey.url,
        "IFINU_EVOLUTION_URL": simulator.url,
        "IFINU_EVOLUTION_API_KEY": API_KEY,
        "IFINU_SANDBOX_NUMBER": "77998616740",
        "IFINU_DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db",
    }
    log = tmp_path / "worker.log"
    worker = start("ifinu", ["worker", "--name", "w1", "--rate-limit", "500/s"], os.environ | environment, log)
    try:
        loaded = run("load", "100", "--json", **environment)
        assert loaded.returncode == 0, loaded.stderr
        report = json.loads(loaded.stdout)
        assert (report["pushed"], report["dead"]) == (100, 0)
        assert report["per_s"] == pytest.approx(100 / report["drained_s"], rel=0.01)
        assert {"push_s", "pace_per_s", "fastest_per_s"} <= set(report)
        assert len(simulator.control.sends) == 100
        assert list(simulator.control.summary()["clients"]) == ["w1"]

        sent = run("send", "--id", "one", "--kind", "lembrete", "--phone", "77998616741", "--text", "oi", **environment)
        assert (sent.returncode, sent.stdout) == (0, "one is on ifinu:fila:whatsapp\n")
        enveloped = run("load", "3", "--envelope", **environment)
        assert re.fullmatch(r"3 messages in .*: .* per second; 0 dead letters\n", enveloped.stdout), enveloped.stderr
        wait_until(lambda: len(simulator.control.sends) == 104, seen=lambda: len(simulator.control.sends))

        status = wait_until(
            lambda: (now := json.loads(run("status", "--workers", "--json", **environment).stdout))["workers"] and now
        )
        assert [name.partition("@")[0] for name in status["workers"]] == ["w1"]
    finally:
        worker.terminate()
        code = worker.wait(60)
    assert code == 0, log.read_text()


def test_a_scheduled_send_waits_in_redis(valkey, client):
    sent = run(
        "send", "--id", "a", "--kind", "lembrete", "--phone", "77998616740", "--text", "oi", "--in", "2h",
        IFINU_REDIS_URL=valkey.url,
    )  # fmt: skip
    assert re.fullmatch(r"a is on ifinu:fila:whatsapp, due in (2 h 0 min|1 h 59 min)\n", sent.stdout)
    assert client.zcard(Keys.of(NORMAL).delayed) == 1


def test_without_redis_a_send_ends_with_3():
    ended = run(
        "send", "--id", "a", "--kind", "lembrete", "--phone", "77998616740", "--text", "oi",
        IFINU_REDIS_URL="redis://localhost:1",
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("error: Redis did not take notification 'a'")


@pytest.mark.timeout(600)
def test_the_demo_adds_up_and_leaves_nothing_behind(tmp_path):
    # The environment's settings have no effect on the demo.
    ended = run("demo", "--messages", "60", TMPDIR=str(tmp_path), IFINU_REDIS_URL="redis://localhost:1", timeout=550)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    verdicts = [line[0] for line in ended.stdout.splitlines() if line[:1] in ("✓", "✗")]
    assert verdicts == ["✓"] * 37
    assert "all 36 expectations hold" in ended.stdout
    assert list(tmp_path.iterdir()) == []
