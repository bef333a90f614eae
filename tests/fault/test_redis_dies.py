from __future__ import annotations

from pathlib import Path

import pytest
import redis
from figures import judge
from processes import Queue, Simulated, fleet_of, numbered, redis_server, stopping, wait_until


@pytest.mark.fault
@pytest.mark.timeout(900)
def test_kill_9_of_redis_under_load_loses_nothing_and_sends_nothing_twice(
    tmp_path: Path, simulator: Simulated, sized, report
):
    """
    With `appendfsync everysec`: the kernel has what Redis wrote, and the kernel did not die.
    """
    messages, kills = sized((1_000, 3), (20_000, 20))
    simulator.control.set_fault(latency_ms={"uniform": [5, 60]})
    with (
        redis_server(tmp_path / "redis") as server,
        redis.Redis.from_url(server.url) as client,
        stopping(fleet_of(tmp_path, server.url, simulator.url)) as fleet,
    ):
        queue = Queue(client)
        assert client.config_get("append*")["appendfsync"] == "everysec"
        queue.push(*numbered(messages))
        workers = [fleet.start(IFINU_RATE_LIMIT="100/s").ready() for _ in range(2)]
        for step in range(1, kills + 1):
            enough = step * messages * 2 // (kills * 3)
            wait_until(lambda enough=enough: simulator.total() >= enough, 120, workers[0].text)
            server.kill()
            server.start()
        wait_until(queue.idle, sized(60, 300), lambda: (queue.counts(), workers[0].text()[-3000:]))
        figures = judge(queue, simulator, messages)
        report("kill -9 of Redis, and a restart", f"{kills} kills", figures)
        assert figures.harm() == {}
        assert [worker.process.poll() for worker in workers] == [None, None]
