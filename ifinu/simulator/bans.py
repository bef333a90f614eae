"""
WhatsApp's judgement of each send by the rules of `ban_rules.py`, and what it remembers of each number.

A send breaks a rule if it comes too fast, or while its number is throttled, or if it opens a new chat too many, or any
while its number is restricted. Without rules for an instance a judgement costs one look-up and remembers nothing.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ifinu.simulator.ban_rules import BanRules, Penalty
from ifinu.simulator.fault_script import Faults
from ifinu.simulator.state import BAILEYS, SimulatedInstance

_MINUTE_S = 60.0
_DAY_S = 86_400.0
_TOO_FAST = "too_fast"
_TOO_MANY_NEW = "too_many_new"


@dataclass(slots=True)
class Record:
    """What WhatsApp remembers of one number; times are those of its own clock."""

    last_minute: collections.deque[float] = field(default_factory=collections.deque)
    opened: collections.deque[float] = field(default_factory=collections.deque)  # chats, in the last day
    breached: collections.deque[float] = field(default_factory=collections.deque)  # in the last day
    known: set[str] = field(default_factory=set)
    throttled_until: float = 0.0
    restricted_until: float = 0.0
    breaches: collections.Counter[str] = field(default_factory=collections.Counter)


class Bans:
    """
    Judges the sends of all instances. Only the simulator's event loop may use it.

    Args:
        records: What WhatsApp remembers, by instance; it outlives a process of the gateway.
        clock: Seconds; `Faults.speed` multiplies them.
    """

    def __init__(self, faults: Faults, records: dict[str, Record], clock: Callable[[], float] = time.monotonic) -> None:
        self._faults = faults
        self._clock = clock
        self._records = records
        self._read_at, self._speed = clock(), faults.speed
        self._now_s = self._read_at * self._speed  # so that processes agree

    def at_look_up(self, instance: SimulatedInstance) -> Penalty:
        """Judge the look-up of a number: `throttle`, or `ban` for one breach too many; else `none`."""
        if (found := self._rules_of(instance)) is None:
            return Penalty.NONE
        rules, record = found
        now = self._now()
        throttled = now < record.throttled_until
        return self._punish(rules, record, _TOO_FAST, Penalty.THROTTLE, now) if throttled else Penalty.NONE

    def judge(self, instance: SimulatedInstance, person: str) -> Penalty:
        """
        Judge a message that is about to be handed over, and remember it.

        Returns:
            `throttle`: it must not be sent. `restrict`: it is sent and refused later. `log_out` and `ban`: it is sent,
            and the session ends. `none`: it is sent.
        """
        if (found := self._rules_of(instance)) is None:
            return Penalty.NONE
        rules, record = found
        now = self._now()
        _drop_until(record.last_minute, now - _MINUTE_S)
        _drop_until(record.opened, now - _DAY_S)
        penalty, is_new = Penalty.NONE, person not in record.known
        if now < record.throttled_until:
            penalty = self._punish(rules, record, _TOO_FAST, Penalty.THROTTLE, now)
        elif self._is_too_fast(rules, record, now):
            penalty = self._punish(rules, record, _TOO_FAST, rules.too_fast, now)
        elif is_new and now < record.restricted_until:
            penalty = self._punish(rules, record, _TOO_MANY_NEW, Penalty.RESTRICT, now)
        elif is_new and rules.new_chats is not None and len(record.opened) >= rules.new_chats:
            penalty = self._punish(rules, record, _TOO_MANY_NEW, rules.too_many_new, now)
        if penalty is Penalty.THROTTLE:
            return penalty
        record.last_minute.append(now)
        if penalty is Penalty.RESTRICT and not is_new:
            return Penalty.NONE  # a known chat goes on
        if is_new and penalty is not Penalty.RESTRICT:
            record.opened.append(now)
            record.known.add(person)
        return penalty

    def met(self, instance: SimulatedInstance, person: str) -> None:
        """Note that a person has written to an instance."""
        if (found := self._rules_of(instance)) is not None:
            found[1].known.add(person)

    def report(self, instance: str) -> dict[str, Any]:
        """The breaches of an instance by rule, and whether it is throttled or restricted now."""
        record, now = self._records.get(instance, Record()), self._now()
        return {
            "breaches": {rule: record.breaches[rule] for rule in (_TOO_FAST, _TOO_MANY_NEW)},
            "throttled": now < record.throttled_until,
            "restricted": now < record.restricted_until,
        }

    def forgive(self, instance: SimulatedInstance) -> None:
        """Lift the punishments of an instance, and forget its breaches; its chats stay known."""
        if (record := self._records.get(instance.name)) is not None:
            self._records[instance.name] = Record(known=record.known)

    def reset(self) -> None:
        """Forget everything."""
        self._records.clear()

    def _rules_of(self, instance: SimulatedInstance) -> tuple[BanRules, Record] | None:
        rules = self._faults.rules_of(instance.name)
        if rules is None or instance.integration != BAILEYS:
            return None
        record = self._records.get(instance.name)
        if record is None:
            record = self._records[instance.name] = Record()
        return rules, record

    def _is_too_fast(self, rules: BanRules, record: Record, now: float) -> bool:
        times = record.last_minute
        if rules.a_minute is not None and len(times) >= rules.a_minute:
            return True
        return bool(times) and (now - times[-1]) * 1000 < rules.gap_ms

    def _punish(self, rules: BanRules, record: Record, rule: str, penalty: Penalty, now: float) -> Penalty:
        record.breaches[rule] += 1
        _drop_until(record.breached, now - _DAY_S)
        record.breached.append(now)
        if rules.ban_after is not None and len(record.breached) >= rules.ban_after:
            penalty = Penalty.BAN
        elif penalty is Penalty.THROTTLE and now >= record.throttled_until:
            record.throttled_until = now + rules.throttle_s
        elif penalty is Penalty.RESTRICT and now >= record.restricted_until:
            record.restricted_until = now + rules.restrict_s
        return penalty

    def _now(self) -> float:
        """WhatsApp's time, in seconds; a new speed counts from the next reading on."""
        read_at = self._clock()
        self._now_s += (read_at - self._read_at) * self._speed
        self._read_at, self._speed = read_at, self._faults.speed
        return self._now_s


def _drop_until(times: collections.deque[float], until: float) -> None:
    while times and times[0] <= until:
        times.popleft()
