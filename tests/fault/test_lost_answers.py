from __future__ import annotations

import pytest
from figures import judge
from processes import Fleet, Queue, Simulated, numbered, wait_until

# One in a thousand hangs and was not sent; then it works.
UNSENT = "019"


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_an_answer_that_is_lost_is_looked_up_and_never_sent_again_on_suspicion(
    fleet: Fleet, queue: Queue, simulator: Simulated, sized, tell
):
    """
    The gateway sends and drops the connection, or hangs past the timeout, or a proxy gives up: one in twenty.
    """
    messages, workers = sized((1_500, 2), (50_000, 2))
    simulator.control.set_fault(
        latency_ms=10,
        hang_ms=6_000,
        rates={"sent_then_reset": 0.02, "hang": 0.02, "sent_then_gateway_timeout": 0.01},
        endings={UNSENT: ["hang_unsent", "ok"]},
    )
    queue.push(*numbered(messages))
    for _ in range(workers):
        fleet.start(IFINU_RATE_LIMIT="200/s", IFINU_RATE_BURST="20", IFINU_EVOLUTION_READ_TIMEOUT_S="2")
    wait_until(queue.idle, sized(60, 900), queue.counts)
    figures = judge(queue, simulator, messages)
    tell("answers lost after the send", f"{len(figures.unknown)} answers lost", figures)
    assert figures.harm() == {}
    assert len(figures.found) > messages // 40
    assert figures.resent == {f"test_{number}" for number in range(int(UNSENT), messages, 1000)}


@pytest.mark.fault
def test_what_the_gateway_does_not_have_is_held_for_a_person_where_that_is_asked_for(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    And what it has is not.
    """
    simulator.control.set_fault(hang_ms=6_000, endings={"0": ["hang_unsent"], "1": ["hang"]})
    queue.push(*numbered(20))
    fleet.start(IFINU_ON_UNKNOWN="hold", IFINU_EVOLUTION_READ_TIMEOUT_S="1")
    wait_until(queue.idle, 40, queue.counts)
    figures = judge(queue, simulator, 20)
    held = {"test_0", "test_10"}
    assert figures.harm() == {"dead": dict.fromkeys(held, "unknown"), "unresolved": held}
    assert figures.found == {"test_1", "test_11"}
    assert figures.resent == set()
