from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import judge
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


@pytest.mark.fault
@pytest.mark.timeout(900)
def test_connections_that_are_reset_again_and_again_lose_and_repeat_nothing(
    fleet: Fleet, queue: Queue, simulator: Simulated, proxy: Proxy, sized, report
):
    messages, cuts = sized((600, 10), (5_000, 20))
    simulator.control.set_fault(latency_ms=50)
    queue.push(*numbered(messages))
    workers = [fleet.start().ready() for _ in range(2)]
    for step in range(1, cuts + 1):
        enough = step * messages * 2 // (cuts * 3)  # the last reset comes with a third of the messages unsent
        wait_until(lambda enough=enough: simulator.total() >= enough, 120, workers[0].text)
        proxy.cut()
    wait_until(queue.idle, 120, lambda: (queue.counts(), workers[0].text()[-2000:]))
    figures = judge(queue, simulator, messages)
    report("connections to Redis reset", f"{cuts} resets of all", figures)
    assert figures.harm() == {}
    assert [worker.process.poll() for worker in workers] == [None, None]


@pytest.mark.fault
@pytest.mark.timeout(900)
def test_a_silent_network_stops_a_worker_only_until_it_recovers(
    fleet: Fleet, queue: Queue, simulator: Simulated, proxy: Proxy, sized, report
):
    """
    The network drops packets without a reset or FIN. The leases expire meanwhile; no other worker runs to take the
    messages.
    """
    messages, silent_s = sized((300, 5), (2_000, 60))
    queue.push(*numbered(messages))
    worker = fleet.start().ready()
    wait_until(lambda: simulator.total() >= 100)
    proxy.silence(True)
    time.sleep(silent_s)  # the fault lasts this long
    proxy.silence(False)
    proxy.cut()  # connections from before the silence are reset, as by a route that returns
    wait_until(queue.idle, 120, lambda: (queue.counts(), worker.text()[-2000:]))
    figures = judge(queue, simulator, messages)
    report("network to Redis silent", f"for {silent_s} s", figures)
    assert figures.harm() == {}
    assert worker.process.poll() is None


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_a_worker_stopped_past_its_lease_sends_no_message_that_another_took_over(
    fleet: Fleet, queue: Queue, simulator: Simulated, sized, report
):
    """
    One worker is stopped by SIGSTOP, like a suspended machine; another takes its waiting messages over and looks up
    the rest.

    The stop is shorter than IFINU_UNKNOWN_GRACE_S: the stopped worker finishes its sends when it wakes, and they
    are found.
    """
    messages = sized(300, 1_500)
    simulator.control.set_fault(latency_ms=20)
    queue.push(*numbered(messages))
    grace = {"IFINU_UNKNOWN_GRACE_S": sized("30", "60")}  # for which a message in doubt waits
    sleeper = fleet.start(**grace).ready()
    fleet.start(**grace).ready()
    wait_until(lambda: simulator.total() >= 50)
    sleeper.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: simulator.total() >= messages - 20, 60, queue.counts)  # less its own sends
    sleeper.process.send_signal(signal.SIGCONT)
    wait_until(queue.idle, 90, queue.counts)
    assert sleeper.terminate() == 0
    figures = judge(queue, simulator, messages)
    report("a worker stopped for longer than its lease", "1 SIGSTOP", figures)
    assert figures.harm() == {}
