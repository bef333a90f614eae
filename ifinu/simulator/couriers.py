"""
Delivery of webhooks from memory, as the gateway does it.

A delivery is tried up to 10 times, with waits from 5 s doubling to 300 s, ± 20 %; not again after 400, 401, 403, 404 or
422. The order is not kept, and deliveries do not survive a restart.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import hashlib
import hmac
import random
import ssl
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ifinu.simulator.envelopes import encode
from ifinu.simulator.fault_script import Faults

_ATTEMPTS = 10
_MAX_WAIT_S = 300.0
_TIMEOUT_S = 30.0
_FINAL = frozenset({400, 401, 403, 404, 422})
_CONNECTIONS = 8
_BACKLOG = 100_000
_TOKEN_LIFE_S = 600


class _Parcel(NamedTuple):
    url: str
    body: bytes
    headers: Mapping[str, Any]
    attempt: int


class Couriers:
    """
    The pending deliveries.

    Args:
        faults: Gives the rates of lost, repeated and shuffled deliveries.
        retry_s: First wait after a failure, in seconds.
    """

    def __init__(self, faults: Faults, rng: random.Random, *, retry_s: float) -> None:
        self._faults = faults
        self._rng = rng
        self._retry_s = retry_s
        self._queues: dict[tuple[str, str], asyncio.Queue[_Parcel]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: collections.Counter[str] = collections.Counter()
        self._life = 0  # number of the simulated process; deliveries of an earlier one are dropped

    def post(self, url: str, envelope: Mapping[str, Any], headers: Mapping[str, Any]) -> None:
        """Queue the delivery of an event; lose, repeat or delay it as the fault script says."""
        parcel = _Parcel(url, encode(envelope), headers, 1)
        faults, rng = self._faults, self._rng
        if faults.drop_rate and rng.random() < faults.drop_rate:
            self.counts["lost_on_purpose"] += 1
            return
        copies = 2 if faults.duplicate_rate and rng.random() < faults.duplicate_rate else 1
        for _ in range(copies):
            if faults.shuffle_s:
                self._later(rng.uniform(0, faults.shuffle_s), parcel)
            else:
                self._enqueue(parcel)

    def report(self) -> dict[str, int]:
        """Number of deliveries by outcome, and of those that wait."""
        names = ("delivered", "retried", "abandoned", "refused", "dropped", "lost_on_purpose")
        waiting = sum(queue.qsize() for queue in self._queues.values())
        return {**{name: self.counts[name] for name in names}, "waiting": waiting}

    def reset(self) -> None:
        self.counts.clear()

    def die(self) -> None:
        """Drop deliveries that wait for a connection or a retry; those under way are completed."""
        self._life += 1
        for queue in self._queues.values():
            while not queue.empty():
                queue.get_nowait()
                self.counts["dropped"] += 1

    async def close(self) -> None:
        """Drop all deliveries."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _later(self, wait_s: float, parcel: _Parcel) -> None:
        life = self._life

        def now() -> None:
            if self._life == life:
                self._enqueue(parcel)
            else:
                self.counts["dropped"] += 1

        asyncio.get_running_loop().call_later(wait_s, now)

    def _enqueue(self, parcel: _Parcel) -> None:
        parts = urlsplit(parcel.url)
        target = (parts.scheme, parts.netloc)
        queue = self._queues.get(target)
        if queue is None:
            queue = self._queues[target] = asyncio.Queue(_BACKLOG)
            for _ in range(_CONNECTIONS):
                self._tasks.add(asyncio.get_running_loop().create_task(self._run(queue)))
        try:
            queue.put_nowait(parcel)
        except asyncio.QueueFull:
            self.counts["dropped"] += 1

    async def _run(self, queue: asyncio.Queue[_Parcel]) -> None:
        line = _Line()
        try:
            while True:
                parcel = await queue.get()
                try:
                    async with asyncio.timeout(_TIMEOUT_S):
                        status = await line.post(parcel)
                except (OSError, EOFError, TimeoutError, ValueError):
                    line.hang_up()
                    status = 0
                self._account(parcel, status)
        finally:
            line.hang_up()

    def _account(self, parcel: _Parcel, status: int) -> None:
        if 200 <= status < 300:
            self.counts["delivered"] += 1
        elif status in _FINAL:
            self.counts["refused"] += 1
        elif parcel.attempt >= _ATTEMPTS:
            self.counts["abandoned"] += 1
        else:
            self.counts["retried"] += 1
            wait_s = min(self._retry_s * 2 ** (parcel.attempt - 1), _MAX_WAIT_S) * self._rng.uniform(0.8, 1.2)
            self._later(wait_s, parcel._replace(attempt=parcel.attempt + 1))


class _Line:
    """A kept-alive connection to one receiver."""

    def __init__(self) -> None:
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used_at = 0.0

    async def post(self, parcel: _Parcel) -> int:
        """
        Deliver an event.

        Raises:
            OSError, EOFError, ValueError: There was no answer, or not one of HTTP.
        """
        # Most servers close an idle connection after 5 s or more.
        if self._streams and time.monotonic() - self._used_at > 2.0:
            self.hang_up()
        parts = urlsplit(parcel.url)
        if self._streams is None:
            secure = ssl.create_default_context() if parts.scheme == "https" else None
            port = parts.port or (443 if secure else 80)
            self._streams = await asyncio.open_connection(parts.hostname, port, ssl=secure)
        reader, writer = self._streams
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        writer.write(_head(target, parts.netloc, parcel) + parcel.body)
        await writer.drain()
        status, length = await _read_head(reader)
        if length is None:
            self.hang_up()
        else:
            await reader.readexactly(length)
            self._used_at = time.monotonic()
        return status

    def hang_up(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


def _head(target: str, host: str, parcel: _Parcel) -> bytes:
    headers = {"Host": host, "Content-Type": "application/json", "User-Agent": "axios/1.12.2"}
    for name, value in parcel.headers.items():
        if name == "jwt_key":
            headers["Authorization"] = f"Bearer {token(str(value), int(time.time()))}"
        else:
            headers[name] = str(value)
    lines = [f"POST {target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(parcel.body)}", "", ""]).encode("utf-8")


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, int | None]:
    """The status, and the length of the body; None as length if the connection cannot be used again."""
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in lines if line)}
    length = headers.get("content-length", "")
    status = int(start.split(" ", 2)[1])
    keeps = start.startswith("HTTP/1.1") and headers.get("connection", "").lower() != "close"
    if status == 204 and keeps:
        return status, 0
    return status, int(length) if keeps and length.isdecimal() else None


def token(key: str, now_s: int) -> str:
    """The HS256 JWT that replaces a `jwt_key` header."""
    claims = {"iat": now_s, "exp": now_s + _TOKEN_LIFE_S, "app": "evolution", "action": "webhook"}
    signed = f"{_b64(encode({'alg': 'HS256', 'typ': 'JWT'}))}.{_b64(encode(claims))}"
    return f"{signed}.{_b64(hmac.digest(key.encode(), signed.encode(), hashlib.sha256))}"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
