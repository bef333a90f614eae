"""Redis' clock decides: a worker whose own clock is wrong, or stood still, sends nothing twice and loses nothing."""

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
HERE = {"PYTHONPATH": str(Path(__file__).parent)}  # of the applications


@pytest.mark.fault
@pytest.mark.parametrize("skew_s", [AHEAD, BEHIND])
def test_a_worker_whose_clock_is_wrong_sends_nothing_twice_beside_a_good_one(
    fleet: Fleet, queue: Queue, simulator: Simulated, skew_s: str
):
    """
    The gateway sends at once and stores 3 s later, after the answer was given up: until then a look-up finds nothing.
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
def test_a_worker_a_day_off_expires_nothing_that_is_valid_and_keeps_the_waits(
    fleet: Fleet, queue: Queue, simulator: Simulated, skew_s: str
):
    """
    It alone is there. Of each number the first try fails, so that it waits for its retry.
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
    It stops between its claim and its POST. Another finds nothing at the gateway, waits for the grace, and sends.
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
    """As `ps` writes it: T is stopped."""
    ps = ["ps", "-o", "state=", "-p", str(worker.process.pid)]
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()
