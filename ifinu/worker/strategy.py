"""Celery's execution strategy for our task: from a message that arrived to a request that waits for its turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Task, signals
from celery.worker import state

from ifinu.worker.request import Request


def strategy(task: Task, app: Any, consumer: Any) -> Callable[..., None]:
    """
    The handler of the task's messages. A message with an `eta` arrives when that has come, so none waits here.

    Args:
        consumer: The worker's consumer, which makes a handler for each connection.
    """

    def receive(message: Any, _: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        request = Request(message, task=task, app=app, on_ack=ack, on_reject=reject, consumer=consumer)
        if request.may_be_revoked and request.revoked():
            return
        signals.task_received.send(sender=consumer, request=request)
        request.announce()
        bucket = None if consumer.disable_rate_limits else consumer.task_buckets[task.name]
        if bucket is not None:
            consumer._limit_task(request, bucket, 1)
            return
        state.task_reserved(request)
        for callback in callbacks:
            callback(request)
        consumer.on_task_request(request)

    return receive
