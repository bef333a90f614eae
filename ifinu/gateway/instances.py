"""
Instances that are held back: a number that is offline, throttled or missing delays its own messages only.

    going ──── sends fail ────▶ held ── after a wait ──▶ one message goes as a probe
      ▲                          ▲                              │
      ╰──── the probe was sent ──┼──────────────────────────────┤
                                 ╰──── it failed: wait longer ──╯

The instance is at fault if the gateway says that it is not connected, or if several recipients fail in a row. The
message is at fault if others were sent between two of its failures; then its tries are counted, and end. A failed
message comes back after the others, so that the next probe is another one.

Held messages go to the delayed set, spread out, so that a hundred thousand messages of one number neither block those
of others nor come back all at once. The more instances are held, the less often each is probed, so that probes leave
the pace to the others. If several instances are missing at the gateway, its list of instances is read, and those not
on it are not probed at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from time import monotonic
from typing import NamedTuple

from ifinu import loop
from ifinu.errors import GatewayError, Misconfigured, Reason, SendError, Throttled

_DISCONNECTED = frozenset({Reason.CONNECTION_CLOSED, Reason.NEVER_CONNECTED, Reason.WRONG_SHARD})
_NUMBERS_TO_HOLD = 5  # recipients that fail in a row; a few may fail by themselves
_WAITS_S = 5.0, 60.0  # between probes: the first, and the longest
# If the gateway's process is at fault, its return must be noticed soon.
_SHORT_WAITS_S = {Reason.WRONG_SHARD: (2.0, 8.0), Reason.GATEWAY_DATABASE: (1.0, 4.0)}
_PROBES_PER_S = 5.0  # over all held instances
_SPREAD_PER_S = 20.0
_LONGEST_SPREAD_S = 600.0
_LONGEST_PATIENCE_S = 60.0  # extra wait of a failed message
_MISSING_TO_LIST = 3  # missing instances from which on the list is read
_LISTED_FOR_S = 600.0  # and it is read until so long after the last miss


class Trouble(NamedTuple):
    """
    The failures of a message so far, carried in a header of its retries.

    Attributes:
        reason: Reason of its last failure.
        since_ms: Time of the first consecutive failure with that reason, by Redis' clock.
        at_ms: Time of its last failure.
        failures: Number of failures, for any reason.
        counted: Number of failures that count as its tries.
        own: Whether the message is at fault: others were sent between two of its failures.
    """

    reason: str
    since_ms: int
    at_ms: int
    failures: int
    counted: int = 0
    own: bool = False

    @classmethod
    def read(cls, value: object) -> Trouble | None:
        """Parse the header of a message; None if it is invalid: anybody can push a message."""
        if not (isinstance(value, (list, tuple)) and len(value) == len(cls._fields)):
            return None
        reason, *numbers, own = value
        if not (isinstance(reason, str) and len(reason) < 100 and isinstance(own, bool)):
            return None
        if not all(type(number) is int and 0 <= number < 2**53 for number in numbers):
            return None
        since_ms, at_ms, failures, counted = numbers
        return cls(reason, since_ms, at_ms, failures, counted, own)

    def again(self, reason: str, at_ms: int) -> Trouble:
        """The failures so far and one more."""
        since_ms = self.since_ms if reason == self.reason else at_ms
        return self._replace(reason=reason, since_ms=since_ms, at_ms=at_ms, failures=self.failures + 1)


class Judged(NamedTuple):
    """
    The consequence of a failure.

    Attributes:
        trouble: The failures for the header of the retry.
        wait_s: The wait in seconds, if the failure does not count as a try.
        counts: Whether the failure counts as a try.
    """

    trouble: Trouble
    wait_s: float
    counts: bool


class Hold(NamedTuple):
    """
    A message must wait.

    Attributes:
        wait_s: The wait in seconds.
        missing: Whether its instance is missing at the gateway.
    """

    wait_s: float
    missing: bool


class _State:
    """The state of one instance, or of the whole gateway."""

    def __init__(self) -> None:
        self.numbers: set[str] = set()  # recipients that failed since the last success, and are not at fault themselves
        self.wait_s = 0.0  # between probes; 0 while not held
        self.until = 0.0  # no message goes before this time
        self.probing = False  # whether a probe is under way
        self.held = 0  # messages held back since the last probe
        self.missing = False  # at the gateway


class Instances:
    """
    The instances that one process has sent from. Tasks of one loop share it, so only one of them runs at a time.

    Args:
        misconfigured_wait_s: The first wait in seconds if the key or the instance is wrong.
        sharded: Whether there are several gateway processes. Then `wrong_shard` is certain, since all were asked, and a
            fault of one process holds back its instances only.
        names: Lists the gateway's instances; may block, and raise GatewayError.
        jitter: Uniform in [0, 1).
    """

    def __init__(
        self,
        misconfigured_wait_s: float,
        clock: Callable[[], float] = monotonic,
        *,
        sharded: bool = False,
        names: Callable[[], Collection[str]] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._misconfigured_wait_s = misconfigured_wait_s
        self._sure = frozenset({Reason.WRONG_SHARD, Reason.GATEWAY_DATABASE}) if sharded else frozenset[Reason]()
        self._clock = clock
        self._jitter = jitter
        self._states: dict[str, _State] = {}
        self._whole = _State()  # state of the gateway
        self._sent_ms: dict[str, int] = {}  # when the last message of an instance was sent, by Redis' clock
        self._list = _List(names, clock, misconfigured_wait_s)

    def hold(self, name: str) -> Hold | None:
        """How long a message of this instance must wait; None if it may go."""
        listed = None if name in self._sent_ms else self._list.has(name)
        if listed is False:
            self._list.miss()
            return Hold(self._misconfigured_wait_s, missing=True)
        state = self._states.get(name)
        if state is None:
            return None
        if listed and state.missing:
            self._states.pop(name, None)
            return None
        now = self._clock()
        if now >= state.until:
            state.probing = state.wait_s > 0
            state.until = now + state.wait_s  # the next one waits for the outcome of this one
            state.held = 0
            return None
        state.held += 1
        spread_s = min(_LONGEST_SPREAD_S, state.held / _SPREAD_PER_S) * (0.5 + self._jitter())
        return Hold(state.until - now + spread_s, state.missing)

    def may_be_blameless(self, name: str, trouble: Trouble) -> bool:
        """Whether the instance, not the message, was at fault when the message's tries were counted."""
        state = self._states.get(name)
        return not trouble.own and state is not None and state.wait_s > 0 and trouble.at_ms > self._sent_ms.get(name, 0)

    def sent(self, name: str, at_ms: int) -> bool:
        """
        Note that a message was sent.

        Args:
            at_ms: Start of the send, by Redis' clock.

        Returns:
            Whether this ends a hold.
        """
        self._sent_ms[name] = self._sent_ms[""] = at_ms
        state = self._states.pop(name, None)
        self._whole.numbers.clear()
        return state is not None and state.wait_s > 0

    def failed(
        self,
        name: str,
        number: str,
        exc: SendError,
        before: Trouble | None,
        *,
        at_ms: int,
        is_open: Callable[[], bool] = lambda: True,
    ) -> Judged:
        """
        Note that a message was not sent, and decide whether the message or its instance is at fault.

        Args:
            number: The recipient, or its pseudonym.
            before: The message's earlier failures.
            at_ms: The time by Redis' clock.
            is_open: Asks the gateway whether the instance is connected; called only if that matters.
        """
        trouble = (before or Trouble(exc.reason, at_ms, at_ms, 0)).again(exc.reason, at_ms)
        patience_s = min(_LONGEST_PATIENCE_S, 2.0 ** min(trouble.failures - 1, 10)) * (0.5 + self._jitter())
        if isinstance(exc, Throttled):
            if exc.reason is Reason.PAIR_LIMIT:  # others of the instance may go
                return Judged(trouble, exc.retry_after_s + patience_s, counts=False)
            return Judged(trouble, self._throttled(name, exc) + patience_s, counts=False)
        of_gateway = exc.reason is Reason.GATEWAY_DATABASE and not self._sure
        state = self._whole if of_gateway else self._states.setdefault(name, _State())
        if self._is_own("" if of_gateway else name, number, state, exc, before):
            return Judged(trouble._replace(own=True, counted=trouble.counted + 1), 0.0, counts=True)
        if len(state.numbers) < _NUMBERS_TO_HOLD:
            state.numbers.add(number)
        if of_gateway:  # the breaker holds back all messages
            return Judged(trouble, patience_s, counts=False)
        sure = isinstance(exc, Misconfigured) or exc.reason in self._sure
        holds = sure or state.wait_s > 0 or len(state.numbers) >= _NUMBERS_TO_HOLD
        if not holds and exc.reason in _DISCONNECTED:
            holds = not is_open()
        if not holds:
            return Judged(trouble._replace(counted=trouble.counted + 1), 0.0, counts=True)
        wait_s = self._hold(name, exc)
        if state.missing:
            return Judged(trouble, max(wait_s, self.patience_s(trouble, at_ms)), counts=False)
        return Judged(trouble, wait_s + patience_s, counts=False)

    def patience_s(self, trouble: Trouble, at_ms: int) -> float:
        """The wait of a message whose instance is missing; it grows with the time waited so far."""
        waited_s = (at_ms - trouble.since_ms) / 1000
        wait_s = max(self._misconfigured_wait_s, min(_LONGEST_SPREAD_S, waited_s / 2))
        return wait_s * (0.75 + self._jitter() / 2)

    def _is_own(self, scope: str, number: str, state: _State, exc: SendError, before: Trouble | None) -> bool:
        """Whether the message is at fault: it failed before, and others did not."""
        if before is None or exc.reason is Reason.INSTANCE_NOT_FOUND:
            return False
        if before.at_ms < self._sent_ms.get(scope, 0):
            return True
        return before.own and not state.numbers - {number}

    def _throttled(self, name: str, exc: Throttled) -> float:
        state = self._states.setdefault(name, _State())
        now = self._clock()
        state.until = max(state.until, now + exc.retry_after_s)
        return state.until - now

    def _hold(self, name: str, exc: SendError) -> float:
        """Hold an instance, or hold it longer if a probe failed; returns the seconds until the next probe."""
        state = self._states.setdefault(name, _State())  # another send may have succeeded meanwhile
        now = self._clock()
        state.missing = exc.reason is Reason.INSTANCE_NOT_FOUND
        if state.missing:
            self._sent_ms.pop(name, None)
            if sum(each.missing for each in self._states.values()) >= _MISSING_TO_LIST:
                self._list.miss()
        if state.wait_s and not state.probing:
            return max(0.0, state.until - now)  # a message that was already under way failed too
        first_s, longest_s = _SHORT_WAITS_S.get(exc.reason, _WAITS_S)
        if isinstance(exc, Misconfigured):
            first_s = self._misconfigured_wait_s
        held = sum(1 for each in self._states.values() if each.wait_s)
        longest_s = max(longest_s, first_s, held / _PROBES_PER_S)
        state.probing = False
        state.wait_s = min(longest_s, state.wait_s * 2) if state.wait_s else max(first_s, held / _PROBES_PER_S)
        state.until = now + state.wait_s
        state.held = 0
        return state.wait_s


class _List:
    """The gateway's list of instances, read while some are missing."""

    def __init__(self, names: Callable[[], Collection[str]] | None, clock: Callable[[], float], every_s: float) -> None:
        self._ask = names
        self._clock = clock
        self._every_s = every_s
        self._names: Collection[str] | None = None
        self._ask_at = 0.0
        self._wanted_until: float | None = None

    def miss(self) -> None:
        """Note that instances are missing: from now on the list is read."""
        self._wanted_until = self._clock() + _LISTED_FOR_S

    def has(self, name: str) -> bool | None:
        """Whether the gateway has an instance; None if the list is not needed or cannot be read."""
        if self._ask is None or self._wanted_until is None:
            return None
        if self._clock() >= self._wanted_until:
            self._wanted_until = self._names = None
            return None
        if self._clock() >= self._ask_at:
            self._ask_at = float("inf")  # one message reads the list, and the others go on
            try:
                self._names = loop.in_thread(self._ask)
            except GatewayError:
                self._names = None
            finally:
                self._ask_at = self._clock() + self._every_s
        names = self._names
        return None if names is None else name in names
