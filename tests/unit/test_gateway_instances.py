from __future__ import annotations

import pytest

from ifinu.errors import Misconfigured, NotSent, Reason, Throttled
from ifinu.gateway.instances import Instances

CLOSED = NotSent("closed", reason=Reason.CONNECTION_CLOSED)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def instances(clock: Clock) -> Instances:
    return Instances(30.0, clock)


def fail(instances: Instances, times: int, name: str = "a", exc: NotSent = CLOSED) -> float:
    return [instances.failed(name, exc) for _ in range(times)][-1]


def test_an_instance_goes_until_it_has_failed_five_times_in_a_row(instances: Instances):
    assert fail(instances, 4) == 0
    assert instances.hold_s("a") == 0
    assert fail(instances, 1) == 5.0
    assert instances.hold_s("a") > 0


def test_a_send_in_between_starts_the_count_again(instances: Instances):
    fail(instances, 4)
    assert not instances.sent("a")
    assert fail(instances, 4) == 0


def test_the_others_go_on(instances: Instances):
    fail(instances, 9)
    assert instances.hold_s("b") == 0


@pytest.mark.parametrize("reason", [Reason.LOOKUP_TIMEOUT, Reason.GATEWAY_ERROR])
def test_what_may_be_the_messages_own_fault_holds_nothing(instances: Instances, reason: Reason):
    assert fail(instances, 50, exc=NotSent("x", reason=reason)) == 0
    assert instances.hold_s("a") == 0


def test_one_message_probes_and_the_wait_doubles_up_to_a_minute(instances: Instances, clock: Clock):
    fail(instances, 5)
    waits = []
    for _ in range(6):
        wait_s = instances.hold_s("a")
        clock.now += wait_s
        assert instances.hold_s("a") == 0  # the probe
        assert instances.hold_s("a") > 0  # and no other
        waits.append(instances.failed("a", CLOSED))
    assert waits == pytest.approx([10.0, 20.0, 40.0, 60.0, 60.0, 60.0])


def test_failures_of_what_was_under_way_do_not_lengthen_the_wait(instances: Instances):
    fail(instances, 5)
    assert fail(instances, 9) == 5.0


def test_a_probe_that_was_sent_ends_it(instances: Instances, clock: Clock):
    fail(instances, 5)
    clock.now += 5
    assert instances.hold_s("a") == 0
    assert instances.sent("a")
    assert instances.hold_s("a") == instances.hold_s("a") == 0


def test_what_is_held_back_comes_back_spread_out(instances: Instances):
    fail(instances, 5)
    waits = [instances.hold_s("a") for _ in range(100_000)]
    assert waits == sorted(waits)
    assert waits[199] - waits[0] == pytest.approx(199 / 20)
    assert waits[-1] == 5 + 600


def test_a_wrong_key_or_instance_holds_at_once(instances: Instances):
    assert instances.failed("a", Misconfigured("x", reason=Reason.UNAUTHORIZED)) == 30.0
    assert instances.hold_s("a") > 30.0


def test_a_number_that_is_too_fast_waits_as_long_as_it_is_told_and_then_goes(instances: Instances, clock: Clock):
    assert instances.failed("a", Throttled("x", retry_after_s=7.0)) == 7.0
    assert instances.hold_s("a") > 7.0
    clock.now += 7
    assert instances.hold_s("a") == instances.hold_s("a") == 0
