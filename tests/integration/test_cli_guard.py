"""`ifinu guard` against a real Valkey and both kinds of ledger."""

from __future__ import annotations

from datetime import timedelta

import ledger_rows as rows
import pytest
from command_line import Shell

from ifinu.broker import clock
from ifinu.broker.keys import EVENTS, number_key
from ifinu.numbers import cache, registry
from ifinu.numbers.registry import Number


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey, ledger_url):
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", ledger_url)
    return Shell(capsys, monkeypatch)


@pytest.fixture
def throttled(client, ledger):
    """Two numbers; WhatsApp has throttled `loja-2` three times."""
    now = clock.now(client)
    for name in ("loja-1", "loja-2"):
        registry.register(ledger, Number(name, registered_at=now, paired_at=now - timedelta(days=90)))
    cache.load(client, ledger)
    for number in range(3):
        at = now - timedelta(minutes=number)
        rows.event(ledger, f"e{number}", "deferred", at, reason="throttled", instance="loja-2")


def test_nothing_is_registered(ifinu, ledger):
    found = ifinu("guard")
    assert (found.code, found.err) == (0, "")
    assert "No number is registered" in found.out
    assert ifinu("guard", "--json").json["numbers"] == []


def test_a_dry_run_shows_the_steps_and_takes_none(ifinu, client, ledger, throttled):
    found = ifinu("guard", "--dry-run")
    assert "loja-2: would be slowed (too_fast)\n" in found.out
    assert "loja-2: would be paused (too_fast) until " in found.out
    assert found.code == 1
    assert client.hget(number_key("loja-2"), "fator") == b"1.0"
    assert registry.registered(ledger, "loja-2").brake == 1
    assert client.xlen(EVENTS) == 0


def test_a_pass_takes_the_steps_and_says_so(ifinu, client, ledger, throttled):
    found = ifinu("guard", "--json")
    assert found.code == 1
    calm, held = found.json["numbers"]
    assert calm == {
        "number": "loja-1", "risk": 0, "brake": 1.0, "held": False, "no_new_chats": False, "banned": False,
        "held_until": None, "held_reason": None, "no_new_chats_until": None, "figures": {}, "levels": {}, "steps": [],
    }  # fmt: skip
    assert (held["number"], held["risk"], held["held_reason"]) == ("loja-2", 50, "guarda:too_fast")
    assert held["figures"] == {"throttled": 3}
    assert held["levels"] == {"too_fast": "pause"}
    assert [step["step"] for step in held["steps"]] == ["slowed", "paused"]
    assert client.hmget(number_key("loja-2"), "fator", "motivo") == [b"0.5", b"guarda:too_fast"]
    again = ifinu("guard")
    assert again.code == 1
    lines = [line.split() for line in again.out.splitlines()]
    assert lines[1] == ["loja-1", "100%", "calm"]
    assert lines[2][:5] == ["loja-2", "3", "50%", "held", "for"]
    assert "loja-2:" not in again.out, "no step follows"
