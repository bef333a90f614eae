"""
CPU per POST of three HTTP clients on a kept-alive connection, against a trivial local server.

    python bench/http_client.py [posts]

CPU time of this process, not wall time: the server is another process, and cores may be shared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import report
import requests
import urllib3
from report import table

from ifinu.gateway.http_transport import HttpTransport

BODY = b'{"number":"5577998616740","text":"' + b"x" * 400 + b'","linkPreview":false}'
HEADERS = {"apikey": "k" * 32, "Content-Type": "application/json"}
PATH = "/message/sendText/ifinu"
ROUNDS = 10
_JSON = (
    b'{"key":{"remoteJid":"5577998616740@s.whatsapp.net","fromMe":true,"id":"3EB0215708B0C9E11F64B0"},'
    b'"pushName":"","status":"PENDING","messageTimestamp":1795477301,"source":"web"}'
)
# The headers a real gateway sends.
ANSWER = (
    b"HTTP/1.1 201 Created\r\nX-Powered-By: Express\r\nVary: Origin\r\n"
    b"Access-Control-Allow-Credentials: true\r\n"
    b'Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\nETag: W/"2f0-x"\r\n'
    b"Date: Fri, 24 Oct 2025 12:00:00 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n%s"
    % (len(_JSON), _JSON)
)


def serve(ready: Connection) -> None:
    """Answer every POST alike, one connection at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ready.send(listener.getsockname()[1])
        while True:
            conn, _ = listener.accept()
            with conn:
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                seen = b""
                while chunk := conn.recv(65536):
                    seen += chunk
                    if seen.endswith(BODY):
                        conn.sendall(ANSWER)
                        seen = b""


def clients(url: str) -> dict[str, tuple[Callable[[], int], Callable[[], None]]]:
    """For each client, a function that posts once and returns the status, and one that closes it."""
    session = requests.Session()
    session.trust_env = False
    pool = urllib3.PoolManager(retries=False)
    timeout = urllib3.Timeout(connect=5, read=75)
    transport = HttpTransport(url, headers={"apikey": HEADERS["apikey"]}, connect_timeout_s=5, read_timeout_s=75)
    return {
        "requests.Session": (
            lambda: (
                session.post(url + PATH, data=BODY, headers=HEADERS, timeout=(5, 75), allow_redirects=False).status_code
            ),
            session.close,
        ),
        "urllib3.PoolManager": (
            lambda: (
                pool.request("POST", url + PATH, body=BODY, headers=HEADERS, timeout=timeout, redirect=False).status
            ),
            pool.clear,
        ),
        "ifinu.gateway": (lambda: transport.exchange("POST", PATH, BODY).status, transport.close),
    }


def cpu_us(post: Callable[[], int], posts: int) -> float:
    """CPU microseconds of one POST on an open connection."""
    assert post() == 201
    start = time.process_time()
    for _ in range(posts):
        assert post() == 201
    return (time.process_time() - start) / posts * 1e6


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("posts", type=int, nargs="?", default=1_000, help="POSTs of each client in a round")
    return made


def main() -> None:
    given = parser().parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    measured: dict[str, float] = {}
    contenders = clients(f"http://127.0.0.1:{ours.recv()}")
    # Take the best of several interleaved rounds: noise only adds time, and a slow spell affects every client.
    for _ in range(ROUNDS):
        for name, (post, close) in contenders.items():
            measured[name] = min(cpu_us(post, given.posts), measured.get(name, float("inf")))
            close()
    server.terminate()
    least = min(measured.values())
    shown = table(
        ("client", "CPU µs a POST", "of the cheapest"),
        [(name, f"{cost:.1f}", f"{cost / least:.1f}") for name, cost in measured.items()],
    )
    report.write(given, {"table": shown})


if __name__ == "__main__":
    main()
