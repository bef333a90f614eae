from __future__ import annotations

import signal

import pytest
from figures import judge
from processes import Fleet, Queue, Simulated, numbered, wait_until


@pytest.mark.fault
@pytest.mark.timeout(900)
def test_a_rolling_restart_of_all_workers_loses_nothing_and_repeats_nothing(
    fleet: Fleet, queue: Queue, simulator: Simulated, sized, report
):
    """
    SIGTERM under load, as in a Kubernetes rollout: the current sends are finished, and the other messages are requeued.
    """
    rounds, pods, step = sized((2, 2, 300), (10, 3, 1_000))
    simulator.control.set_fault(latency_ms={"uniform": [5, 200]})
    messages = numbered((rounds + 1) * pods * step)
    pushed = 0
    # So slow in the short form that no worker has nothing to do before it is told to end.
    pace = {"IFINU_RATE_LIMIT": sized("30/s", "100/s"), "IFINU_RATE_BURST": "10"}
    alive = [fleet.start(**pace) for _ in range(pods)]
    for _ in range(rounds * pods):
        alive.append(fleet.start(**pace).ready())
        alive[0].ready()  # before it is ready, SIGTERM ends it like any process
        queue.push(*messages[pushed : pushed + step])
        pushed += step
        wait_until(lambda: queue.counts()["in_flight"] > 20, 60, queue.counts)
        assert alive.pop(0).terminate() == 0
    queue.push(*messages[pushed:])
    wait_until(lambda: queue.counts()["in_flight"] > 20, 60, queue.counts)
    assert [worker.terminate() for worker in alive] == [0] * pods
    counts = queue.counts()
    assert (counts["in_flight"], counts["deadlines"], counts["dead"]) == (0, 0, 0)
    assert counts["ready"] + counts["delayed"] == len(messages) - simulator.total()  # before the next worker starts
    fleet.start(IFINU_RATE_LIMIT="500/s", IFINU_RATE_BURST="50", IFINU_CONCURRENCY="50")
    wait_until(queue.idle, 120, queue.counts)
    figures = judge(queue, simulator, len(messages))
    report("SIGTERM of all workers in turn", f"{rounds} rounds of {pods}", figures)
    assert figures.harm() == {}
    assert figures.unknown == {}


@pytest.mark.fault
def test_a_second_sigterm_ends_a_worker_at_once_and_its_current_sends_are_looked_up(
    fleet: Fleet, queue: Queue, simulator: Simulated, report
):
    """
    Every answer takes a minute: a worker that waited for them would end later, and with exit code 0.
    """
    simulator.control.set_fault(rates={"hang": 1.0}, hang_ms=60_000)
    queue.push(*numbered(60))
    worker = fleet.start().ready()
    wait_until(lambda: simulator.total() == 10)
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: queue.counts()["in_flight"] == 10, seen=queue.counts)  # the others are back on the list
    assert worker.process.poll() is None
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 1
    simulator.control.set_fault(rates={})
    fleet.start()
    wait_until(queue.idle, 40, queue.counts)
    figures = judge(queue, simulator, 60)
    report("a second SIGTERM", "10 sends cut off", figures)
    assert figures.harm() == {}
    assert set(figures.unknown.values()) == {"worker_died"}
    assert len(figures.found) == 10
