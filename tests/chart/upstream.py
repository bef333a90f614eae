"""A server behind a proxy that records each request and then answers, stalls or resets the connection."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

_RESET_ON_CLOSE = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass(frozen=True)
class Taken:
    """A request: its unchanged first line, and the length and hash of its body, which may be large."""

    line: str
    headers: dict[str, str]
    body_bytes: int
    body_sha256: str
    connection: int  # counted from 1

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]


# An action for a request: takes the connection and returns whether it stays open.
Act = Callable[[socket.socket, Taken], bool]


def answer(status: int, body: bytes = b"", *headers: str, keep: bool = True) -> Act:
    head = "\r\n".join([f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *headers, "", ""])

    def act(connection: socket.socket, _taken: Taken) -> bool:
        connection.sendall(head.encode() + body)
        return keep

    return act


def said(raw: bytes) -> Act:
    """Send these bytes and close the connection."""

    def act(connection: socket.socket, _taken: Taken) -> bool:
        connection.sendall(raw)
        return False

    return act


def reset(connection: socket.socket, _taken: Taken) -> bool:
    """Reset the connection, like a killed process."""
    connection.setsockopt(*_RESET_ON_CLOSE)
    return False


class Upstream:
    """Listens from the start and calls `act` for each request."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.taken: list[Taken] = []
        self.released = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                self.number = server._count()

            def __getattr__(self, name: str) -> Any:  # for any method
                if name.startswith("do_"):
                    return self.take
                raise AttributeError(name)

            def take(self) -> None:
                digest, size = hashlib.sha256(), 0
                for piece in self.body():
                    digest.update(piece)
                    size += len(piece)
                line = self.raw_requestline.decode("latin-1").rstrip("\r\n")
                headers = {name.lower(): value for name, value in self.headers.items()}
                taken = Taken(line, headers, size, digest.hexdigest(), self.number)
                server.taken.append(taken)
                self.close_connection = not server.act(self.connection, taken)

            def body(self) -> Any:
                if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        yield self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                    return
                left = int(self.headers.get("Content-Length", 0))
                while left and (piece := self.rfile.read(min(left, 65_536))):
                    left -= len(piece)
                    yield piece

        self._numbers = 0
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._server.block_on_close = True
        self._server.handle_error = self._failed  # type: ignore[method-assign]  # quietly: peers go away here
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stall(self, _connection: socket.socket, _taken: Taken) -> bool:
        """Send nothing until the end of the test."""
        self.released.wait(60)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join(20)
        self._server.server_close()

    def _count(self) -> int:
        with self._lock:
            self._numbers += 1
            return self._numbers

    def _failed(self, _request: Any, _address: Any) -> None:
        with contextlib.suppress(OSError):
            error = sys.exc_info()[1]
            if error is not None:
                raise error
