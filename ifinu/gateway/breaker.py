"""
The breaker: while the gateway is away messages wait, and no tries are counted.

    closed ── a few failures in a row ──▶ open ── after a wait ──▶ half open: one message goes as a probe
       ▲                                   ▲                            │
       ╰───────── it got an answer ────────┼────────────────────────────┤
                                           ╰──── it got none, wait longer ╯

Only a gateway that cannot be reached, or a proxy that finds no gateway behind it, counts as a failure. Any answer, even
a refusal, shows that the gateway is there.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from ifinu.errors import NotSent, Reason

OUTAGE = frozenset({Reason.UNREACHABLE, Reason.UNAVAILABLE})

_FAILURES_TO_OPEN = 3
_FIRST_WAIT_S = 0.5
_TOGETHER_S = 1.0  # what breaks at one gateway process breaks for all its sends at once
_LONGEST_WAIT_S = 4.0  # sending resumes within five seconds of the gateway's return


def is_outage(exc: object) -> bool:
    """Whether an error means that the gateway is away, and so concerns no single message."""
    return isinstance(exc, NotSent) and exc.reason in OUTAGE


class Breaker:
    """
    Whether messages may start.

    Args:
        failures_to_open: Failures in a row that open it.
    """

    def __init__(self, clock: Callable[[], float] = monotonic, failures_to_open: int = _FAILURES_TO_OPEN) -> None:
        self._clock = clock
        self._failures_to_open = failures_to_open
        self._failures = 0
        self._wait_s = _FIRST_WAIT_S
        self._probe_at: float | None = None  # None while closed
        self._probing = False
        self._source, self._together_until = "", 0.0

    @property
    def is_open(self) -> bool:
        """Whether messages are held back."""
        return self._probe_at is not None

    def wait_s(self) -> float:
        """Seconds until a message may start; 0 when one may now."""
        return 0.0 if self._probe_at is None else max(0.0, self._probe_at - self._clock())

    def started(self) -> None:
        """A message starts. While the breaker is open it is the probe, and the next message waits for its outcome."""
        if self._probe_at is not None:
            self._probing = True
            self._probe_at = self._clock() + self._wait_s

    def failed(self, source: str = "") -> bool:
        """
        The gateway was away; True when this opens the breaker.

        Args:
            source: What shares a part of the gateway; its failures within a second are one. Empty: each one counts.
        """
        now = self._clock()
        if source and source == self._source and now < self._together_until and not self._probing:
            return False
        self._source, self._together_until = source, now + _TOGETHER_S
        self._failures += 1
        if self._probing:
            self._probing = False
            self._wait_s = min(_LONGEST_WAIT_S, self._wait_s * 2)
            self._probe_at = self._clock() + self._wait_s
        elif self._probe_at is None and self._failures >= self._failures_to_open:
            self._wait_s = _FIRST_WAIT_S
            self._probe_at = self._clock() + self._wait_s
            return True
        return False

    def answered(self) -> bool:
        """The gateway is there; True when this closes the breaker."""
        was_open = self.is_open
        self._probe_at, self._probing, self._failures = None, False, 0
        return was_open
