"""
A team's first implementation with Celery on Redis and `requests`, the baseline of `bench/cost.py`.

It has no raw JSON, no validation, no templates, no pace, no claims and no dead letters. Its task posts a ready text. It
keeps one session a thread and acknowledges late.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import requests
from celery import Celery

app = Celery("stock", broker=os.environ.get("STOCK_REDIS_URL"))
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)
_local = threading.local()


@app.task(name="stock.send")
def send(message: dict[str, Any]) -> None:
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.headers["apikey"] = os.environ["IFINU_EVOLUTION_API_KEY"]
    answer = _local.session.post(
        f"{os.environ['IFINU_EVOLUTION_URL']}/message/sendText/ifinu",
        json={"number": message["number"], "text": message["text"], "linkPreview": False},
        timeout=(5, 75),
    )
    answer.raise_for_status()
