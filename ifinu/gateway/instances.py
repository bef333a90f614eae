"""
Which WhatsApp instances are held back: a number that is offline, too fast or unknown costs time, and only its own.

    going ── failures in a row ──▶ held ── after a wait ──▶ one message goes as a probe
      ▲                             ▲                              │
      ╰──────── it was sent ────────┼──────────────────────────────┤
                                    ╰──── it failed, wait longer ──╯

What is held back goes to the delayed set, spread out, so that a hundred thousand messages of one number neither stand
in the way of the others' nor come back all at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from ifinu.errors import Misconfigured, NotSent, Reason, SendError, Throttled

# The instance's own trouble; any other failure may be the message's.
_FAULTS = frozenset({Reason.CONNECTION_CLOSED, Reason.NEVER_CONNECTED, Reason.WRONG_SHARD})
_FAILURES_TO_HOLD = 5  # above the tries of one message: a single number may fail like this too
_FIRST_WAIT_S = 5.0
_LONGEST_WAIT_S = 60.0
_SPREAD_PER_S = 20.0
_LONGEST_SPREAD_S = 600.0


class _State:
    """Of one instance."""

    failures = 0
    wait_s = 0.0  # between probes; 0 while it goes
    until = 0.0  # no message goes before
    probing = False  # whether a message is on its way to see if it goes again
    held = 0  # messages held back since it was


class Instances:
    """
    The instances that one process has sent from.

    Args:
        misconfigured_wait_s: How long the first wait is when the key or the instance is wrong, in seconds.
        clock: Seconds that only go forward.
        sharded: Whether all gateway processes were asked before one of them is said to be the wrong one: then the
            first time is enough, and no message pays for it with a try.
    """

    def __init__(
        self, misconfigured_wait_s: float, clock: Callable[[], float] = monotonic, *, sharded: bool = False
    ) -> None:
        self._misconfigured_wait_s = misconfigured_wait_s
        self._sure = frozenset({Reason.WRONG_SHARD}) if sharded else frozenset[Reason]()
        self._clock = clock
        self._lock = threading.Lock()
        self._states: dict[str, _State] = {}

    def hold_s(self, name: str) -> float:
        """Seconds for which a message of this instance has to wait; 0 when it may go."""
        state = self._states.get(name)
        if state is None:
            return 0.0
        with self._lock:
            now = self._clock()
            if now >= state.until:
                state.probing = state.wait_s > 0
                state.until = now + state.wait_s  # whoever asks next waits for what becomes of this one
                return 0.0
            state.held += 1
            return state.until - now + min(_LONGEST_SPREAD_S, state.held / _SPREAD_PER_S)

    def sent(self, name: str) -> bool:
        """A message of it went out; True when that ends a hold."""
        state = self._states.pop(name, None)
        return state is not None and state.wait_s > 0

    def failed(self, name: str, exc: SendError) -> float:
        """
        A message of it did not go out.

        Returns:
            Seconds to hold this message and the instance's others for; 0 when it is for the message to try again.
        """
        with self._lock:
            state = self._states.setdefault(name, _State())
            now = self._clock()
            match exc:
                case Throttled():
                    state.until = max(state.until, now + exc.retry_after_s)
                    return state.until - now
                case Misconfigured():
                    self._hold(state, now, self._misconfigured_wait_s)
                case NotSent() if exc.reason in _FAULTS:
                    state.failures += 1
                    if state.failures >= _FAILURES_TO_HOLD or exc.reason in self._sure:
                        self._hold(state, now, _FIRST_WAIT_S)
            return state.wait_s and max(0.0, state.until - now)

    def _hold(self, state: _State, now: float, first_s: float) -> None:
        if state.wait_s and not state.probing:
            return  # others that were under way fail too: that is no news
        state.probing = False
        state.wait_s = min(max(_LONGEST_WAIT_S, first_s), state.wait_s * 2) if state.wait_s else first_s
        state.until = now + state.wait_s
