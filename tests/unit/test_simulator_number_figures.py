import datetime

import pytest

from ifinu.simulator.number_figures import by_instance, figures
from ifinu.simulator.send_ledger import Ledger, Send

# 23:59:50 in Brasília
EVENING = datetime.datetime(2026, 12, 1, 2, 59, 50, tzinfo=datetime.UTC).timestamp()


def send(begun, ended, number="1", outcome="ok"):
    return Send(begun, EVENING + begun, "wa1", number, "text", "3EB0", outcome, begun, ended)


def test_a_gap_is_from_an_answer_to_the_next_arrival():
    assert figures([send(0, 2), send(7, 8), send(11, 12)])["least_gap_s"] == 3
    assert figures([send(0, 2)])["least_gap_s"] is None
    assert figures([])["least_gap_s"] is None


def test_of_sends_that_overlap_the_last_answer_before_the_arrival_counts():
    assert figures([send(0, 9), send(1, 3), send(5, 6)])["least_gap_s"] == 2
    assert figures([send(0, None), send(5, 6)])["least_gap_s"] is None


def test_people_are_counted_on_the_local_day_on_which_they_are_first_written_to():
    found = figures([send(0, 1), send(2, 3, "2"), send(20, 21), send(22, 23, "3", "refused_later")])
    assert found["days"] == {
        "2026-11-30": {"sends": 2, "new_chats": 2},
        "2026-12-01": {"sends": 2, "new_chats": 1},
    }
    assert (found["sends"], found["people"], found["refused"]) == (4, 3, 1)
    assert list(figures([send(0, 1), send(20, 21)], utc_offset_s=0)["days"]) == ["2026-12-01"]


@pytest.mark.parametrize(("times", "most"), [((0, 30, 59.9), 3), ((0, 30, 60), 2)])
def test_the_most_a_minute_slides(times, most):
    assert figures([send(at, at) for at in times])["most_a_minute"] == most


def test_each_instance_has_its_own_and_a_failed_call_is_in_flight_too():
    ledger = Ledger()
    first = ledger.begins("a")
    ledger.finishes(ledger.begins("a"))
    ledger.sent(first, "1", "text", "3EB0", "ok")
    ledger.finishes(first)
    other = ledger.begins("b")
    ledger.sent(other, "1", "text", "3EB0", "ok")
    found = by_instance(ledger)
    assert {name: (one["sends"], one["most_in_flight"]) for name, one in found.items()} == {"a": (1, 2), "b": (1, 1)}
    ended, open_ = ledger.sends()
    assert ended.begun_monotonic <= ended.at_monotonic <= ended.ended_monotonic
    assert open_.ended_monotonic is None


def test_a_call_from_before_a_reset_ends_no_later_send():
    ledger = Ledger()
    old, new = ledger.begins("a"), ledger.begins("a")
    ledger.sent(old, "1", "text", "3EB0", "ok")
    ledger.reset()
    ledger.sent(new, "1", "text", "3EB0", "ok")
    ledger.finishes(old)
    assert ledger.sends()[0].ended_monotonic is None
    ledger.finishes(new)
    assert ledger.sends()[0].ended_monotonic is not None
