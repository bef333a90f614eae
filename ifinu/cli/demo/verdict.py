"""Does it add up? What was expected against what the simulator's ledger and the dead letters say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifinu.broker import DeadLetter
from ifinu.cli.backlog import Backlog
from ifinu.cli.demo.scenario import COUNTDOWN_S, LATER, Case, sum_of
from ifinu.simulator import Send

# Below this, the first and the last message of a worker say little about its pace.
_SHORTEST_PACE_S = 4.0
_PACE_TOLERANCE = 0.05
_NOT_A_FAILURE = "ok"


@dataclass(frozen=True)
class Pace:
    """POSTs of one worker while there was a backlog: how many, per second, and in its worst one-second window."""

    worker: str
    total: int
    mean_per_s: float | None
    worst_window: int
    length_s: float

    @classmethod
    def of(cls, worker: str, figures: Mapping[str, Any]) -> Pace:
        """From the simulator's summary."""
        length_s = figures["last_at"] - figures["first_at"] if figures["total"] else 0.0
        return cls(worker, figures["total"], figures["mean_per_s"], figures["worst_window"], length_s)


@dataclass(frozen=True)
class Evidence:
    """
    What there is to see when everything has come to rest.

    Attributes:
        sends: What WhatsApp got, by the simulator's ledger.
        posts: POSTs by outcome, by the same.
        letters: The dead letters.
        backlogs: The queues.
        paces: Of each worker.
        later_from: Epoch at which the countdown began.
    """

    sends: Sequence[Send]
    posts: Mapping[str, int]
    letters: Sequence[DeadLetter]
    backlogs: Sequence[Backlog]
    paces: Sequence[Pace]
    later_from: float


@dataclass(frozen=True)
class Check:
    """One expectation: what, whether it holds, and what was seen."""

    what: str
    holds: bool
    seen: str

    def as_json(self) -> dict[str, Any]:
        """The fields, for a program."""
        return {"expected": self.what, "ok": self.holds, "seen": self.seen}


def judge(cases: Sequence[Case], evidence: Evidence, *, rate_per_s: float, burst: int) -> list[Check]:
    """
    Check every expectation.

    Args:
        cases: What was pushed.
        evidence: What came of it.
        rate_per_s: Pace of one worker.
        burst: By how much a one-second window may exceed it.
    """
    sent = Counter(send.number for send in evidence.sends)
    dead = Counter((letter.reason, letter.attempts) for letter in evidence.letters)
    failed = Counter({how: n for how, n in evidence.posts.items() if how != _NOT_A_FAILURE})
    return [
        *(_case(case, sent, dead) for case in cases),
        _nothing_else(cases, sent, dead),
        _tries(cases, failed),
        _countdown(evidence),
        _at_rest(evidence.backlogs),
        *(check for pace in evidence.paces for check in _paces(pace, rate_per_s, burst)),
    ]


def _case(case: Case, sent: Counter[str], dead: Counter[tuple[str, int]]) -> Check:
    holds = all(sent[number] == count for number, count in case.sends.items())
    holds &= all(dead[letter] == count for letter, count in case.dead.items())
    seen = []
    if case.sends:
        seen.append(f"{sum(sent[number] for number in case.sends):,} sent")
    seen += [f"{dead[letter]} dead: {letter[0]}, {_tries_of(letter[1])}" for letter in case.dead]
    return Check(f"{case.pushed}: {case.follows}", holds, "; ".join(seen))


def _nothing_else(cases: Sequence[Case], sent: Counter[str], dead: Counter[tuple[str, int]]) -> Check:
    expected_sent, expected_dead = sum_of([c.sends for c in cases]), sum_of([c.dead for c in cases])
    return Check(
        f"pushed {sum(c.count for c in cases):,}: {expected_sent.total():,} sends and {expected_dead.total()} "
        "dead letters, nothing else",
        sent == expected_sent and dead == expected_dead,
        f"{sent.total():,} sends, {dead.total()} dead letters",
    )


def _tries(cases: Sequence[Case], failed: Counter[str]) -> Check:
    expected = sum_of([case.failures for case in cases])
    return Check(f"{expected.total()} tries fail and no more", failed == expected, f"{failed.total()} failed")


def _countdown(evidence: Evidence) -> Check:
    waits = [send.at - evidence.later_from for send in evidence.sends if send.number == LATER]
    holds = bool(waits) and min(waits) >= COUNTDOWN_S
    return Check(
        f"the countdown of {COUNTDOWN_S} s is kept", holds, f"after {min(waits):.1f} s" if waits else "never sent"
    )


def _at_rest(backlogs: Sequence[Backlog]) -> Check:
    left = sum(backlog.unsettled for backlog in backlogs)
    return Check("nothing is left in queue, in flight or delayed", left == 0, f"{left} left")


def _paces(pace: Pace, rate_per_s: float, burst: int) -> list[Check]:
    most = int(rate_per_s + burst)
    checks = [
        Check(
            f"{pace.worker}: never more than {most} in any second ({rate_per_s:g} + {burst})",
            0 < pace.worst_window <= most,
            f"{pace.worst_window} in its worst",
        )
    ]
    if pace.mean_per_s is not None and pace.length_s >= _SHORTEST_PACE_S:
        off = abs(pace.mean_per_s / rate_per_s - 1)
        checks.append(
            Check(
                f"{pace.worker}: {rate_per_s:g}/s under a backlog, within {_PACE_TOLERANCE:.0%}",
                off <= _PACE_TOLERANCE,
                f"{pace.mean_per_s:.2f}/s over {pace.length_s:.1f} s",
            )
        )
    return checks


def _tries_of(count: int) -> str:
    return f"{count} tr{'y' if count == 1 else 'ies'}"
