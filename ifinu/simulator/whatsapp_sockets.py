"""
The sockets between instances and WhatsApp: pairing, reconnecting, and two sockets that close each other.

    connect while `close`   `connecting`, with a code that a phone has to scan
    the phone scans it      WhatsApp closes with 515: the state is `close`, without a webhook
    `reconnect_ms` later    `connecting`, since the gateway reconnects, and after that time again `open`

`connect` opens a socket whenever the state is `close`, which it is for a moment after the scan. Of two sockets of one
instance WhatsApp closes the older with 440; the gateway reconnects it at once, and so on until the process restarts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from ifinu.simulator.config import SimulatorConfig
from ifinu.simulator.state import BAILEYS, Link, SimulatedInstance, now_iso
from ifinu.simulator.webhook_payloads import Events

LOGGED_OUT = 401
BANNED = 403
_KICK_MS = 50.0


class Sockets:
    """Opens and closes the sockets of one process."""

    def __init__(self, config: SimulatorConfig, instances: Mapping[str, SimulatedInstance], events: Events) -> None:
        self._config = config
        self._instances = instances
        self._events = events

    def boot(self, held: Iterable[SimulatedInstance], after_ms: float) -> None:
        """Connect every paired instance; 2.3.7 leaves out those that were closed for good."""
        for instance in held:
            if instance.has_session and (self._config.version == "2.3.6" or instance.stored is not Link.CLOSE):
                instance.generation += 1
                instance.state, instance.sockets = Link.CLOSE, 1
                self._later(instance, after_ms, self._opened)

    def die(self, held: Iterable[SimulatedInstance]) -> None:
        """Drop every socket, as when the process dies; the database does not change."""
        for instance in held:
            instance.died_at.append(time.monotonic())
            if instance.integration == BAILEYS:
                instance.generation += 1
                instance.state, instance.sockets = Link.CLOSE, 0

    def connect(self, instance: SimulatedInstance) -> None:
        """Open a socket, even beside an existing one."""
        instance.sockets += 1
        self._change(instance, Link.CONNECTING)
        if instance.has_session:
            self._later(instance, self._config.reconnect_ms, self._opened)
            return
        instance.qr_until = 0.0
        instance.stored = Link.CONNECTING
        if self._config.pairing_ms is not None:
            self._later(instance, self._config.pairing_ms, self.scan)

    def scan(self, instance: SimulatedInstance) -> bool:
        """
        Simulate that a phone scans the code.

        Returns:
            Whether there was a code to scan, and a phone that may: not one that is banned.
        """
        if instance.state is not Link.CONNECTING or instance.has_session or instance.banned:
            return False
        instance.has_session = True
        instance.pair()
        self._drop(instance)
        return True

    def reconnect(self, instance: SimulatedInstance) -> None:
        self._change(instance, Link.CONNECTING)
        self._later(instance, self._config.reconnect_ms, self._opened)

    def log_out(self, instance: SimulatedInstance) -> None:
        """End the session; the database keeps its owner and the reason of its end."""
        self._end(instance, LOGGED_OUT)
        self._change(instance, Link.CLOSE, LOGGED_OUT)

    def lose(self, instance: SimulatedInstance, code: int) -> None:
        """End the session from WhatsApp's side: `LOGGED_OUT`, or `BANNED` for good."""
        instance.banned = code == BANNED
        self._end(instance, code)
        self._events.lost(instance)
        self._change(instance, Link.CLOSE, code)

    def set_state(self, instance: SimulatedInstance, state: Link) -> None:
        """Put an instance into a state for good; pending changes are dropped, and `open` lifts a ban."""
        instance.generation += 1
        instance.sockets = 0 if state is Link.CLOSE else 1
        instance.stored = state
        instance.banned = instance.banned and state is not Link.OPEN
        self._change(instance, state)

    def _end(self, instance: SimulatedInstance, code: int) -> None:
        instance.generation += 1
        instance.sockets, instance.has_session = 0, False
        instance.stored = Link.CLOSE
        instance.disconnected = (code, now_iso())

    def _opened(self, instance: SimulatedInstance) -> None:
        self._change(instance, Link.OPEN)
        if instance.sockets > 1:
            self._later(instance, _KICK_MS, self._kick)

    def _kick(self, instance: SimulatedInstance) -> None:
        if instance.state is Link.OPEN:
            self._drop(instance)

    def _drop(self, instance: SimulatedInstance) -> None:
        """WhatsApp closes the socket, and the gateway reconnects, without a webhook for `close`."""
        instance.state = Link.CLOSE
        self._later(instance, self._config.reconnect_ms, self.reconnect)

    def _change(self, instance: SimulatedInstance, state: Link, reason: int = 200) -> None:
        """Put an instance into a state, and send the event."""
        if instance.state is state:
            return
        instance.state = state
        if state is Link.CONNECTING:
            instance.ever_connected = True
        if state is Link.OPEN:
            instance.has_session = instance.ever_connected = instance.socket_alive = True
            instance.stored = Link.OPEN
            instance.pair()
        self._events.connection(instance, reason)

    def _later(self, instance: SimulatedInstance, after_ms: float, step: Callable[[SimulatedInstance], object]) -> None:
        """Schedule a step; it is dropped if the instance is deleted, logged out or put into a state meanwhile."""
        generation = instance.generation

        def now() -> None:
            if self._instances.get(instance.name) is instance and instance.generation == generation:
                step(instance)

        if after_ms:
            asyncio.get_running_loop().call_later(after_ms / 1000, now)
        else:
            now()
