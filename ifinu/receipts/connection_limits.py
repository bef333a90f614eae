"""
The door of the webhook: what a connection may cost before it has shown a secret.

uvicorn's parser takes a head of any length, and waits for one without end. Here a head has a length and a deadline, and
there is a bound on connections: beyond it the one that has kept us waiting longest makes room, so that many that are
held open keep neither the gateway nor a probe out.
"""

from __future__ import annotations

import asyncio
import functools
import resource
from asyncio import TimerHandle
from time import monotonic
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32_768
HEAD_S = 10.0
_MOST_CONNECTIONS = 512
_OTHER_FILES = 64  # that the process has open beside connections

log = structlog.get_logger()


@functools.cache
def most_connections() -> int:
    """How many there may be, within the files that the process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(_MOST_CONNECTIONS, soft - _OTHER_FILES))


class LimitedProtocol(HttpToolsProtocol):
    """One connection of the webhook."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reads_head = True
        self._waits_since = monotonic()
        self._spent = 0  # bytes of this request that are no body: its head, and what stands around chunks
        self._deadline: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected; where there are too many, one of them has to go."""
        if len(self.connections) >= most_connections():
            self._make_room()
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        if self._reads_head and self._deadline is None:
            self._await_head()  # the next request of a connection that was kept
        self._spent += len(data)
        super().data_received(data)
        if self._spent > HEAD_BYTES and not self.transport.is_closing():
            log.warning("ifinu.webhook.turned_away", reason="head_too_long")
            self.send_400_response("The head is too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._spent = 0
        self._reads_head = True

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head_is_there()
        self._reads_head = False
        self._spent = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        self._spent = max(0, self._spent - 2 * len(body))  # as much may stand around its chunks
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._reads_head = True
        self._waits_since = monotonic()
        self._spent = 0
        super().on_message_complete()

    def _await_head(self) -> None:
        self._waits_since = monotonic()
        self._deadline = self.loop.call_later(HEAD_S, self._too_late)

    def _head_is_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.abort()

    def _make_room(self) -> None:
        """Close the connection that has waited longest: for its head, or else for the next request."""
        idle = [one for one in self.connections if isinstance(one, LimitedProtocol) and not one._is_served()]
        if idle:
            longest = min(idle, key=lambda one: (one._deadline is None, one._waits_since))
        else:
            longest = min(
                (one for one in self.connections if isinstance(one, LimitedProtocol)), key=lambda one: one._waits_since
            )
        log.warning("ifinu.webhook.turned_away", reason="too_many_connections")
        self.connections.discard(longest)
        longest.transport.abort()

    def _is_served(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete
