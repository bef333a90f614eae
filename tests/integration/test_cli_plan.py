"""`ifinu plan`, which asks no server."""

from __future__ import annotations

import pytest
import time_machine
from command_line import Shell

NIGHT = "2026-12-01T06:00:00-03:00"


@pytest.fixture
def ifinu(capsys, monkeypatch):
    monkeypatch.setenv("IFINU_REDIS_URL", "redis://127.0.0.1:1")
    with time_machine.travel(NIGHT, tick=False):
        yield Shell(capsys, monkeypatch)


def test_a_deadline_that_is_missed(ifinu):
    """
    A `conservador` number sends 50 an hour: 40 of them 8,000 from 8 to 12.
    """
    found = ifinu("plan", "--messages", "100000", "--by", "12:00", "--from", "08:00", "--numbers", "40")
    assert found.code == 1
    lines = [line.split("  ", 1) for line in found.out.splitlines()]
    assert lines[0] == ["100,000 messages from 01/12/2026 08:00, with 40 numbers, conservador"]
    words = {name: rest.strip() for name, rest in lines[2:]}
    assert words == {
        "ends": "07/12/2026 01:14, after 5 d 17 h, too late for 01/12/2026 12:00",
        "by the deadline": "8,000 are out (8%)",
        "missing numbers": "460 more would do it in time",
        "pace": "2.29 a second while all numbers send",
        "what limits it": "the day cap",
        "workers": "1",
    }


def test_a_deadline_that_is_met(ifinu):
    arguments = ("--messages", "1000", "--by", "12:00", "--numbers", "10", "--preset", "moderado", "--price", "0.05")
    found = ifinu("plan", *arguments, "--json")
    assert (found.code, found.err) == (0, "")
    assert found.json == {
        "messages": 1000, "numbers": 10, "preset": "moderado", "begins": "2026-12-01T09:00:00+00:00",
        "by": "2026-12-01T15:00:00+00:00", "ends": "2026-12-01T09:15:00+00:00", "in_time": True, "sent_by": 1000,
        "missing_numbers": 0, "per_s": 1.111, "limit": "gap", "pods": 1, "cost": 50.0,
    }  # fmt: skip
    assert "in time for 01/12/2026 12:00" in ifinu("plan", *arguments).out


def test_the_tier_of_a_portfolio(ifinu):
    metas = ("plan", "--messages", "3000", "--numbers", "2", "--preset", "cloud", "--json")
    assert ifinu(*metas).json["limit"] == "day cap"
    found = ifinu(*metas, "--tier", "1000").json
    assert (found["limit"], found["ends"][:10]) == ("portfolio's tier", "2026-12-03")
    assert ifinu("plan", "--messages", "10", "--numbers", "1", "--tier", "1000").code == 2


def test_the_sending_window_and_new_chats_count(ifinu, monkeypatch):
    few = ("plan", "--messages", "100", "--numbers", "1", "--json")
    assert ifinu(*few).json["ends"] == "2026-12-01T10:14:35+00:00"
    assert ifinu(*few, "--new", "80%").json["limit"] == "new-chat cap"
    monkeypatch.setenv("IFINU_SENDING_WINDOW", "mon-fri 08:00-20:00")
    assert ifinu(*few).json["ends"] == "2026-12-01T12:14:35+00:00"


def test_the_ramp_of_a_warm_up(ifinu):
    """
    Day 0 rests, day 1 sends 20, day 2 sends 27.
    """
    warming = ("plan", "--messages", "47", "--numbers", "1", "--preset", "aquecimento", "--json", "--warm-up-day")
    assert ifinu(*warming, "0").json["ends"][:10] == "2026-12-03"
    assert ifinu(*warming, "1").json["ends"][:10] == "2026-12-02"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--by", "soon"], "is no time"),
        (["--by", "25:00"], "is no time"),
        (["--new", "120%"], "is no share"),
        (["--new", "ten"], "is no share"),
        (["--by", "2026-11-30T12:00"], "the deadline is before the beginning"),
        (["--preset", "rocket"], "rocket"),
        (["--numbers", "0"], "--numbers"),
    ],
)
def test_wrong_arguments(ifinu, arguments, words):
    found = ifinu("plan", "--messages", "10", "--numbers", "1", *arguments)
    assert found.code == 2
    assert words in found.err
