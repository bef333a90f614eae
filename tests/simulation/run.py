"""One run by its seed."""

from __future__ import annotations

import hashlib
import random
import traceback
from typing import NamedTuple

from ifinu.broker.keys import LOW, NORMAL, URGENT, script
from simulation import machine
from simulation.faults import Faults
from simulation.gateway import Gateway
from simulation.numbers import Numbers
from simulation.people import Person
from simulation.promises import Broken, Promises
from simulation.redis import Server
from simulation.worker import Worker
from simulation.world import EPOCH_S, World

SCRIPTS = (
    "ack", "brake_number", "bury", "cancel", "claim", "delay", "fetch", "give_back", "hold_number", "lift",
    "load_numbers", "move_lane", "optin", "optout", "postpone", "purge", "purge_dead_letter", "purge_lane", "release",
    "release_number", "renew", "replay", "reroute", "resend", "resolve", "restarted", "return_lane", "settle",
    "suspect", "sweep", "uncancel",
)  # fmt: skip
_LONGEST_QUIET_S = 400.0
_WITH_NUMBERS = 1 / 3  # of the worlds
_CAPPED_S = 4.0  # after the faults, until an operator lifts the caps


class Outcome(NamedTuple):
    """
    The outcome of a run.

    Attributes:
        broken: The promise that was broken; empty if all held.
        lines: What happened, if it was traced.
        digest: Of the lines.
        virtual_s: How long the world went on.
        ids: Number of ids.
        sent: Number of messages that really went to WhatsApp.
        steps: Number of steps of the scheduler.
    """

    broken: str
    lines: list[str]
    digest: str
    virtual_s: float
    ids: int
    sent: int
    steps: int


def simulate(seed: int, *, traced: bool = False) -> Outcome:
    """Run the world of a seed to its end."""
    with World(seed, traced=traced) as world, machine.simulated(seed):
        try:
            _Life(world, has_numbers=random.Random(f"numbers {seed}").random() < _WITH_NUMBERS).run()
        except Broken:
            pass
        except Exception:
            world.broken = traceback.format_exc()
        lines = world.lines or []
        summary = world.promises.summary()
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
        return Outcome(world.broken, lines, digest, world.now - EPOCH_S, summary["ids"], summary["sent"], world.steps)


class _Life:
    """What happens in a world."""

    def __init__(self, world: World, *, has_numbers: bool) -> None:
        rng = world.rng
        self.world = world
        world.numbers = None
        # A few last long enough for a second doubt: the first look-ups alone take a grace.
        is_long = rng.random() < 0.08
        self.for_s = rng.uniform(25, 40) if is_long else rng.uniform(4, 14)
        world.queues = [NORMAL] if rng.random() < 0.8 else [URGENT, NORMAL]
        world.faults = Faults(world, self.for_s)
        if is_long:
            world.faults.rates = {"send_lost": 0.8, "kill": 0.003}
        world.server = Server(world, {name: script(name) for name in SCRIPTS})
        world.gateway = Gateway(world)
        if has_numbers:
            if random.Random(f"low {world.seed}").random() < 0.3:
                world.queues.append(LOW)
            world.numbers = Numbers(world, self.for_s)
        world.promises = Promises(world)
        if world.numbers is not None:
            world.numbers.begin()
        self.workers = [self._worker(number) for number in range(rng.choice((2, 2, 3, 3, 4)))]
        Person(world, rng.choice((2, 4, 6, 10)), min(self.for_s, 14.0))
        self._outages()

    def _worker(self, number: int) -> Worker:
        rng = self.world.rng
        off_s = rng.choice((0.0, 0.0, 0.0, rng.uniform(-2, 2), rng.uniform(-90, 90)))
        return Worker(self.world, f"w{number}", 0.0 if self.world.faults.over else off_s)

    def _outages(self) -> None:
        rng, world = self.world.rng, self.world
        if rng.random() < 0.3:
            world.after(rng.uniform(0, self.for_s), lambda: self._away(world.gateway, "gateway"))
        if rng.random() < 0.2:
            world.after(rng.uniform(0, self.for_s), lambda: self._away(world.server, "redis"))
        if rng.random() < 0.2:
            world.after(rng.uniform(0, self.for_s), self._closed)
        if rng.random() < 0.3:
            world.after(rng.uniform(0, self.for_s), self._terminate)
        if world.numbers is not None:  # what a worker gives back then goes back into its lanes
            more = random.Random(f"terminate {world.seed}")
            for _ in range(more.choice((0, 1, 3))):
                world.after(more.uniform(0, self.for_s), self._terminate)

    def _away(self, what: object, name: str) -> None:
        for_s = self.world.rng.uniform(0.2, 6)
        self.world.trace("AWAY", what=name, for_s=round(for_s, 2))
        what.away_until = self.world.now + for_s

    def _closed(self) -> None:
        for_s = self.world.rng.uniform(0.5, 8)
        self.world.trace("INSTANCE CLOSED", for_s=round(for_s, 2))
        self.world.gateway.close("ifinu", for_s)

    def _terminate(self) -> None:
        for worker in self.workers:
            if worker.alive:
                worker.terminate()
                return

    def run(self) -> None:
        world = self.world
        end = world.now + self.for_s
        while world.now < end and not world.broken:
            world.run(min(end, world.now + 0.5))
            self._restart(0.3)
            world.promises.check_leases(self.workers)
        world.trace("QUIET")  # also, somebody sets the clocks
        for worker in self.workers:
            worker.clock_off_s = 0.0
        # All but one end; that one has to finish everything.
        self._restart(1.0, wanted=1)
        for worker in [worker for worker in self.workers if worker.alive][1:]:
            worker.terminate()
        if world.numbers is not None:
            world.after(_CAPPED_S, world.numbers.lift)
            end += _CAPPED_S
        quiet_until = world.now + _LONGEST_QUIET_S
        while world.now < quiet_until and not world.broken and not (world.promises.is_quiet() and world.now > end + 8):
            world.run(world.now + 1.0)
            world.promises.check_leases(self.workers)
            if not any(worker.alive and not worker.stopping for worker in self.workers):
                self.workers.append(self._worker(len(self.workers)))
        if not world.broken:
            world.promises.check_end()

    def _restart(self, chance: float, wanted: int = 2) -> None:
        """What was killed comes back, some time later."""
        living = sum(worker.alive for worker in self.workers)
        while living < wanted and self.world.rng.random() < chance:
            self.workers.append(self._worker(len(self.workers)))
            living += 1
