"""A simulator on a thread of the process that uses it: for tests and the demo."""

from __future__ import annotations

import abc
import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from ifinu.simulator import control
from ifinu.simulator.config import SimulatorConfig
from ifinu.simulator.host import Host
from ifinu.simulator.send_ledger import Send

_T = TypeVar("_T")
_ANSWER_TIMEOUT_S = 10.0


class Threaded(abc.ABC):
    """Runs an event loop on a separate thread, from `start` to `stop`; use it as a context manager."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = asyncio.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """
        Listen; it answers when this returns.

        Raises:
            OSError: The address is taken or forbidden.
        """
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(started),), name="simulator", daemon=True)
        self._thread.start()
        started.result(_ANSWER_TIMEOUT_S)

    def stop(self) -> None:
        """Stop at once, and drop requests under way; recorded sends can still be read."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None:
            self._thread.join(_ANSWER_TIMEOUT_S)

    @abc.abstractmethod
    async def _begin(self) -> None: ...

    @abc.abstractmethod
    async def _end(self) -> None: ...

    async def _main(self, started: concurrent.futures.Future[None]) -> None:
        try:
            await self._begin()
        except OSError as exc:
            await self._end()
            started.set_exception(exc)
            return
        self._loop = asyncio.get_running_loop()
        started.set_result(None)
        await self._stopping.wait()
        self._loop = None
        await self._end()

    def _call(self, work: Callable[[], _T]) -> _T:
        async def call() -> _T:
            return work()

        return self._await(call) if self._loop else work()

    def _await(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        if self._loop is None:
            raise RuntimeError("the simulator is not running")
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(_ANSWER_TIMEOUT_S)


class Simulator(Threaded):
    """
    A running gateway. Its methods raise ConfigurationError where the control surface answers 400.

    Args:
        api_key: The global key.
        options: Other fields of `SimulatorConfig`.
    """

    def __init__(self, *, api_key: str, **options: Any) -> None:
        super().__init__()
        self.config = SimulatorConfig(api_key=api_key, **options)
        self._host = Host(self.config)

    @property
    def url(self) -> str:
        return self._host.world.url

    @property
    def port(self) -> int:
        return self._host.port

    @property
    def api_key(self) -> str:
        """The global key."""
        return self.config.api_key

    @property
    def sends(self) -> list[Send]:
        """Every message that WhatsApp got, in order."""
        return self._call(self._host.world.ledger.sends)

    def summary(self) -> dict[str, Any]:
        """The figures so far, as in `GET /_simulator/summary`."""
        return self._call(lambda: control.summary(self._host.world))

    def numbers(self) -> dict[str, dict[str, Any]]:
        """The figures of each instance, by which to judge its pace, as in `GET /_simulator/numbers`."""
        return self._call(lambda: control.numbers_of(self._host.world))

    def token(self, instance: str) -> str:
        """The key of one instance."""
        return self._call(lambda: self._host.world.instances[instance].token)

    def set_fault(self, **script: Any) -> None:
        """Change the script, as `POST /_simulator/faults` does; here `gateway="refuse"` needs no `for_s`."""

        async def apply() -> None:
            control.set_faults(self._host.world, script, reachable=True)
            await self._host.settled()

        self._await(apply)

    def set_instance(self, name: str, **changes: Any) -> None:
        """Put an instance into a state, as `POST /_simulator/instances/{name}` does."""
        self._call(lambda: control.set_instance(self._host.world, name, changes))

    def inbound(self, **message: Any) -> str:
        """Simulate a message from a person, as `POST /_simulator/inbound` does, and return its `key.id`."""
        return self._call(lambda: control.inbound(self._host.world, message))

    def reset(self) -> None:
        """Delete recorded sends and messages; faults and instances stay."""
        self._call(self._host.world.reset)

    async def _begin(self) -> None:
        await self._host.start()

    async def _end(self) -> None:
        await self._host.stop()
