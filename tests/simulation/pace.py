"""What numbers promise: their gap, their caps, their order, and that no message goes by another tenant's number."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ifinu.broker import dead_letters
from ifinu.broker.keys import QUEUES, SINCE, number_key
from ifinu.broker.restarts import LEAST_MS
from simulation.gateway import Sent
from simulation.numbers import Numbers
from simulation.order import Order
from simulation.world import World

REMINDERS = 1  # as `Settings.reminders_per_person`
PAIR_GAP_S = 6.0  # between the claims of two messages to a person, and from a send to the next claim
_STILL = {"claim", "renew", "suspect", "release", "cancel", "uncancel", "optin", "optout", "resend"}
_ROUNDED_S = 0.002  # Redis counts in ms
_LIMITS = {b"new_chats", b"person_cap", b"portfolio"}  # which may end on another day
_REFUSALS = 10  # that a number gets in a run; more mean that its hold did not stop others


@dataclass
class _Take:
    """A message that was taken for a number."""

    number: str
    queue: str
    at: float
    day: int
    hour: int
    sends: int = 0
    ended: bool = False
    doubtful: bool = False  # it may have been sent, as far as anybody knows


@dataclass
class Pace:
    """
    The promises of numbers in one world.

    Args:
        world: The world.
        numbers: Its numbers.
        fail: Called with what is broken.
    """

    world: World
    numbers: Numbers
    fail: Callable[[str], None]
    _takes: dict[str, _Take] = field(default_factory=dict)
    _live: dict[str, _Take] = field(default_factory=dict)
    _fetched: dict[str, float] = field(default_factory=dict)  # when, by tag
    _free_from: dict[str, float] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)  # its last send in time
    _restarted_at: float = -math.inf
    _to_person: dict[tuple[str, str], dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    _wire: dict[str, dict[str, Any]] = field(default_factory=dict)
    _allowed: dict[str, tuple[int, bool]] = field(default_factory=dict)
    _new: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    _reminded: dict[tuple[str, str, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    _refused: Counter[str] = field(default_factory=Counter)
    _limited: dict[str, float] = field(default_factory=dict)  # until when an id waits for a limit

    def __post_init__(self) -> None:
        self.order = Order(self.world, self.numbers, self.fail)

    # -- producers

    def pushing(self, id_: str, wire: dict[str, Any]) -> None:
        self._wire[id_] = wire

    # -- those who manage the numbers

    def removed(self, name: str) -> None:
        self._free_from.pop(name, None)
        self._last.pop(name, None)

    def restarted(self, *, is_known: bool) -> None:
        """Redis restarts; `is_known`: a worker that knows numbers has seen its server."""
        if is_known:
            self._restarted_at = self.world.now

    # -- Redis

    def after_script(self, name: str, keys: list[str], args: list[Any], answer: Any) -> None:
        if name == "fetch":
            self._fetched_some(keys, answer)
        elif name == "claim" and answer[0] in _LIMITS:
            self._limited[_text(args[4])] = int(answer[11]) / 1000
        elif name == "claim" and answer[0] == b"go" and answer[1] != b"sending":
            self._claimed(_text(args[4]), paced=len(keys) > 7)
        if name == "claim" and len(keys) > 7 and answer[1] != b"sending":
            person, ends = self._wire[_text(args[4])]["telefone"], int(answer[11] or 0) / 1000
            self.numbers.portfolio.answered(_text(answer[0]), _text(args[8]), person, ends, self.fail)
        elif name == "settle" and _text(args[1]) == "sent":
            self._settled(_text(args[4]))
        if name not in _STILL:
            self.order.after_script(name, keys, args, answer)
            self._note_ends(name, args)
            self._check_keys()
            self._check_counts()

    def _fetched_some(self, keys: list[str], answer: list[Any]) -> None:
        now = self.world.now
        for index, tag, mark in zip(answer[2::4], answer[3::4], answer[5::4], strict=True):
            name, queue = _text(mark).partition(" ")[2], keys[7 * index]
            self._fetched[_text(tag)] = now
            if name:
                self._check_opens(name)
                self._takes[_text(tag)] = self._live[_text(tag)] = _Take(name, queue, now, *self.numbers.local(now))

    def _check_opens(self, name: str) -> None:
        now, fields = self.world.now, self._fields(name)
        number = self.numbers.named.get(name)
        if number is None:
            self.fail(f"{name} takes a message, and is not registered")
            return
        if now < self._restarted_at + LEAST_MS / 1000 or now < self._value(SINCE) / 1000:
            self.fail(f"{name} takes a message {now - self._restarted_at:.3f} s after Redis has restarted")
        if number.held_by_hand:
            self.fail(f"{name} takes a message, and nobody has released it")
        if now < self._free_from.get(name, 0.0) - _ROUNDED_S:
            self.fail(f"{name} takes a message {self._free_from[name] - now:.3f} s before its gap is over")
        if now < float(fields.get(b"presa", 0)) / 1000 - _ROUNDED_S:
            self.fail(f"{name} takes a message while it is held")
        if sum(take.number == name and take.at >= number.since for take in self._live.values()) >= number.parallel:
            self.fail(f"{name} takes more messages than {number.parallel} at once")
        if number.per_day is not None:
            day, hour = self.numbers.local(now)
            used = [take for take in self._of(name) if take.sends or not take.ended]
            if sum(take.day == day for take in used) >= number.per_day:
                self.fail(f"{name} takes more messages than {number.per_day} on a day")
            if sum(take.hour == hour for take in used) >= math.ceil(number.per_day / 8):
                self.fail(f"{name} takes more messages than an eighth of {number.per_day} in an hour")

    def _note_ends(self, name: str, args: list[Any]) -> None:
        in_flight = {queue: self.world.server.fields(f"{queue}:em_voo:numeros") for queue in QUEUES}
        for tag, take in list(self._live.items()):
            if tag.encode() in in_flight[take.queue]:
                continue
            del self._live[tag]
            take.ended = True
            take.doubtful = (
                name == "sweep"
                or (name == "give_back" and (tag, "1") in itertools.pairwise(map(_text, args)))
                or (name == "postpone" and args[3] in (b"unknown", "unknown"))
                or (name == "bury" and args[2] in (b"unknown", "unknown"))
            )
            if take.sends and take.number in self.numbers.named:
                number, brake = self.numbers.named[take.number], float(self._fields(take.number).get(b"fator", 1))
                free_from = self.world.now + number.gap_min_ms / 1000 / brake
                self._free_from[take.number] = max(self._free_from.get(take.number, 0.0), free_from)

    def _check_keys(self) -> None:
        """The keys that say the same say the same."""
        server = self.world.server
        flying: dict[str, set[str]] = defaultdict(set)
        for queue in self.world.queues:
            of_numbers = server.fields(f"{queue}:em_voo:numeros")
            if lost := of_numbers.keys() - server.fields(f"{queue}:em_voo").keys():
                self.fail(f"{queue} has numbers of messages that are not in flight: {sorted(lost)}")
            for tag, taken in of_numbers.items():
                name = _text(taken).split(" ", 1)[1]
                number = self.numbers.named.get(name)
                if number is not None and self._takes[_text(tag)].at >= number.since:
                    flying[name].add(f"{queue} {_text(tag)}")
            found = self.order.lanes(queue)
            if self._value(f"{queue}:na_espera") != sum(found.values()):
                self.fail(f"{self._value(f'{queue}:na_espera')} are said to wait in lanes of {queue}, not {found}")
            turns = {_text(name) for name in server.scores(f"{queue}:turnos")}
            if turns != {name for name, _ in found}:
                self.fail(f"turns of {queue} are those of {sorted(turns)}, and its lanes {found}")
        for name in self.numbers.named:
            if (said := set(map(_text, server.members(f"{number_key(name)}:voo")))) != flying[name]:
                self.fail(f"{name} is said to have {sorted(said)} in flight, and has {sorted(flying[name])}")

    def _check_counts(self) -> None:
        """Each number has counted what it sent today and what is under way; else only what may have been sent."""
        for name in self.numbers.named:
            fields = self._fields(name)
            today = [take for take in self._of(name) if take.day == int(fields.get(b"dia", 0))]
            least = sum(not take.ended or bool(take.sends) for take in today)
            most = sum(not take.ended or bool(take.sends) or take.doubtful for take in today)
            if not least <= int(fields.get(b"hoje", 0)) <= most:
                self.fail(f"{name} has counted {int(fields.get(b'hoje', 0))} today, not {least} to {most}")

    def _of(self, name: str) -> list[_Take]:
        """What was taken for a number since it was registered."""
        since = self.numbers.named[name].since
        return [take for take in self._takes.values() if take.number == name and take.at >= since]

    def _fields(self, name: str) -> dict[bytes, bytes]:
        return self.world.server.fields(number_key(name))

    def _value(self, key: str) -> int:
        return int(self.world.server.text(key) or 0)

    # -- people

    def _claimed(self, id_: str, *, paced: bool) -> None:
        """A message may be sent, for the first time or after a try."""
        others = self._to_person[self._person(id_)]
        others.pop(id_, None)
        if paced:
            since_s = self.world.now - max(others.values(), default=-math.inf)
            if since_s < PAIR_GAP_S - _ROUNDED_S:
                self.fail(f"{id_} is sent {since_s:.3f} s after another message to that person")
            others[id_] = self.world.now

    def _settled(self, id_: str) -> None:
        """A message was sent, as Redis knows."""
        others = self._to_person[self._person(id_)]
        if id_ in others:
            others[id_] = self.world.now

    def _person(self, id_: str) -> tuple[str, str]:
        return self._wire[id_].get("usuario_id") or "", self._wire[id_]["telefone"]

    # -- the gateway

    def allowed(self, id_: str, *, again: bool, resent: bool) -> None:
        """Redis allowed a send."""
        if not again:
            self._allowed[id_] = self.numbers.local(self.world.now)[0], resent

    def requested(self, id_: str, tag: str, instance: str) -> None:
        """A worker writes a request to send."""
        number, take, fetched = self.numbers.named.get(instance), self._takes.get(tag), self._fetched[tag]
        if number is not None and fetched >= number.since:  # else it was not registered yet
            if take is None or take.number != instance:
                self.fail(f"{id_} goes by {instance} without its pace")
            tenant = self._wire[id_].get("usuario_id") or ""
            if number.owner_at(fetched) not in ("", tenant):
                self.fail(f"{id_} of {tenant or 'no tenant'} goes by {instance}, which is another tenant's")
        if (named := self._wire[id_].get("instancia")) and named != instance:
            self.fail(f"{id_} names {named}, and goes by {instance}")

    def refused(self, instance: str) -> None:
        """A number whose connection is closed was asked to send."""
        if instance in self.numbers.named:
            self._refused[instance] += 1
            if self._refused[instance] > _REFUSALS:
                self.fail(f"{instance} is asked again and again, and is not connected")

    def sent(self, id_: str, sent: Sent, *, sure: bool) -> None:
        """WhatsApp has a message; `sure`: no person has decided about it."""
        take, wire = self._takes.get(sent.tag), self._wire[id_]
        if take is None:
            self._new[sent.instance].setdefault(wire["telefone"], -1)  # from here on it is known
            return
        take.sends += 1
        if take.sends > 1:
            self.fail(f"{sent.tag} was sent twice")
        number = self.numbers.named.get(take.number)
        if number is None or take.at < number.since:  # it was removed meanwhile
            self._new[sent.instance].setdefault(wire["telefone"], -1)
            return
        if number.parallel == 1 and not take.ended:  # else its worker was taken for dead, and it is late
            since_s = self.world.now - self._last.get(number.name, -math.inf)
            if since_s < number.least_gap_ms / 1000:
                self.fail(f"{number.name} sends {since_s:.3f} s after its last send")
            self._last[number.name] = self.world.now
        day, resent = self._allowed[id_]
        first = self._new[sent.instance].setdefault(wire["telefone"], -1 if resent else day)
        new = sum(on == first for on in self._new[sent.instance].values())
        if sent.instance == take.number and number.most_new is not None and first >= 0 and new > number.most_new:
            self.fail(f"{take.number} wrote to {new} new people on a day")
        is_reminder = wire["tipo_notificacao"] != "pagamento" and sent.instance == take.number
        if is_reminder and sure and not resent:
            reminded = self._reminded[wire.get("usuario_id") or "", wire["telefone"], day]
            reminded.add(id_)
            if len(reminded) > REMINDERS:
                self.fail(f"a person got {len(reminded)} reminders on a day: {sorted(reminded)}")

    # -- the end

    def waits_for_a_day(self, id_: str) -> bool:
        """Whether an id waits for a limit to end, as far as is known."""
        return self._limited.get(id_, 0.0) > self.world.now

    def check_end(self) -> None:
        if self._live:
            self.fail(f"{sorted(self._live)} are still in flight for their numbers")


@functools.lru_cache(maxsize=4096)
def id_of(raw: bytes) -> str:
    """The id of a message in Redis."""
    return dead_letters.identity(raw)[0] or "?"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
