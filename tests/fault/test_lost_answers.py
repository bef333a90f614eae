from __future__ import annotations

import pytest
from figures import judge
from processes import Fleet, Queue, Simulated, numbered, wait_until

# One send in a thousand hangs without being sent; its second try works.
UNSENT = "019"


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_a_message_whose_answer_was_lost_is_looked_up_and_not_resent_on_suspicion(
    fleet: Fleet, queue: Queue, simulator: Simulated, sized, report
):
    """
    In one of twenty sends, the gateway sends and drops the connection, hangs past the timeout, or a proxy gives up.
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
    report("answers lost after the send", f"{len(figures.unknown)} answers lost", figures)
    assert figures.harm() == {}
    assert len(figures.found) > messages // 40
    assert figures.resent == {f"test_{number}" for number in range(int(UNSENT), messages, 1000)}


@pytest.mark.fault
def test_with_hold_a_message_missing_at_the_gateway_is_left_to_a_person(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    Messages that the gateway has stored count as sent.
    """
    simulator.control.set_fault(hang_ms=6_000, endings={"0": ["hang_unsent"], "1": ["hang"]})
    queue.push(*numbered(20))
    fleet.start(IFINU_ON_UNKNOWN="hold", IFINU_EVOLUTION_READ_TIMEOUT_S="3")
    wait_until(queue.idle, 40, queue.counts)
    figures = judge(queue, simulator, 20)
    held = {"test_0", "test_10"}
    assert figures.harm() == {"dead": dict.fromkeys(held, "unknown"), "unresolved": held}
    assert figures.found == {"test_1", "test_11"}
    assert figures.resent == set()
