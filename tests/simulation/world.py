"""Virtual time, processes that can be killed and suspended, and which greenlet runs next."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import greenlet

if TYPE_CHECKING:
    from simulation.faults import Faults
    from simulation.gateway import Gateway
    from simulation.numbers import Numbers
    from simulation.promises import Promises
    from simulation.redis import Server

EPOCH_S = 1_796_054_400.0  # 2026-11-30 16:00 in UTC, a Monday, 13:00 in Brasília

_here: World | None = None


def here() -> World:
    """The world that runs now; there is one at a time."""
    assert _here is not None, "nothing is simulated now"
    return _here


def is_running() -> bool:
    return _here is not None


class Process:
    """
    A process of the simulated machines.

    Attributes:
        clock_off_s: Seconds that its machine's clock is ahead of Redis'.
        frozen_until: End of its suspension; in the past if it runs.
        confirming: Number of its sends between the confirmation of their claim and the first byte of the request: the
            documented gap, in which nothing may suspend it.
        died_at: When it was killed; None while it lives.
    """

    def __init__(self, name: str, clock_off_s: float = 0.0) -> None:
        self.name = name
        self.clock_off_s = clock_off_s
        self.frozen_until = 0.0
        self.confirming = 0
        self.died_at: float | None = None
        self.tasks: dict[Task, None] = {}

    @property
    def alive(self) -> bool:
        return self.died_at is None

    def enter(self) -> None:
        """Put this process' module globals in place, before one of its greenlets runs."""

    def leave(self) -> None:
        """Save them."""


class Task(greenlet.greenlet):
    """A greenlet of a process; `notes` are for the seams, such as its connections."""

    def __init__(self, world: World, process: Process, run: Callable[..., Any], name: str) -> None:
        super().__init__(run, world.loop)
        self.process = process
        self.name = name
        self.notes: dict[Any, Any] = {}
        self.sleep: list[Any] | None = None  # its entry in the heap, while it waits


class World:
    """
    One simulated world.

    Args:
        seed: Decides everything that happens.
        traced: Whether to keep what happened as lines of text.

    Attributes:
        faults, server, gateway, promises: The parts of the world; `run.py` puts them in.
        numbers: The registered numbers; None in a world without.
        queues: The queues that its workers consume.
        lines: What happened, if it is traced.
        broken: The promise that was broken, which ends the run.
    """

    faults: Faults
    server: Server
    gateway: Gateway
    promises: Promises
    numbers: Numbers | None
    queues: list[str]

    def __init__(self, seed: int, *, traced: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = EPOCH_S
        self.loop = greenlet.getcurrent()
        self.lines: list[str] | None = [] if traced else None
        self.serving = False  # whether Redis runs now, whose clock is right
        self.steps = 0
        self.broken = ""
        self._heap: list[list[Any]] = []
        self._order = itertools.count()
        self._inside: Process | None = None

    # -- clocks

    def wall(self) -> float:
        """The time of day by the clock of whatever runs now."""
        process = self.process
        return self.now if process is None or self.serving else self.now + process.clock_off_s

    @property
    def process(self) -> Process | None:
        """The process whose code runs now; None in the world outside of them."""
        return self._inside

    @property
    def current(self) -> greenlet.greenlet:
        return greenlet.getcurrent()

    # -- what happens

    def trace(self, what: str, /, **facts: Any) -> None:
        process, current = self._inside, self.current
        if self.lines is None or (process is not None and not process.alive):
            return
        who = "-" if process is None else f"{process.name}/{current.name if isinstance(current, Task) else 'root'}"
        shown = " ".join(f"{name}={value}" for name, value in facts.items() if value not in (None, ""))
        self.lines.append(f"{self.now - EPOCH_S:9.4f}  {who:<22} {what:<14} {shown}".rstrip())

    def after(self, delay_s: float, do: Callable[[], Any], process: Process | None = None) -> list[Any]:
        """
        Call `do` after a delay, in the loop or as a greenlet of a process. Returns the entry, for `cancel`.

        A killed process does nothing any more, and a suspended one does it when it goes on.
        """
        entry = [self.now + max(0.0, delay_s), next(self._order), process, do]
        heapq.heappush(self._heap, entry)
        return entry

    def cancel(self, entry: list[Any]) -> None:
        entry[3] = None

    def spawn(self, process: Process, run: Callable[[], Any], name: str) -> Task:
        """A new greenlet of a process; it starts when the others of this moment have run."""
        task = Task(self, process, lambda: self._run(task, run), name)
        process.tasks[task] = None
        self.after(0.0, task.switch, process)
        return task

    def _run(self, task: Task, run: Callable[[], Any]) -> None:
        try:
            run()
        finally:
            task.process.tasks.pop(task, None)

    def sleep(self, delay_s: float) -> None:
        """Let virtual time pass for the greenlet that calls."""
        task = self.task()
        self.after(delay_s, task.switch, task.process)
        self.park()

    def wait(self, timeout_s: float) -> bool:
        """Wait for `wake`; False if the time ran out before."""
        task = self.task()
        woken = [False]
        task.notes[self] = woken

        def late() -> None:
            task.notes.pop(self, None)
            task.switch()

        task.sleep = self.after(timeout_s, late, task.process)
        self.park()
        return woken[0]

    def wake(self, task: Task) -> None:
        """End the wait of a greenlet; nothing if it does not wait."""
        woken = task.notes.pop(self, None)
        if woken is None or task.dead:
            return
        woken[0] = True
        self.cancel(task.sleep or [0, 0, None, None])
        self.after(0.0, task.switch, task.process)

    def task(self) -> Task:
        """The greenlet that runs now, which may wait; a dead one ends here."""
        current = self.current
        assert isinstance(current, Task), "only a greenlet of a process may wait"
        if not current.process.alive:
            raise greenlet.GreenletExit
        return current

    def park(self) -> Any:
        """Let others run until somebody switches to the greenlet that calls, and return what they pass."""
        task = self.task()
        got = self.loop.switch()
        if not task.process.alive:
            raise greenlet.GreenletExit
        return got

    def kill(self, process: Process) -> None:
        """`kill -9`: nothing of the process runs any more; what it has sent is on its way."""
        if not process.alive:
            return
        self.trace("KILL", process=process.name)
        process.died_at = self.now
        self._enter(process)
        for task in list(process.tasks):
            if task:  # has run and not ended; the code unwinds, and every wait in it ends at once
                task.throw(greenlet.GreenletExit)
        process.tasks.clear()
        self._enter(None)

    def freeze(self, process: Process, for_s: float) -> None:
        """Suspend a process, all its threads at once."""
        if process.alive and not process.confirming:
            self.trace("FREEZE", process=process.name, for_s=round(for_s, 3))
            process.frozen_until = max(process.frozen_until, self.now + for_s)

    def run(self, until: float) -> None:
        """Let the world go on until a moment."""
        while self._heap and self._heap[0][0] <= until and not self.broken:
            self._step(heapq.heappop(self._heap))
        self._enter(None)
        self.now = max(self.now, until)

    def __enter__(self) -> World:
        global _here
        _here = self
        return self

    def __exit__(self, *_: object) -> None:
        global _here
        self._enter(None)
        _here = None

    def _step(self, entry: list[Any]) -> None:
        at, _, process, do = entry
        if do is None or (process is not None and not process.alive):
            return
        if process is not None and process.frozen_until > at:
            entry[0] = process.frozen_until
            heapq.heappush(self._heap, entry)
            return
        self.now = max(self.now, at)
        self.steps += 1
        self._enter(process)
        do()

    def _enter(self, process: Process | None) -> None:
        if process is self._inside:
            return
        if self._inside is not None:
            self._inside.leave()
        self._inside = process
        if process is not None:
            process.enter()
