"""WhatsApp's judgement of sends, by a clock that the test moves."""

import random

import pytest

from ifinu.simulator.ban_rules import for_all
from ifinu.simulator.bans import Bans
from ifinu.simulator.fault_script import Faults
from ifinu.simulator.state import BUSINESS, SimulatedInstance

DAY_S = 86_400


class Whatsapp:
    """One instance under rules, and the clock."""

    def __init__(self, speed=1.0, **rules):
        self.now = 1000.0
        self.faults = Faults(random.Random(1))
        self.faults.apply({"bans": {"wa1": rules}, "speed": speed})
        self.bans = Bans(self.faults, {}, lambda: self.now)
        self.instance = SimulatedInstance("wa1", "token", "pod-0")

    def send(self, person="maria", after_s=0.0):
        self.now += after_s
        return self.bans.judge(self.instance, person)


def test_without_rules_nothing_is_judged():
    whatsapp = Whatsapp(gap_ms=1000)
    other = SimulatedInstance("wa2", "token", "pod-0")
    assert {whatsapp.bans.judge(other, str(n)) for n in range(1000)} == {"none"}
    whatsapp.faults.apply({"bans": {}})
    assert {whatsapp.send() for _ in range(1000)} == {"none"}


def test_the_business_channel_has_no_such_rules():
    whatsapp = Whatsapp(new_chats=0)
    whatsapp.instance.integration = BUSINESS
    assert whatsapp.send() == "none"


def test_a_gap_below_the_least_is_throttled_until_the_time_is_over():
    whatsapp = Whatsapp(gap_ms=5000, throttle_s=60)
    assert [whatsapp.send(after_s=s) for s in (0, 5, 5, 4.9)] == ["none", "none", "none", "throttle"]
    assert whatsapp.bans.at_look_up(whatsapp.instance) == "throttle"
    assert [whatsapp.send(after_s=s) for s in (59.9, 0.2)] == ["throttle", "none"]
    assert whatsapp.bans.at_look_up(whatsapp.instance) == "none"
    assert whatsapp.bans.report("wa1") == {
        "breaches": {"too_fast": 3, "too_many_new": 0},
        "throttled": False,
        "restricted": False,
    }


def test_a_sender_that_keeps_the_gap_is_never_punished():
    whatsapp = Whatsapp(gap_ms=5000, a_minute=12, ban_after=1)
    assert {whatsapp.send(after_s=5) for _ in range(1000)} == {"none"}


def test_the_most_a_minute_slides():
    whatsapp = Whatsapp(a_minute=3, throttle_s=1)
    assert [whatsapp.send(after_s=s) for s in (0, 1, 1, 57.9, 1.1)] == ["none", "none", "none", "throttle", "none"]


def test_a_new_chat_too_many_restricts_new_chats_alone():
    whatsapp = Whatsapp(new_chats=2)
    whatsapp.bans.met(whatsapp.instance, "wrote-first")
    assert [whatsapp.send(who) for who in ("a", "b", "c", "a", "wrote-first")] == [
        *("none", "none"),
        "restrict",
        *("none", "none"),
    ]
    assert whatsapp.bans.report("wa1")["restricted"]
    assert [whatsapp.send("c", DAY_S - 1), whatsapp.send("c", 2)] == ["restrict", "none"]


def test_a_sender_within_the_new_chats_is_never_punished():
    whatsapp = Whatsapp(new_chats=10, ban_after=1)
    people = iter(range(1000))
    assert {whatsapp.send(str(next(people)), DAY_S / 10) for _ in range(200)} == {"none"}


@pytest.mark.parametrize(
    ("rules", "people"),
    [({"gap_ms": 1000, "too_fast": "log_out"}, "aa"), ({"new_chats": 1, "too_many_new": "log_out"}, "ab")],
)
def test_a_breach_can_end_the_session(rules, people):
    whatsapp = Whatsapp(**rules)
    assert [whatsapp.send(person) for person in people] == ["none", "log_out"]


def test_so_many_breaches_in_a_day_ban():
    whatsapp = Whatsapp(gap_ms=1000, throttle_s=60, ban_after=3)
    assert [whatsapp.send(after_s=s) for s in (0, 0.5, 1)] == ["none", "throttle", "throttle"]
    assert whatsapp.bans.at_look_up(whatsapp.instance) == "ban"
    calm = Whatsapp(gap_ms=1000, throttle_s=60, ban_after=3)
    assert [calm.send(after_s=s) for s in (0, 0.5, 1, DAY_S, 0.5)] == ["none", *["throttle"] * 2, "none", "throttle"]


def test_the_times_of_the_rules_can_run_faster():
    whatsapp = Whatsapp(speed=1000, gap_ms=5000, new_chats=1)
    assert [whatsapp.send(after_s=s) for s in (0, 0.005, 0.004)] == ["none", "none", "throttle"]
    assert whatsapp.send("other", DAY_S / 1000) == "none"


def test_forgiving_lifts_punishments_and_keeps_chats():
    whatsapp = Whatsapp(new_chats=1)
    assert [whatsapp.send(who) for who in "ab"] == ["none", "restrict"]
    whatsapp.bans.forgive(whatsapp.instance)
    assert [whatsapp.send(who) for who in "abc"] == ["none", "none", "restrict"]
    whatsapp.bans.reset()
    assert [whatsapp.send(who) for who in "ab"] == ["none", "restrict"]


def test_rules_of_a_command_line_are_for_all():
    assert for_all({"gap_ms": None, "ban_after": None}) == {}
    assert for_all({"gap_ms": 5.0, "ban_after": None}) == {"bans": {"*": {"gap_ms": 5.0}}}
