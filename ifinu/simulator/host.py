"""A world and its socket, on the running event loop."""

from __future__ import annotations

import asyncio

from ifinu.simulator.config import SimulatorConfig
from ifinu.simulator.fault_script import Gateway
from ifinu.simulator.router import Router
from ifinu.simulator.send_ledger import Ledger
from ifinu.simulator.server import Server
from ifinu.simulator.state import Storage
from ifinu.simulator.world import World

_REBIND_S = 0.05


class Host:
    """
    One simulated gateway process.

    Raises:
        ConfigurationError: `config.script` is wrong.
        OSError: `config.ledger_file` cannot be written.
    """

    def __init__(self, config: SimulatorConfig, database: Storage | None = None, ledger: Ledger | None = None) -> None:
        self.world = World(config, database, ledger)
        self.world.gateway_changed = self._gateway_changed
        self._server = Server(Router(self.world), keep_alive_s=config.keep_alive_s)
        self.port = config.port
        self._rebinding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """
        Listen and boot.

        Raises:
            OSError: The address is taken or forbidden.
        """
        self.world.url = await self._server.listen(self.world.config.host, self.port)
        self.port = int(self.world.url.rpartition(":")[2])
        self.world.boot()

    async def settled(self) -> None:
        """Wait until a change of `gateway` has taken effect."""
        if self._rebinding:
            await self._rebinding

    async def stop(self) -> None:
        """Stop at once and drop requests under way, as the real gateway does on SIGTERM."""
        if self._rebinding:
            self._rebinding.cancel()
        self._server.close()
        self.world.die()
        await self.world.couriers.close()
        self.world.close()

    def _gateway_changed(self) -> None:
        if self.world.faults.gateway is Gateway.REFUSE:
            self._server.drop()
            self.world.die()
        elif not self._server.listening and (self._rebinding is None or self._rebinding.done()):
            self._rebinding = asyncio.get_running_loop().create_task(self.start_when_free())

    async def start_when_free(self) -> None:
        """
        Listen on the same port again, as soon as it is free.

        A client that keeps connecting may have got this port as its source port meanwhile, and be connected to itself.
        """
        while True:
            try:
                await self.start()
            except OSError:
                await asyncio.sleep(_REBIND_S)
            else:
                return
