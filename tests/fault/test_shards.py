from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import judge
from processes import FIRST_NUMBER, Fleet, Queue, fleet_of, raw, stopping, wait_until
from shards import ELSEWHERE, NAME, pods
from shards_app import FILE

from ifinu.simulator import Cluster as Pods
from ifinu.simulator import Send

HELD = {"pod-0": ["a", "b"], "pod-1": ["c"], "pod-2": ["d"]}
NAMES = "abcd"
NO_RETRY = {"IFINU_MAX_RETRIES": "0"}  # an attempt that counted as a try would fill the dead letters


class Cluster:
    """The gateway processes, and the DNS name of those that run."""

    def __init__(self, running: Pods, file: Path) -> None:
        self.running = running
        self.file = file
        self.update_name()

    def update_name(self) -> None:
        """Write the running processes' addresses to the file that resolves the name."""
        new = self.file.with_suffix(".new")
        new.write_text("\n".join(self.running.addresses.values()))
        new.rename(self.file)

    def sends(self) -> list[Send]:
        return self.running.sends

    def unrecorded(self) -> int:
        return int(self.running.summary()["posts"]["by_outcome"].get("dropped_before_its_row", 0))

    def of(self, *instances: str) -> int:
        """The number of messages that these instances sent."""
        return sum(send.instance in instances for send in self.sends())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with pods(HELD, script={"endings": {}, "latency_ms": 20, "insert_ms": 5}) as running:
        yield Cluster(running, tmp_path / "addresses")


@pytest.fixture
def fleet(tmp_path: Path, valkey, cluster: Cluster) -> Iterator[Fleet]:
    with stopping(fleet_of(tmp_path, valkey.url, f"http://{NAME}:{cluster.running.port}")) as workers:
        yield workers


def sharded(fleet: Fleet, cluster: Cluster, **environment: str):
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent)))
    more = {"IFINU_EVOLUTION_SHARDED": "true", FILE: str(cluster.file), "PYTHONPATH": path, **NO_RETRY, **environment}
    return fleet.start(application="shards_app", **more)


def messages(count: int) -> list[bytes]:
    return [raw(i, telefone=f"77 9{FIRST_NUMBER + i}", instancia=NAMES[i % len(NAMES)]) for i in range(count)]


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_each_message_arrives_once_while_instances_move_from_process_to_process(
    fleet: Fleet, queue: Queue, cluster: Cluster, sized, report
):
    """
    An answer from the wrong process costs one look-up of the instance, and no try.
    """
    count, moves = sized((200, 6), (3_000, 60))
    part = count // (moves + 2)
    queue.push(*messages(count)[: 2 * part])
    workers = [sharded(fleet, cluster).ready() for _ in range(sized(1, 2))]
    turns = itertools.cycle([("a", "pod-1"), ("b", "pod-2"), ("a", "pod-2"), ("c", "pod-0"), ("a", "pod-0")])
    for number, (instance, to) in enumerate(itertools.islice(turns, moves), 1):
        # More messages of each instance wait at each move, and follow it.
        wait_until(lambda seen=number: len(cluster.sends()) > part * seen, 120, queue.counts)
        cluster.running.move(instance, to)
        queue.push(*messages(count)[(number + 1) * part : (number + 2) * part if number < moves else count])
    wait_until(queue.idle, 120, lambda: (queue.counts(), workers[0].text()[-2000:]))
    figures = judge(queue, cluster, count)
    report("instances that move between gateway processes", f"{moves} moves", figures)
    assert figures.harm() == {}
    assert figures.tries == 1
    assert not figures.unknown
    assert cluster.running.summary()["posts"]["by_outcome"]["wrong_shard"] >= moves // 2  # the wrong process was tried


@pytest.mark.fault
@pytest.mark.timeout(600)
@pytest.mark.parametrize("noticed", [True, False], ids=["its address is gone", "its address stays"])
def test_a_process_that_dies_holds_back_its_own_instances_until_it_is_back_at_another_address(
    fleet: Fleet, queue: Queue, cluster: Cluster, sized, report, noticed: bool
):
    count = sized(240, 2_000)
    queue.push(*messages(count))
    workers = [sharded(fleet, cluster).ready() for _ in range(sized(1, 2))]
    wait_until(lambda: cluster.of("c") >= 10, 60, queue.counts)

    for name in HELD:
        cluster.running.set_fault(name, latency_ms=150)  # so that it dies in the middle of sends
    wait_until(lambda: cluster.of("c") >= 15, 60, queue.counts)
    cluster.running.kill("pod-1")
    if noticed:
        cluster.update_name()
    went = cluster.of("c")
    wait_until(lambda: cluster.of("a", "b", "d") == count * 3 // 4, sized(60, 300), queue.counts)
    assert cluster.of("c") == went
    assert queue.counts()["dead"] == 0

    cluster.running.revive("pod-1", ELSEWHERE)
    cluster.update_name()
    wait_until(queue.idle, sized(90, 300), lambda: (queue.counts(), workers[0].text()[-2000:]))
    figures = judge(queue, cluster, count)
    report("one of three gateway processes away", f"back elsewhere, {'noticed' if noticed else 'unnoticed'}", figures)
    assert figures.harm() == {}
    assert figures.tries == 1
    assert '"ifinu.gateway.away"' not in workers[0].text()  # only a part of the gateway is away


@pytest.mark.fault
def test_all_processes_away_is_an_outage_that_costs_no_try(fleet: Fleet, queue: Queue, cluster: Cluster):
    """
    The DNS name has no address during the outage.
    """
    queue.push(*messages(120)[:60])
    worker = sharded(fleet, cluster).ready()
    wait_until(lambda: len(cluster.sends()) >= 30, 60, queue.counts)
    for name in HELD:
        cluster.running.kill(name)
    cluster.update_name()
    queue.push(*messages(120)[60:])
    wait_until(lambda: '"ifinu.gateway.away"' in worker.text(), 60, worker.text)
    for name in HELD:
        cluster.running.revive(name)
    cluster.update_name()
    wait_until(queue.idle, 90, lambda: (queue.counts(), worker.text()[-2000:]))
    figures = judge(queue, cluster, 120)
    assert figures.harm() == {}
    assert figures.tries == 1
    assert '"ifinu.gateway.back"' in worker.text()


@pytest.mark.fault
def test_a_route_found_by_one_worker_is_shared_in_redis(fleet: Fleet, queue: Queue, cluster: Cluster):
    queue.push(*messages(40))
    sharded(fleet, cluster).ready()
    wait_until(queue.idle, 60, queue.counts)
    found = {name: queue.client.hget(f"ifinu:instancia:{name}", "shard") for name in NAMES}
    assert found == {"a": b"127.0.0.1", "b": b"127.0.0.1", "c": b"127.0.0.2", "d": b"127.0.0.3"}
