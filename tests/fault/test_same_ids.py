from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from figures import judge
from processes import FIRST_NUMBER, Fleet, Queue, Simulated, wait_until

from ifinu import enqueue_many
from ifinu.broker.events import Name
from ifinu.broker.keys import EVENTS


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_an_id_enqueued_by_several_producers_at_once_is_sent_once(
    fleet: Fleet, queue: Queue, simulator: Simulated, sized, report
):
    """
    All producers start together while workers consume; each pushes every id.
    """
    producers, ids = sized((20, 200), (100, 1_000))
    due = (datetime.now(UTC) + timedelta(days=10)).date().isoformat()
    notifications = [
        {
            "id": f"test_{number}", "kind": "lembrete", "phone": f"77 9{FIRST_NUMBER + number}", "name": "Maria",
            "amount": "10.00", "due_date": due, "description": "Mensalidade",
        }
        for number in range(ids)
    ]  # fmt: skip
    together = threading.Barrier(producers)

    def produce(_: int) -> int:
        together.wait(30)
        return enqueue_many(notifications, client=queue.client).accepted

    for _ in range(2):
        fleet.start(IFINU_SANDBOX_NUMBER="", IFINU_RATE_LIMIT="2000/s", IFINU_RATE_BURST="100").ready()
    with ThreadPoolExecutor(producers) as pool:
        assert list(pool.map(produce, range(producers))) == [ids] * producers
    wait_until(queue.idle, sized(60, 900), queue.counts)
    figures = judge(queue, simulator, ids)
    report("the same ids from many producers", f"{producers} producers at once", figures)
    assert figures.harm() == {}
    assert figures.unknown == {}
    duplicates = sum(fields[b"event"].decode() == Name.DUPLICATE for _, fields in queue.client.xrange(EVENTS))
    assert duplicates == (producers - 1) * ids
