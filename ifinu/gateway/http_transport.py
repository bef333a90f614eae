"""
The HTTP transport: one exchange, and what its failure proves.

An exchange has two phases. The code separates them; it does not guess the phase from the exception:

    take or open a connection, write the request   fails → RequestNotDelivered: the gateway cannot act on it
    read the whole answer                          fails → AnswerLost: the gateway may have acted on it

The transport never retries, follows no redirect, uses no proxy from the environment and keeps no cookie.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

import httptools
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from ifinu import errors, loop

# Node closes a kept-alive connection after 5 s without a request (`Keep-Alive: timeout=5`), and a request that crosses
# the close gets no answer. So a connection that was idle this long is not used again.
_LONGEST_IDLE_S = 4.0
_MOST_IDLE = 32
# Larger than any real answer; the rest is cut off, so that it cannot fill a worker's memory.
LARGEST_BODY_BYTES = 16 * 1024 * 1024
_LARGEST_HEAD_BYTES = 64 * 1024
_PORTS = {"http": 80, "https": 443}
_FIRST_FINAL = 200


class RequestNotDelivered(Exception):  # noqa: N818 - named by what it proves, as in errors.py
    """
    The request was not written completely, so the gateway cannot have acted on it.

    A server runs a route once it has `Content-Length` bytes of body, and not all of them were written.
    """


class AnswerLost(Exception):  # noqa: N818 - as above
    """The request was written and no complete answer came back."""


@dataclass(frozen=True, slots=True)
class Response:
    """
    An answer of the gateway.

    Attributes:
        status: HTTP status.
        body: At most 16 MiB.
        retry_after: The raw `Retry-After` header.
    """

    status: int
    body: bytes = field(repr=False)
    retry_after: str | None = None


class HttpTransport:
    """
    Connections to one server, kept alive. In a task, waiting lets other tasks run (`loop.py`); elsewhere it blocks.

    Args:
        url: `http://host:port` or `https://host`, with an optional path that prefixes every route.
        headers: Sent with every request, as `is_plain` allows; no repr or error contains them.
        connect_timeout_s: Longest wait for a connection, for each address of the host, and then for the TLS handshake.
        read_timeout_s: Longest wait for the whole answer.
        address: IP address to connect to; `Host` and TLS still use the URL's host.

    Raises:
        ConfigurationError: The URL cannot be used.
    """

    # urllib3 connects (DNS, TLS, verification) and httptools reads: requests costs 8.4 times the CPU per POST and
    # urllib3's pool 4.4 times (360, 186 and 43 µs; bench/http_client.py), and neither reveals the phase.

    def __init__(
        self,
        url: str,
        *,
        headers: dict[str, str],
        connect_timeout_s: float,
        read_timeout_s: float,
        address: str | None = None,
    ) -> None:
        parts = _parts(url)
        kind: Callable[..., HTTPConnection] = HTTPConnection
        if parts.scheme == "https":
            # One context for all connections: reading the system's certificates is slow.
            kind = functools.partial(
                HTTPSConnection, ssl_context=ssl.create_default_context(), server_hostname=parts.hostname
            )
        self.url = url
        host, port = endpoint(url)
        self._open = functools.partial(kind, address or host, port, timeout=connect_timeout_s)
        self._prefix = parts.path.rstrip("/")
        lines = {"Host": parts.netloc.lower(), **headers}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._read_timeout_s = read_timeout_s
        # Idle connections and since when, the latest on the right. A deque's pops are atomic: no lock is needed.
        self._idle: collections.deque[tuple[_Connection, float]] = collections.deque()
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def exchange(
        self, method: str, path: str, body: bytes = b"", *, before: Callable[[], None] | None = None
    ) -> Response:
        """
        Send one request and read its answer.

        Args:
            method: HTTP method.
            path: Route with a leading slash, already quoted.
            body: JSON; empty for none.
            before: Called on a connection just before the request is written; if it raises, nothing is written.

        Raises:
            RequestNotDelivered: The gateway cannot have acted on the request.
            AnswerLost: The gateway may have acted on it. The cause is a TimeoutError if the time ran out.
        """
        content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if method == "POST" else ""
        request = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}{content}\r\n".encode("ascii") + body
        conn = self._take()
        try:
            with _NOT_DELIVERED:
                stream = conn.open()
            if before is not None:
                before()
            with _NOT_DELIVERED:
                stream.send_all(request, loop.after(self._read_timeout_s))
            reading = _Reading()
            with _ANSWER_LOST:
                reading.read(stream, deadline=loop.after(self._read_timeout_s))
        except BaseException:
            conn.close()
            raise
        if reading.reusable:
            self._keep(conn)
        else:
            conn.close()
        return reading.answer

    def close(self) -> None:
        """Close the connections; those in use close after their answer."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):  # there is none left
            while True:
                self._idle.pop()[0].close()

    def _take(self) -> _Connection:
        try:
            while True:
                conn, since = self._idle.pop()
                if time.monotonic() - since < _LONGEST_IDLE_S and conn.is_quiet():
                    return conn
                conn.close()
        except IndexError:  # there is none
            return _Connection(self._open())

    def _keep(self, conn: _Connection) -> None:
        now = time.monotonic()
        self._idle.append((conn, now))
        if self._closed:
            self._close_idle()
            return
        # Unused connections on the left would otherwise stay half-closed by the gateway.
        with contextlib.suppress(IndexError):  # there is none left
            while len(self._idle) > _MOST_IDLE or now - self._idle[0][1] >= _LONGEST_IDLE_S:
                self._idle.popleft()[0].close()


class _Connection:
    """
    One connection to the server.

    Args:
        http: It, not connected yet.
    """

    def __init__(self, http: HTTPConnection) -> None:
        self._http = http
        self._stream: loop.Stream | None = None

    def open(self) -> loop.Stream:
        """
        Connect, unless it is connected, and return the stream.

        Raises:
            OSError: The server cannot be reached.
            HTTPError: Likewise.
        """
        if self._stream is None:
            loop.in_thread(self._http.connect)  # DNS and the TLS handshake block
            self._stream = loop.Stream(self._http.sock)
        return self._stream

    def is_quiet(self) -> bool:
        """Whether it is open and there is nothing to read: that would be the end, or an unsolicited answer."""
        return self._stream is not None and self._stream.is_quiet()

    def close(self) -> None:
        """Close it."""
        if self._stream is not None:
            self._stream.close()
        self._http.close()


class _Reading:
    """One answer as it arrives; the parser calls the methods named `on_…`."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._retry_after: str | None = None
        self._framed = False  # whether its headers give its end
        self._headed = False
        self._ended = False
        self._keeps = False
        self._surplus = False

    def on_message_begin(self) -> None:
        self._surplus = self._ended

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"content-length" | b"transfer-encoding":
                self._framed = True
            case b"retry-after":
                self._retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._headed = True

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._ended = True
        self._keeps = self._parser.should_keep_alive()  # the next byte resets the parser

    def read(self, stream: loop.Stream, *, deadline: float) -> None:
        """
        Read the whole answer. The deadline covers all of it, so that a trickle cannot hold a slot for ever.

        Raises:
            OSError: The connection broke, the time ran out, or the answer ended too early.
            httptools.HttpParserError: The answer is not HTTP.
        """
        head_bytes = 0
        while not self._ended and len(self._body) < LARGEST_BODY_BYTES:
            data = stream.receive(deadline)
            if not data:
                if self._headed and not self._framed:  # the end of the connection ends it
                    return
                raise ConnectionError("the answer ended too early")
            head_bytes += len(data)
            if not self._headed and head_bytes > _LARGEST_HEAD_BYTES:
                raise ConnectionError("the head of the answer has no end")
            self._parser.feed_data(data)

    @property
    def answer(self) -> Response:
        return Response(self._parser.get_status_code(), bytes(self._body[:LARGEST_BODY_BYTES]), self._retry_after)

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request; after an interim answer (1xx) the final one follows."""
        status: int = self._parser.get_status_code()
        cut = len(self._body) > LARGEST_BODY_BYTES
        return self._keeps and not cut and not self._surplus and status >= _FIRST_FINAL


class _FailingAs:
    """
    A `with` block whose failure proves the same thing, whatever failed. `contextlib` would make a generator each time.

    Args:
        kind: What the failure proves.
    """

    def __init__(self, kind: type[RequestNotDelivered | AnswerLost]) -> None:
        self._kind = kind

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if isinstance(exc, (OSError, HTTPError, httptools.HttpParserError)):
            cause = exc.__cause__ or exc  # urllib3 wraps some of these errors
            raise self._kind(f"{type(cause).__name__}: {cause}") from cause


_NOT_DELIVERED = _FailingAs(RequestNotDelivered)
_ANSWER_LOST = _FailingAs(AnswerLost)


def endpoint(url: str) -> tuple[str, int]:
    """
    Host and port of a gateway's URL.

    Raises:
        ConfigurationError: The URL cannot be used.
    """
    parts = _parts(url)
    return str(parts.hostname), parts.port or _PORTS[parts.scheme]


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.hostname and parts.hostname.encode("idna") and parts.port != 0 and parts.scheme in _PORTS
    except ValueError:  # an invalid port, or a label too long for a host name
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment or not is_plain(url) or " " in url:
        raise errors.ConfigurationError(
            "the gateway's URL must look like http://host:port or https://host/prefix, "
            "without a user, a query or a fragment"
        )
    return parts


def is_plain(value: str) -> bool:
    """Whether a header's value can be sent as it is."""
    return value.isascii() and value.isprintable() and value.strip() == value != ""
