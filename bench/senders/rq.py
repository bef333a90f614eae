"""
RQ, for `bench/peers.py`.

At least once by `Retry` (python-rq.org/docs/exceptions, "Retrying Failed Jobs"): the job of a worker that died is found
in the registry of started jobs, fails, and is tried again. Successful jobs keep no result (`result_ttl=0`).
"""

from __future__ import annotations

from typing import Any

from redis import Redis
from rq import Queue, Retry
from senders import gateway


def send(message: dict[str, Any]) -> None:
    gateway.post(message)


def publish(messages: list[dict[str, Any]]) -> None:
    queue = Queue("bench", connection=Redis.from_url(gateway.REDIS_URL))
    jobs = [Queue.prepare_data(send, (message,), retry=Retry(max=3), result_ttl=0) for message in messages]
    for start in range(0, len(jobs), 500):
        queue.enqueue_many(jobs[start : start + 500])
