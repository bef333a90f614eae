"""Redis' clock decides: a worker with a wrong clock, or one that stood still, loses nothing and repeats nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from figures import judge
from processes import FIRST_NUMBER, Fleet, Queue, Simulated, Worker, numbered, raw, wait_until

AHEAD, BEHIND = "600", "-600"
HERE = {"PYTHONPATH": str(Path(__file__).parent)}  # the applications' directory


@pytest.mark.fault
@pytest.mark.parametrize("skew_s", [AHEAD, BEHIND])
def test_a_worker_with_a_wrong_clock_sends_nothing_twice_beside_a_correct_one(
    fleet: Fleet, queue: Queue, simulator: Simulated, skew_s: str
):
    """
    The gateway sends at once and stores the send 3 s later, after the worker gave up waiting: look-ups find nothing
    until then.
    """
    simulator.control.set_fault(hang_ms=3_000, endings={str(digit): ["slow_insert"] for digit in range(10)})
    quick = {"IFINU_EVOLUTION_READ_TIMEOUT_S": "1", "IFINU_UNKNOWN_GRACE_S": "12", "IFINU_CONCURRENCY": "6"}
    skewed = fleet.start(application="skewed_app", SKEW_S=skew_s, **HERE, **quick).ready()
    fleet.start(**quick).ready()
    queue.push(*numbered(12))
    wait_until(queue.idle, 60, queue.counts)
    figures = judge(queue, simulator, 12)
    assert figures.harm() == {}
    assert figures.resent == set()
    assert "ifinu.clock.off" in skewed.text()


@pytest.mark.fault
@pytest.mark.parametrize("skew_s", ["86400", "-86400"])
def test_a_worker_with_a_clock_a_day_off_expires_no_valid_message_and_keeps_the_waits(
    fleet: Fleet, queue: Queue, simulator: Simulated, skew_s: str
):
    """
    One worker runs. The first try of each number fails, so that the message waits for its retry.
    """
    simulator.control.set_fault(endings={"0": ["lookup_timeout", "ok"]})
    now = datetime.now(UTC)
    valid, over = (now + timedelta(hours=1)).isoformat(), (now - timedelta(hours=1)).isoformat()
    queue.push(*(raw(i, telefone=f"77 9{FIRST_NUMBER + i}", valido_ate=valid) for i in range(20)))
    queue.push(*(raw(i, telefone=f"77 9{FIRST_NUMBER + i}", valido_ate=over) for i in range(20, 30)))
    fleet.start(application="skewed_app", SKEW_S=skew_s, **HERE)
    wait_until(queue.idle, 40, queue.counts)
    assert simulator.total() == 20
    assert queue.dead() == []
    states = {i: queue.client.hget(f"ifinu:claim:test_{i}", "state") for i in range(30)}
    assert states == {i: b"sent" if i < 20 else b"expired" for i in range(30)}


@pytest.mark.fault
def test_a_worker_that_was_frozen_past_its_grace_does_not_send_when_it_wakes(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    The worker stops between its claim and its POST. A second one finds nothing at the gateway, waits out the grace,
    and sends.
    """
    frozen = fleet.start(application="freezing_app", IFINU_CONCURRENCY="1", IFINU_UNKNOWN_GRACE_S="2", **HERE)
    queue.push(*numbered(1))
    wait_until(lambda: _state(frozen).startswith("T"), 40, lambda: (_state(frozen), frozen.text()[-1500:]))
    other = fleet.start(IFINU_UNKNOWN_GRACE_S="2")
    wait_until(lambda: simulator.total() == 1 and queue.idle(), 60, lambda: (queue.counts(), other.text()[-1500:]))
    assert _state(frozen).startswith("T")
    os.kill(frozen.process.pid, signal.SIGCONT)
    wait_until(lambda: "ifinu.message.overtaken" in frozen.text(), 30, lambda: frozen.text()[-1500:])
    queue.push(raw("last", telefone="77 988889999"))
    wait_until(lambda: simulator.total() == 2 and queue.idle(), 30, queue.counts)
    assert judge(queue, simulator, 1).resent == {"test_0"}
    assert len({send.number for send in simulator.sends()}) == 2


def _state(worker: Worker) -> str:
    """The process' state as `ps` writes it; T means stopped."""
    ps = ["ps", "-o", "state=", "-p", str(worker.process.pid)]
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()
