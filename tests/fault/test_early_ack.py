from __future__ import annotations

import bisect
from pathlib import Path

import pytest
import redis
from early_app import TIMES
from processes import Fleet, Queue, wait_until

from ifinu.broker import NORMAL

MESSAGE = (
    b'{"headers":{"task":"tests.early","id":"%d"},"properties":{"delivery_info":{},"body_encoding":"utf-8"},'
    b'"content-type":"application/json","content-encoding":"utf-8","body":"[[],{},{}]"}'
)


@pytest.mark.alone
@pytest.mark.fault
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_the_pace_holds_for_a_task_that_is_acknowledged_early(
    fleet: Fleet, queue: Queue, client: redis.Redis, pool: str
):
    """
    Nothing tells the consumer that a slot is free again; the pace must not depend on it.
    """
    queue.push(*(MESSAGE % number for number in range(300)))
    here = str(Path(__file__).parent)
    fleet.start(application="early_app", IFINU_POOL=pool, PYTHONPATH=here)
    wait_until(lambda: client.llen(TIMES) == 300, 40, queue.counts)
    times = sorted(float(at) for at in client.lrange(TIMES, 0, -1))
    worst = max(bisect.bisect_left(times, at + 1.0) - index for index, at in enumerate(times))
    assert worst <= 55
    assert 299 / (times[-1] - times[0]) > 40
    assert client.llen(NORMAL) == 0
