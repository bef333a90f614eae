"""Several gateway processes that share one database; each has its address and its instances. For tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ifinu.errors import ConfigurationError
from ifinu.simulator import control
from ifinu.simulator.config import SimulatorConfig
from ifinu.simulator.host import Host
from ifinu.simulator.number_figures import by_instance
from ifinu.simulator.send_ledger import Ledger, Send
from ifinu.simulator.state import Link, Storage
from ifinu.simulator.threaded import Threaded


class Cluster(Threaded):
    """
    Running gateway processes, by name. All listen at one port, as pods do.

    Args:
        api_key: The global key of all.
        hosts: Where each listens: `{"pod-0": "127.0.0.1", "pod-1": "127.0.0.2"}`.
        instances: Which instances each has, connected from the start.
        options: Other fields of `SimulatorConfig`, of all; `port` 0 takes one that is free at the first host.
    """

    def __init__(
        self, *, api_key: str, hosts: Mapping[str, str], instances: Mapping[str, Sequence[str]], **options: Any
    ) -> None:
        super().__init__()
        self._database, self._ledger = Storage(), Ledger()
        self._configs = {
            name: SimulatorConfig(
                api_key=api_key, host=host, client_name=name, instances=tuple(instances.get(name, ())), **options
            )
            for name, host in hosts.items()
        }
        self._hosts: dict[str, Host] = {}
        self._port = next(iter(self._configs.values())).port

    @property
    def port(self) -> int:
        """The port on which all processes listen."""
        return self._port

    @property
    def addresses(self) -> dict[str, str]:
        return self._call(lambda: {name: host.world.config.host for name, host in self._hosts.items()})

    @property
    def sends(self) -> list[Send]:
        """Every message that WhatsApp got, in order."""
        return self._call(self._ledger.sends)

    def summary(self) -> dict[str, Any]:
        """The figures of all processes together; see `Ledger.summary`."""
        return self._call(self._ledger.summary)

    def numbers(self) -> dict[str, dict[str, Any]]:
        """The figures of each instance that sent, of all processes; see `number_figures.by_instance`."""
        return self._call(lambda: by_instance(self._ledger))

    def holder(self, instance: str) -> str:
        """The name of the process that holds an instance, even if the process is killed."""
        return self._call(lambda: self._database.instances[instance].client_name)

    def instances(self) -> set[str]:
        """Names of all instances in the database."""
        return self._call(lambda: set(self._database.instances))

    def move(self, instance: str, to: str) -> None:
        """
        Move an instance to another process. Sends under way in the former process are completed.

        Raises:
            ConfigurationError: There is no such process.
        """
        if to not in self._configs:
            raise ConfigurationError(f"{to}: no such process")

        def move() -> None:
            moved = self._database.instances[instance]
            moved.client_name = to
            if to in self._hosts and moved.has_session:
                self._hosts[to].world.sockets.set_state(moved, Link.OPEN)

        self._call(move)

    def set_instance(self, instance: str, **changes: Any) -> None:
        some = next(iter(self._hosts.values()))
        self._call(lambda: control.set_instance(some.world, instance, changes))

    def set_fault(self, name: str, **script: Any) -> None:
        """Same as `Simulator.set_fault`, for one process."""

        async def apply() -> None:
            control.set_faults(self._hosts[name].world, script, reachable=True)
            await self._hosts[name].settled()

        self._await(apply)

    def kill(self, name: str) -> None:
        """Kill a process: its requests under way are dropped, its stored rows stay."""

        async def kill() -> None:
            await self._hosts.pop(name).stop()

        self._await(kill)

    def revive(self, name: str, host: str | None = None) -> None:
        """Start a killed process again, at another address if one is given; it connects its instances."""

        async def revive() -> None:
            config = self._configs[name]
            await self._start(replace(config, host=host or config.host, instances=()))

        self._await(revive)

    async def _begin(self) -> None:
        for config in self._configs.values():
            await self._start(config)

    async def _end(self) -> None:
        for host in self._hosts.values():
            await host.stop()
        self._hosts.clear()
        self._ledger.close()

    async def _start(self, config: SimulatorConfig) -> None:
        host = Host(replace(config, port=self._port), self._database, self._ledger)
        # Once one listens, another program may get the port as its source port, at another address too.
        await (host.start_when_free() if self._hosts else host.start())
        self._port = host.port
        self._hosts[config.client_name] = host
