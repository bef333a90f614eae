from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Fleet, Queue, Simulated, fleet_of, numbered, stopping, wait_until
from tcp_proxy import Proxy

from ifinu.embedded import Valkey


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[Proxy]:
    with stopping(Proxy(valkey.port)) as between:
        yield between


@pytest.fixture
def fleet(tmp_path: Path, proxy: Proxy, simulator: Simulated) -> Iterator[Fleet]:
    """Workers that reach Redis through the proxy."""
    with stopping(fleet_of(tmp_path, f"redis://127.0.0.1:{proxy.port}/0", simulator.url)) as workers:
        yield workers


def once_each(simulator: Simulated, count: int) -> bool:
    sends = [send.number for send in simulator.sends()]
    return len(sends) == len(set(sends)) == count


@pytest.mark.fault
def test_connections_that_are_reset_again_and_again_lose_and_repeat_nothing(
    fleet: Fleet, queue: Queue, simulator: Simulated, proxy: Proxy
):
    simulator.control.set_fault(latency_ms=50)
    queue.push(*numbered(600))
    worker = fleet.start().ready()
    for step in range(1, 11):
        wait_until(lambda enough=step * 40: simulator.total() >= enough, 60, worker.text)
        proxy.cut()
    wait_until(queue.idle, 60, lambda: (queue.counts(), worker.text()[-2000:]))
    assert once_each(simulator, 600)
    assert worker.process.poll() is None


@pytest.mark.fault
@pytest.mark.timeout(180)
def test_a_network_that_goes_silent_stops_a_worker_only_until_it_is_back(
    fleet: Fleet, queue: Queue, simulator: Simulated, proxy: Proxy
):
    """
    No reset and no FIN: only silence. Its leases run out meanwhile, and it is alone, so nobody else may take them.
    """
    queue.push(*numbered(900))
    worker = fleet.start().ready()
    wait_until(lambda: simulator.total() >= 100)
    proxy.silence(True)
    time.sleep(15)  # the fault lasts this long
    proxy.silence(False)
    proxy.cut()  # what was swallowed is gone: a route that returns answers with resets
    wait_until(queue.idle, 90, lambda: (queue.counts(), worker.text()[-2000:]))
    assert len({send.number for send in simulator.sends()}) == 900
    assert once_each(simulator, 900)


@pytest.mark.fault
def test_a_worker_that_was_stopped_past_its_lease_sends_nothing_that_another_has_taken(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    SIGSTOP for three leases, as a suspended machine; another worker takes over what waited, and sends it once.
    """
    simulator.control.set_fault(latency_ms=20)
    queue.push(*numbered(300))
    sleeper = fleet.start().ready()
    fleet.start().ready()
    wait_until(lambda: simulator.total() >= 50)
    sleeper.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: simulator.total() >= 280, 60, queue.counts)
    sleeper.process.send_signal(signal.SIGCONT)
    wait_until(lambda: queue.idle() and simulator.total() >= 300, 60, queue.counts)
    assert len({send.number for send in simulator.sends()}) == 300
