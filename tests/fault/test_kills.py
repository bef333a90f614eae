from __future__ import annotations

import random
import time

import pytest
from processes import Fleet, Queue, Simulated, numbered, wait_until


@pytest.mark.fault
@pytest.mark.timeout(900)
def test_no_message_is_lost_to_kill_9_of_random_workers(
    fleet: Fleet, queue: Queue, simulator: Simulated, size: dict[str, int], capsys: pytest.CaptureFixture[str]
):
    """
    Every id is sent at least once, however often whole workers die under load.
    """
    draw = random.Random(7)
    messages, kills = size["messages"], size["kills"]
    queue.push(*numbered(messages))
    pace = {"IFINU_RATE_LIMIT": "200/s", "IFINU_RATE_BURST": "20"}
    alive = [fleet.start(**pace) for _ in range(2)]
    for worker in alive:
        worker.ready()
    for _ in range(kills):
        # At a moment when it surely holds messages, somewhere in the next half second of its work.
        wait_until(lambda: queue.counts()["in_flight"] > 20, 60, queue.counts)
        time.sleep(draw.random() / 2)
        victim = alive.pop(draw.randrange(len(alive)))
        victim.kill()
        alive.append(fleet.start(**pace))
    wait_until(queue.idle, 120, queue.counts)
    sends = simulator.sends()
    distinct = len({send.number for send in sends})
    with capsys.disabled():
        print(
            f"\n{messages} messages, {kills} kill -9: {distinct} sent, {messages - distinct} lost, "
            f"{len(sends) - distinct} sent again"
        )
    assert distinct == messages
    assert queue.dead() == []


@pytest.mark.fault
def test_a_dead_workers_messages_are_back_within_its_lease_and_a_living_ones_never(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    A lease of 3 s; sends that take 10 s. The living worker keeps its messages past the lease, the dead one's return.
    """
    simulator.control.set_fault(latency_ms=10_000)
    queue.push(*numbered(40))
    keeper = fleet.start().ready()
    wait_until(lambda: queue.counts()["in_flight"] == 40)
    queue.push(*numbered(80)[40:])
    victim = fleet.start().ready()
    wait_until(lambda: queue.counts()["in_flight"] == 80)
    fleet.start(IFINU_CONCURRENCY="1", IFINU_RATE_LIMIT="1/h", IFINU_HEARTBEAT_FILE="").ready()
    victim.kill()
    # The two that live hold 40 and 4; the rest of the dead one's is back on the list.
    wait_until(lambda: queue.counts()["ready"] == 36, 20, queue.counts)
    assert queue.counts()["in_flight"] == 44
    assert keeper.process.poll() is None
    assert len({send.number for send in simulator.sends()}) == len(simulator.sends())
