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
from ifinu.simulator.state import Database, Instance, Link, Webhook, new_key_id

VERSION = "2.3.6"


class World:
    """
    The state behind the routes. It lives on the simulator's event loop and nowhere else.

    Args:
        config: How it was started.
        database: Shared with other processes; None makes one.
        ledger: Likewise.

    Raises:
        ConfigurationError: `config.script` is wrong.
        OSError: `config.ledger_file` cannot be written.
    """

    def __init__(self, config: SimulatorConfig, database: Database | None = None, ledger: Ledger | None = None) -> None:
        self.config = config
        self.rng = random.Random(config.seed)
        self.faults = Faults(self.rng)
        self.faults.apply(config.script)
        self.ledger = Ledger(config.ledger_file) if ledger is None else ledger
        self._owns_ledger = ledger is None
        database = Database() if database is None else database
        self.instances = database.instances
        self.messages = database.messages
        self.known_jids = database.known_jids
        self.couriers = Couriers(self.faults, self.rng, retry_s=config.webhook_retry_s)
        everybody = config.webhook_url if config.webhook_secret is None else None
        self.events = Events(self.messages, self.faults, self.couriers, self.rng, everybody)
        # Called when `faults.gateway` has changed; whoever owns the socket sets it.
        self.gateway_changed: Callable[[], None] = lambda: None
        for name in config.instances:
            token = str(uuid.uuid4()).upper()
            instance = Instance(name, token, config.client_name, has_session=True, ever_connected=True)
            if config.webhook_url and config.webhook_secret:
                headers = {"jwt_key": config.webhook_secret}
                instance.webhook = Webhook(config.webhook_url, True, [], headers, False, False, instance.id)
            self.instances[name] = instance

    @property
    def url(self) -> str:
        """Where it listens; empty before it does."""
        return self.events.server_url

    @url.setter
    def url(self, value: str) -> None:
        self.events.server_url = value

    def held(self, name: str) -> Instance | None:
        """An instance, if this process holds it."""
        instance = self.instances.get(name)
        return instance if instance is not None and instance.client_name == self.config.client_name else None

    def close(self) -> None:
        """Let go of files."""
        if self._owns_ledger:
            self.ledger.close()

    def boot(self) -> None:
        """Connect every instance that has a session, after `boot_ms` in `close`."""
        for instance in self.instances.values():
            if instance.has_session and self.held(instance.name):
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
