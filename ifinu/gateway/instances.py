"""
Which WhatsApp instances are held back: a number that is offline, too fast or unknown costs time, and only its own.

    going ── it is seen to fail ──▶ held ── after a wait ──▶ one message goes as a probe
      ▲                             ▲                              │
      ╰──────── it was sent ────────┼──────────────────────────────┤
                                    ╰──── it failed, wait longer ──╯

A message may fail for what is wrong with its instance, or with itself. It is the instance when the gateway says that it
is not connected, or when several numbers fail in a row. It is the message when others were sent between two of its own
failures; then its tries are counted, and end. A message that failed comes back after the others, so that the next probe
is another one.

What is held back goes to the delayed set, spread out, so that a hundred thousand messages of one number neither stand
in the way of the others' nor come back all at once. Where many instances are held, each is probed less often, so that
probes leave the pace to the others. Where the gateway does not have several of them, its list is asked for, and what is
not on it is not probed at all.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection
from time import monotonic
from typing import NamedTuple

from ifinu.errors import GatewayError, Misconfigured, Reason, SendError, Throttled

_DISCONNECTED = frozenset({Reason.CONNECTION_CLOSED, Reason.NEVER_CONNECTED, Reason.WRONG_SHARD})
_NUMBERS_TO_HOLD = 5  # that fail in a row; one number, or a few, may fail by themselves
_WAITS_S = 5.0, 60.0  # between probes: the first, and the longest
# While the gateway's own process is the trouble, it must be seen soon that it is back.
_SHORT_WAITS_S = {Reason.WRONG_SHARD: (2.0, 8.0), Reason.GATEWAY_DATABASE: (1.0, 4.0)}
_PROBES_PER_S = 5.0  # of all instances that are held
_SPREAD_PER_S = 20.0
_LONGEST_SPREAD_S = 600.0
_LONGEST_PATIENCE_S = 60.0  # of a message that failed, beside the others' wait
_MISSING_TO_LIST = 3  # so many instances that are missing are worth asking for the list
_LISTED_FOR_S = 600.0  # and it is asked for until so long after the last one was


class Trouble(NamedTuple):
    """
    What a message met so far, as the message that takes its place carries it.

    Attributes:
        reason: Of its last failure.
        since_ms: When the first of that reason in a row was, by Redis' clock.
        at_ms: When the last one was.
        failures: How many there were, of any reason.
        counted: How many of them count as its tries.
        own: Whether it is the message's own: others were sent between two of its failures.
    """

    reason: str
    since_ms: int
    at_ms: int
    failures: int
    counted: int = 0
    own: bool = False

    @classmethod
    def read(cls, value: object) -> Trouble | None:
        """Read what a message carries; None where that is nothing of ours: anybody can push a message."""
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
        """The same after one more failure."""
        since_ms = self.since_ms if reason == self.reason else at_ms
        return self._replace(reason=reason, since_ms=since_ms, at_ms=at_ms, failures=self.failures + 1)


class Judged(NamedTuple):
    """
    What follows from a failure.

    Attributes:
        trouble: What the message is to carry.
        wait_s: For how long it waits, in seconds, where the failure does not count as its try.
        counts: Whether it does.
    """

    trouble: Trouble
    wait_s: float
    counts: bool


class Hold(NamedTuple):
    """
    A message has to wait.

    Attributes:
        wait_s: For how long, in seconds.
        missing: Whether the gateway does not have its instance.
    """

    wait_s: float
    missing: bool


class _State:
    """Of one instance, or of the whole gateway."""

    def __init__(self) -> None:
        self.numbers: set[str] = set()  # that failed since a message was sent, and are not at fault themselves
        self.wait_s = 0.0  # between probes; 0 while it goes
        self.until = 0.0  # no message goes before
        self.probing = False  # whether a message is on its way to see if it goes again
        self.held = 0  # messages held back since the last probe
        self.missing = False  # the gateway does not have it


class Instances:
    """
    The instances that one process has sent from.

    Args:
        misconfigured_wait_s: How long the first wait is when the key or the instance is wrong, in seconds.
        clock: Seconds that only go forward.
        sharded: Whether there are several gateway processes. All of them were asked before one is said to be the wrong
            one, and what is wrong with one process holds back its instances alone.
        names: Lists the instances that the gateway has; it may raise GatewayError.
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
        self._lock = threading.Lock()
        self._states: dict[str, _State] = {}
        self._whole = _State()  # the gateway's
        self._sent_ms: dict[str, int] = {}  # when the last message of an instance was sent, by Redis' clock
        self._list = _List(names, clock, misconfigured_wait_s)

    def hold(self, name: str) -> Hold | None:
        """Whether a message of this instance has to wait; None when it may go."""
        listed = None if name in self._sent_ms else self._list.has(name)
        if listed is False:
            self._list.miss()
            return Hold(self._misconfigured_wait_s, missing=True)
        state = self._states.get(name)
        if state is None:
            return None
        with self._lock:
            if listed and state.missing:
                self._states.pop(name, None)
                return None
            now = self._clock()
            if now >= state.until:
                state.probing = state.wait_s > 0
                state.until = now + state.wait_s  # whoever asks next waits for what becomes of this one
                state.held = 0
                return None
            state.held += 1
            spread_s = min(_LONGEST_SPREAD_S, state.held / _SPREAD_PER_S) * (0.5 + self._jitter())
            return Hold(state.until - now + spread_s, state.missing)

    def is_held(self, name: str) -> bool:
        """Whether messages of this instance wait; asking changes nothing."""
        state = self._states.get(name)
        return state is not None and self._clock() < state.until

    def may_be_blameless(self, name: str, trouble: Trouble) -> bool:
        """Whether it turned out that the instance was at fault when tries were counted of a message."""
        state = self._states.get(name)
        return not trouble.own and state is not None and state.wait_s > 0 and trouble.at_ms > self._sent_ms.get(name, 0)

    def sent(self, name: str, at_ms: int) -> bool:
        """
        A message of it went out; True when that ends a hold.

        Args:
            name: The instance.
            at_ms: When its send began, by Redis' clock.
        """
        with self._lock:
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
        A message of it did not go out.

        Args:
            name: The instance.
            number: To whom, or what stands for it.
            exc: Why.
            before: What the message met before.
            at_ms: The time by Redis' clock.
            is_open: Asks the gateway whether the instance is connected; called where that matters.
        """
        trouble = (before or Trouble(exc.reason, at_ms, at_ms, 0)).again(exc.reason, at_ms)
        patience_s = min(_LONGEST_PATIENCE_S, 2.0 ** min(trouble.failures - 1, 10)) * (0.5 + self._jitter())
        if isinstance(exc, Throttled):
            return Judged(trouble, self._throttled(name, exc) + patience_s, counts=False)
        of_gateway = exc.reason is Reason.GATEWAY_DATABASE and not self._sure
        with self._lock:
            state = self._whole if of_gateway else self._states.setdefault(name, _State())
            if self._is_own("" if of_gateway else name, number, state, exc, before):
                return Judged(trouble._replace(own=True, counted=trouble.counted + 1), 0.0, counts=True)
            if len(state.numbers) < _NUMBERS_TO_HOLD:
                state.numbers.add(number)
            if of_gateway:  # the breaker holds back all
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
        """How long a message of an instance that is missing waits: longer, the longer it has been waiting."""
        waited_s = (at_ms - trouble.since_ms) / 1000
        wait_s = max(self._misconfigured_wait_s, min(_LONGEST_SPREAD_S, waited_s / 2))
        return wait_s * (0.75 + self._jitter() / 2)

    def _is_own(self, scope: str, number: str, state: _State, exc: SendError, before: Trouble | None) -> bool:
        """Whether a failure is the message's: it failed before, and others did not."""
        if before is None or exc.reason is Reason.INSTANCE_NOT_FOUND:
            return False
        if before.at_ms < self._sent_ms.get(scope, 0):
            return True
        return before.own and not state.numbers - {number}

    def _throttled(self, name: str, exc: Throttled) -> float:
        with self._lock:
            state = self._states.setdefault(name, _State())
            now = self._clock()
            state.until = max(state.until, now + exc.retry_after_s)
            return state.until - now

    def _hold(self, name: str, exc: SendError) -> float:
        """Hold it, or hold it for longer where a probe failed; seconds until the next probe."""
        with self._lock:
            state = self._states.setdefault(name, _State())  # it may have been sent meanwhile
            now = self._clock()
            state.missing = exc.reason is Reason.INSTANCE_NOT_FOUND
            if state.missing:
                self._sent_ms.pop(name, None)
                if sum(each.missing for each in self._states.values()) >= _MISSING_TO_LIST:
                    self._list.miss()
            if state.wait_s and not state.probing:
                return max(0.0, state.until - now)  # others that were under way fail too: that is no news
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
    """
    The names of the instances that the gateway has, asked for while some are missing.

    Args:
        names: Asks for them.
        clock: Seconds that only go forward.
        every_s: How long an answer is believed, in seconds.
    """

    def __init__(self, names: Callable[[], Collection[str]] | None, clock: Callable[[], float], every_s: float) -> None:
        self._ask = names
        self._clock = clock
        self._every_s = every_s
        self._asking = threading.Lock()
        self._names: Collection[str] | None = None
        self._ask_at = 0.0
        self._wanted_until: float | None = None

    def miss(self) -> None:
        """Instances are missing: from now on the list is worth asking for."""
        self._wanted_until = self._clock() + _LISTED_FOR_S

    def has(self, name: str) -> bool | None:
        """Whether the gateway has an instance; None where the list is not wanted, or cannot be had."""
        if self._ask is None or self._wanted_until is None:
            return None
        if self._clock() >= self._wanted_until:
            self._wanted_until = self._names = None
            return None
        if self._clock() >= self._ask_at and self._asking.acquire(blocking=False):
            try:
                self._names = self._ask()
            except GatewayError:
                self._names = None
            finally:
                self._ask_at = self._clock() + self._every_s
                self._asking.release()
        names = self._names
        return None if names is None else name in names
