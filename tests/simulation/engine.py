"""The event loop of a worker, in the world: what its tasks, its pool and its pipeline to Redis use of `ifinu.loop`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ifinu import loop
from simulation.machine import monotonic
from simulation.world import Process, Task, here

_EXPIRED = object()


class Loop:
    """
    `loop.Loop`, whose waits are those of the world. Callbacks run outside of tasks, as in the original.

    Args:
        process: The worker whose loop it is.
    """

    def __init__(self, process: Process) -> None:
        self.tasks = 0
        self.pipelines: dict[tuple[Any, ...], Any] = {}
        self._process = process

    def spawn(self, run: Callable[[], object]) -> None:
        world, self.tasks = here(), self.tasks + 1

        def task() -> None:
            try:
                run()
            finally:
                self.tasks -= 1

        world.spawn(self._process, task, f"task {self.tasks}").notes["loop"] = self

    def park(self, deadline: float | None = None) -> Any:
        world, task = here(), here().task()
        timer = None if deadline is None else self.call_at(deadline, functools.partial(task.switch, _EXPIRED))
        got = world.park()
        if timer is not None:
            timer.cancel()
        if got is _EXPIRED:
            raise TimeoutError("timed out")
        return got

    def in_thread(self, call: Callable[[], Any]) -> Any:
        return call()

    def call_at(self, when: float, callback: Callable[[], None]) -> loop.Timer:
        timer = loop.Timer(callback)
        here().after(when - monotonic(), timer.fire, self._process)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        here().after(0.0, callback, self._process)

    at_turn = call_soon

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            here().sleep(0.01)

    def close(self) -> None:
        for pipeline in self.pipelines.values():
            pipeline.close()


class Watch:
    """`loop.Watch` of a simulated socket."""

    def __init__(self, of: Loop, sock: Any, on_readable: Callable[[], None]) -> None:
        self._loop, self._sock = of, sock
        sock.on_readable = functools.partial(of.call_soon, self._readable)
        self._callback: Callable[[], None] | None = on_readable

    def _readable(self) -> None:
        if self._callback is not None:
            self._callback()

    def once_writable(self, callback: Callable[[], None], *, only: bool) -> None:
        self._loop.call_soon(callback)

    def close(self) -> None:
        self._callback = self._sock.on_readable = None


def current() -> Any:
    """The loop, if the caller is one of its tasks."""
    task = here().current
    return task.notes.get("loop") if isinstance(task, Task) else None


def install() -> None:
    loop.current, loop.Watch = current, Watch
