"""What a case came to: the simulator's own ledger against what Redis says."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from processes import FIRST_NUMBER, Queue, Simulated

from ifinu.broker.keys import EVENTS, UNKNOWN

_PAGE = 5_000

Told = tuple[str, str, dict[str, Any]]  # an event: its name, the id, its data


@dataclass(frozen=True)
class Figures:
    """
    The ids of `processes.numbered`, by what became of them.

    Attributes:
        messages: How many there were.
        sent: What WhatsApp got, and how often.
        dead: Reasons of the dead letters, by id.
        letters: How many there are, those without an id too.
        unknown: Those that may have been sent at some time, and the first reason why.
        found: Those of them that the gateway had.
        resent: Those of them that it did not have.
        open: Those that still may have been sent.
        told: Those that were said to be sent.
        tries: The most that a message needed, as the events count them.
        unrecorded: How many sends had no row when the gateway was killed, so that no look-up can find them.
    """

    messages: int
    sent: collections.Counter[str]
    dead: dict[str, str]
    letters: int
    unknown: dict[str, str]
    found: set[str]
    resent: set[str]
    open: set[str]
    told: set[str]
    tries: int
    unrecorded: int

    @property
    def lost(self) -> set[str]:
        """Neither sent nor in the dead letters."""
        return {f"test_{number}" for number in range(self.messages)} - self.sent.keys() - self.dead.keys()

    @property
    def twice(self) -> set[str]:
        """Sent more than once."""
        return {name for name, count in self.sent.items() if count > 1}

    @property
    def worker_died(self) -> int:
        """How many ids are unknown because a worker died while it sent them."""
        return sum(reason == "worker_died" for reason in self.unknown.values())

    def harm(self) -> dict[str, Any]:
        """Everything that should not be; empty when all is well. What no look-up can find may be sent once more."""
        found = {
            "lost": self.lost,
            "twice": self.twice if len(self.twice) > self.unrecorded else set(),
            "dead": self.dead,
            "unresolved": self.open | (self.unknown.keys() - self.told - self.dead.keys()),
            "untold": self.sent.keys() - self.told - self.dead.keys(),
            "imagined": self.told - self.sent.keys(),
        }
        return {name: ids for name, ids in found.items() if ids}

    def row(self, case: str, faults: str) -> str:
        """The line that docs/measured.md quotes."""
        cells = (
            case, f"{self.messages:,} messages", faults, f"lost {len(self.lost)}", f"sent twice {len(self.twice)}",
            f"unknown {len(self.unknown)}: {len(self.found)} found, {len(self.resent)} sent again, "
            f"{len(self.harm().get('unresolved', ()))} open",
            f"DLQ {self.letters}",
        )  # fmt: skip
        return " | ".join(cells)


def judge(queue: Queue, simulator: Simulated, messages: int, events: Iterable[Told] | None = None) -> Figures:
    """
    Count, after the queue is idle.

    Args:
        queue: It.
        simulator: Where they were sent.
        messages: How many of `processes.numbered` it was given.
        events: What is said to have happened; by default what the stream says.
    """
    unknown: dict[str, str] = {}
    found, resent, told, tries = set(), set(), set(), 0
    for event, name, data in _of_the_stream(queue) if events is None else events:
        tries = max(tries, data.get("attempts", 0))
        match event:
            case "unknown":
                unknown.setdefault(name, data["reason"])
            case "resending":
                resent.add(name)
            case "sent":
                told.add(name)
                if data["by"] != "gateway":
                    found.add(name)
    letters = queue.dead()
    return Figures(
        messages=messages,
        sent=collections.Counter(f"test_{int(send.number[-8:]) - FIRST_NUMBER}" for send in simulator.sends()),
        dead={letter["id"]: letter["reason"] for letter in letters},
        letters=len(letters),
        unknown=unknown,
        found=found & unknown.keys(),
        resent=resent,
        open={name.decode() for name in queue.client.zrange(UNKNOWN, 0, -1)},
        told=told,
        tries=tries,
        unrecorded=simulator.unrecorded(),
    )


def _of_the_stream(queue: Queue) -> Iterator[Told]:
    after = "-"
    while entries := queue.client.xrange(EVENTS, min=after, count=_PAGE):
        for _, fields in entries:
            yield fields[b"event"].decode(), fields[b"id"].decode(), json.loads(fields[b"data"])
        after = f"({entries[-1][0].decode()}"
