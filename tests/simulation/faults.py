"""What goes wrong in a run: each run has some kinds of faults, some often and some rarely, until it becomes quiet."""

from __future__ import annotations

from simulation.world import Process, World

# How probable each kind is at one of its places, in a run that has it at its usual rate.
_USUAL = {
    "connect_refused": 0.05,
    "break_before": 0.02,
    "break_after": 0.02,
    "lost_before": 0.01,
    "lost_after": 0.02,
    "slow_redis": 0.03,
    "kill": 0.01,
    "freeze": 0.01,
    "not_delivered": 0.05,
    "answer_lost": 0.10,
    "send_lost": 0.05,
    "slow_gateway": 0.10,
    "refused": 0.05,
    "failed": 0.08,
    "failed_unknown": 0.08,
    "throttled": 0.04,
    "unfound": 0.10,
    "unstored": 0.05,
}


class Faults:
    """
    The faults of one run, drawn from its seed.

    Args:
        world: The world.
        until_s: When they end, in seconds from the start.
    """

    def __init__(self, world: World, until_s: float) -> None:
        self._world = world
        self._until = world.now + until_s
        rng = world.rng
        self.rates = {kind: rate * rng.choice((0.3, 1.0, 3.0)) for kind, rate in _USUAL.items() if rng.random() < 0.5}

    @property
    def over(self) -> bool:
        return self._world.now >= self._until

    def happens(self, kind: str) -> bool:
        rate = self.rates.get(kind, 0.0)
        return rate > 0 and not self.over and self._world.rng.random() < rate

    def latency_s(self) -> float:
        return self._world.rng.uniform(0.0001, 0.002)

    def of_command(self) -> tuple[str, float, float]:
        """The fate of a command to Redis, and how long it and its answer travel."""
        there_s, back_s = self.latency_s(), self.latency_s()
        fate = "ok"
        for kind in ("break_before", "break_after", "lost_before", "lost_after"):
            if self.happens(kind):
                fate = kind
                break
        if self.happens("slow_redis"):
            there_s += self._world.rng.uniform(0, 1.5)
            back_s += self._world.rng.uniform(0, 1.5)
        self.strike(there_s + back_s)
        return fate, there_s, back_s

    def strike(self, within_s: float, *, often: int = 1) -> None:
        """
        At each wait, the process that waits may be killed or suspended, at any moment of it.

        Args:
            within_s: How long it waits.
            often: How much more probable it is at this wait.
        """
        process = self._world.process
        if process is None or self.over:
            return
        at_s = self._world.rng.uniform(0, within_s)
        if any(self.happens("kill") for _ in range(often)):
            self._world.after(at_s, lambda: self._world.kill(process))
        elif any(self.happens("freeze") for _ in range(often)):
            for_s = self._world.rng.choice((0.5, 2.0, 4.0, 8.0, 20.0)) * self._world.rng.uniform(0.5, 1.5)
            self._world.after(at_s, lambda: self._freeze(process, for_s))

    def _freeze(self, process: Process, for_s: float) -> None:
        self._world.freeze(process, for_s)
