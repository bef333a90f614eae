"""`ifinu instance`, where instances are registered as numbers."""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ledger_rows
import pytest
import redis
from command_line import Shell
from processes import API_KEY, wait_until
from shards import pods_of_commands
from sqlalchemy import Engine

from ifinu.broker.keys import (
    EVENTS,
    GENERATION,
    NORMAL,
    Keys,
    answers_key,
    conversation_waits_key,
    conversations_key,
    number_key,
    tenant_key,
)
from ifinu.embedded import Valkey
from ifinu.gateway import Integration, Management
from ifinu.ledger.engine import connect
from ifinu.numbers import registry
from ifinu.numbers.directory import Directory
from ifinu.simulator import Cluster as Pods
from ifinu.simulator import Simulator

SECRET = "a-secret-of-the-tests-that-is-long-enough"
OLD = ("--paired-on", "2025-01-01")  # so that nothing is warmed up


@pytest.fixture
def engine(_sqlite_template: Path, tmp_path: Path) -> Iterator[Engine]:
    made = connect(f"sqlite:///{shutil.copy(_sqlite_template, tmp_path / 'ledger.db')}")
    yield made
    made.dispose()


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey: Valkey, engine: Engine, tmp_path) -> Shell:
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY", API_KEY)
    return Shell(capsys, monkeypatch)


@pytest.fixture
def one(monkeypatch) -> Iterator[Simulator]:
    with Simulator(
        api_key=API_KEY, instances=("ifinu", "a", "b"), pairing_ms=100, reconnect_ms=50, script={"endings": {}}
    ) as running:
        monkeypatch.setenv("IFINU_EVOLUTION_URL", running.url)
        yield running


@pytest.fixture
def several(monkeypatch) -> Iterator[Pods]:
    with pods_of_commands(monkeypatch) as running:
        yield running


def wait_for(client: redis.Redis, number: str, tenant: str, count: int, **fields: str) -> None:
    """Put messages into a lane, as a fetch does."""
    for n in range(count):
        client.lpush(f"{NORMAL}:espera:{number}:{tenant}", json.dumps({"id": f"{number}-{n}", **fields}))
    client.lpush(f"{number_key(number)}:roda:{NORMAL}", tenant)
    client.zadd(f"{NORMAL}:turnos", {number: 1})
    client.incrby(f"{NORMAL}:na_espera", count)


def pace_in_redis(client: redis.Redis, name: str) -> dict[str, str | None]:
    fields = ("par", "min", "max", "teto", "novos", "inquilino")
    found = client.hmget(number_key(name), fields)
    return {field: value and value.decode() for field, value in zip(fields, found, strict=True)}


# -- create, assign


def test_a_new_instance_is_registered_with_its_webhook_in_one_go(ifinu, one, engine, client, monkeypatch):
    monkeypatch.setenv("IFINU_WEBHOOK_URL", "http://ifinu-webhook:8090")
    monkeypatch.setenv("IFINU_WEBHOOK_SECRET", SECRET)
    ended = ifinu(
        "instance", "create", "acme", "--tenant", "u1", "--number", "92 99861-6740", "--per-day", "600", "--json"
    )
    assert (ended.code, ended.json["webhook"]["url"]) == (0, "http://ifinu-webhook:8090")
    found = registry.registered(engine, "acme")
    assert (found.tenant, found.zone, found.phone) == ("u1", "America/Manaus", "+55 92 9****-6740")
    assert (found.paired_at, found.warm_up, found.warm_up_from) == (None, True, None)
    assert pace_in_redis(client, "acme") == {
        "par": "1", "min": "20000", "max": "60000", "teto": "20", "novos": "5", "inquilino": "u1",
    }  # fmt: skip
    assert "9986" not in ended.out
    assert client.hget(number_key("acme"), "ouve"), "its webhook reports what people write"
    again = ifinu("instance", "create", "acme", "--tenant", "u2")
    assert (again.code, "registered already" in again.err) == (2, True)


def test_an_instance_that_is_not_registered_is_created_as_ever(ifinu, one, engine, client):
    ended = ifinu("instance", "create", "acme", "--json")
    assert sorted(ended.json) == ["id", "name", "webhook"]
    assert registry.read(engine).numbers == ()
    assert not client.exists(GENERATION)
    refused = ifinu("instance", "create", "other", "--preset", "moderado")
    assert (refused.code, "--tenant" in refused.err) == (2, True)


def test_a_name_with_a_colon_is_refused_before_anything_is_created_or_registered(ifinu, one, engine):
    refused = [ifinu("instance", "create", "loja:1", "--tenant", "u1"), ifinu("instance", "assign", "u1", "a", "b:1")]
    assert [(each.code, "has no colon" in each.err) for each in refused] == [(2, True)] * 2
    assert "loja:1" not in ifinu("instance", "list").out
    assert registry.read(engine).numbers == ()
    assert ifinu("instance", "create", "loja:1").code == 0  # an instance without a pace may have any name


def test_a_name_is_made_up_and_a_telling_one_is_warned_of(ifinu, one):
    names = {ifinu("instance", "create", "--json").json["name"] for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("wa-") for name in names)
    assert "looks like" in ifinu("instance", "create", "maria@example.com").err


def test_a_number_is_paired_and_its_warm_up_begins(ifinu, one, engine, client):
    ifinu("instance", "create", "acme", "--tenant", "u1", "--number", "92 99861-6740")
    assert ifinu("instance", "connect", "acme", "--number", "77 99861-6740").code == 0
    found = registry.registered(engine, "acme")
    assert (found.zone, found.phone) == ("America/Bahia", "+55 77 9****-6740")
    assert found.warm_up_from == found.local(datetime.now(UTC)).date()
    assert pace_in_redis(client, "acme")["teto"] == "0"  # it rests on its first day
    assert "day 0 of its warm-up" in ifinu("instance", "pace", "acme").out


@pytest.mark.parametrize(("phone", "warms_up"), [("77 99861-6740", False), ("77 99861-6741", True)])
def test_another_phone_is_a_new_number(ifinu, one, engine, phone, warms_up):
    ifinu("instance", "create", "acme", "--tenant", "u1", "--number", "77 99861-6740")
    ifinu("instance", "connect", "acme", "--number", "77 99861-6740")
    long_ago = datetime.now(UTC) - timedelta(days=400)
    registry.change(engine, "acme", paired_at=long_ago, warm_up_from=None)
    ifinu("instance", "logout", "acme", "--yes")
    assert ifinu("instance", "connect", "acme", "--number", phone).code == 0
    found = registry.registered(engine, "acme")
    assert (found.warm_up_from is not None, found.paired_at == long_ago) == (warms_up, not warms_up)


def test_existing_instances_are_registered_for_a_tenant(ifinu, one, engine, client):
    ended = ifinu("instance", "assign", "u1", "a", "b", *OLD, "--policy", "rodizio", "--weight", "3", "--gap", "5")
    assert ended.code == 0
    assert "a is registered for tenant u1; conservador: 1 at a time, a pause of 5 s, 400 messages" in ended.out
    found = Directory.load(client)
    assert (found.numbers_of("u1"), found.allowed("u2", "a"), found.allowed("u2", "ifinu")) == (("a", "b"), False, True)
    assert client.hmget(tenant_key("u1"), "politica", "peso") == [b"rodizio", b"3"]
    assert pace_in_redis(client, "a")["teto"] == "400"
    assert ifinu("instance", "assign", "*", "a").code == 0
    assert Directory.load(client).allowed("u2", "a")
    assert pace_in_redis(client, "a")["min"] == "5000"  # as it was


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("u1", "missing"), 1, "the gateway has no instance missing"),
        (("u1", "a", "--per-day", "many"), 2, "no whole number"),
        (("u1", "a", "--gap", "9-3"), 2, "shortest gap"),
        (("u1", "a", "--policy", "random"), 2, "fixo or rodizio"),
        (("u1", "a", "--paired-on", "yesterday"), 2, "not a date"),
        (("u1", "a", "--weight", "0"), 2, "greater than or equal to 1"),
        (("*", "a", "--weight", "2"), 2, "name one instead of"),
        ((" ", "a"), 2, "a tenant needs a name"),
        (("u1", "a", "--preset", "direto", "--warm-up"), 2, "is not warmed up"),
    ],
)
def test_a_wrong_assignment_is_refused_and_changes_nothing(ifinu, one, engine, arguments, code, words):
    ended = ifinu("instance", "assign", *arguments)
    assert (ended.code, words in " ".join(ended.err.split())) == (code, True), ended.err
    assert registry.read(engine).numbers == ()


def test_an_assigned_number_of_unknown_age_counts_as_new_and_that_is_said(ifinu, one):
    assert "the age counts from today" in ifinu("instance", "assign", "u1", "a").err
    assert ifinu("instance", "assign", "u1", "a").err == ""
    assert ifinu("instance", "assign", "u1", "b", *OLD).err == ""


def test_a_number_for_which_messages_wait_keeps_their_tenant(ifinu, one, client):
    ifinu("instance", "assign", "u1", "a", *OLD)
    wait_for(client, "a", "u1", 2)
    refused = ifinu("instance", "assign", "u2", "a")
    assert (refused.code, "messages of u1 wait for a" in refused.err) == (2, True)
    assert ifinu("instance", "assign", "*", "a").code == 0  # they may still go


def test_without_a_registry_the_commands_say_what_they_need_and_the_old_ones_work(ifinu, one, monkeypatch, tmp_path):
    monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{tmp_path}/none.db")
    for command in (("assign", "u1", "a"), ("pace", "a"), ("hold", "a"), ("show", "a"), ("orphans",), ("sync",)):
        ended = ifinu("instance", *command)
        assert (ended.code, "IFINU_DATABASE_URL" in ended.err) == (2, True), command
    assert not (tmp_path / "none.db").exists()
    for url in (f"sqlite:///{tmp_path}/none.db", "postgresql://ifinu@127.0.0.1:1/x"):
        monkeypatch.setenv("IFINU_DATABASE_URL", url)
        for command in (("list",), ("state", "a"), ("create",), ("connect", "a"), ("test", "a"), ("restart", "a")):
            assert ifinu("instance", *command).code == 0, command


# -- pace, hold, release, show


def test_an_assigned_number_is_known_to_report_messages_if_its_webhook_does(ifinu, one, client, monkeypatch):
    monkeypatch.setenv("IFINU_WEBHOOK_SECRET", SECRET)
    assert ifinu("instance", "webhook", "a", "--url", "http://ifinu-webhook:8090").code == 0
    assert not client.exists(number_key("a")), "it is not registered"
    ifinu("instance", "assign", "u1", "a", "b", *OLD)
    assert [client.hexists(number_key(name), "ouve") for name in ("a", "b")] == [True, False]


def test_a_pace_is_shown_and_changed(ifinu, one, engine, client):
    ifinu("instance", "assign", "u1", "a", *OLD)
    ended = ifinu("instance", "pace", "a", "--new-chats", "none", "--gap", "1.5-3", "--json")
    assert ended.json == {
        "name": "a", "preset": "conservador", "parallel": 1, "gap_min_ms": 1500, "gap_max_ms": 3000, "per_day": 400,
        "new_chats": None, "warm_up_day": None, "portfolio": None, "tier": None,
    }  # fmt: skip
    assert pace_in_redis(client, "a")["novos"] is None
    ifinu("instance", "pace", "a", "--preset", "moderado", "--per-day", "10")
    assert registry.registered(engine, "a").overrides == {"per_day": 10}
    ifinu("instance", "pace", "a", "--warm-up")
    assert pace_in_redis(client, "a")["teto"] == "0"
    ifinu("instance", "pace", "a", "--no-warm-up")
    assert pace_in_redis(client, "a")["teto"] == "10"
    assert ifinu("instance", "pace", "a", "--parallel", "0").code == 2
    assert "; did you mean a?" not in ifinu("instance", "pace", "b").err
    for command in (("show", "aa"), ("hold", "aa"), ("release", "aa"), ("pace", "aa"), ("move", "aa", "a")):
        misspelt = ifinu("instance", *command)
        assert (misspelt.code, "aa is not registered" in misspelt.err) == (2, True)
        assert misspelt.err.rstrip().endswith("; did you mean a?")
    unknown = ifinu("instance", "pace", "b", "--parallel", "2")
    assert (unknown.code, "`ifinu instance assign` registers it" in unknown.err) == (2, True)


def test_numbers_of_meta_share_the_tier_of_their_portfolio(ifinu, one, engine, client):
    with contextlib.closing(Management(one.url, API_KEY, connect_timeout_s=5, read_timeout_s=30, worker="t")) as at:
        for name in ("m1", "m2"):
            at.create_instance(name, channel=Integration.BUSINESS, number="1055", token="EAAG")
    refused = ifinu("instance", "assign", "u1", "m1", "m2", "--preset", "cloud", "--tier", "1000")
    assert (refused.code, "give --portfolio too" in refused.err) == (2, True)
    assert ifinu("instance", "assign", "u1", "m1", "--preset", "cloud", "--portfolio", "acme", *OLD).code == 0
    assert client.hmget(number_key("m1"), "grupo", "conversas", "teto", "novos") == [b"acme", b"250", None, None]
    assert (
        ifinu("instance", "assign", "u2", "m2", "--preset", "cloud", "--portfolio", "acme", "--tier", "1000").code == 0
    )
    assert client.hmget(number_key("m1"), "conversas") == client.hmget(number_key("m2"), "conversas") == [b"1000"]
    now_ms = round(time.time() * 1000)
    client.zadd(conversations_key("acme"), {"p1": now_ms, "p2": now_ms - 23 * 3_600_000, "p3": now_ms - 25 * 3_600_000})
    shown = ifinu("instance", "show", "m1", "--json").json
    assert (shown["portfolio"], shown["conversations"]) == ("acme", {"used": 2, "most": 1000, "waiting": 0})
    assert "acme: 2 of 1,000 people in 24 hours" in ifinu("instance", "show", "m2").out
    client.zadd(conversation_waits_key("acme"), {"p4": now_ms + 3_600_000, "p5": now_ms - 1})
    assert "people in 24 hours, 1 more waiting" in ifinu("instance", "show", "m2").out
    rows = {row["name"]: row for row in ifinu("instance", "list", "--json").json["instances"]}
    assert (rows["m1"]["portfolio"], rows["m2"]["portfolio"]) == ("acme", "acme")
    assert ifinu("instance", "list", "--json").json["portfolios"] == [
        {"name": "acme", "used": 2, "most": 1000, "waiting": 1}
    ]
    assert "Portfolio acme: 2 of 1,000 people in 24 hours, 1 more waiting." in ifinu("instance", "list").out
    assert "in the portfolio acme, 1,000 people in 24 hours" in ifinu("instance", "pace", "m1").out
    lifted = ifinu("instance", "pace", "m1", "--tier", "none", "--json").json
    assert (lifted["portfolio"], lifted["tier"]) == ("acme", None)
    assert "in the portfolio acme, any number of people in 24 hours" in ifinu("instance", "pace", "m2").out
    assert client.hget(number_key("m2"), "conversas") is None
    assert "any number of people in 24 hours" in ifinu("instance", "show", "m2").out
    left = ifinu("instance", "pace", "m1", "--portfolio", "none", "--json").json
    assert (left["portfolio"], left["per_day"], left["new_chats"]) == (None, 250, 250)
    assert client.hget(number_key("m1"), "grupo") is None
    assert ifinu("instance", "show", "m1", "--json").json["conversations"] is None
    assert ifinu("instance", "pace", "m1", "--tier", "10").code == 2


def test_a_phones_number_has_no_portfolio(ifinu, one, engine):
    refused = ifinu("instance", "assign", "u1", "a", "--portfolio", "acme", *OLD)
    assert (refused.code, "a portfolio is of Meta's Cloud API" in refused.err) == (2, True)
    assert registry.number(engine, "a") is None
    ifinu("instance", "assign", "u1", "a", *OLD)
    assert ifinu("instance", "pace", "a", "--portfolio", "acme").code == 2
    assert registry.registered(engine, "a").portfolio is None


def test_a_hold_and_its_release_are_in_the_registry_and_in_redis_at_once(ifinu, one, engine, client):
    ifinu("instance", "assign", "u1", "a", *OLD)
    wait_for(client, "a", "u1", 1)
    held = ifinu("instance", "hold", "a", "--for", "2h", "--reason", "new phone", "--json").json
    until = datetime.fromisoformat(held["held_until"])
    assert timedelta(hours=1, minutes=59) < until - datetime.now(UTC) < timedelta(hours=2, minutes=1)
    assert client.hget(number_key("a"), "motivo") == b"new phone"
    assert abs(float(client.hget(number_key("a"), "presa")) / 1000 - until.timestamp()) < 2
    assert client.zscore(f"{NORMAL}:turnos", "a") > 10**12
    assert registry.registered(engine, "a").held_reason == "new phone"
    assert "until it is released" in ifinu("instance", "hold", "a", "--reason", "new phone").out
    registry.change(engine, "a", banned_at=datetime.now(UTC))
    assert ifinu("instance", "release", "a").out == "a is released\n"
    assert not float(client.hget(number_key("a"), "presa") or 0)
    assert registry.registered(engine, "a").banned_at is None
    steps = [json.loads(fields[b"data"]) for _, fields in client.xrange(EVENTS) if fields[b"event"] == b"number"]
    assert [(step["number"], step["step"], step["reason"]) for step in steps] == [
        ("a", "held", "new phone"), ("a", "held", "new phone"), ("a", "released", "by hand"),
    ]  # fmt: skip
    assert Directory.load(client).numbers_of("u1") == ("a",)
    assert ifinu("instance", "release", "a", "--json").json["released"] is False


def test_everything_of_a_number_is_shown(ifinu, one, engine, client):
    ifinu("instance", "assign", "u1", "a", *OLD)
    wait_for(client, "a", "u1", 3)
    client.hincrby(number_key("a"), "hoje", 7)
    ifinu("instance", "hold", "a", "--reason", "why")
    at = datetime.now(UTC)
    ledger_rows.event(engine, None, "number", at, number="a", step="slowed", signal="silent")
    ledger_rows.event(engine, None, "number", at, seq=1, number="b", step="paused", signal="silent")
    shown = ifinu("instance", "show", "a", "--json").json
    assert (shown["state"], shown["tenant"], shown["today"]["sent"], shown["waiting"]) == ("open", "u1", 7, 3)
    assert shown["held"]["reason"] == "why"
    assert "phone_hash" not in shown
    assert [(step["number"], step["step"]) for step in shown["steps"]] == [("a", "slowed")]
    assert shown["answers"] is None
    text = ifinu("instance", "show", "a").out
    assert "not known: its webhook reports none" in text
    client.hset(number_key("a"), "ouve", 1)
    client.pfadd(answers_key("a", int((at.timestamp() - 10_800) // 86_400)), "p1", "p2")
    text = ifinu("instance", "show", "a").out
    for words in (
        "2 people in 7 days",
        "open",
        "tenant u1",
        "7 of 400 messages",
        "0 of 60 new chats",
        "until it is released",
        "why",
        "slowed silent",
    ):
        assert words in text, words
    one.set_fault(gateway="refuse")
    assert "does not answer" in ifinu("instance", "show", "a").out
    assert ifinu("instance", "show", "b").code == 2


def test_the_list_shows_what_is_registered_and_what_the_gateway_lacks(ifinu, one, engine):
    ifinu("instance", "assign", "u1", "a", *OLD)
    registry.register(engine, registry.Number("lost", datetime.now(UTC), tenant="u2"))
    rows = {row["name"]: row for row in ifinu("instance", "list", "--json").json["instances"]}
    assert (rows["a"]["tenant"], rows["a"]["preset"], "tenant" in rows["b"]) == ("u1", "conservador", False)
    assert (rows["lost"]["state"], rows["lost"]["tenant"]) == ("missing", "u2")
    table = ifinu("instance", "list").out
    assert "conservador" in table
    assert "missing" in table


# -- test, qr


def test_a_test_sends_nothing_unless_it_is_asked_to(ifinu, one, client):
    ifinu("instance", "assign", "u1", "a", *OLD)
    assert ifinu("instance", "test", "a", "--json").json == {"name": "a", "state": "open", "phone": None, "sent": None}
    assert one.sends == []
    sent = ifinu("instance", "test", "a", "--send-to", "77 99861-6740", "--json").json["sent"]
    (entry,) = one.sends
    assert (entry.key_id, entry.number[-8:]) == (sent, "98616740")
    ifinu("instance", "hold", "a")
    held = ifinu("instance", "test", "a", "--send-to", "77 99861-6740")
    assert (held.code, "nothing was sent" in held.err) == (2, True)
    one.set_instance("a", state="close")
    assert ifinu("instance", "test", "a", "--send-to", "77 99861-6740").code == 1
    assert len(one.sends) == 1
    assert ifinu("instance", "test", "a", "--send-to", "12").code == 2


def test_a_code_is_written_as_an_image_that_only_its_owner_can_read(ifinu, one, tmp_path):
    ifinu("instance", "create", "acme")
    file = tmp_path / "acme.png"
    ended = ifinu("instance", "qr", "acme", "--png", str(file), "--once", "--json")
    assert (ended.code, ended.json["file"]) == (0, str(file))
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ifinu("instance", "create", "shop")
    assert ifinu("instance", "qr", "shop", "--png", str(file)).out.endswith("shop is connected\n")
    assert list(tmp_path.glob("*.png*")) == []
    assert ifinu("instance", "qr", "shop", "--png", "/nowhere/at/all.png").code == 0  # connected: there is no code
    ifinu("instance", "create", "other")
    assert ifinu("instance", "qr", "other", "--png", "/nowhere/at/all.png").code == 2


# -- move, logout, delete, orphans, sync


def test_what_waits_for_a_number_moves_once_nothing_is_in_flight(ifinu, one, client, monkeypatch):
    ifinu("instance", "assign", "u1", "a", "b", *OLD)
    wait_for(client, "a", "u1", 3)
    wait_for(client, "a", "", 1, instancia="a")
    ended = ifinu("instance", "move", "a", "b")
    assert (ended.code, "wait for a" in ended.err) == (2, True)  # b is not of messages without a tenant
    ifinu("instance", "assign", "*", "b")
    client.sadd(f"{number_key('a')}:voo", f"{NORMAL} t1", f"{NORMAL} t2")  # t2 is a worker's that died
    client.hset(f"{NORMAL}:em_voo", "t1", "{}")
    from ifinu.cli.instance import removal

    waits = []

    def sleep(_: float) -> None:
        waits.append(client.llen(f"{NORMAL}:espera:b:u1"))
        assert client.hget(number_key("a"), "motivo") == b"moved"
        client.hdel(f"{NORMAL}:em_voo", "t1")

    monkeypatch.setattr(removal.time, "sleep", sleep)
    assert ifinu("instance", "move", "a", "b", "--json").json == {"name": "a", "to": "b", "moved": 3, "left": 1}
    assert waits == [0]
    assert client.llen(f"{NORMAL}:espera:b:u1") == 3
    assert ifinu("instance", "move", "a", "a").code == 2


def test_a_number_is_deleted_by_the_process_that_holds_it_and_not_while_messages_wait(ifinu, several, engine, client):
    ifinu("instance", "assign", "u1", "b", "c", *OLD)
    wait_for(client, "b", "u1", 2)
    refused = ifinu("instance", "delete", "b", "--yes")
    assert (refused.code, "2 messages wait for b" in refused.err) == (2, True)
    assert several.instances() == {"ifinu", "a", "b", "c", "d"}
    ended = ifinu("instance", "delete", "b", "--move-to", "c", "--yes", "--json")
    assert ended.json == {"name": "b", "registered": True, "moved": 2, "buried": 0}
    assert several.instances() == {"ifinu", "a", "c", "d"}
    assert [one.name for one in registry.read(engine).numbers] == ["c"]
    assert (client.llen(f"{NORMAL}:espera:c:u1"), client.exists(number_key("b"))) == (2, 0)
    several.kill("pod-2")
    away = ifinu("instance", "delete", "d", "--yes")
    assert away.code != 0
    assert several.instances() == {"ifinu", "a", "c", "d"}  # no other process was asked to delete it


def test_messages_that_name_a_number_keep_it_from_being_deleted(ifinu, one, engine, client):
    ifinu("instance", "assign", "u1", "a", "b", *OLD)
    wait_for(client, "a", "u1", 1, instancia="a")
    ended = ifinu("instance", "delete", "a", "--move-to", "b", "--yes")
    assert (ended.code, "cannot go elsewhere" in ended.err) == (2, True)
    assert registry.number(engine, "a") is not None
    assert ifinu("instance", "state", "a").code == 0
    wait_for(client, "a", "u1", 2)
    ended = ifinu("instance", "delete", "a", "--bury", "--yes", "--json")
    assert ended.json == {"name": "a", "registered": True, "moved": 0, "buried": 3}
    letters = [json.loads(letter) for letter in client.lrange(Keys.of(NORMAL).dead, 0, -1)]
    assert {(letter["id"], letter["reason"]) for letter in letters} == {
        ("a-0", "number_deleted"),
        ("a-1", "number_deleted"),
    }
    events = [fields[b"event"] for _, fields in client.xrange(EVENTS)]
    assert events == [b"dead"] * 3
    assert client.get(f"{NORMAL}:na_espera") == b"0"
    assert not client.exists(Keys.of(NORMAL).in_flight, Keys.of(NORMAL).deadlines, f"{NORMAL}:turnos")


def test_what_comes_to_wait_for_a_number_while_it_is_deleted_becomes_a_dead_letter(
    ifinu, one, engine, client, monkeypatch
):
    from ifinu.cli.instance import removal

    ifinu("instance", "assign", "u1", "a", "b", *OLD)
    delete = removal._delete_at_gateway

    def meanwhile(name: str) -> None:
        wait_for(client, "a", "u1", 2, instancia="a")
        delete(name)

    monkeypatch.setattr(removal, "_delete_at_gateway", meanwhile)
    ended = ifinu("instance", "delete", "a", "--yes", "--json")
    assert ended.json == {"name": "a", "registered": True, "moved": 0, "buried": 2}
    assert client.llen(Keys.of(NORMAL).dead) == 2
    assert client.get(f"{NORMAL}:na_espera") == b"0"


def test_an_instance_that_is_not_registered_is_deleted_and_logged_out_after_a_question(ifinu, one):
    assert ifinu("instance", "delete", "a").code == 2  # nobody answers
    assert ifinu("instance", "logout", "a").code == 2
    assert ifinu("instance", "state", "a").code == 0
    assert ifinu("instance", "logout", "a", "--yes").code == 0
    assert ifinu("instance", "state", "a").out == "close\n"
    assert ifinu("instance", "delete", "a", "--yes").code == 0
    wait_until(lambda: ifinu("instance", "state", "a").code == 1)


def test_orphans_are_removed_after_three_answers_over_ten_minutes_and_never_for_a_timeout(ifinu, one, engine, client):
    ifinu("instance", "assign", "u1", "a", *OLD)
    assert ifinu("instance", "orphans", "--json").json == {
        "unregistered": ["b", "ifinu"], "missing": [], "away": []
    }  # fmt: skip
    ifinu("instance", "assign", "u1", "b", "ifinu", *OLD)
    assert ifinu("instance", "orphans").code == 0
    registry.register(engine, registry.Number("lost", datetime.now(UTC), tenant="u2"))

    def lost() -> tuple[int, bool, bool]:
        (row,) = ifinu("instance", "orphans", "--remove", "--json").json["missing"]
        return row["answers"], row["gone"], row["removed"]

    assert [lost(), lost(), lost()] == [(1, False, False), (2, False, False), (3, False, False)]
    one.set_fault(gateway="refuse")
    assert ifinu("instance", "orphans", "--remove").code == 3
    one.set_fault(gateway="up")
    long_ago = datetime.now(UTC) - timedelta(minutes=11)
    assert registry.change(engine, "lost", missing_since=long_ago).missing_count == 3
    wait_for(client, "lost", "u2", 1)
    assert lost() == (4, True, False)  # a message waits for it
    client.delete(f"{NORMAL}:espera:lost:u2")
    assert lost() == (5, True, True)
    assert registry.number(engine, "lost") is None
    assert ifinu("instance", "orphans").code == 0


def test_a_sync_writes_the_copy_again(ifinu, one, client):
    ifinu("instance", "assign", "u1", "a", *OLD)
    client.flushall()
    ended = ifinu("instance", "sync", "--json").json
    assert (ended["numbers"], ended["tenants"]) == (1, 1)
    assert client.get(GENERATION) == ended["generation"].encode()
    assert Directory.load(client).numbers_of("u1") == ("a",)
