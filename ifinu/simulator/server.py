"""
A minimal and fast HTTP/1.1 server on asyncio.

Requests of one connection are answered one at a time and in order. A handler returns its answer, or a coroutine that
does; the coroutine runs to its end even if the client disconnects, as Node's handlers do.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import http
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

import httptools

from ifinu import sockets
from ifinu.simulator.envelopes import RESET, JsonResponse, error

BODY_LIMIT_BYTES = 136 * 1024 * 1024  # larger bodies are answered with 413
PIPELINE_LIMIT = 32
_SWEEP_S = 0.25
# SO_LINGER with zero seconds, which closes by RST instead of FIN.
_NO_LINGER = struct.pack("ii", 1, 0)
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BACKLOG = 1024


class HttpRequest:
    """One complete request."""

    __slots__ = ("body", "headers", "json", "keep_alive", "method", "path", "query")

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes, keep_alive: bool) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = headers  # names in lower case
        self.body = body
        self.keep_alive = keep_alive
        self.json: dict[str, Any] = {}  # the router fills it in


Handler = Callable[[HttpRequest], JsonResponse | Coroutine[Any, Any, JsonResponse]]


class Server:
    """
    A listening socket and its connections.

    Args:
        keep_alive_s: Idle connections are closed after this time.
    """

    def __init__(self, handler: Handler, *, keep_alive_s: float) -> None:
        self.handler = handler
        self.keep_alive_s = keep_alive_s
        self.connections: set[HttpConnection] = set()
        self.tasks: set[asyncio.Task[JsonResponse]] = set()
        self._accepted: set[asyncio.Task[Any]] = set()
        self._listener: socket.socket | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        alive = f"Connection: keep-alive\r\nKeep-Alive: timeout={int(keep_alive_s)}"
        self._tails = {True: alive, False: "Connection: close"}
        self._heads: dict[tuple[int, str, bool], bytes] = {}

    @property
    def listening(self) -> bool:
        return self._listener is not None

    async def listen(self, host: str, port: int) -> str:
        """
        Accept connections.

        Args:
            host: Address or name; `::` stands for all addresses.
            port: The port; 0 takes a free one.

        Returns:
            The URL, with the port.

        Raises:
            OSError: The address is taken or forbidden.
        """
        loop = asyncio.get_running_loop()
        listener = await loop.run_in_executor(None, sockets.listen, host, port)
        listener.setblocking(False)
        # Not asyncio's server: when that is closed, connections it has just accepted stay open without an answer.
        loop.add_reader(listener, self._accept, listener)
        self._listener = listener
        if self._sweeper is None:
            self._sweep()
        return sockets.url(listener)

    def drop(self) -> None:
        """Refuse connections, and drop every request under way, as when the process is killed."""
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for task in tuple(self.tasks):
            task.cancel()
        for connection in tuple(self.connections):
            connection.reset()

    def close(self) -> None:
        """Same as `drop`, and stop closing idle connections."""
        self.drop()
        if self._sweeper:
            self._sweeper.cancel()

    def head(self, reply: JsonResponse, keep_alive: bool) -> bytes:
        """Status line and headers up to the value of Content-Length."""
        key = (reply.status, reply.content_type, keep_alive)
        try:
            return self._heads[key]
        except KeyError:
            self._heads[key] = (
                f"HTTP/1.1 {reply.status} {http.HTTPStatus(reply.status).phrase}\r\n"
                f"Content-Type: {reply.content_type}\r\nVary: Origin\r\n{self._tails[keep_alive]}\r\n"
                "Content-Length: "
            ).encode()
            return self._heads[key]

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # BlockingIOError: there are no more
            for _ in range(_BACKLOG):
                line, _ = listener.accept()
                task = loop.create_task(loop.connect_accepted_socket(lambda: HttpConnection(self), line))
                self._accepted.add(task)
                task.add_done_callback(self._accepted.discard)

    def _sweep(self) -> None:
        deadline = time.monotonic() - self.keep_alive_s
        for connection in [c for c in self.connections if c.idle_since and c.idle_since <= deadline]:
            connection.hang_up()
        self._sweeper = asyncio.get_running_loop().call_later(min(_SWEEP_S, self.keep_alive_s / 4), self._sweep)


class HttpConnection(asyncio.Protocol):
    """One client connection, with the callbacks of its parser."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: collections.deque[HttpRequest] = collections.deque()
        self._busy = False
        self._writable = True
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        # Since when the connection is idle between two requests; 0.0 while it is not.
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.listening:  # accepted just before the listener was closed
            self.reset()
            return
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client; a request under way continues."""
        self._transport = None
        self._waiting.clear()
        self._server.connections.discard(self)

    def pause_writing(self) -> None:
        """Start no more requests, since the client does not read its answers."""
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._advance()

    def data_received(self, data: bytes) -> None:
        self.idle_since = 0.0
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(_BAD_REQUEST)
            return
        self._advance()

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = {}
        self._body = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        length = self._headers.get("content-length", "0")
        if length.isdecimal() and int(length) > BODY_LIMIT_BYTES:
            self._too_large()
        elif self._transport and self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > BODY_LIMIT_BYTES:
            self._too_large()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        parser = self._parser
        method, target = parser.get_method().decode(), self._target.decode("latin-1")
        body = b"".join(self._body)
        self._waiting.append(HttpRequest(method, target, self._headers, body, parser.should_keep_alive()))
        if len(self._waiting) >= PIPELINE_LIMIT and self._transport:
            self._transport.pause_reading()

    def reset(self) -> None:
        """Reset the connection (RST)."""
        if self._transport:
            sock = self._transport.get_extra_info("socket")
            with contextlib.suppress(OSError):  # the client may have closed it already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._transport.abort()
            self._transport = None

    def hang_up(self) -> None:
        """Close the connection after all written bytes were sent."""
        if self._transport:
            self._transport.close()
            self._transport = None

    def _advance(self) -> None:
        """Answer waiting requests, up to one that takes time."""
        while self._waiting and not self._busy and self._writable and self._transport:
            request = self._waiting.popleft()
            self.idle_since = 0.0
            if len(self._waiting) == PIPELINE_LIMIT // 2:
                self._transport.resume_reading()
            outcome = self._server.handler(request)
            if isinstance(outcome, JsonResponse):
                self._write(request, outcome)
            else:
                self._busy = True
                task = asyncio.get_running_loop().create_task(outcome)
                self._server.tasks.add(task)
                task.add_done_callback(functools.partial(self._done, request))

    def _done(self, request: HttpRequest, task: asyncio.Task[JsonResponse]) -> None:
        self._server.tasks.discard(task)
        self._busy = False
        if task.cancelled():
            return
        if task.exception():
            self.reset()
        self._write(request, task.result())
        self._advance()

    def _write(self, request: HttpRequest, reply: JsonResponse) -> None:
        if reply is RESET:
            self.reset()
        if self._transport is None:
            return
        keep_alive = request.keep_alive
        head = self._server.head(reply, keep_alive)
        self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(reply.body), reply.body))
        if keep_alive:
            self.idle_since = time.monotonic()
        else:
            self.hang_up()

    def _too_large(self) -> None:
        # The reason phrase is upstream's mistake: its error page says so for any status.
        reply = error(413, "request entity too large", "Internal Server Error")
        self._refuse(b"%b%d\r\n\r\n%b" % (self._server.head(reply, False), len(reply.body), reply.body))

    def _refuse(self, answer: bytes) -> None:
        if self._transport:
            self._transport.write(answer)
            self.hang_up()
