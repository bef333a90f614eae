from __future__ import annotations

import time

import pytest
from processes import Fleet, Queue, Simulated, numbered, wait_until


@pytest.mark.fault
@pytest.mark.parametrize(
    ("gateway", "pool"), [("refuse", "threads"), ("unavailable", "threads"), ("refuse", "prefork")]
)
def test_a_gateway_that_is_away_costs_time_and_no_message_and_no_try(
    fleet: Fleet, queue: Queue, simulator: Simulated, gateway: str, pool: str
):
    """
    Without a single retry allowed: an outage that counted as a try would fill the dead letters.
    """
    queue.push(*numbered(250))
    worker = fleet.start(IFINU_MAX_RETRIES="0", IFINU_POOL=pool).ready()
    wait_until(lambda: simulator.total() >= 50)
    simulator.control.set_fault(gateway=gateway, for_s=5)
    time.sleep(6)  # the outage, in which not even the simulator's ledger can be asked
    wait_until(queue.idle, 60, lambda: (queue.counts(), worker.text()[-2000:]))
    # A send that was under way when the gateway was killed may have been sent; nothing else is in doubt.
    doubtful = [letter["reason"] for letter in queue.dead()]
    assert doubtful == ["connection_lost"] * len(doubtful)
    sends = [send.number for send in simulator.sends()]
    assert len(set(sends)) == len(sends)
    assert 250 - len(doubtful) <= len(sends) <= 250
    # Each probe is a POST; a worker that went on would have made hundreds.
    assert simulator.control.summary()["posts"]["total"] < 250 + 30
    assert '"ifinu.gateway.away"' in worker.text()
    assert '"ifinu.gateway.back"' in worker.text()


@pytest.mark.fault
def test_sending_resumes_within_five_seconds_of_the_gateways_return(fleet: Fleet, queue: Queue, simulator: Simulated):
    queue.push(*numbered(600))
    fleet.start().ready()
    wait_until(lambda: simulator.total() >= 50)
    simulator.control.set_fault(gateway="refuse", for_s=12)
    gone_at = time.time()
    time.sleep(13)  # the outage, as above
    back = wait_until(lambda: [send.at for send in simulator.sends() if send.at > gone_at + 6], 40)
    assert min(back) - (gone_at + 12) < 5
