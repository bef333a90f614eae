"""
Limits on connections to the webhook, whose clients are not authenticated yet.

uvicorn's parser takes a head of any length, and waits for it without end. Here a head has a maximum length and a
deadline, and the number of connections is limited: beyond the limit, the connection that has waited longest is closed.
So open idle connections keep out neither the gateway nor a probe.
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
_OTHER_FILES = 64  # open files of the process beside connections

log = structlog.get_logger()


@functools.cache
def most_connections() -> int:
    """The limit of connections, within the limit of open files of the process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(_MOST_CONNECTIONS, soft - _OTHER_FILES))


class LimitedProtocol(HttpToolsProtocol):
    """One connection of the webhook."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reads_head = True
        self._waits_since = monotonic()
        self._overhead = 0  # bytes of this request beside its body: the head, and the framing of chunks
        self._deadline: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, closing another one if there are too many."""
        if len(self.connections) >= most_connections():
            self._make_room()
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._reads_head and self._deadline is None:
            self._await_head()  # the next request of a kept connection
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > HEAD_BYTES and not self.transport.is_closing():
            log.warning("ifinu.webhook.turned_away", reason="head_too_long")
            self.send_400_response("The head is too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._overhead = 0
        self._reads_head = True

    def on_headers_complete(self) -> None:
        self._head_is_there()
        self._reads_head = False
        self._overhead = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead = max(0, self._overhead - 2 * len(body))  # the framing may be as long as the body
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reads_head = True
        self._waits_since = monotonic()
        self._overhead = 0
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
        """Close the connection that has waited longest, for its head or else for the next request."""
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
