"""The state of one simulated gateway, on which the routes work."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable

from ifinu.errors import ConfigurationError
from ifinu.simulator.bans import Bans
from ifinu.simulator.config import VERSIONS, SimulatorConfig
from ifinu.simulator.couriers import Couriers
from ifinu.simulator.fault_script import Faults
from ifinu.simulator.send_ledger import Ledger
from ifinu.simulator.state import BUSINESS, Link, SimulatedInstance, Storage, WebhookSettings
from ifinu.simulator.webhook_payloads import Events
from ifinu.simulator.whatsapp_sockets import Sockets

_FIRST_ID = 106_540_352_242_922  # of Meta's, for a phone number


class World:
    """
    The state behind the routes. Only the simulator's event loop may use it.

    Args:
        database: A database shared with other processes; None makes one.
        ledger: A ledger shared with other processes; None makes one.

    Raises:
        ConfigurationError: `config.script` is wrong, or there is no such version.
        OSError: `config.ledger_file` cannot be written.
    """

    def __init__(self, config: SimulatorConfig, database: Storage | None = None, ledger: Ledger | None = None) -> None:
        if config.version not in VERSIONS:
            raise ConfigurationError(f"{config.version}: the simulator plays {' and '.join(VERSIONS)}")
        self.config = config
        self.rng = random.Random(config.seed)
        self.faults = Faults(self.rng)
        self.faults.apply(config.script)
        self.ledger = Ledger(config.ledger_file) if ledger is None else ledger
        self._owns_ledger = ledger is None
        database = Storage() if database is None else database
        self.instances = database.instances
        self.messages = database.messages
        self.known_jids = database.known_jids
        self.wrote_at = database.wrote_at
        self.bans = Bans(self.faults, database.ban_records)
        self.couriers = Couriers(self.faults, self.rng, retry_s=config.webhook_retry_s)
        everybody = config.webhook_url if config.webhook_secret is None else None
        self.events = Events(self.messages, self.faults, self.couriers, self.rng, everybody)
        self.sockets = Sockets(config, self.instances, self.events)
        self._loaded_at = 0.0  # as `time.monotonic` counts
        # Called when `faults.gateway` has changed; the owner of the socket sets it.
        self.gateway_changed: Callable[[], None] = lambda: None
        for name in config.instances:
            token = str(uuid.uuid4()).upper()
            instance = SimulatedInstance(
                name, token, config.client_name, has_session=True, ever_connected=True, stored=Link.OPEN
            )
            instance.pair()
            self._add(instance)
        for number, name in enumerate(config.business):
            instance = SimulatedInstance(name, f"EAAG{number}", config.client_name, BUSINESS, str(_FIRST_ID + number))
            instance.state = instance.stored = Link.OPEN
            self._add(instance)

    def _add(self, instance: SimulatedInstance) -> None:
        if self.config.webhook_url and self.config.webhook_secret:
            headers = {"jwt_key": self.config.webhook_secret}
            instance.webhook = WebhookSettings(self.config.webhook_url, True, [], headers, False, False, instance.id)
        self.instances[instance.name] = instance

    @property
    def url(self) -> str:
        """The gateway's URL; empty until it listens."""
        return self.events.server_url

    @url.setter
    def url(self, value: str) -> None:
        self.events.server_url = value

    def held(self, name: str) -> SimulatedInstance | None:
        """An instance, if this process holds it and has loaded it; else None."""
        instance = self.instances.get(name) if time.monotonic() >= self._loaded_at else None
        return instance if instance is not None and instance.client_name == self.config.client_name else None

    def close(self) -> None:
        """Close the ledger's file, unless the ledger is shared."""
        if self._owns_ledger:
            self.ledger.close()

    def boot(self) -> None:
        """Load the instances of this process after `load_ms`, and connect them after `boot_ms`."""
        self._loaded_at = time.monotonic() + self.config.load_ms / 1000
        self.sockets.boot(self._own(), self.config.load_ms + self.config.boot_ms)

    def die(self) -> None:
        """Drop the state in memory, as when the process is killed; the database stays."""
        self.events.die()
        self.sockets.die(self._own())

    def _own(self) -> list[SimulatedInstance]:
        return [one for one in self.instances.values() if one.client_name == self.config.client_name]

    def reset(self) -> None:
        """Delete the ledger, stored messages, known numbers and chats, and start the fault script again."""
        self.ledger.reset()
        self.messages.clear()
        self.known_jids.clear()
        self.wrote_at.clear()
        self.faults.forget_turns()
        self.bans.reset()
        self.couriers.reset()
