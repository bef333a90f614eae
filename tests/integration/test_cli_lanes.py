"""The commands, while messages wait for their number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from command_line import Shell
from sqlalchemy import Engine
from waiting import fetch, hold, message, put_aside, register, take

from ifinu.broker import LOW, NORMAL, URGENT, lanes
from ifinu.broker.claims import Claims, MessageRef, Verdict
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import GENERATION, NUMBERS, UNKNOWN
from ifinu.embedded import Valkey
from ifinu.ledger.engine import connect
from ifinu.numbers import cache, registry
from ifinu.numbers.registry import Number


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey: Valkey, _sqlite_template: Path, tmp_path: Path) -> Shell:
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{shutil.copy(_sqlite_template, tmp_path / 'ledger.db')}")
    return Shell(capsys, monkeypatch)


@pytest.fixture
def engine(ifinu: Shell, tmp_path: Path) -> Iterator[Engine]:
    made = connect(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield made
    made.dispose()


@pytest.fixture
def aside(client: redis.Redis) -> redis.Redis:
    """Three messages wait for a number that is held, one for another, and one is ready."""
    register(client, "a", "b")
    hold(client, "a")
    hold(client, "b", "too fast")
    put_aside(client, *(message(f"a{n}", "a") for n in (1, 2, 3)), message("b1", "b", "u2"))
    client.lpush(NORMAL, message("free", "unregistered"))
    return client


# -- queue, status


def test_the_counts_have_lanes_apart_from_what_is_ready(ifinu, aside):
    (row,) = ifinu("queue", "size", "--json").json
    assert (row["ready"], row["in_lanes"]) == (1, 4)
    assert "in lanes" in ifinu("queue", "size").out
    found = ifinu("status", "--no-workers", "--json").json
    assert {one["queue"]: (one["ready"], one["in_lanes"]) for one in found["queues"]} == {
        URGENT: (0, 0), NORMAL: (1, 4), LOW: (0, 0),
    }  # fmt: skip
    assert "in lanes" in ifinu("status", "--no-workers").out


def test_nothing_speaks_of_lanes_while_nothing_is_registered(ifinu, client):
    client.lpush(NORMAL, message("free", "any"))
    for arguments in (("queue", "size"), ("queue", "peek"), ("status", "--no-workers")):
        assert "lane" not in ifinu(*arguments).out
    assert sorted(ifinu("queue", "size", "--json").json[0]) == [
        "dead", "delayed", "in_flight", "next_due_in_s", "paused_since", "queue", "ready",
    ]  # fmt: skip
    assert "number" not in ifinu("queue", "peek", "--json").json
    assert "in_lanes" not in ifinu("status", "--no-workers", "--json").out


def test_peek_shows_what_is_ready_and_then_what_waits_for_a_number(ifinu, aside):
    def peeked(*arguments: str) -> list[tuple[str, str | None]]:
        lines = ifinu("queue", "peek", *arguments, "--json").out.splitlines()
        return [(shown["id"], shown.get("number")) for shown in map(json.loads, lines)]

    assert peeked()[0] == ("free", None)
    assert sorted(peeked()[1:]) == [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")]
    assert peeked("--number", "a", "-n", "2") == [("a1", "a"), ("a2", "a")]
    assert len(peeked("-n", "1")) == 2
    assert "Nothing waits for c." in ifinu("queue", "peek", "--number", "c").out
    table = ifinu("queue", "peek").out
    assert "waits for" in table
    for secret in ("99861", "Segredo"):
        assert secret not in table
    assert lanes.total(aside, NORMAL) == 4


def test_a_paused_queue_serves_no_lane_until_it_is_resumed(ifinu, aside):
    assert ifinu("queue", "pause").code == 0
    lanes.release(aside, "a")
    assert fetch(aside) == []
    assert (lanes.total(aside, NORMAL), aside.llen(NORMAL)) == (4, 1)
    assert ifinu("queue", "resume").code == 0
    assert sorted(fetch(aside)) == ["a1", "free"]  # one message of a number at once


def test_purge_asks_with_the_lanes_and_deletes_them_too(ifinu, aside, monkeypatch):
    aside.lpush(LOW, message("low", "a"))
    monkeypatch.setattr("ifinu.cli.terminal.is_there_somebody", lambda: True)
    ended = ifinu("queue", "purge", "--json", stdin=b"whatsapp\n")
    assert "5 messages of ifinu:fila:whatsapp (4 in lanes) will be deleted" in ended.err
    assert ended.json["deleted"] == {NORMAL: 5}
    assert (lanes.counts(aside), lanes.total(aside, NORMAL), aside.llen(LOW)) == ([], 0, 1)


# -- doctor


def checks(ifinu: Shell) -> dict[str, tuple[str, str]]:
    """The level and the sight of each check on numbers."""
    of = ("numbers", "lanes", "unregistered numbers", "held numbers")
    found = ifinu("doctor", "--json").json["checks"]
    return {one["check"]: (one["level"], one["seen"]) for one in found if one["check"] in of}


def test_doctor_is_silent_about_numbers_while_nothing_is_registered(ifinu, client):
    client.lpush(NORMAL, message("free", "any"))
    assert checks(ifinu) == {}


def test_doctor_names_numbers_that_are_held_for_long_or_not_registered(ifinu, aside):
    aside.srem(NUMBERS, "b")
    found = checks(ifinu)
    assert found["lanes"] == ("ok", "4 messages wait for 2 numbers")
    assert found["held numbers"] == ("warn", "messages wait for a (3, desconectado)")
    assert found["unregistered numbers"] == ("fail", "messages wait for b (1, too fast)")


def test_a_hold_that_ends_soon_is_no_finding_of_doctor(ifinu, aside):
    for name in ("a", "b"):
        lanes.hold(aside, name, (aside.time()[0] + 600) * 1000, "desconectado" if name == "a" else "too fast")
    assert "held numbers" not in checks(ifinu)


def test_doctor_finds_a_count_of_lanes_that_is_wrong(ifinu, aside):
    aside.incr(f"{NORMAL}:na_espera")
    assert checks(ifinu)["lanes"] == ("warn", f"{NORMAL}: 5 counted, 4 found")


def test_doctor_finds_a_registry_that_redis_lacks(ifinu, client, engine):
    registry.register(engine, Number("acme", datetime.now(UTC), tenant="u1"))
    assert checks(ifinu) == {"numbers": ("fail", "1 in the registry, and Redis has no copy of it")}
    cache.load(client, engine)
    assert checks(ifinu) == {"numbers": ("ok", "1 in the registry, and Redis has its copy")}
    client.set(GENERATION, "another")
    assert checks(ifinu) == {"numbers": ("warn", "Redis has an older copy of the registry")}


# -- show, cancel, unknown


def test_show_says_what_a_message_waits_for(ifinu, aside):
    first, third = ifinu("show", "a1"), ifinu("show", "a3", "--json").json
    assert first.code == 0
    assert "a1  queued" in first.out
    assert "It waits for its number a, which is held until it is released (desconectado;" in first.out
    assert (third["state"], third["lane"]["number"], third["lane"]["ahead"]) == ("queued", "a", 2)
    assert third["lane"] | {"until": None} == {
        "queue": NORMAL, "number": "a", "tenant": "u1", "ahead": 2, "obstacle": "held", "until": None,
        "reason": "desconectado", "sent_today": 0, "per_day": None,
    }  # fmt: skip
    assert "2 messages of its tenant are before it." in third["summary"]


def test_show_has_no_lane_where_no_message_waits(ifinu, aside):
    Claims(aside, 60).cancel("paid")
    assert "lane" not in ifinu("show", "paid", "--json").json
    ended = ifinu("show", "free")  # ready, and not tried yet
    assert (ended.code, "was not found" in ended.err) == (1, True)


def test_a_message_in_a_lane_can_be_cancelled(ifinu, aside):
    assert ifinu("cancel", "a1").out == "a1: cancelled; its message will not be sent\n"
    lanes.release(aside, "a")
    taken = {json.loads(raw)["id"]: tag for tag, raw in take(aside)}
    answer = Claims(aside, 60).claim(
        MessageRef(NORMAL, taken["a1"], ""), Event(Name.UNKNOWN, "a1"), digest="d", tenant="u1", pseudonym="p", seen="r"
    )
    assert answer.verdict is Verdict.CANCELLED


def test_a_look_up_that_waits_for_its_number_is_no_decision_of_a_person(ifinu, aside):
    aside.zadd(UNKNOWN, {"a1": 1})
    (doubt,) = ifinu("unknown", "list", "--json").json["unknown"]
    assert (doubt["place"], doubt["queue"]) == ("lane", NORMAL)
    table = ifinu("unknown", "list").out
    assert "look-up waits for its number" in table
    assert "0 need your decision" in table


# -- top


def test_top_shows_the_numbers_that_most_messages_wait_for(ifinu, aside):
    found = ifinu("top", "--json", "--frames", "1").json
    assert found["in_lanes"] == 4
    assert found["numbers_waited_for"] == [
        {"number": "a", "messages": 3, "obstacle": "held", "reason": "desconectado", "left_s": None},
        {"number": "b", "messages": 1, "obstacle": "held", "reason": "too fast", "left_s": None},
    ]
    frame = ifinu("top", "--once").out
    assert "in lanes 4" in frame
    assert "held (desconectado)" in frame


def test_top_does_not_speak_of_lanes_while_nothing_is_registered(ifinu, client):
    client.lpush(NORMAL, message("free", "any"))
    found = ifinu("top", "--json", "--frames", "1").json
    assert found.keys().isdisjoint({"in_lanes", "numbers_waited_for"})
    assert found["backlog"] == 1
    assert "lane" not in ifinu("top", "--once").out
