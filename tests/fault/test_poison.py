from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path

import pytest
from figures import judge
from integration.test_worker import BAD_INPUT
from lethal_app import AFTER_THE_CLAIM, AT_THE_LOOK_UP, BEFORE_THE_CLAIM
from processes import FIRST_NUMBER, Fleet, Queue, Simulated, Worker, numbered, raw, wait_until

LETHAL = {"application": "lethal_app", "PYTHONPATH": str(Path(__file__).parent), "IFINU_LEASE_S": "2"}


class Deployment:
    """Workers that are replaced when they die, as an orchestrator does."""

    def __init__(self, start: Callable[[], Worker], replicas: int) -> None:
        self._start = start
        self._alive = [start() for _ in range(replicas)]
        self.deaths = 0

    def tend(self) -> bool:
        """Replace the dead workers. Returns True, so that a `wait_until` fact can call it."""
        for index, worker in enumerate(self._alive):
            if worker.process.poll() is not None:
                self.deaths += 1
                self._alive[index] = self._start()
        return True


def among_others(count: int, deadly: bytes) -> list[bytes]:
    """Numbered messages with the deadly one in the middle."""
    messages = numbered(count)
    messages[count // 2] = deadly
    return messages


@pytest.mark.fault
def test_a_message_that_kills_three_workers_is_quarantined_and_the_others_flow(
    fleet: Fleet, queue: Queue, simulator: Simulated, report
):
    """
    The worker dies while it decodes, before the claim.
    """
    number = 75
    deadly = raw(number, telefone=f"77 9{FIRST_NUMBER + number}", descricao=BEFORE_THE_CLAIM)
    queue.push(*among_others(150, deadly))
    pods = Deployment(lambda: fleet.start(**LETHAL), 2)
    wait_until(lambda: pods.tend() and pods.deaths >= 3 and queue.dead() and queue.idle(), 60, queue.counts)
    figures = judge(queue, simulator, 150)
    report("poison", f"{pods.deaths} workers died", figures)
    assert pods.deaths == 3
    assert figures.harm() == {"dead": {f"test_{number}": "poison"}}
    (letter,) = queue.dead()
    assert letter["raw"].encode() == deadly


@pytest.mark.fault
def test_a_message_that_kills_its_sender_is_sent_again_once_and_then_held(
    fleet: Fleet, queue: Queue, simulator: Simulated, report
):
    """
    The worker dies right before the POST. Each time the send is unknown, so a third try is left to a person.
    """
    number = 75
    deadly = raw(number, telefone=f"77 9{FIRST_NUMBER + number}", texto=AFTER_THE_CLAIM)
    queue.push(*among_others(150, deadly))
    pods = Deployment(lambda: fleet.start(**LETHAL), 2)
    wait_until(lambda: pods.tend() and pods.deaths >= 2 and queue.dead() and queue.idle(), 90, queue.counts)
    figures = judge(queue, simulator, 150)
    report("a message that kills its sender", f"{pods.deaths} workers died", figures)
    name = f"test_{number}"
    assert pods.deaths == 2
    assert figures.harm() == {"dead": {name: "unknown"}, "unresolved": {name}}
    assert name in figures.resent


@pytest.mark.fault
def test_bad_input_of_every_kind_and_one_of_20_mb_stop_nothing_under_load(
    fleet: Fleet, queue: Queue, simulator: Simulated, report
):
    bad = [*BAD_INPUT, (b'{"texto":"' + b"x" * 20_000_000 + b'"}', "too_large")]
    messages = numbered(20 * len(bad))
    for index, (message, _) in enumerate(bad):
        queue.push(*messages[20 * index : 20 * (index + 1)], message)
    workers = [fleet.start(IFINU_RATE_LIMIT="100/s").ready() for _ in range(2)]
    wait_until(queue.idle, 60, queue.counts)
    figures = judge(queue, simulator, len(messages))
    report("bad input of every kind, and of 20 MB", f"{len(bad)} bad messages", figures)
    assert figures.harm().keys() == {"dead"}
    assert figures.unknown == {}
    reasons = collections.Counter(letter["reason"] for letter in queue.dead())
    assert reasons == collections.Counter(reason for _, reason in bad)
    assert [worker.process.poll() for worker in workers] == [None, None]


@pytest.mark.fault
def test_a_message_in_doubt_stays_unknown_if_its_look_ups_kill_the_worker(
    fleet: Fleet, queue: Queue, simulator: Simulated, report
):
    """
    The worker dies in the middle of the send, and the next ones during the look-up. The message is quarantined, and
    still
    counts as possibly sent.
    """
    deadly = raw(30, telefone=f"77 9{AT_THE_LOOK_UP}", texto=AFTER_THE_CLAIM)
    queue.push(*among_others(60, deadly))
    pods = Deployment(lambda: fleet.start(**LETHAL), 2)
    wait_until(lambda: pods.tend() and pods.deaths >= 3 and queue.dead() and queue.idle(), 60, queue.counts)
    figures = judge(queue, simulator, 60)
    report("a message that kills the worker that looks it up", f"{pods.deaths} workers died", figures)
    assert pods.deaths == 3
    assert figures.harm() == {"dead": {"test_30": "poison"}, "unresolved": {"test_30"}}
