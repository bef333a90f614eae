"""
CPU time one request costs the simulator.

    python bench/simulator_cpu.py [--requests 20000] [--clients 10]

Floods `sendText` over kept-alive connections and reads the simulator process's own CPU time, so that the
figure does not depend on other processes on the cores. At 0.33 ms a request, half a core serves 1,500 requests a
second.
"""

from __future__ import annotations

import argparse
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import report
from report import table

from ifinu.simulator import Control

_KEY = "bench"
_HEAD = (
    b"POST /message/sendText/ifinu HTTP/1.1\r\nHost: simulator\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\napikey: bench\r\n"
    b"X-Ifinu-Worker: bench-%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
_ANSWER_END = b'"source":"web"}'


def flood(address: tuple[str, int], requests: int, client: int) -> None:
    """One client: one request at a time, each to another number."""
    with socket.create_connection(address) as sock:
        for n in range(requests):
            text = f"Fatura {client}-{n}: vence hoje"
            body = b'{"number":"55119%02d%06d","text":"%b","linkPreview":false}' % (client, n, text.encode())
            sock.sendall(_HEAD % (client, len(body), body))
            received = b""
            while not received.endswith(_ANSWER_END):
                part = sock.recv(65536)
                if not part:
                    raise ConnectionError(f"closed after {received!r}")
                received += part


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--requests", type=int, default=20_000)
    made.add_argument("--clients", type=int, default=10)
    made.add_argument("--latency-ms", default="0", help="a latency makes each request a task and a timer")
    return made


def main() -> None:
    given = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        key_file = Path(folder, "key")
        key_file.write_text(_KEY)
        command = [
            sys.executable,
            "-m",
            "ifinu.simulator",
            "--api-key-file",
            str(key_file),
            "--plain",
            "--latency-ms",
            given.latency_ms,
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        parts = urlsplit(url)
        each = given.requests // given.clients
        started = time.monotonic()
        threads = [
            threading.Thread(target=flood, args=((parts.hostname, parts.port), each, client))
            for client in range(given.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.monotonic() - started
        summary = Control(url, _KEY).summary()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)
        process.stdout.close()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = each * given.clients
    assert summary["sends"]["total"] == total, summary
    cpu_s = usage.ru_utime + usage.ru_stime
    shown = table(
        ("requests", "a second, its clients on the same cores", "CPU ms each, the start included", "peak MiB"),
        [(f"{total:,}", f"{total / took_s:.0f}", f"{cpu_s * 1000 / total:.3f}", f"{usage.ru_maxrss / 1024:.0f}")],
    )
    report.write(given, {"table": shown})


if __name__ == "__main__":
    main()
