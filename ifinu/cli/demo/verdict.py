"""Compares the expected outcomes with the simulator's ledger, the dead letters and ifinu's ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ifinu.broker import DeadLetter
from ifinu.broker.backlog import Backlog
from ifinu.cli.demo.scenario import COUNTDOWN_S, LATER, Case, sum_of
from ifinu.simulator import Send

# A shorter run is too short to measure a worker's pace.
_SHORTEST_PACE_S = 4.0
_PACE_TOLERANCE = 0.05
_NOT_A_FAILURE = "ok"


@dataclass(frozen=True)
class Pace:
    """
    The POSTs of one worker.

    Attributes:
        worst_window: Largest number in any one-second window.
        mean_per_s: POSTs a second from the first to the last while there was a backlog.
        length_s: Seconds between those two.
    """

    worker: str
    total: int
    worst_window: int
    mean_per_s: float | None
    length_s: float

    @classmethod
    def of(cls, worker: str, figures: Mapping[str, Any] | None) -> Pace:
        """The pace by the simulator's summary; `figures` is None if the worker has sent nothing."""
        if figures is None:
            return cls(worker, 0, 0, None, 0.0)
        length_s = figures["last_at"] - figures["first_at"]
        return cls(worker, figures["total"], figures["worst_window"], figures["mean_per_s"], length_s)

    def when_idle(self, figures: Mapping[str, Any] | None) -> Pace:
        """This pace, with the totals of a later summary."""
        later = Pace.of(self.worker, figures)
        return replace(later, mean_per_s=self.mean_per_s, length_s=self.length_s)


@dataclass(frozen=True)
class Evidence:
    """
    The state of the system after every message has ended.

    Attributes:
        sends: Messages that WhatsApp got, by the simulator's ledger.
        posts: POSTs by outcome, by the simulator's ledger.
        later_from: Epoch seconds at which the countdown began.
        ledger: Notifications by state, by ifinu's ledger.
    """

    sends: Sequence[Send]
    posts: Mapping[str, int]
    letters: Sequence[DeadLetter]
    backlogs: Sequence[Backlog]
    paces: Sequence[Pace]
    later_from: float
    ledger: Mapping[str, int]


@dataclass(frozen=True)
class Check:
    """One expectation: its subject, the expected and the seen value, and whether it holds."""

    what: str
    expected: str
    seen: str
    holds: bool


def judge(cases: Sequence[Case], evidence: Evidence, *, rate_per_s: float, burst: int) -> list[Check]:
    """
    Check every expectation.

    Args:
        rate_per_s: Pace of one worker, in messages a second.
        burst: Messages by which a one-second window may exceed the pace.
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
        _ledger(evidence),
        *(check for pace in evidence.paces for check in _paces(pace, rate_per_s, burst)),
    ]


def _case(case: Case, sent: Counter[str], dead: Counter[tuple[str, int]]) -> Check:
    holds = all(sent[number] == count for number, count in case.sends.items())
    holds &= all(dead[letter] == count for letter, count in case.dead.items())
    seen = []
    if case.sends:
        seen.append(f"{sum(sent[number] for number in case.sends):,} sent")
    seen += [f"{dead[letter]} {letter[0]}, {_tries_of(letter[1])}" for letter in case.dead]
    return Check(case.pushed, case.follows, "; ".join(seen), holds)


def _nothing_else(cases: Sequence[Case], sent: Counter[str], dead: Counter[tuple[str, int]]) -> Check:
    expected_sent, expected_dead = sum_of([c.sends for c in cases]), sum_of([c.dead for c in cases])
    return Check(
        f"all {sum(case.count for case in cases):,} pushed",
        f"{expected_sent.total():,} sends, {expected_dead.total()} dead letters, no more",
        f"{sent.total():,} sends, {dead.total()} dead letters",
        sent == expected_sent and dead == expected_dead,
    )


def _tries(cases: Sequence[Case], failed: Counter[str]) -> Check:
    expected = sum_of([case.failures for case in cases])
    return Check("tries that failed", f"{expected.total()}", f"{failed.total()}", failed == expected)


def _countdown(evidence: Evidence) -> Check:
    waits = [send.at - evidence.later_from for send in evidence.sends if send.number == LATER]
    seen = f"after {min(waits):.1f} s" if waits else "never sent"
    return Check("the countdown", f"{COUNTDOWN_S} s or more", seen, bool(waits) and min(waits) >= COUNTDOWN_S)


def _at_rest(backlogs: Sequence[Backlog]) -> Check:
    left = sum(backlog.unsettled for backlog in backlogs)
    return Check("left in queue, in flight or delayed", "nothing", str(left or "nothing"), left == 0)


def _ledger(evidence: Evidence) -> Check:
    """Check that the receipts came by webhook: every message that was sent was also read."""
    named = sum(letter.id is not None for letter in evidence.letters)
    expected = {"read": len(evidence.sends), "dead": named, "expired": 1}
    return Check(
        "the ledger",
        ", ".join(f"{count:,} {state}" for state, count in expected.items()),
        ", ".join(f"{count:,} {state}" for state, count in evidence.ledger.items()) or "nothing",
        evidence.ledger == expected,
    )


def _paces(pace: Pace, rate_per_s: float, burst: int) -> list[Check]:
    most = int(rate_per_s + burst)
    checks = [
        Check(
            f"{pace.worker}, its busiest second",
            f"at most {most} ({rate_per_s:g} and a burst of {burst})",
            str(pace.worst_window),
            0 < pace.worst_window <= most,
        )
    ]
    if pace.mean_per_s is not None and pace.length_s >= _SHORTEST_PACE_S:
        checks.append(
            Check(
                f"{pace.worker}, pace under a backlog",
                f"{rate_per_s:g}/s, within {_PACE_TOLERANCE:.0%}",
                f"{pace.mean_per_s:.2f}/s over {pace.length_s:.1f} s",
                abs(pace.mean_per_s / rate_per_s - 1) <= _PACE_TOLERANCE,
            )
        )
    return checks


def _tries_of(count: int) -> str:
    return f"{count} tr{'y' if count == 1 else 'ies'}"
