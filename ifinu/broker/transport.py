"""The Kombu transport: `broker_transport = "ifinu.broker.transport:Transport"` and a `redis://` or `rediss://` URL."""

from __future__ import annotations

from time import monotonic
from typing import Any

from kombu.transport import redis as stock

from ifinu.broker.channel import Channel

_SILENT_S = 10.0


class Poller(stock.MultiChannelPoller):
    """Kombu's poller, which looks only at channels that have something to send: stock registers each one each time."""

    def on_poll_start(self) -> None:
        """Send what is to be sent before the event loop waits."""
        if getattr(self, "_paused_brpop", None) or not all(map(_is_quiet, self._channels)):
            super().on_poll_start()


def _is_quiet(channel: Any) -> bool:
    """Whether a channel waits for the answers it can take; a lost connection ends that."""
    if not channel._in_listen and channel.active_fanout_queues:
        return False
    if channel._in_poll:
        return bool(channel.qos.can_consume())
    has_list = len(channel._active_queues) > len(channel.active_fanout_queues)  # which are among them
    return not (has_list and channel.qos.can_consume())


class Transport(stock.Transport):
    """Kombu's Redis transport with our channel."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Register as stock does; on Kombu 5.6, add the check for silent connections that 5.7 has."""
        super().register_with_event_loop(connection, _Hub(loop))
        for channel in self.channels:
            channel.hub = loop
        if not hasattr(self.cycle, "maybe_check_brpop_health"):
            loop.call_repeatedly(_SILENT_S / 2, self._drop_silent)

    def _drop_silent(self) -> None:
        """Disconnect when an answer is long overdue: commands take a second or so, so the peer is gone."""
        for channel in self.channels:
            sent_at = getattr(channel, "_brpop_sent_at", None)
            if channel._in_poll and sent_at is not None and monotonic() - sent_at > _SILENT_S:
                channel._in_poll.disconnect()


class _Hub:
    """Kombu's hub, which adds a reader once: stock adds each one before each wait, and the system refuses it."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)

    def add_reader(self, fd: int, callback: Any, *args: Any) -> None:
        """Add a reader, unless it is there: a socket that is closed is removed."""
        if self._hub.readers.get(fd) != (callback, args):
            self._hub.add_reader(fd, callback, *args)
