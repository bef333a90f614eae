import random

import pytest

from ifinu.errors import ConfigurationError
from ifinu.simulator.fault_script import ENDINGS, Faults, Latency, Outcome

ORDINARY = "5511987659999"


@pytest.fixture
def faults():
    return Faults(random.Random(7))


def test_every_fault_can_be_had_by_an_ending():
    scripted = {outcome for outcomes in ENDINGS.values() for outcome in outcomes}
    assert set(Outcome) - scripted == {Outcome.NEVER_CONNECTED, Outcome.GROUP_NOT_FOUND}


def test_an_ending_runs_its_outcomes_for_each_number_by_itself(faults):
    one, other = "5511987650002", "5511911110002"
    assert [faults.outcome("ifinu", one) for _ in range(4)] == ["lookup_closed", "lookup_closed", "ok", "ok"]
    assert faults.outcome("ifinu", other) == "lookup_closed"
    faults.forget_turns()
    assert faults.outcome("ifinu", one) == "lookup_closed"


def test_the_first_match_decides(faults):
    number = "5511987650001"
    faults.apply({"rates": {"hang": 1.0}})
    assert faults.outcome("ifinu", number) == "not_on_whatsapp"
    faults.apply({"endings": {"0001": "send_closed", number: "rate_overlimit"}})
    assert faults.outcome("ifinu", number) == "rate_overlimit"
    faults.apply({"instances": {"ifinu": "send_timeout"}})
    assert faults.outcome("ifinu", number) == "send_timeout"
    assert faults.outcome("other", ORDINARY) == "hang"
    faults.apply({"next": ["type_error"]})
    assert faults.outcome("ifinu", number) == "type_error"
    assert faults.outcome("ifinu", number) == "send_timeout"


def test_rates_are_probabilities(faults):
    faults.apply({"rates": {"sent_then_reset": 0.2, "lookup_closed": 0.3}})
    drawn = [faults.outcome("ifinu", ORDINARY) for _ in range(5000)]
    assert 900 < drawn.count(Outcome.SENT_THEN_RESET) < 1100
    assert 1350 < drawn.count(Outcome.LOOKUP_CLOSED) < 1650


def test_a_look_up_consumes_only_the_false_negative_of_a_script(faults):
    false_negative, flaky = "5511987650014", "5511987650002"
    assert [faults.is_on_whatsapp(false_negative) for _ in range(2)] == [False, True]
    assert faults.is_on_whatsapp(flaky)
    assert faults.outcome("ifinu", flaky) == "lookup_closed"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ({"gatway": "up"}, "gatway: no such fault"),
        ({"gateway": "sideways"}, "sideways: must be one of up"),
        ({"latency_ms": {"gauss": [1, 2]}}, "latency_ms must be"),
        ({"latency_ms": -1}, "latency_ms must be"),
        ({"hang_ms": "long"}, "hang_ms must be a number"),
        ({"rates": {"hang": 0.7, "ok": 0.7}}, "add up to 1"),
        ({"endings": {"0001": ["nonsense"]}}, "nonsense: must be one of ok"),
        ({"next": 3}, "outcomes must be"),
        ({"instances": []}, "JSON object"),
        ({"receipts_ms": {"seen": 3}}, "seen: unknown"),
        ({"webhooks": {"duplicates": 1}}, "duplicates: unknown"),
        ({"bans": {"wa1": {"gap": 1}}}, "bans.gap: unknown"),
        ({"bans": {"wa1": {"gap_ms": "1"}}}, "bans.gap_ms must be a number"),
        ({"bans": {"wa1": {"new_chats": 1.5}}}, "bans.new_chats must be a whole number"),
        ({"bans": {"wa1": {"too_fast": "jail"}}}, "jail: must be one of none"),
        ({"speed": 0}, "speed must be above zero"),
    ],
)
def test_a_wrong_script_changes_nothing_and_says_why(faults, script, says):
    before = faults.as_script()
    with pytest.raises(ConfigurationError, match=says):
        faults.apply({"hang_ms": 1, **script})
    assert faults.as_script() == before


def test_a_script_can_be_read_back_and_applied_again(faults):
    script = {
        "gateway": "hang",
        "latency_ms": {"lognormal": [40.0, 0.5]},
        "insert_ms": 4.0,
        "hang_ms": 50.0,
        "next": ["hang"],
        "instances": {"a": "ok"},
        "endings": {"77": ("ok",)},
        "rates": {"hang": 0.5},
        "receipts_ms": {"server_ack": 1.0, "delivery_ack": 2.0, "read": 3.0},
        "webhooks": {"duplicate": 0.1, "drop": 0.2, "shuffle_ms": 500.0, "event_ms": 20.0},
        "bans": {
            "*": {
                "gap_ms": 5.0,
                "a_minute": 6,
                "new_chats": 7,
                "too_fast": "restrict",
                "too_many_new": "ban",
                "ban_after": None,
                "throttle_s": 8.0,
                "restrict_s": 9.0,
            }
        },
        "speed": 10.0,
        "window": "at_once",
    }
    faults.apply(script)
    assert faults.as_script() == script
    faults.apply(faults.as_script())
    assert faults.as_script() == script


@pytest.mark.parametrize(
    ("latency", "low_s", "high_s"),
    [(5, 0.005, 0.005), ({"fixed": 5}, 0.005, 0.005), ({"uniform": [10, 20]}, 0.010, 0.020)],
)
def test_a_latency_is_drawn_in_milliseconds(latency, low_s, high_s):
    rng = random.Random(1)
    assert all(low_s <= Latency.parse(latency).draw_s(rng) <= high_s for _ in range(100))


def test_a_lognormal_latency_has_its_median():
    rng, latency = random.Random(1), Latency.parse({"lognormal": [40, 0.6]})
    drawn = sorted(latency.draw_s(rng) for _ in range(2001))
    assert drawn[1000] == pytest.approx(0.040, rel=0.1)
