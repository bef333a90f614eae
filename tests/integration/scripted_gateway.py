"""A server on a real socket that answers, stalls, resets or hangs up as scripted, and keeps the requests."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ifinu.gateway import Evolution, Management

_Client = TypeVar("_Client", Evolution, Management)

KEY = "s3cr3t-k3y"
DEADLINE_S = 60.0
RESET_ON_CLOSE = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass(frozen=True)
class Request:
    line: str
    headers: dict[str, str]
    body: bytes
    connection: int  # counted from 1, in the order they were opened

    @property
    def json(self) -> Any:
        return json.loads(self.body)


# One reaction to a request. Returns whether the connection stays open.
Act = Callable[[socket.socket, Request], bool]


@dataclass
class Gateway:
    """Performs the acts in turn and repeats the last one; keeps the requests."""

    listener: socket.socket
    tls: ssl.SSLContext | None = None
    acts: list[Act] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sockets: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.listener.getsockname()[1]}"

    @property
    def connections(self) -> list[int]:
        return [request.connection for request in self.requests]

    def accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                sock = self.listener.accept()[0]
                self._sockets.append(sock)
                thread = threading.Thread(target=self.serve, args=(sock, len(self._sockets)))
                self.threads.append(thread)
                thread.start()

    def serve(self, sock: socket.socket, connection: int) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(self.hung_up.set)
            stack.enter_context(sock)
            if self.tls:
                sock = stack.enter_context(self.tls.wrap_socket(sock, server_side=True))
            stream = stack.enter_context(sock.makefile("rb"))
            while line := stream.readline():
                headers = {}
                while (header := stream.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", 0)))
                request = Request(line.decode().strip(), headers, body, connection)
                with self._lock:
                    self.requests.append(request)
                    act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
                if not act(sock, request):
                    return

    def stop(self) -> None:
        self.released.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # closed already
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(DEADLINE_S)


def reply(status: int, body: Any = None, *headers: str, keep: bool = True) -> Act:
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    head = "\r\n".join([f"HTTP/1.1 {status} Reason", f"Content-Length: {len(raw)}", *headers, "", ""])

    def act(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(head.encode() + raw)
        return keep

    return act


def raw(answer: bytes) -> Act:
    """Answer with these bytes and close the connection."""

    def act(sock: socket.socket, _request: Request) -> bool:
        sock.sendall(answer)
        return False

    return act


def reset(sock: socket.socket, _request: Request) -> bool:
    sock.setsockopt(*RESET_ON_CLOSE)
    return False


def sent(key_id: str = "3EB0") -> dict[str, Any]:
    return {"key": {"id": key_id, "remoteJid": "557798616740@s.whatsapp.net"}, "status": "PENDING"}


@contextlib.contextmanager
def serving() -> Iterator[Callable[..., Gateway]]:
    """A function that starts gateways; all are stopped at the end of the block."""
    with contextlib.ExitStack() as stack:

        def start(*acts: Act, tls: ssl.SSLContext | None = None) -> Gateway:
            gateway = Gateway(socket.create_server(("127.0.0.1", 0)), tls, list(acts))
            accepting = threading.Thread(target=gateway.accept)
            gateway.threads.append(accepting)
            accepting.start()
            stack.callback(gateway.stop)
            return gateway

        yield start


@contextlib.contextmanager
def connecting(kind: type[_Client]) -> Iterator[Callable[..., _Client]]:
    """A function that makes clients; all are closed at the end of the block."""
    with contextlib.ExitStack() as stack:

        def client(url: str, **more: Any) -> _Client:
            return stack.enter_context(contextlib.closing(kind(url, KEY, **more)))

        yield client
