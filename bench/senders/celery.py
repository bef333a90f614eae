"""
A team's first version: Celery on Redis and `requests`, for `bench/peers.py` to compare with.

It has no raw JSON, no validation, no template, no pace, no claim and no dead letters; its task posts a finished text.
It does reuse one session per thread. At least once, as docs.celeryq.dev has it: `task_acks_late` and, so that a killed
child process does not acknowledge, `task_reject_on_worker_lost` (userguide/configuration).
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from senders import gateway

app = Celery("stock", broker=gateway.REDIS_URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name="stock.send")
def send(message: dict[str, Any]) -> None:
    gateway.post(message)


def publish(messages: list[dict[str, Any]]) -> None:
    with app.producer_or_acquire() as producer:
        for message in messages:
            send.apply_async((message,), producer=producer)
