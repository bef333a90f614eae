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
import functools
import io
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import client as http_client
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import SKIP_HEADER

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
        connect_timeout_s: Longest wait for a connection, per address of the host, and then for its TLS handshake.
        read_timeout_s: Longest wait for the whole answer.

    Raises:
        ConfigurationError: The URL or a header cannot be used.
    """

    # On urllib3's connections, since requests costs 2.8 times the CPU per POST and urllib3's pool 1.3 times
    # (310, 140 and 110 µs; bench/http_client.py), and neither tells the phase.

    def __init__(self, url: str, *, headers: dict[str, str], connect_timeout_s: float, read_timeout_s: float) -> None:
        parts = _parts(url)
        for name, value in headers.items():
            if not _plain(value):
                raise errors.ConfigurationError(
                    f"the value for the header {name} is empty or has characters HTTP does not take"
                )
        kind: Callable[..., HTTPConnection] = HTTPConnection
        if parts.scheme == "https":
            # One context for all connections, since reading the certificates of the system takes long.
            kind = functools.partial(HTTPSConnection, ssl_context=ssl.create_default_context())
        self.url = url
        self._open = functools.partial(
            kind, parts.hostname, parts.port or _PORTS[parts.scheme], timeout=connect_timeout_s
        )
        self._prefix = parts.path.rstrip("/")
        self._headers = headers | dict.fromkeys(("Accept-Encoding", "User-Agent"), SKIP_HEADER)
        self._read_timeout_s = read_timeout_s
        # Idle connections and since when, the latest at the right. Its pops are atomic: it needs no lock.
        self._idle: collections.deque[tuple[HTTPConnection, float]] = collections.deque()
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
        headers = self._headers | {"Content-Type": "application/json"} if method == "POST" else self._headers
        conn = self._take()
        try:
            with _failing_as(RequestNotDelivered):
                if conn.is_closed:
                    conn.connect()
                    conn.timeout = self._read_timeout_s
                conn.request(
                    method, self._prefix + path, body or None, headers, preload_content=False, decode_content=False
                )
            with _failing_as(AnswerLost):
                answer = _read(conn)
        except BaseException:
            conn.close()
            raise
        if not conn.is_closed:
            self._keep(conn)
        return answer

    def close(self) -> None:
        """Close the connections that are not in use."""
        with contextlib.suppress(IndexError):  # there is none left
            while True:
                self._idle.pop()[0].close()

    def _take(self) -> HTTPConnection:
        if self._pid != os.getpid():
            # Copied by a fork: two processes writing to one connection would read each other's answers.
            # Closing our copies leaves the parent's open.
            self.close()
            self._pid = os.getpid()
        with contextlib.suppress(IndexError):  # there is none
            while True:
                conn, since = self._idle.pop()
                # Connected means nothing to read: it would be the end, or what nobody asked for.
                if time.monotonic() - since < _LONGEST_IDLE_S and conn.is_connected:
                    return conn
                conn.close()
        conn = self._open()
        conn.response_class = _Response
        return conn

    def _keep(self, conn: HTTPConnection) -> None:
        now = time.monotonic()
        self._idle.append((conn, now))
        # What the busy ones at the right leave unused at the left would stay open half-closed by the gateway.
        with contextlib.suppress(IndexError):  # another thread took the last one
            while len(self._idle) > _MOST_IDLE or now - self._idle[0][1] >= _LONGEST_IDLE_S:
                self._idle.popleft()[0].close()


class _Response(http_client.HTTPResponse):
    """Reads the socket until its timeout is over: an answer that trickles in must not hold a thread for ever."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._reader = _Reader(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        super().begin()
        if self._reader.ended:
            # The parser takes that for the end of the headers, and would call a cut answer a short one.
            raise http_client.IncompleteRead(b"")


class _Reader(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        # urllib3 has just set the timeout: it is a number.
        self._deadline = time.monotonic() + sock.gettimeout()  # type: ignore[operator]
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)
        read_bytes = self._raw.readinto(buffer)
        self.ended = read_bytes == 0
        return read_bytes

    def close(self) -> None:
        self._raw.close()
        super().close()


def _read(conn: HTTPConnection) -> Answer:
    """Read the answer, and close the connection unless it can be used again."""
    with contextlib.closing(conn.getresponse()) as response:
        body = response.read(_LARGEST_BODY_BYTES)
        if response.length_remaining and len(body) < _LARGEST_BODY_BYTES:
            raise http_client.IncompleteRead(body, response.length_remaining)
        # After an interim answer (1xx) the real one would be taken for that of the next request.
        if not response.closed or response.status < http_client.OK:
            conn.close()
        return Answer(response.status, body, response.headers.get("Retry-After"))


@contextlib.contextmanager
def _failing_as(kind: type[RequestNotDelivered | AnswerLost]) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPError, http_client.HTTPException) as exc:
        cause = exc.__cause__ or exc  # urllib3 wraps some, and not all, of what happens
        raise kind(f"{type(cause).__name__}: {cause}") from cause


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.hostname and parts.hostname.encode("idna") and parts.port != 0 and parts.scheme in _PORTS
    except ValueError:  # a port that is no number, a label too long for a host name
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment or not _plain(url) or " " in url:
        raise errors.ConfigurationError(
            "the gateway's URL must look like http://host:port or https://host/prefix, "
            "without a user, a query or a fragment"
        )
    return parts


def _plain(value: str) -> bool:
    return value.isascii() and value.isprintable() and value.strip() == value != ""
