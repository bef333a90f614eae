"""
The guard: slows a number that shows signs of trouble, pauses it, and speeds it up again hour by hour.

    signal at `slow`     the brake is halved, down to a tenth of the pace
    signal at `pause`    that too, and the number sends nothing for a time, or opens no new chats
    an hour of calm      the brake is released by a tenth

A signal that was answered is answered again only if it gets worse, or, after an hour, for what happened since: one bad
hour is one step, and not sixty. `decide` is pure. docs/guard.md explains the steps for the person who reads them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol, Self

from ifinu.numbers.directory import BANNED, DISCONNECTED, UNTIL_RELEASED
from ifinu.numbers.signals import FORBIDDEN, WINDOW, Figures, Level, Signal, levels

SLOWEST = 0.1  # the least brake
OURS = "guarda:"  # what the reason of a hold by the guard begins with; then comes the signal

_AN_HOUR = timedelta(hours=1)
_A_DAY = timedelta(hours=24)
_PROBE_EVERY = timedelta(minutes=15)
_FACTOR, _RELEASE = 0.5, 0.1


class Move(enum.StrEnum):
    """The steps; `step` in the data of the event `number`."""

    SLOWED = "slowed"
    NO_NEW_CHATS = "no_new_chats"
    PAUSED = "paused"
    UNLINKED = "unlinked"
    BANNED = "banned"
    RELEASED = "released"
    NEW_CHATS = "new_chats"
    RECOVERED = "recovered"


_PAUSES = {
    Signal.ERRORS_KNOWN: _A_DAY,
    Signal.TOO_FAST: _AN_HOUR,
    Signal.SILENT: _AN_HOUR,
    Signal.UNDELIVERED: _AN_HOUR,
    Signal.OPT_OUTS: _A_DAY,
}
_NO_NEW_CHATS = {Signal.ERRORS_NEW, Signal.NOT_ON_WHATSAPP}


class Remembered(Protocol):
    """A row of the registry, as far as the guard reads it."""

    @property
    def brake(self) -> float: ...

    @property
    def held_until(self) -> datetime | None: ...

    @property
    def held_reason(self) -> str | None: ...

    @property
    def banned_at(self) -> datetime | None: ...

    @property
    def no_new_chats_until(self) -> datetime | None: ...

    @property
    def guard(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Memory:
    """
    What the guard knows of a number between two passes.

    Attributes:
        brake: Factor on its pace.
        held_until: It sends nothing before this.
        held_reason: Why; begins with `OURS` if the guard holds it.
        banned: Whether WhatsApp banned it.
        no_new_chats_until: It opens no chats before this.
        stepped_at: When the guard last braked or paused it.
        recovered_at: When the brake was last released.
        answered: The levels that the guard answered in the hour after `stepped_at`.
        probing: Whether it was silent, and sends single messages until one is acknowledged.
    """

    brake: float = 1.0
    held_until: datetime | None = None
    held_reason: str | None = None
    banned: bool = False
    no_new_chats_until: datetime | None = None
    stepped_at: datetime | None = None
    recovered_at: datetime | None = None
    answered: Mapping[Signal, Level] = field(default_factory=dict)
    probing: bool = False

    @classmethod
    def of(cls, row: Remembered) -> Self:
        """Read a number's row in the registry."""
        guard = dict(row.guard)
        return cls(
            brake=row.brake,
            held_until=row.held_until,
            held_reason=row.held_reason,
            banned=row.banned_at is not None,
            no_new_chats_until=row.no_new_chats_until,
            stepped_at=_time(guard.get("stepped_at")),
            recovered_at=_time(guard.get("recovered_at")),
            answered={Signal(name): Level(level) for name, level in guard.get("answered", {}).items()},
            probing=bool(guard.get("probing")),
        )

    def columns(self, before: Memory, now: datetime) -> dict[str, Any]:
        """The columns of the registry's row that differ from what was remembered before."""
        columns: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("brake", "held_until", "held_reason", "no_new_chats_until")
            if getattr(self, name) != getattr(before, name)
        }
        if self.banned and not before.banned:
            columns["banned_at"] = now
        guard = {
            "stepped_at": self.stepped_at and self.stepped_at.isoformat(),
            "recovered_at": self.recovered_at and self.recovered_at.isoformat(),
            "answered": {signal.value: int(level) for signal, level in self.answered.items()},
            "probing": self.probing,
        }
        return columns | {"risk": self.risk, "guard": {name: value for name, value in guard.items() if value}}

    def judged_from(self, now: datetime) -> datetime | None:
        """The time before which messages do not count, since the guard has answered them; None if all count."""
        if self.stepped_at is not None and (self.probing or now - self.stepped_at >= WINDOW):
            return self.stepped_at
        return None

    def is_held(self, now: datetime) -> bool:
        return self.held_until is not None and self.held_until > now

    @property
    def pace(self) -> float:
        """The factor on the pace; between two probes a number is as slow as it can be."""
        return SLOWEST if self.probing else self.brake

    @property
    def risk(self) -> int:
        """From 0 (calm) to 100 (banned)."""
        return 100 if self.banned else round(100 * (1 - self.pace))


@dataclass(frozen=True, slots=True)
class Step:
    """
    A step of the guard.

    Attributes:
        signal: What caused it; None if the absence of signals did.
        until: End of a hold, or of the time without new chats.
    """

    move: Move
    signal: Signal | None = None
    until: datetime | None = None


def decide(figures: Figures, memory: Memory, now: datetime) -> tuple[Memory, tuple[Step, ...]]:
    """
    Decide what follows from a number's figures.

    Args:
        figures: Of the messages since `memory.judged_from(now)`.
        now: The time, aware.

    Returns:
        What to remember, and the steps that led there; no steps if nothing changes.
    """
    steps: list[Step] = []
    found = levels(figures)
    memory = _connection(memory, figures, found, steps)
    found.pop(Signal.UNLINKED, None)
    memory = _held(memory, now, steps)
    if memory.no_new_chats_until is not None and memory.no_new_chats_until <= now:
        steps.append(Step(Move.NEW_CHATS))
        memory = replace(memory, no_new_chats_until=None)
    if memory.probing and not memory.is_held(now):
        memory = _probed(memory, figures, now, steps)
        if memory.probing:
            found.pop(Signal.SILENT, None)
    memory = _answer(memory, found, now, steps)
    if not found and not steps:
        memory = _recover(memory, now, steps)
    return memory, tuple(steps)


def _connection(memory: Memory, n: Figures, found: Mapping[Signal, Level], steps: list[Step]) -> Memory:
    if Signal.UNLINKED in found:
        if n.code == FORBIDDEN and not memory.banned:
            steps.append(Step(Move.BANNED, Signal.UNLINKED, UNTIL_RELEASED))
            return replace(memory, banned=True, held_until=UNTIL_RELEASED, held_reason=BANNED)
        if n.code != FORBIDDEN and not memory.banned and memory.held_reason != DISCONNECTED:
            steps.append(Step(Move.UNLINKED, Signal.UNLINKED, UNTIL_RELEASED))
            return replace(memory, held_until=UNTIL_RELEASED, held_reason=DISCONNECTED)
    elif n.state == "open" and memory.held_reason == DISCONNECTED:
        steps.append(Step(Move.RELEASED, Signal.UNLINKED))
        return replace(memory, held_until=None, held_reason=None)
    return memory


def _held(memory: Memory, now: datetime, steps: list[Step]) -> Memory:
    """End a hold of the guard when its time has come."""
    if memory.held_until is None or memory.is_held(now) or not (memory.held_reason or "").startswith(OURS):
        return memory
    signal = (memory.held_reason or "").removeprefix(OURS)
    steps.append(Step(Move.RELEASED, Signal(signal) if signal in list(Signal) else None))
    return replace(memory, held_until=None, held_reason=None, recovered_at=now)


def _probed(memory: Memory, n: Figures, now: datetime, steps: list[Step]) -> Memory:
    """Judge the single messages of a number that was silent."""
    if n.confirmed:
        steps.append(Step(Move.RECOVERED, Signal.SILENT))
        return replace(memory, probing=False, recovered_at=now)
    if n.settled:
        return _pause(memory, Signal.SILENT, now + _PROBE_EVERY, now, steps)
    return memory


def _answer(memory: Memory, found: Mapping[Signal, Level], now: datetime, steps: list[Step]) -> Memory:
    recent = memory.stepped_at is not None and now - memory.stepped_at < WINDOW
    answered = dict(memory.answered) if recent else {}
    worse = {signal: level for signal, level in found.items() if level > answered.get(signal, Level.CALM)}
    if not worse:
        return memory
    # Several signals of one pass often have one cause; only what is new halves the brake.
    fresh = next((signal for signal in worse if signal not in answered), None)
    if fresh is not None:
        memory = replace(memory, brake=max(SLOWEST, round(memory.brake * _FACTOR, 3)))
        steps.append(Step(Move.SLOWED, fresh))
    for signal, level in worse.items():
        if level is not Level.PAUSE:
            continue
        if signal in _NO_NEW_CHATS:
            memory = replace(memory, no_new_chats_until=now + _A_DAY)
            steps.append(Step(Move.NO_NEW_CHATS, signal, memory.no_new_chats_until))
        elif signal in _PAUSES:
            memory = _pause(memory, signal, now + _PAUSES[signal], now, steps)
            memory = replace(memory, probing=memory.probing or signal is Signal.SILENT)
    return replace(memory, stepped_at=now, answered={**answered, **worse})


def _pause(memory: Memory, signal: Signal, until: datetime, now: datetime, steps: list[Step]) -> Memory:
    """Hold a number, unless it is held longer already, by the guard, a person or its connection."""
    if memory.held_until is not None and memory.held_until >= until:
        return memory
    steps.append(Step(Move.PAUSED, signal, until))
    return replace(memory, held_until=until, held_reason=f"{OURS}{signal.value}", stepped_at=now)


def _recover(memory: Memory, now: datetime, steps: list[Step]) -> Memory:
    since = max((at for at in (memory.stepped_at, memory.recovered_at) if at is not None), default=None)
    if memory.brake >= 1 or memory.probing or memory.is_held(now) or (since and now - since < _AN_HOUR):
        return memory
    steps.append(Step(Move.RECOVERED))
    return replace(memory, brake=min(1.0, round(memory.brake + _RELEASE, 3)), recovered_at=now)


def _time(written: str | None) -> datetime | None:
    return None if written is None else datetime.fromisoformat(written)


def event_data(number: str, step: Step, memory: Memory, figures: Figures) -> dict[str, Any]:
    """The data of a step's event `number`: what was done, to what, and the figures that led to it."""
    return {
        "number": number,
        "step": step.move.value,
        "signal": step.signal and step.signal.value,
        "until": step.until and step.until.isoformat(timespec="seconds"),
        "brake": memory.pace,
        "risk": memory.risk,
        "figures": figures.as_data(),
    }
