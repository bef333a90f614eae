"""The figures of a fault case: the simulator's record of sends, compared with Redis."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from processes import FIRST_NUMBER, Queue, Simulated
from sqlalchemy import select

from ifinu.broker.keys import EVENTS, UNKNOWN
from ifinu.ledger.engine import connect
from ifinu.ledger.schema import events

_PAGE = 5_000

Entry = tuple[str, str, dict[str, Any]]  # an event: its name, the id, its data


@dataclass(frozen=True)
class Figures:
    """
    The ids of `processes.numbered`, grouped by their outcome.

    Attributes:
        messages: How many there were.
        sent: How often WhatsApp got each id.
        dead: The reasons of the dead letters, by id.
        letters: The number of dead letters, those without an id included.
        unknown: The ids that may have been sent at some time, with the first reason.
        found: Those of `unknown` that the gateway had stored.
        resent: Those of `unknown` that the gateway had not stored.
        open: The ids still in doubt.
        reported: The ids with a `sent` event.
        tries: The largest number of attempts of one message, from the events.
        unrecorded: The sends without a row when the gateway was killed, so that no look-up can find them.
        waiting: The ids that are left to wait for a number's cap or turn.
    """

    messages: int
    sent: collections.Counter[str]
    dead: dict[str, str]
    letters: int
    unknown: dict[str, str]
    found: set[str]
    resent: set[str]
    open: set[str]
    reported: set[str]
    tries: int
    unrecorded: int
    waiting: frozenset[str] = frozenset()

    @property
    def lost(self) -> set[str]:
        """The ids that were neither sent nor dead-lettered, and do not wait."""
        pushed = {f"test_{number}" for number in range(self.messages)}
        return pushed - self.sent.keys() - self.dead.keys() - self.waiting

    @property
    def twice(self) -> set[str]:
        """The ids that were sent more than once."""
        return {name for name, count in self.sent.items() if count > 1}

    @property
    def worker_died(self) -> int:
        """The number of ids that are unknown because a worker died while it sent them."""
        return sum(reason == "worker_died" for reason in self.unknown.values())

    def harm(self) -> dict[str, Any]:
        """All violations by name; empty if all is well. A send that no look-up can find may be repeated once."""
        found = {
            "lost": self.lost,
            "twice": self.twice if len(self.twice) > self.unrecorded else set(),
            "sent_and_waiting": self.waiting & self.sent.keys(),
            "dead": self.dead,
            "unresolved": self.open | (self.unknown.keys() - self.reported - self.dead.keys()),
            "unreported": self.sent.keys() - self.reported - self.dead.keys(),
            "only_reported": self.reported - self.sent.keys(),
        }
        return {name: ids for name, ids in found.items() if ids}

    def row(self, case: str, faults: str) -> str:
        """The case's row in docs/measured.md."""
        cells = (
            case, f"{self.messages:,} messages", faults, f"lost {len(self.lost)}", f"sent twice {len(self.twice)}",
            f"unknown {len(self.unknown)}: {len(self.found)} found, {len(self.resent)} sent again, "
            f"{len(self.harm().get('unresolved', ()))} open",
            f"DLQ {self.letters}",
        )  # fmt: skip
        return " | ".join(cells)


def judge(
    queue: Queue,
    simulator: Simulated,
    messages: int,
    events: Iterable[Entry] | None = None,
    waiting: frozenset[str] = frozenset(),
) -> Figures:
    """
    Count the outcomes once nothing is in flight.

    Args:
        queue: The queue that the messages went through.
        simulator: The gateway that they were sent to.
        messages: How many of `processes.numbered` were pushed.
        events: The events to count; by default those in the stream.
        waiting: The ids that are left to wait.
    """
    unknown: dict[str, str] = {}
    found, resent, reported, tries = set(), set(), set(), 0
    for event, name, data in _of_the_stream(queue) if events is None else events:
        tries = max(tries, data.get("attempts", 0))
        match event:
            case "unknown":
                unknown.setdefault(name, data["reason"])
            case "resending":
                resent.add(name)
            case "sent":
                reported.add(name)
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
        reported=reported,
        tries=tries,
        unrecorded=simulator.unrecorded(),
        waiting=waiting,
    )


def recorded(url: str) -> list[Entry]:
    """All events in the ledger."""
    engine = connect(url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(select(events.c.name, events.c.notification_id, events.c.data))
            return [(row.name, row.notification_id, row.data) for row in rows]
    finally:
        engine.dispose()


def _of_the_stream(queue: Queue) -> Iterator[Entry]:
    after = "-"
    while entries := queue.client.xrange(EVENTS, min=after, count=_PAGE):
        for _, fields in entries:
            yield fields[b"event"].decode(), fields[b"id"].decode(), json.loads(fields[b"data"])
        after = f"({entries[-1][0].decode()}"
