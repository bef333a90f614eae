"""Everything one simulated gateway knows, in one place, for the routes to work on."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable

from ifinu.simulator.config import SimulatorConfig
from ifinu.simulator.couriers import Couriers
from ifinu.simulator.events import Events
from ifinu.simulator.faults import Faults
from ifinu.simulator.ledger import Ledger
from ifinu.simulator.state import Instance, Link, Messages, new_key_id

VERSION = "2.3.6"


class World:
    """
    The state behind the routes. It lives on the simulator's event loop and nowhere else.

    Raises:
        ConfigurationError: `config.script` is wrong.
        OSError: `config.ledger_file` cannot be written.
    """

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.rng = random.Random(config.seed)
        self.faults = Faults(self.rng)
        self.faults.apply(config.script)
        self.ledger = Ledger(config.ledger_file)
        self.instances: dict[str, Instance] = {}
        self.messages = Messages()
        # Table IsOnWhatsapp: canonical JIDs that were looked up once. Shared by all instances.
        self.known_jids: set[str] = set()
        self.couriers = Couriers(self.faults, self.rng, retry_s=config.webhook_retry_s)
        self.events = Events(self.messages, self.faults, self.couriers, self.rng, config.webhook_url)
        # Called when `faults.gateway` has changed; whoever owns the socket sets it.
        self.gateway_changed: Callable[[], None] = lambda: None
        for name in config.instances:
            self.instances[name] = Instance(name, str(uuid.uuid4()).upper(), has_session=True, ever_connected=True)

    @property
    def url(self) -> str:
        """Where it listens; empty before it does."""
        return self.events.server_url

    @url.setter
    def url(self, value: str) -> None:
        self.events.server_url = value

    def boot(self) -> None:
        """Connect every instance that has a session, after `boot_ms` in `close`."""
        for instance in self.instances.values():
            if instance.has_session and instance.held:
                instance.state = Link.CLOSE
                self.change_later(instance, Link.OPEN, self.config.boot_ms)

    def change(self, instance: Instance, state: Link) -> None:
        """Put an instance into a state and say so to its webhook."""
        if instance.state is state:
            return
        instance.state = state
        if state is Link.CONNECTING:
            instance.ever_connected = True
        if state is Link.OPEN:
            instance.has_session = instance.ever_connected = instance.socket_alive = True
        self.events.connection(instance)

    def change_later(self, instance: Instance, state: Link, after_ms: float) -> None:
        """`change`, unless the instance is deleted or logged out meanwhile."""
        expected = instance.state

        def now() -> None:
            if self.instances.get(instance.name) is instance and instance.state is expected:
                self.change(instance, state)

        if after_ms:
            asyncio.get_running_loop().call_later(after_ms / 1000, now)
        else:
            now()

    def new_key_id(self) -> str:
        """An id for a message."""
        return new_key_id(self.rng)

    def reset(self) -> None:
        """Forget what was observed: ledger, stored messages, known numbers, turns of the script."""
        self.ledger.reset()
        self.messages.clear()
        self.known_jids.clear()
        self.faults.forget_turns()
        self.couriers.reset()
