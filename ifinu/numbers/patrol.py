"""
One pass of the guard over the registered numbers: read their figures, decide, and write what follows.

A step goes into the registry's row, then into Redis, where workers see it with their next fetch, then into the stream
of events. A pass that ends in between leaves Redis behind the registry; the next pass writes what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from time import monotonic
from typing import NamedTuple

import redis
import structlog
from sqlalchemy import Engine, exists, or_, select

from ifinu import phone
from ifinu.broker import clock, lanes
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import number_key, script
from ifinu.errors import Reason
from ifinu.ledger.engine import writing
from ifinu.ledger.schema import events, instances, notifications, numbers
from ifinu.ledger.states import State
from ifinu.numbers import answers, cache, presets, registry
from ifinu.numbers.directory import DISCONNECTED
from ifinu.numbers.diversion import Diverted, divert
from ifinu.numbers.guard import OURS, Memory, Move, Step, decide, event_data
from ifinu.numbers.registry import Number
from ifinu.numbers.signals import (
    FORBIDDEN,
    LOGGED_OUT,
    THROTTLED,
    TROUBLES,
    WINDOW,
    Figures,
    Level,
    Reader,
    Signal,
    levels,
)

log = structlog.get_logger(__name__)

_ACTIVE = WINDOW + timedelta(minutes=15)  # so that late receipts are seen, too
_EVERYONE_EVERY_S = 3600.0
_SETS_BACK = {Move.PAUSED: presets.HELD_BACK, Move.NO_NEW_CHATS: presets.HELD_BACK, Move.SLOWED: timedelta(days=1)}
_GOOD = (Move.RELEASED, Move.RECOVERED, Move.NEW_CHATS)
_OF_THE_COPY = (Move.NO_NEW_CHATS, Move.NEW_CHATS, Move.BANNED)  # what the registry's copy in Redis has beside holds


@dataclass(frozen=True, slots=True)
class Judged:
    """A number, what the guard saw of it, and the steps that follow."""

    number: Number
    figures: Figures
    memory: Memory
    steps: tuple[Step, ...]

    @property
    def levels(self) -> dict[Signal, Level]:
        return levels(self.figures)

    def risk(self, now: datetime) -> Risk:
        return _risk(self.memory, now)


class Risk(NamedTuple):
    """
    The state of a number, for metrics.

    Attributes:
        risk: From 0 (calm) to 100 (banned).
        brake: The factor on its pace.
        held: Whether it sends nothing now.
        no_new_chats: Whether it opens no chats now.
        banned: Whether WhatsApp banned it.
    """

    risk: int
    brake: float
    held: bool
    no_new_chats: bool
    banned: bool


def risks(numbers: Iterable[Number], now: datetime) -> dict[str, Risk]:
    """The state of each number, by name."""
    return {number.name: _risk(Memory.of(number), now) for number in numbers}


def _risk(memory: Memory, now: datetime) -> Risk:
    closed = memory.no_new_chats_until is not None and memory.no_new_chats_until > now
    return Risk(memory.risk, memory.pace, memory.is_held(now), closed, memory.banned)


class Patrol:
    """
    Goes over the numbers.

    Args:
        client: A Redis client that returns bytes.
        engine: The ledger.
    """

    def __init__(self, client: redis.Redis, engine: Engine) -> None:
        self._client = client
        self._engine = engine

    def look(self, *, everyone: bool = True) -> tuple[list[Judged], datetime]:
        """
        Judge the numbers, and change nothing.

        Args:
            everyone: Judge all numbers, and not only those that sent lately or are braked or held.

        Returns:
            The numbers by name, and the time, by Redis' clock.

        Raises:
            errors.LedgerUnavailable: The database does not answer, or is not migrated.
            redis.RedisError: Redis does not answer.
        """
        now = clock.now(self._client)
        all_ = registry.read(self._engine).numbers
        if not all_:
            return [], now
        active = {number.name for number in all_} if everyone else self._active(now)
        memories = {number.name: Memory.of(number) for number in all_ if number.name in active}
        asked = {name: memory.judged_from(now) for name, memory in memories.items()}
        warming = {number.name for number in all_ if number.warm_up_day(now) is not None}
        figures = Reader(self._engine, now).figures(asked, warming, partial(answers.people, self._client))
        judged = []
        for number in all_:
            if number.name in active:
                memory, steps = decide(figures[number.name], memories[number.name], now)
                judged.append(Judged(number, figures[number.name], memory, steps))
        return judged, now

    def act(self, judged: Sequence[Judged], now: datetime) -> list[Judged]:
        """
        Take the steps, and bring Redis up to date.

        Returns:
            The numbers whose steps were taken. One that has changed since `look` is left to the next pass.

        Raises:
            errors.LedgerUnavailable, redis.RedisError: As `look`; what was stored reaches Redis with the next pass.
        """
        stored = self._store([each for each in judged if each.memory != Memory.of(each.number)], now)
        kept = [each for each in judged if each.memory == Memory.of(each.number)]
        if any(step.move in _OF_THE_COPY for each in stored for step in each.steps):
            cache.load(self._client, self._engine)
        self._publish([*stored, *kept], now)
        pipe = self._client.pipeline(transaction=False)
        for each in stored:
            for step in each.steps:
                Event(Name.NUMBER, data=event_data(each.number.name, step, each.memory, each.figures)).write(pipe)
        if pipe.command_stack:
            pipe.execute()
        return [each for each in stored if each.steps]

    def divert(self, now: datetime) -> list[Diverted]:
        """
        Let the messages of a number that is held for long go by its tenant's other numbers; see `diversion.py`.

        Raises:
            errors.LedgerUnavailable, redis.RedisError: As `look`.
        """
        changed = divert(self._client, registry.read(self._engine).numbers, now)
        for each in changed:
            step = "diverted" if each.on else "undiverted"
            Event(Name.NUMBER, data={"number": each.number, "step": step, "figures": {"moved": each.moved}}).write(
                self._client
            )
        return changed

    def _active(self, now: datetime) -> set[str]:
        """Names of the numbers that sent lately or have had trouble, and of those that are braked or held."""
        since = now - _ACTIVE
        sent = exists().where(notifications.c.instance == numbers.c.name, notifications.c.sent_at >= since)
        refused = select(notifications.c.instance).where(
            notifications.c.state == State.DEAD,
            notifications.c.reason == Reason.NUMBER_NOT_ON_WHATSAPP,
            notifications.c.last_at >= since,
        )
        throttled = select(events.c.data["instance"].as_string()).where(
            events.c.ms >= round(since.timestamp() * 1000),
            events.c.name.in_(TROUBLES),
            events.c.data["reason"].as_string().in_(THROTTLED),
        )
        closed = select(instances.c.name).where(
            instances.c.state == "close", instances.c.code.in_((LOGGED_OUT, FORBIDDEN))
        )
        braked = (numbers.c.brake < 1, numbers.c.held_until.is_not(None), numbers.c.no_new_chats_until.is_not(None))
        name = numbers.c.name
        query = select(name).where(or_(sent, *braked, name.in_(refused), name.in_(throttled), name.in_(closed)))
        with self._engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def _store(self, judged: Sequence[Judged], now: datetime) -> list[Judged]:
        """Write into the registry what changed; a number that somebody else changed meanwhile is left out."""
        if not judged:
            return []
        stored = []
        with writing(self._engine) as connection:
            for each in judged:
                now_there = registry.find(connection, each.number.name)
                before = Memory.of(each.number)
                if now_there is None or Memory.of(now_there) != before:
                    continue
                columns = each.memory.columns(before, now)
                if (begins := self._set_back(each, before, now)) is not None:
                    columns["warm_up_from"] = begins
                registry.write(connection, now_there, columns)
                stored.append(each)
        return stored

    def _set_back(self, each: Judged, before: Memory, now: datetime) -> date | None:
        """Day 0 of a warm-up that was not calm: a hold costs three days, and a day with a brake does not count."""
        number = each.number
        by = max((_SETS_BACK.get(step.move, timedelta(0)) for step in each.steps), default=timedelta(0))
        if not by or number.warm_up_from is None or number.warm_up_day(now) is None:
            return None
        today = number.local(now).date()
        if by < presets.HELD_BACK and before.stepped_at and number.local(before.stepped_at).date() == today:
            return None
        return presets.set_back(number.warm_up_from, today, by)

    def _publish(self, judged: Sequence[Judged], now: datetime) -> None:
        """Write brakes and holds into Redis where it has others."""
        pipe = self._client.pipeline(transaction=False)
        for each in judged:
            pipe.hmget(number_key(each.number.name), "par", "fator", "presa", "motivo")
        for each, (pace, brake, until, reason) in zip(judged, pipe.execute(), strict=True):
            if pace is None:
                continue  # what Redis does not know is loaded from the registry, with its brake and its hold
            name, memory = each.number.name, each.memory
            key = number_key(name)
            if float(brake or 1) != memory.pace:
                script("brake_number")(self._client, [key], [memory.pace])
            if memory.held_until is not None and memory.is_held(now):
                until_ms = round(memory.held_until.timestamp() * 1000)
                if int(until or 0) < until_ms:
                    lanes.hold(self._client, name, until_ms, memory.held_reason or "")
            elif memory.held_until is None and reason and self._ends(each, reason.decode()):
                lanes.release(self._client, name, reason.decode())

    def _ends(self, each: Judged, reason: str) -> bool:
        """Whether a hold in Redis is over: one of the guard, or of a connection that is open again."""
        reopened = any(step == Step(Move.RELEASED, Signal.UNLINKED) for step in each.steps)
        return reason.startswith(OURS) or (reason == DISCONNECTED and reopened)


def _log(each: Judged) -> None:
    for step in each.steps:
        fields = {
            "number": phone.mask_in(each.number.name),
            "step": step.move.value,
            "signal": step.signal and step.signal.value,
            "until": step.until and step.until.isoformat(timespec="seconds"),
            "brake": each.memory.pace,
        }
        if step.move in _GOOD:
            log.info("ifinu.guard.step", **fields)
        else:
            log.warning("ifinu.guard.step", **fields)


def _log_diversion(each: Diverted) -> None:
    log.warning("ifinu.number.diverted", number=phone.mask_in(each.number), on=each.on, moved=each.moved)


class Rounds:
    """
    The guard's passes, one after another.

    Args:
        client: A Redis client that returns bytes.
        engine: The ledger.
        steps: Counts the steps by their names.
    """

    def __init__(self, client: redis.Redis, engine: Engine, steps: dict[str, int]) -> None:
        self._patrol = Patrol(client, engine)
        self._steps = steps
        self._everyone_at = 0.0

    def go(self) -> None:
        """
        Make one pass.

        Raises:
            errors.LedgerUnavailable, redis.RedisError: As `Patrol.look`.
        """
        everyone = monotonic() >= self._everyone_at  # now and then, in case that Redis lost a step
        judged, now = self._patrol.look(everyone=everyone)
        for each in self._patrol.act(judged, now):
            _log(each)
            for step in each.steps:
                self._steps[step.move.value] += 1
        for diverted in self._patrol.divert(now):
            _log_diversion(diverted)
        if everyone:
            self._everyone_at = monotonic() + _EVERYONE_EVERY_S
