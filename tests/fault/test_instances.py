from __future__ import annotations

import pytest
from figures import judge
from processes import FIRST_NUMBER, Fleet, Queue, Simulated, numbered, raw, wait_until


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_an_instance_that_is_closed_holds_its_own_messages_and_no_others(
    fleet: Fleet, queue: Queue, simulator: Simulated, sized, report
):
    """
    Messages of the other instance pass; those of the closed one wait in the delayed set until it is open again.
    """
    messages = sized(300, 3_000)
    names = "ifinu", "other"
    simulator.control.set_instance("ifinu", state="close")
    queue.push(*(raw(i, telefone=f"77 9{FIRST_NUMBER + i}", instancia=names[i % 2]) for i in range(messages)))
    workers = [fleet.start().ready() for _ in range(sized(1, 2))]
    waiting = messages // 2 - 20  # all but those being tried
    wait_until(lambda: simulator.total() == messages // 2 and queue.counts()["delayed"] > waiting, 90, queue.counts)
    assert {send.instance for send in simulator.sends()} == {"other"}
    failed = simulator.control.summary()["posts"]["total"] - messages // 2

    simulator.control.set_instance("ifinu", state="open")
    wait_until(queue.idle, sized(60, 300), lambda: (queue.counts(), workers[0].text()[-2000:]))
    figures = judge(queue, simulator, messages)
    report("one of two instances closed", f"{failed} tries until it was held", figures)
    assert figures.harm() == {}
    assert figures.tries <= 4
    assert failed <= 20 * len(workers)  # a few at once before the hold, and a probe now and then


@pytest.mark.fault
def test_a_number_that_always_fails_holds_up_no_other_and_is_a_dead_letter_in_the_end(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    "Connection Closed" is the answer of an instance that lost WhatsApp. Here only two numbers get it.
    """
    bad = [raw(f"bad{i}", telefone=f"77 9777700{i}0") for i in range(2)]
    simulator.control.set_fault(endings={"770000": ["lookup_closed"], "770010": ["lookup_closed"]})
    queue.push(*bad, *numbered(100))
    worker = fleet.start()
    wait_until(lambda: simulator.total() == 100, 60, lambda: (queue.counts(), worker.text()[-2000:]))
    wait_until(queue.idle, 60, lambda: (queue.counts(), worker.text()[-2000:]))
    assert [(letter["reason"], letter["attempts"]) for letter in queue.dead()] == [("connection_closed", 4)] * 2
    assert len({send.number for send in simulator.sends()}) == 100


@pytest.mark.fault
def test_messages_to_instances_that_do_not_exist_hold_up_no_others_and_are_dead_letters_in_the_end(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    The end comes with a worker that waits less long for an instance.
    """
    missing = [raw(f"lost{i}", telefone=f"77 9{FIRST_NUMBER + i}", instancia=f"loja {i}") for i in range(150)]
    queue.push(*missing, *numbered(60))
    worker = fleet.start(IFINU_INSTANCE_MISSING_TTL_S="3600", IFINU_MISCONFIGURED_WAIT_S="1")
    wait_until(lambda: simulator.total() == 60, 40, lambda: (queue.counts(), worker.text()[-2000:]))
    assert queue.dead() == []
    assert worker.ready().terminate() == 0
    worker = fleet.start(IFINU_INSTANCE_MISSING_TTL_S="4", IFINU_MISCONFIGURED_WAIT_S="1")
    wait_until(queue.idle, 90, lambda: (queue.counts(), worker.text()[-2000:]))
    assert {letter["reason"] for letter in queue.dead()} == {"instance_not_found"}
    assert len(queue.dead()) == 150
