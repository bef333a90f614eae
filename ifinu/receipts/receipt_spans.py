"""
Receipts -> spans in the traces of their messages.

A receipt may come before the gateway has answered its send, and so before its trace link exists. So each receipt waits
some seconds before its link is read. The webhook is answered before that, and one round trip serves the receipts of a
second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from time import monotonic
from typing import NamedTuple

import redis
import redis.asyncio
import structlog

from ifinu import phone as phones
from ifinu.broker.trace_links import follow
from ifinu.receipts.webhook_events import Receipt
from ifinu.tracing import INSTANCE, KEY_ID, STATE, SpanName, Tracer

_WAIT_S = 5.0
_TICK_S = 1.0
_MOST = 20_000  # receipts that may wait; beyond it the oldest get no span
_PAGE = 500

log = structlog.get_logger()


class _Noted(NamedTuple):
    receipt: Receipt
    at: float
    started_ns: int
    ended_ns: int


class Follower:
    """
    Records the spans of receipts.

    Args:
        client: A Redis client with timeouts.
    """

    def __init__(self, client: redis.asyncio.Redis, tracer: Tracer) -> None:
        self._client = client
        self._tracer = tracer
        self._noted: deque[_Noted] = deque(maxlen=_MOST)

    def note(self, receipt: Receipt, started_ns: int, ended_ns: int) -> None:
        """
        Queue a receipt.

        Args:
            started_ns: When its webhook came, in ns since the epoch.
            ended_ns: When it was durable in Redis, in ns since the epoch.
        """
        self._noted.append(_Noted(receipt, monotonic(), started_ns, ended_ns))

    async def run(self) -> None:
        """Record spans until the task is cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            await self._follow(monotonic() - _WAIT_S)

    async def close(self) -> None:
        """Record the receipts that still wait, and export all spans."""
        await self._follow(monotonic())
        await asyncio.to_thread(self._tracer.close)

    async def _follow(self, until: float) -> None:
        """Record the receipts that came before `until`."""
        while page := self._before(until):
            try:
                parents = await follow(self._client, [noted.receipt.key_id for noted in page])
            except (redis.RedisError, OSError) as exc:  # TimeoutError is an OSError
                log.warning("ifinu.webhook.untraced", count=len(page), error=type(exc).__name__)
                continue
            for noted, parent in zip(page, parents, strict=True):
                if parent:
                    self._record(noted, parent)

    def _before(self, until: float) -> list[_Noted]:
        page: list[_Noted] = []
        while self._noted and self._noted[0].at <= until and len(page) < _PAGE:
            page.append(self._noted.popleft())
        return page

    def _record(self, noted: _Noted, parent: str) -> None:
        receipt = noted.receipt
        facts = {STATE: receipt.status.value, KEY_ID: receipt.key_id, INSTANCE: phones.mask_in(receipt.instance)}
        self._tracer.record(
            SpanName.RECEIPT, facts, parent=parent, started_ns=noted.started_ns, ended_ns=noted.ended_ns
        )


@contextlib.asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[None]:
    """Run the follower in a task, and close it at the end."""
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await follower.close()
