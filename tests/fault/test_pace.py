from __future__ import annotations

import pytest
from processes import Fleet, Queue, Simulated, numbered, wait_until

pytestmark = pytest.mark.alone

# As the chart sets it; otherwise the first message asks Redis for a key.
_INSTALLED = {"IFINU_PHONE_KEY": "k" * 32, "IFINU_RATE_BURST": "5"}


@pytest.mark.fault
@pytest.mark.parametrize(
    ("limit", "per_s", "count"),
    [
        ("50/s", 50, 400),
        ("100/s", 100, 600),
        ("5/s", 5, 40),
    ],
)
def test_the_pace_is_reached_and_never_exceeded(
    fleet: Fleet, queue: Queue, simulator: Simulated, limit: str, per_s: int, count: int
):
    """
    A backlog goes at the limit, not at Celery's 1/s, and no second exceeds the limit plus the declared burst.

    The lower bound is loose, since a shared machine may stall; bench/fleet.py measures.
    """
    simulator.control.set_fault(latency_ms=30)
    queue.push(*numbered(count))
    fleet.start(IFINU_RATE_LIMIT=limit, **_INSTALLED)
    wait_until(lambda: simulator.total() == count, 60, queue.counts)
    posts = simulator.control.summary()["posts"]
    assert posts["worst_window"] <= per_s + 5
    assert posts["mean_per_s"] > 0.8 * per_s


@pytest.mark.fault
def test_a_gateway_that_was_slow_is_not_flooded_when_it_recovers(fleet: Fleet, queue: Queue, simulator: Simulated):
    """
    Ten slots of 1 s each send 10/s; the unused pace of that time is not caught up afterwards.
    """
    simulator.control.set_fault(latency_ms=1000)
    queue.push(*numbered(250))
    fleet.start(IFINU_RATE_LIMIT="50/s", **_INSTALLED)
    wait_until(lambda: simulator.total() >= 30)
    simulator.control.set_fault(latency_ms=1)
    wait_until(lambda: simulator.total() == 250, 60, queue.counts)
    assert simulator.control.summary()["posts"]["worst_window"] <= 55


@pytest.mark.fault
def test_retries_count_against_the_pace(fleet: Fleet, queue: Queue, simulator: Simulated):
    """
    A third of all sends fail and are retried: attempts, not messages, keep the limit.
    """
    simulator.control.set_fault(latency_ms=10, rates={"lookup_closed": 0.33})
    queue.push(*numbered(200))
    fleet.start(IFINU_RATE_LIMIT="50/s", IFINU_MAX_RETRIES="20", **_INSTALLED)
    wait_until(lambda: queue.idle() and simulator.total() == 200, 60, queue.counts)
    posts = simulator.control.summary()["posts"]
    assert posts["total"] > 230
    assert posts["worst_window"] <= 55
