"""
How long `ifinu webhook` takes to make a receipt durable and answer, as the gateway sees it.

    python bench/webhook.py [--hooks 4000] [--connections 16] [--rate 400]

The process gets receipts over keep-alive connections, first at a steady rate (400 hooks a second, as a hundred messages
a second cause four each), then as fast as possible. Redis is a Valkey that writes everything to its disk. `/healthz`
measures the same round trip without parsing and recording. The exit code is 1 when more than one in a hundred of the
steady receipts takes longer than 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jwt
import report
from report import table

from ifinu.embedded import Valkey, free_port

SECRET = "a-secret-of-the-benches-that-is-long-enough"
MOST_S = 0.050


def requests(count: int) -> list[bytes]:
    """Receipts of this many messages, as the gateway posts them."""
    now = int(time.time())
    claims = {"iat": now, "exp": now + 600, "app": "evolution", "action": "webhook"}
    token = jwt.encode(claims, SECRET, "HS256")
    made = []
    for number in range(count):
        receipt = {"keyId": f"3EB0{number:018X}", "fromMe": True, "status": "DELIVERY_ACK", "instanceId": "i"}
        body = json.dumps({"event": "messages.update", "instance": "ifinu", "data": receipt}).encode()
        head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
        made.append(head.encode() + body)
    return made


async def took(port: int, asked: list[bytes], connections: int, rate: float | None) -> list[float]:
    """The duration of each request in seconds; with a rate, counted from its due time."""
    began = time.perf_counter()
    left = iter(enumerate(asked))

    async def line() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        times = []
        for number, request in left:
            due = began + number / rate if rate else time.perf_counter()
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith((b"HTTP/1.1 204", b"HTTP/1.1 200")), head
            if b"content-length: " in head:
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r")[0]))
            times.append(time.perf_counter() - due)
        writer.close()
        return times

    return [one for times in await asyncio.gather(*(line() for _ in range(connections))) for one in times]


def row(name: str, times: list[float], over_s: float) -> tuple[str, ...]:
    times = sorted(times)
    at = [times[int(len(times) * share)] * 1000 for share in (0.5, 0.99)]
    return (name, f"{len(times) / over_s:,.0f}", *(f"{ms:.1f}" for ms in at), f"{times[-1] * 1000:.1f}")


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--hooks", type=int, default=4_000)
    made.add_argument("--connections", type=int, default=16)
    made.add_argument("--rate", type=float, default=400.0)
    return made


def main() -> int:
    given = parser().parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, Valkey(Path(folder) / "valkey") as server:
        environment = {**os.environ, "IFINU_REDIS_URL": server.url, "IFINU_WEBHOOK_SECRET": SECRET}
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "ifinu", "webhook", "--host", "127.0.0.1", "--port", str(port)],
                env=environment, stdout=out, stderr=out,
            )  # fmt: skip
        try:
            while "startup complete" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            health = [b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"] * given.hooks
            rows, steady = [], []
            for name, asked, rate in (
                (f"receipts, {given.rate:g} a second", requests(given.hooks), given.rate),
                ("receipts, as fast as they go", requests(given.hooks), None),
                ("/healthz, as fast as it goes", health, None),
            ):
                began = time.perf_counter()
                times = asyncio.run(took(port, asked, given.connections, rate))
                rows.append(row(name, times, time.perf_counter() - began))
                steady = steady or sorted(times)
        finally:
            process.terminate()
            process.wait(20)
    shown = table(
        (f"{given.hooks:,} over {given.connections} connections", "a second", "half, ms", "99 of 100, ms", "all, ms"),
        rows,
    )
    report.write(given, {"table": shown})
    return 0 if steady[int(len(steady) * 0.99)] <= MOST_S else 1


if __name__ == "__main__":
    sys.exit(main())
