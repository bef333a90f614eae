from __future__ import annotations

import pytest
from figures import judge
from processes import FIRST_NUMBER, Fleet, Queue, Simulated, raw, wait_until


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_an_instance_that_is_closed_holds_its_own_messages_and_no_others(
    fleet: Fleet, queue: Queue, simulator: Simulated, sized, tell
):
    """
    Those of the other go past it; its own wait in the delayed set, and go when it is open again.
    """
    messages = sized(300, 3_000)
    names = "ifinu", "other"
    simulator.control.set_instance("ifinu", state="close")
    queue.push(*(raw(i, telefone=f"77 9{FIRST_NUMBER + i}", instancia=names[i % 2]) for i in range(messages)))
    workers = [fleet.start().ready() for _ in range(sized(1, 2))]
    wait_until(lambda: simulator.total() == messages // 2 and not queue.counts()["ready"], 90, queue.counts)
    assert {send.instance for send in simulator.sends()} == {"other"}
    assert queue.counts()["delayed"] > messages // 2 - 20  # all but what is being tried
    failed = simulator.control.summary()["posts"]["total"] - messages // 2

    simulator.control.set_instance("ifinu", state="open")
    wait_until(queue.idle, sized(60, 300), lambda: (queue.counts(), workers[0].text()[-2000:]))
    figures = judge(queue, simulator, messages)
    tell("one of two instances closed", f"{failed} tries until it was held", figures)
    assert figures.harm() == {}
    assert figures.tries <= 4
    assert failed <= 20 * len(workers)  # some at once before it is held, and a probe now and then
