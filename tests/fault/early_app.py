"""The application with one more task, which is acknowledged before it runs."""

from __future__ import annotations

import time

import redis

from ifinu.worker.app import app

TIMES = "times"


@app.task(name="tests.early", acks_late=False, rate_limit="50/s", rate_burst=5)
def early() -> None:
    """Note when it ran."""
    with redis.Redis.from_url(app.settings.redis_url.get_secret_value()) as client:
        client.rpush(TIMES, repr(time.time()))
