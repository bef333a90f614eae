"""A portfolio at Meta: its numbers write to so many people in any 24 hours, together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from ifinu.broker.keys import conversations_key
from simulation.world import World

NAME = "grupo-1"
_DAY_S = 86_400.0
_ROUNDED_S = 0.002  # Redis counts in ms


@dataclass
class Portfolio:
    """
    The portfolio of a world, and its promises.

    Args:
        world: The world.
        rng: Draws what it is, without a change of what else happens in the world.
        for_s: For how long things happen.

    Attributes:
        members: The numbers that are in it when they are registered; none in some worlds.
        tier: The most people in 24 hours; None for any number.
    """

    world: World
    rng: random.Random
    for_s: float
    members: frozenset[str] = frozenset()
    tier: int | None = None
    _began: dict[str, float] = field(default_factory=dict)  # the conversations, by person
    _waits: dict[str, float] = field(default_factory=dict)  # when each person's message comes again

    def begin(self, names: list[str]) -> None:
        """Draw what it is. Some of its conversations began almost a day ago, and end during the run."""
        if self.rng.random() < 0.5:
            return
        self.members = frozenset(self.rng.sample(names, min(len(names), self.rng.choice((1, 2, 3)))))
        self.tier = self.rng.choice((1, 2, 3))
        now = self.world.now
        for place in range(self.rng.choice((0, 1, 2))):
            person, began_ms = f"person {place}", int((now - _DAY_S + self.rng.uniform(0.5, self.for_s)) * 1000)
            self._began[person] = began_ms / 1000
            self.world.server.direct.zadd(conversations_key(NAME), {person: began_ms})

    def set_tier(self, tier: int | None) -> None:
        self.tier = tier
        self._waits.clear()  # they wait for places in another number of conversations

    def answered(self, verdict: str, number: str, person: str, ends: float, fail: Callable[[str], None]) -> None:
        """
        A claim for a number was answered.

        Args:
            verdict: `go`, or the limit that the message waits for.
            ends: When that ends, in seconds.
            fail: Called with what is broken.
        """
        now = self.world.now
        if number not in self.members:
            return
        talks = {one: began for one, began in self._began.items() if began > now - _DAY_S - _ROUNDED_S}
        surely = sum(began > now - _DAY_S + _ROUNDED_S for began in talks.values())
        if verdict == "go":
            self._waits.pop(person, None)
            if person not in talks:
                self._began[person] = now
                if self.tier is not None and surely >= self.tier:
                    fail(f"the numbers of a portfolio write to {surely + 1} people in 24 hours, and not to {self.tier}")
        elif verdict == "portfolio":
            if person in talks and talks[person] > now - _DAY_S + _ROUNDED_S:
                fail("a message waits for a place in its portfolio, and its person has one")
            if self.tier is None or len(talks) < self.tier:
                fail(f"a message waits for a place in its portfolio, and {len(talks)} of {self.tier} are taken")
            self._waits.pop(person, None)
            if abs(ends - now - _DAY_S) < _ROUNDED_S:
                return  # more people wait than there are places
            if any(abs(other - ends) < _ROUNDED_S for other in self._waits.values()):
                fail("two people wait for one place in a portfolio")
            if all(abs(began + _DAY_S - ends) > _ROUNDED_S for began in talks.values()):
                fail(f"a message waits until {ends - now:.1f} s from now, when no conversation ends")
            self._waits[person] = ends
