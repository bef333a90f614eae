from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from figures import judge
from processes import Fleet, Queue, Simulated, Worker, numbered, wait_until

NO_RETRY = {"IFINU_MAX_RETRIES": "0"}  # if an outage counted as a try, it would fill the dead letters


def aways(*workers: Worker) -> int:
    """How often these workers found that the gateway is away."""
    return _logged("ifinu.gateway.away", workers)


def backs(*workers: Worker) -> int:
    """How often they found that it is back."""
    return _logged("ifinu.gateway.back", workers)


def _logged(event: str, workers: Sequence[Worker]) -> int:
    return sum(worker.text().count(f'"{event}"') for worker in workers)


@pytest.mark.fault
@pytest.mark.parametrize("gateway", ["unavailable", "refuse", "reset"])
def test_a_gateway_outage_costs_time_but_no_message_and_no_try(
    fleet: Fleet, queue: Queue, simulator: Simulated, gateway: str
):
    queue.push(*numbered(100)[:50])
    worker = fleet.start(**NO_RETRY).ready()
    wait_until(lambda: simulator.total() >= 30)
    simulator.control.set_fault(gateway=gateway, for_s=3)  # even the simulator's record cannot be read meanwhile
    queue.push(*numbered(100)[50:])
    wait_until(lambda: aways(worker), 20, worker.text)
    wait_until(queue.idle, 60, lambda: (queue.counts(), worker.text()[-2000:]))
    figures = judge(queue, simulator, 100)
    assert figures.harm() == {}
    assert figures.tries == 1
    # Each probe is a POST. Without the breaker, every message would be posted again and again.
    assert simulator.control.summary()["posts"]["total"] < 100 + 30
    assert '"ifinu.gateway.back"' in worker.text()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("outcome", "said", "retries"),
    [
        ("database_down", "ifinu.gateway.away", "0"),  # all of its instances wait
        ("never_connected", "ifinu.instance.held", "1"),  # for some seconds after its restart
        ("lookup_closed", "ifinu.instance.held", "1"),
    ],
)
def test_a_gateway_that_answers_without_its_database_or_instances_burns_no_try(
    fleet: Fleet, queue: Queue, simulator: Simulated, outcome: str, said: str, retries: str
):
    """
    The first failure may be the number's fault, and counts as a try until the instance is known to be at fault.
    """
    queue.push(*numbered(80)[:40])
    worker = fleet.start(IFINU_MAX_RETRIES=retries).ready()
    wait_until(lambda: simulator.total() >= 20)
    simulator.control.set_fault(rates={outcome: 1.0})
    queue.push(*numbered(80)[40:])
    wait_until(lambda: f'"{said}"' in worker.text(), 20, lambda: worker.text()[-2000:])
    time.sleep(4)  # the outage
    assert queue.dead() == []
    simulator.control.set_fault(rates={})
    wait_until(queue.idle, 60, lambda: (queue.counts(), worker.text()[-2000:]))
    figures = judge(queue, simulator, 80)
    assert figures.harm() == {}
    assert figures.tries == 1
    assert simulator.control.summary()["posts"]["total"] < 80 + 30


@pytest.mark.fault
@pytest.mark.parametrize("on_unknown", ["resend_once", "hold"])
def test_a_send_that_the_gateway_died_before_storing_is_doubled_once_or_left_to_a_person(
    fleet: Fleet, queue: Queue, simulator: Simulated, on_unknown: str
):
    """
    No look-up can find such a send. `resend_once` sends it once more; `hold` repeats nothing.
    """
    simulator.control.set_fault(insert_ms=1_500)  # so long that some sends lack their row at any moment
    queue.push(*numbered(30))
    worker = fleet.start(IFINU_ON_UNKNOWN=on_unknown, IFINU_UNKNOWN_GRACE_S="2", **NO_RETRY).ready()
    wait_until(lambda: simulator.total() >= 12, seen=simulator.total)
    simulator.control.set_fault(gateway="refuse", for_s=1)

    def over() -> bool:
        try:
            return simulator.unrecorded() > 0 and queue.idle()
        except OSError:
            return False

    wait_until(over, 60, lambda: (queue.counts(), worker.text()[-2000:]))
    figures = judge(queue, simulator, 30)
    assert not figures.lost
    if on_unknown == "hold":
        assert figures.twice == set()
        assert len(figures.dead.keys() & figures.sent.keys()) == figures.unrecorded
        assert set(figures.dead.values()) == {"unknown"}
    else:
        assert len(figures.twice) == figures.unrecorded
        assert figures.dead == {}


@pytest.mark.fault
@pytest.mark.timeout(900)
def test_a_gateway_that_is_down_then_slow_then_flapping_burns_no_retry(
    fleet: Fleet, queue: Queue, simulator: Simulated, sized, report
):
    """
    Sending resumes within five seconds of the gateway's return; long answers keep their leases; a flap is a short
    outage.
    """
    messages, down_s, slow_s, flaps = sized((300, 7, 2, 2), (8_000, 120, 10, 15))
    in_a_flap = 50
    before = messages - flaps * in_a_flap
    each = numbered(messages)
    queue.push(*each[: before // 2])
    patient = {"IFINU_UNKNOWN_GRACE_S": str(slow_s + 3), **NO_RETRY}
    workers = [fleet.start(**patient).ready() for _ in range(sized(1, 2))]
    wait_until(lambda: simulator.total() >= 50)

    simulator.control.set_fault(gateway="refuse", for_s=down_s)
    back_at = time.time() + down_s
    queue.push(*each[before // 2 : before * 3 // 4])
    time.sleep(down_s + 1)  # the outage
    resumed = wait_until(lambda: [send.at for send in simulator.sends() if send.at > back_at - 1], 40)
    assert min(resumed) - back_at < 5

    simulator.control.set_fault(latency_ms=slow_s * 1000)
    queue.push(*each[before * 3 // 4 : before])
    slow_at = len(simulator.sends())
    wait_until(lambda: len(simulator.sends()) >= slow_at + sized(10, 60), 120, queue.counts)
    simulator.control.set_fault(latency_ms=5)

    for flap in range(flaps):
        was = aways(*workers)
        simulator.control.set_fault(gateway="unavailable")
        first = before + flap * in_a_flap
        queue.push(*each[first : first + in_a_flap])
        wait_until(lambda: aways(*workers) > was, 20, workers[0].text)  # noqa: B023 - asked within the loop
        simulator.control.set_fault(gateway="up")
        wait_until(lambda: backs(*workers) == aways(*workers), 20, workers[0].text)
    wait_until(queue.idle, sized(60, 300), lambda: (queue.counts(), workers[0].text()[-2000:]))
    figures = judge(queue, simulator, messages)
    report("gateway down, then slow, then flapping", f"{down_s} s, answers of {slow_s} s, {flaps} flaps", figures)
    assert figures.harm() == {}
    assert figures.tries == 1


@pytest.mark.fault
@pytest.mark.parametrize("gateway", ["reset", "hang"])
def test_a_gateway_that_accepts_requests_without_answering_gets_each_message_once(
    fleet: Fleet, queue: Queue, simulator: Simulated, gateway: str
):
    """
    Every answer is lost, those to look-ups too: nothing is resent before the gateway could answer a look-up.
    """
    queue.push(*numbered(150)[:80])
    worker = fleet.start(IFINU_EVOLUTION_READ_TIMEOUT_S="1", **NO_RETRY).ready()
    wait_until(lambda: simulator.total() >= 50)
    simulator.control.set_fault(gateway=gateway, for_s=3)
    queue.push(*numbered(150)[80:])
    wait_until(queue.idle, 60, lambda: (queue.counts(), worker.text()[-2000:]))
    figures = judge(queue, simulator, 150)
    assert figures.harm() == {}
    assert figures.resent
