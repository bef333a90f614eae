"""
One HTTP exchange, and what is known when it fails.

An exchange has two phases, kept apart by the code rather than guessed from the kind of exception:

    take or open a connection, write the request   fails → RequestNotDelivered: the gateway cannot act on it
    read the whole answer                          fails → AnswerLost: the gateway may have acted on it

Nothing here tries again, follows a redirect, reads a proxy from the environment or keeps a cookie.
"""

from __future__ import annotations

import collections
import contextlib
import io
import os
import select
import socket
import ssl
import time
from dataclasses import dataclass, field
from http import client as http_client
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from ifinu import errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Node closes a kept-alive connection after 5 s without a request, and a request that meets that close gets no
# answer; so a connection that has been idle this long is not used again.
# Source: the gateway's `Keep-Alive: timeout=5`.
_LONGEST_IDLE_S = 4.0
_MOST_IDLE = 32
# More than any route answers; a larger answer is cut, so that it cannot fill a worker's memory.
_LARGEST_BODY_BYTES = 16 * 1024 * 1024
_PORTS = {"http": 80, "https": 443}


class RequestNotDelivered(Exception):  # noqa: N818 - says what is known, as the tree in errors.py does
    """
    The request was not written to its end, so the gateway cannot have acted on it.

    A server runs a route once it has the `Content-Length` bytes of the body, and they did not all leave.
    """


class AnswerLost(Exception):  # noqa: N818 - as above
    """The request left and no whole answer came back."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What the gateway answered.

    Attributes:
        status: HTTP status.
        body: At most 16 MiB of it.
        retry_after: The `Retry-After` header as it came.
    """

    status: int
    body: bytes = field(repr=False)
    retry_after: str | None = None


class Transport:
    """
    Connections to one server, kept alive; threads may share it, and a forked process opens its own.

    Args:
        url: `http://host:port` or `https://host`, with an optional path that goes before every route.
        headers: Sent with every request; they are in no repr or error.
        connect_timeout_s: Longest wait for a connection, its TLS handshake included, per address of the host.
        read_timeout_s: Longest wait for the whole answer.

    Raises:
        ConfigurationError: The URL or a header cannot be used.
    """

    # http.client's parser on plain sockets, not a client library: of the CPU per POST it saves 3/4 against a
    # requests session and 1/2 against a urllib3 pool (83, 362 and 172 µs; bench/http_client.py), and it alone
    # knows the phase.

    def __init__(self, url: str, *, headers: dict[str, str], connect_timeout_s: float, read_timeout_s: float) -> None:
        parts = _parts(url)
        host = parts.hostname or ""
        self.url = url
        self._address = (host, parts.port or _PORTS[parts.scheme])
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self._headers = "".join(_header(name, value) for name, value in {"Host": parts.netloc, **headers}.items())
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        # Idle connections and since when, the latest at the right. Its pops are atomic: it needs no lock.
        self._idle: collections.deque[tuple[socket.socket, float]] = collections.deque()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def exchange(self, method: str, path: str, body: bytes = b"") -> Answer:
        """
        Send one request and read its answer.

        Args:
            method: HTTP method.
            path: Route with a leading slash, already quoted.
            body: JSON; empty for none.

        Raises:
            RequestNotDelivered: The gateway cannot have acted on it.
            AnswerLost: It may have. The cause is a TimeoutError when the time ran out.
        """
        try:
            sock = self._take() or self._connect()
            try:
                sock.settimeout(self._read_timeout_s)
                # Built in place, since a traceback that shows local variables must not show the key.
                sock.sendall(self._head(method, path, len(body)) + body)
            except BaseException:
                sock.close()
                raise
        except OSError as exc:
            raise RequestNotDelivered(_explain(exc)) from exc
        reusable = False
        try:
            answer, reusable = self._read(sock, method)
        except (OSError, http_client.HTTPException) as exc:
            raise AnswerLost(_explain(exc)) from exc
        finally:
            if reusable:
                self._keep(sock)
            else:
                sock.close()
        return answer

    def close(self) -> None:
        """Close the connections that are not in use."""
        with contextlib.suppress(IndexError):  # there is none left
            while True:
                self._idle.pop()[0].close()

    def _head(self, method: str, path: str, body_bytes: int) -> bytes:
        content = f"Content-Type: application/json\r\nContent-Length: {body_bytes}\r\n" if method == "POST" else ""
        return f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}{content}\r\n".encode("ascii")

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(self._address, timeout=self._connect_timeout_s)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._tls.wrap_socket(sock, server_hostname=self._address[0]) if self._tls else sock
        except BaseException:
            sock.close()
            raise

    def _take(self) -> socket.socket | None:
        if self._pid != os.getpid():
            # Copied by a fork: two processes writing to one connection would read each other's answers.
            # Closing our copies leaves the parent's open.
            self.close()
            self._pid = os.getpid()
        with contextlib.suppress(IndexError):  # there is none
            while True:
                sock, since = self._idle.pop()
                if time.monotonic() - since < _LONGEST_IDLE_S and not _readable(sock):
                    return sock
                sock.close()
        return None

    def _keep(self, sock: socket.socket) -> None:
        now = time.monotonic()
        self._idle.append((sock, now))
        # What the busy ones at the right leave unused at the left would stay open half-closed by the gateway.
        with contextlib.suppress(IndexError):  # another thread took the last one
            while len(self._idle) > _MOST_IDLE or now - self._idle[0][1] >= _LONGEST_IDLE_S:
                self._idle.popleft()[0].close()

    def _read(self, sock: socket.socket, method: str) -> tuple[Answer, bool]:
        reader = _Reader(sock, deadline=time.monotonic() + self._read_timeout_s)
        # The parser asks a socket for makefile() only.
        response = http_client.HTTPResponse(reader, method=method)  # type: ignore[arg-type]
        try:
            response.begin()
            if reader.ended:
                # The parser takes that for the end of the headers, and would call a cut answer a short one.
                raise http_client.IncompleteRead(b"")
            body = response.read(_LARGEST_BODY_BYTES)
            if response.length and len(body) < _LARGEST_BODY_BYTES:
                raise http_client.IncompleteRead(body, response.length)
            ended = response.isclosed()
        finally:
            response.close()
        answer = Answer(response.status, body, response.getheader("Retry-After"))
        # After an interim answer (1xx) the real one would be taken for that of the next request.
        return answer, ended and not response.will_close and response.status >= http_client.OK


class _Reader(io.RawIOBase):
    """Reads a socket until a moment in time: an answer that trickles in must not hold a thread for ever."""

    def __init__(self, sock: socket.socket, *, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self.ended = False

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)
        read_bytes = self._sock.recv_into(buffer)
        self.ended = read_bytes == 0
        return read_bytes


def _readable(sock: socket.socket) -> bool:
    # Between two exchanges there is nothing to read but the end of the connection, or what nobody asked for.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname and parts.hostname.encode("idna")) and parts.port != 0
    except ValueError:  # a port that is no number, a label too long for a host name
        usable = False
    if not usable or parts.scheme not in _PORTS or not _plain(url) or " " in url:
        raise errors.ConfigurationError("the gateway's URL must look like http://host:port or https://host/prefix")
    if parts.username is not None or parts.query or parts.fragment:
        raise errors.ConfigurationError("the gateway's URL takes no user, query or fragment")
    return parts


def _header(name: str, value: str) -> str:
    if not _plain(value):
        raise errors.ConfigurationError(
            f"the value for the header {name} is empty or has characters HTTP does not take"
        )
    return f"{name}: {value}\r\n"


def _plain(value: str) -> bool:
    return value.isascii() and value.isprintable() and value.strip() == value != ""


def _explain(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"
