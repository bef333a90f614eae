"""The Kombu transport: `broker_transport = "ifinu.broker.transport:Transport"` and a `redis://` or `rediss://` URL."""

from __future__ import annotations

from time import monotonic
from typing import Any

from kombu.transport import redis as stock

from ifinu.broker.channel import Channel

_SILENT_S = 10.0


class Transport(stock.Transport):
    """Kombu's Redis transport with our channel."""

    Channel = Channel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Register as stock does; on Kombu 5.6, add the check for silent connections that 5.7 has."""
        super().register_with_event_loop(connection, loop)
        if not hasattr(self.cycle, "maybe_check_brpop_health"):
            loop.call_repeatedly(_SILENT_S / 2, self._drop_silent)

    def _drop_silent(self) -> None:
        """Disconnect when an answer is long overdue: commands take a second or so, so the peer is gone."""
        for channel in self.channels:
            sent_at = getattr(channel, "_brpop_sent_at", None)
            if channel._in_poll and sent_at is not None and monotonic() - sent_at > _SILENT_S:
                channel._in_poll.disconnect()
