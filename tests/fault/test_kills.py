from __future__ import annotations

import random
import time
from datetime import UTC, datetime

import pytest
from figures import judge
from pix import pix
from processes import Fleet, Queue, Simulated, numbered, raw, wait_until

from ifinu.broker import NORMAL, DeadLetters, Filter


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_kill_9_of_random_workers_loses_nothing_and_sends_nothing_twice(
    fleet: Fleet, queue: Queue, simulator: Simulated, sized, report
):
    """
    Whole process groups die each second, under load. Sends cut off between POST and settling are looked up.
    """
    draw = random.Random(7)
    messages, workers, least = sized((1_200, 2, 4), (50_000, 4, 100))
    simulator.control.set_fault(latency_ms={"uniform": [5, 60]})
    queue.push(*numbered(messages))
    pace = {"IFINU_RATE_LIMIT": "200/s", "IFINU_RATE_BURST": "20"}
    alive = [fleet.start(**pace) for _ in range(workers)]
    for worker in alive:
        worker.ready()
    kills = 0
    while queue.counts()["ready"] and kills < 2_000:
        # Kill within the next second of its work, when it surely holds messages. If those that have yet to start were
        # killed too, none would ever start on a slow machine.
        ready = wait_until(lambda: [worker for worker in alive if worker.is_ready()], 60, queue.counts)
        wait_until(lambda: queue.counts()["in_flight"] > 20 or queue.idle(), 60, queue.counts)
        time.sleep(draw.uniform(0.5, 1.0))
        victim = draw.choice(ready)
        alive.remove(victim)
        victim.kill()
        alive.append(fleet.start(**pace))
        kills += 1
    wait_until(queue.idle, 120, queue.counts)
    figures = judge(queue, simulator, messages)
    report("kill -9 of a random worker", f"{kills} kills, {figures.worker_died} in the middle of a send", figures)
    assert kills >= least
    assert figures.worker_died > 0
    # A message whose worker died twice right before the POST is held: no look-up can decide, so a person does.
    held = figures.dead.keys()
    assert set(figures.dead.values()) <= {"unknown"}
    assert held <= figures.resent
    assert len(held) <= max(1, kills // 50)
    letters = DeadLetters(queue.client, NORMAL)
    assert letters.clear(Filter(), datetime.now(UTC), letters.replay) == len(held)
    wait_until(queue.idle, 60, queue.counts)
    assert judge(queue, simulator, messages).harm() == {}


@pytest.mark.fault
def test_a_payment_code_follows_once_whichever_step_its_worker_dies_in(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    Workers die in the middle of sends of both kinds. To each phone go one text and, after it, one code.
    """
    simulator.control.set_fault(latency_ms=300)
    count = 24
    queue.push(*(raw(i, telefone=f"77 9{88880000 + i}", pix_copia_cola=pix(str(i))) for i in range(count)))
    for deaths in range(3):
        worker = fleet.start(IFINU_PIX_SEPARATE="true")
        wait_until(lambda done=deaths: simulator.total() > 8 * done + 4 or queue.idle(), 40, queue.counts)
        worker.kill()
    fleet.start(IFINU_PIX_SEPARATE="true")
    wait_until(queue.idle, 60, queue.counts)
    texts: dict[str, list[str]] = {}
    for send in simulator.sends():
        texts.setdefault(send.number, []).append(send.text)
    assert queue.dead() == []
    assert {number: sent[1:] for number, sent in texts.items()} == {
        f"5577{88880000 + i}": [pix(str(i))] for i in range(count)
    }


@pytest.mark.fault
def test_a_dead_workers_messages_are_back_within_its_lease_and_a_living_ones_never(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    The lease is 3 s and the sends outlast the test. The living worker keeps its messages past the lease; those of
    the dead worker return.
    """
    simulator.control.set_fault(latency_ms=60_000)
    queue.push(*numbered(40))
    keeper = fleet.start().ready()
    wait_until(lambda: queue.counts()["in_flight"] == 40)
    kept = held(queue)
    queue.push(*numbered(80)[40:])
    victim = fleet.start().ready()
    wait_until(lambda: queue.counts()["in_flight"] == 80)
    taken = held(queue) - kept
    fleet.start(IFINU_CONCURRENCY="1", IFINU_RATE_LIMIT="1/h", IFINU_HEARTBEAT_FILE="").ready()
    victim.kill()
    wait_until(lambda: not held(queue) & taken, 20, queue.counts)
    # The last worker holds a few of them, and may have postponed one that it found to be in doubt.
    counts = queue.counts()
    assert counts["ready"] + counts["in_flight"] + counts["delayed"] == 80
    assert counts["ready"] > 30
    assert held(queue) >= kept
    assert keeper.process.poll() is None
    numbers = [send.number for send in simulator.sends()]
    assert len(set(numbers)) == len(numbers)


def held(queue: Queue) -> set[bytes]:
    """The tags in flight: each worker that takes a message gives it another."""
    return set(queue.client.hkeys(queue.keys.in_flight))
