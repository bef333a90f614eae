"""
Calls of the gateway's routes, except sends: what is asked, how the answer is read, and the one error of a failure.

Only `connect` is called with a query string: a query parameter would override the instance in the path after the
gateway has checked the key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from ifinu import errors
from ifinu.errors import Reason
from ifinu.gateway import http_transport, message_records, outcomes, responses
from ifinu.json_encoder import encoder

_T = TypeVar("_T")

_encode = encoder(ascii_only=False, separators=(",", ":"))
_REASONS = {401: Reason.UNAUTHORIZED} | dict.fromkeys((301, 302, 303, 307, 308), Reason.REDIRECTED)


class Exchange(Protocol):
    """Sends one request and reads its answer; raises `RequestNotDelivered` or `AnswerLost`."""

    def __call__(self, method: str, path: str, body: bytes = b"") -> http_transport.Response: ...


class Calls:
    """
    Calls the routes of one gateway process; every failure is a GatewayError.

    Args:
        exchange: Sends the requests.
        at: The process, for the errors.
        api_key: Removed from what the gateway says.
    """

    def __init__(self, exchange: Exchange, at: str, api_key: str) -> None:
        self._exchange = exchange
        self._at = at
        self._api_key = api_key

    def connection_state(self, instance: str) -> message_records.ConnectionState:
        """The state of an instance; ABSENT if another gateway process holds it."""
        return self.ask(message_records.read_connection, "GET", "instance/connectionState", instance).state

    def ask(
        self,
        read: Callable[[Any], _T],
        method: str,
        route: str,
        instance: str | None = None,
        body: dict[str, Any] | None = None,
        query: str = "",
    ) -> _T:
        """
        Call a route and read its answer.

        Args:
            read: Reads the parsed answer; may raise as the functions of `message_records` do.
            route: The route, without slashes around it.
            query: The query string with its `?`, or empty.
        """
        content = b"" if body is None else to_json(body)
        try:
            answer = self._exchange(method, path(route, instance) + query, content)
        except http_transport.RequestNotDelivered as exc:
            raise self._error(str(exc), instance, Reason.UNREACHABLE) from exc
        except http_transport.AnswerLost as exc:
            raise self._error(f"{method} {route}: no answer, so it may be done: {exc}", instance) from exc
        ok = 200 <= answer.status < 300
        reason = _REASONS.get(answer.status)
        try:
            decoded = responses.decode(answer.body)
        except ValueError:
            decoded, reason = {"error": True}, Reason.ROUTE_NOT_FOUND if ok else reason
        # `connect` and `restart` answer 200 with an error inside.
        if not ok or (isinstance(decoded, dict) and decoded.get("error") is True):
            words = responses.words(answer.body, hide=(self._api_key,))
            said = ": ".join(filter(None, (f"{method} {route}", f"HTTP {answer.status}", words)))
            raise self._error(said, instance, reason, status=answer.status, answer=words)
        try:
            return read(decoded)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as exc:
            said = f"{method} {route}: the answer is not understood ({type(exc).__name__})"
            raise self._error(said, instance, Reason.ROUTE_NOT_FOUND) from exc

    def _error(
        self,
        said: str,
        instance: str | None,
        reason: Reason | None = None,
        *,
        status: int | None = None,
        answer: str = "",
    ) -> errors.GatewayError:
        line = responses.one_line(f"{instance or self._at}: {said}", hide=(self._api_key,))
        message = "; ".join(filter(None, (line, reason and outcomes.hint(reason))))
        return errors.GatewayError(message, instance=instance, status=status, answer=answer)


def headers_of(api_key: str, client: str | None) -> dict[str, str]:
    """
    The headers of every request: the key, and the client's name for the logs of proxies and gateway.

    Raises:
        ConfigurationError: One of them cannot be sent.
    """
    headers = {"apikey": api_key.strip()} | ({"X-Ifinu-Worker": client} if client else {})
    for name, value in headers.items():
        if not http_transport.is_plain(value):
            raise errors.ConfigurationError(
                f"the value for the header {name} is empty or has characters HTTP does not take"
            )
    return headers


@functools.lru_cache(maxsize=1024)
def path(route: str, instance: str | None) -> str:
    """The path of a route, quoted."""
    return f"/{route}" if instance is None else f"/{route}/{quote(instance, safe='')}"


def to_json(body: dict[str, Any]) -> bytes:
    """A body as the gateway takes it."""
    # Half a surrogate pair is not a character; the gateway's database would refuse it after the send.
    return _encode(body).encode("utf-8", "replace")
