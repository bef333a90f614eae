"""
Celery's consumer with three differences: the pace, the return of messages that were fetched and not started, and
acknowledgements outside the event loop.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from time import monotonic
from typing import Any

import structlog
from celery.exceptions import InvalidTaskError
from celery.platforms import EX_FAILURE
from celery.utils.time import rate
from celery.worker import state
from celery.worker.consumer import Consumer

from ifinu.broker import intake
from ifinu.broker import leases as _leases
from ifinu.worker.token_bucket import TokenBucket

log = structlog.get_logger(__name__)

_SHORTEST_WAIT_S = 0.0005
_OVERDUE_S = 0.5


class PacedConsumer(Consumer):
    """`worker_consumer` of the application."""

    leases: _leases.Leases | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._timers: dict[TokenBucket, tuple[float, Any]] = {}  # when the one timer of a bucket is due, and the timer
        self._no_slot: set[TokenBucket] = set()  # buckets that only lack a free slot
        # Gossip and mingle make each worker read the events of all others, and nothing here uses them.
        super().__init__(*args, **{**kwargs, "without_gossip": True, "without_mingle": True})
        self.pool.on_end = self._use_slot

    def ensure_connected(self, conn: Any) -> Any:
        """Connect to Redis, as stock does, while the sends under way go on."""
        return self.pool.loop.run_beside(functools.partial(super().ensure_connected, conn))

    # -- pace

    def bucket_for_task(self, task: Any) -> TokenBucket | None:
        """The bucket of a task; None if it has no limit."""
        limit = rate(getattr(task, "rate_limit", None))
        if not limit:
            return None
        # Two fifths of the burst are reserved for jitter between the token and the gateway.
        bucket = TokenBucket(limit, max(1, math.ceil(getattr(task, "rate_burst", 1) * 0.6)))
        if task.name == intake.TASK:
            self.app.bucket = bucket
        return bucket

    def reset_rate_limits(self) -> None:
        """Make the buckets. `celery control rate_limit` calls this too, and waiting messages must go on waiting."""
        old = {name: bucket for name, bucket in self.task_buckets.items() if bucket}
        super().reset_rate_limits()
        for name, bucket in old.items():
            new = self.task_buckets[name]
            if new is None:
                while bucket.contents:
                    self._start(bucket.contents.popleft())
                continue
            new.follow(bucket)
            self._release(new)

    def _limit_task(self, request: Any, bucket: TokenBucket, tokens: int) -> None:
        bucket.contents.append(request)
        if len(bucket.contents) == 1:  # else the first one waits, and so does this one
            self._release(bucket)

    def _limit_post_eta(self, request: Any, bucket: TokenBucket, tokens: int) -> None:
        self.qos.decrement_eventually()
        self._limit_task(request, bucket, tokens)

    def _release(self, bucket: TokenBucket) -> None:
        """Start the messages that may start, and arm a timer for the rest."""
        self._no_slot.discard(bucket)
        while bucket.contents:
            if len(state.reserved_requests) >= self.pool.num_processes:
                self._no_slot.add(bucket)  # the end of a task starts the next one
                bucket.pause()
                return
            if (wait_s := self._hold_s(bucket)) > 0:
                self._wake_in(bucket, wait_s)
                return
            self.app.breaker.started()
            self.app.claiming.started()
            self._start(bucket.contents.popleft())

    def _hold_s(self, bucket: TokenBucket) -> float:
        """
        Seconds until the next message may start; 0 if it may now, and its token is taken.

        It needs a reachable gateway and a token. (And a free slot: otherwise messages would pile up in the pool while
        the gateway is slow, and leave it in a burst.)
        """
        away_s: float = max(self.app.breaker.wait_s(), self.app.claiming.wait_s())
        if away_s > 0:
            bucket.pause()
            return away_s
        tag = bucket.contents[0].message.delivery_tag
        return 0.0 if bucket.take(tag) else max(bucket.wait_s(), _SHORTEST_WAIT_S)

    def _start(self, request: Any) -> None:
        """Hand a message to the pool. If that fails, it ends this message only."""
        tag = request.message.delivery_tag
        if self.leases is not None and not self.leases.holds(tag):
            request.message.channel.qos.let_go(tag)  # its lease ran out: another worker may have it
            self.app.ended(tag)
            return
        try:
            self._limit_move_to_pool(request)
        except Exception as exc:
            log.exception("ifinu.message.undeliverable")
            state.task_ready(request)  # its slot is free again
            self.app.ended(tag)
            request.message.channel.bury(tag, reason="undeliverable", error=type(exc).__name__)

    def _wake_in(self, bucket: TokenBucket, delay_s: float) -> None:
        now = monotonic()
        due = now + delay_s
        armed, entry = self._timers.get(bucket, (0.0, None))
        if (
            armed <= due + _SHORTEST_WAIT_S and now < armed + _OVERDUE_S
        ):  # an overdue timer was lost with its connection
            return
        if entry is not None:
            entry.cancel()
        self._timers[bucket] = due, self.timer.call_after(delay_s, self._on_timer, (bucket,))

    def _on_timer(self, bucket: TokenBucket) -> None:
        self._timers.pop(bucket, None)
        self._release(bucket)

    def _use_slot(self) -> None:
        """Start the next message when a task ends."""
        for bucket in tuple(self._no_slot):
            self._release(bucket)

    # -- messages

    def create_task_handler(self, *_: Any) -> Callable[[Any], None]:
        """
        Make the handler of messages: as stock's, with acknowledgements that run in the task that ends.

        Stock runs them in Celery's event loop. There they would be lost with the connection (which resets that loop)
        and late in a warm shutdown (which ends that loop first).
        """
        stock, strategy = super().create_task_handler(), self.strategies[intake.TASK]

        def receive(message: Any) -> None:
            if message.headers.get("task") != intake.TASK:
                stock(message)
                return
            try:
                strategy(message, None, message.ack_log_error, message.reject_log_error, self.on_task_message)
            except InvalidTaskError as exc:
                self.on_invalid_task(None, message, exc)

        return receive

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Dead-letter a message that Celery cannot read, which stock drops."""
        message.channel.bury(message.delivery_tag, reason="bad_envelope", error=type(exc).__name__)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Dead-letter a message whose headers Celery cannot use."""
        self.on_decode_error(message, exc)

    # -- what was fetched and not started

    def _drain(self) -> list[str]:
        """Drop the waiting messages and return their tags."""
        buckets = [bucket for bucket in self.task_buckets.values() if bucket]
        waiting = [request.message.delivery_tag for bucket in buckets for request in bucket.contents]
        for bucket in buckets:
            bucket.clear_pending()
        return waiting

    def on_close(self) -> None:
        """
        The connection is lost: waiting messages go back to the queue. Sends under way stay with this process, which
        reports their outcomes when Redis is back.
        """
        waiting = self._drain()
        super().on_close()
        self._timers.clear()
        self._no_slot.clear()
        if self.leases is not None:
            self.leases.give_back(waiting)

    def stop(self) -> None:
        """A warm shutdown begins: fetch no more, return waiting messages at once, and let sends under way finish."""
        super().stop()
        waiting = self._drain()
        if self.leases is not None:
            self.leases.give_back(waiting)

    def shutdown(self) -> None:
        """The shutdown ends: the pool has stopped, and messages still held were never started."""
        super().shutdown()
        if self.leases is not None:
            # After an unrecoverable error one of them may be the cause: each is counted when it starts again.
            self.leases.give_back_all(suspect=self.controller.exitcode == EX_FAILURE)
            self.leases.close()
            _leases.release(self.leases)
            self.leases = None
