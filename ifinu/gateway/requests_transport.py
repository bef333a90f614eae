"""
The exchange of one request and one answer over `requests`, for the calls outside the sending path.

Each call opens its own connection: the calls are rare, and the gateway closes a kept one after five seconds, so that a
request that crosses the close would get no answer. The transport never retries, follows no redirect, keeps no cookie,
and takes no proxy and no password from the environment.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

from ifinu.gateway.http_transport import LARGEST_BODY_BYTES, AnswerLost, RequestNotDelivered, Response, endpoint

_CHUNK_BYTES = 65_536
_NOT_DELIVERED = (ConnectTimeoutError, NewConnectionError, SSLError)


class RequestsTransport:
    """
    Calls one server; threads may share it.

    Args:
        url: `http://host:port` or `https://host`, with an optional path that prefixes every route.
        headers: Sent with every request, as `is_plain` allows; no repr or error contains them.
        connect_timeout_s: Longest wait for a connection, for each address of the host, and then for the TLS handshake.
        read_timeout_s: Longest wait for the head of the answer; its body may take as long again.
        address: IP address to connect to; `Host` and TLS still use the URL's host.

    Raises:
        ConfigurationError: The URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: dict[str, str],
        connect_timeout_s: float,
        read_timeout_s: float,
        address: str | None = None,
    ) -> None:
        host, port = endpoint(url)
        parts = urlsplit(url)
        self.url = url
        self._base = url.rstrip("/")
        self._headers = {"Host": parts.netloc.lower(), "Connection": "close", "User-Agent": "ifinu", **headers}
        self._timeouts_s = connect_timeout_s, read_timeout_s
        # No Session: what follows redirects, keeps cookies and reads the environment.
        self._server = _OneServer(parts.scheme, host, port, address or host)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def exchange(self, method: str, path: str, body: bytes = b"") -> Response:
        """
        Send one request and read its answer.

        Args:
            path: Route with a leading slash, already quoted.
            body: JSON; empty for none.

        Raises:
            RequestNotDelivered: The gateway cannot have acted on the request.
            AnswerLost: The gateway may have acted on it. The cause is a TimeoutError if the time ran out.
        """
        # Not `Request.prepare`, which would resolve dots in the path and so call another route.
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, self._base + path, body or None
        content = {"Content-Type": "application/json", "Content-Length": str(len(body))} if method == "POST" else {}
        request.headers = CaseInsensitiveDict(self._headers | content)
        with _translated(_NOT_DELIVERED):
            answer = self._server.send(request, stream=True, timeout=self._timeouts_s)
        with _translated(), answer:
            return Response(answer.status_code, _body(answer.raw, self._timeouts_s[1]))

    def close(self) -> None:
        """Release what it holds."""
        self._server.close()


class _OneServer(HTTPAdapter):
    """
    Connects to one address, and checks its certificate for the URL's host, by the system's authorities alone.

    Args:
        host: The URL's host.
        address: IP address or name to connect to.
    """

    def __init__(self, scheme: str, host: str, port: int, address: str) -> None:
        super().__init__()
        self._host = host
        self._server = {"scheme": scheme, "host": address, "port": port}
        self._connection = _TimedTls if scheme == "https" else _Timed

    @functools.cached_property
    def _tls(self) -> dict[str, Any]:
        # Reading the system's certificates is slow.
        return {"ssl_context": ssl.create_default_context(), "server_hostname": self._host}

    def build_connection_pool_key_attributes(self, *_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._server, self._tls if self._server["scheme"] == "https" else {}

    def get_connection_with_tls_context(self, *args: Any, **more: Any) -> Any:
        pool = super().get_connection_with_tls_context(*args, **more)
        pool.ConnectionCls = self._connection
        return pool

    def cert_verify(self, *_: Any) -> None:
        """Add no authorities: requests would add certifi's to the system's."""


class _Timed(HTTPConnection):
    """
    A connection for one request.

    It limits the wait for the whole head of the answer; the socket's timeout is for each piece of it.
    """

    @property
    def is_connected(self) -> bool:
        return False  # so that the pool closes it instead of using it again

    def getresponse(self) -> Any:
        timeout_s = float(self.timeout or 0)
        deadline = time.monotonic() + timeout_s
        late = threading.Timer(timeout_s, _break_off, (self.sock,))
        late.start()
        try:
            return super().getresponse()
        except ssl.SSLError as exc:  # not one of the handshake
            raise ConnectionError(str(exc)) from exc
        finally:
            late.cancel()
            if time.monotonic() >= deadline:
                raise TimeoutError("timed out")  # the half of a head may have been taken for a whole one


class _TimedTls(_Timed, HTTPSConnection):
    """Same as `_Timed`, over TLS."""


def _break_off(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was closed a moment ago
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # an SSLSocket's own would take its state from under the reader


def _body(raw: Any, timeout_s: float) -> bytes:
    """The body, up to its limit."""
    body, deadline = bytearray(), time.monotonic() + timeout_s
    while len(body) < LARGEST_BODY_BYTES and (piece := raw.read1(_CHUNK_BYTES)):
        body += piece
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    return bytes(body[:LARGEST_BODY_BYTES])


@contextlib.contextmanager
def _translated(not_delivered: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """
    Translate the errors of requests and urllib3.

    Args:
        not_delivered: Those that prove that the request was not written.
    """
    try:
        yield
    except (OSError, HTTPError) as exc:  # OSError is also the base of requests' errors
        chain = list(_chain(exc))
        kind = RequestNotDelivered if any(isinstance(one, not_delivered) for one in chain) else AnswerLost
        raise kind(f"{type(chain[-1]).__name__}: {chain[-1]}") from chain[-1]


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An error and those inside it: requests wraps urllib3's error, which wraps the socket's."""
    inner: BaseException | None = exc
    while inner is not None:
        yield inner
        within = (*inner.args, getattr(inner, "reason", None), inner.__cause__)
        inner = next((one for one in within if isinstance(one, BaseException)), None)
