from __future__ import annotations

import pytest

from ifinu import errors
from ifinu.errors import Reason
from ifinu.gateway.breaker import Breaker, is_outage


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock)
    assert [breaker.failed() for _ in range(3)] == [False, False, True]
    return breaker, clock


def test_it_opens_after_three_failures_in_a_row_and_not_before():
    breaker = Breaker(Clock())
    for _ in range(5):
        assert not breaker.failed()
        assert not breaker.failed()
        assert not breaker.answered()
    assert breaker.wait_s() == 0
    assert not breaker.is_open


def test_while_open_one_probe_goes_at_a_time_each_after_a_longer_wait():
    breaker, clock = opened()
    waits = []
    for _ in range(6):
        waits.append(breaker.wait_s())
        clock.now += breaker.wait_s()
        assert breaker.wait_s() == 0
        breaker.started()
        assert breaker.wait_s() > 0
        assert not breaker.failed()
    assert waits == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_failures_of_messages_that_had_started_before_do_not_lengthen_the_wait():
    breaker, _ = opened()
    for _ in range(7):
        breaker.failed()
    assert breaker.wait_s() == 0.5


def test_an_answer_closes_it_and_all_may_go():
    breaker, clock = opened()
    clock.now += 0.5
    breaker.started()
    assert breaker.answered()
    assert breaker.wait_s() == 0
    breaker.started()
    assert breaker.wait_s() == 0


def test_what_breaks_at_one_process_of_the_gateway_breaks_for_its_sends_at_once_and_counts_once():
    clock = Clock()
    breaker = Breaker(clock)
    assert not any(breaker.failed("c") for _ in range(9))
    clock.now += 2
    assert not breaker.failed("c")
    assert breaker.failed("a")  # a third failure, and of another part of the gateway


@pytest.mark.parametrize("reason", list(Reason))
def test_only_an_unreachable_gateway_is_an_outage(reason: Reason):
    assert is_outage(errors.NotSent("x", reason=reason)) == (reason in {"unreachable", "unavailable"})
    assert not is_outage(errors.MaybeSent("x", reason=reason))
