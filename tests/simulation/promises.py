"""What has to hold: after each script that Redis runs, at each request to the gateway, and at the end."""

from __future__ import annotations

import functools
import json
from collections import Counter, defaultdict, deque
from datetime import datetime
from typing import Any

from ifinu.broker import dead_letters
from ifinu.broker.keys import EVENTS, NORMAL, QUEUES, Keys, claim_key
from ifinu.broker.unknown import Decision
from ifinu.reference import reference_in, reference_of
from simulation.gateway import Sent
from simulation.pace import Pace, id_of
from simulation.worker import BURST, LEASE_S, RATE, Worker
from simulation.world import EPOCH_S, Process, World

KEYS = tuple(map(Keys.of, QUEUES))
YOUNG_S = 2.0  # a claim so young is not confirmed before the request
_SLOWEST_COMMAND_S = 3.2  # from a worker to Redis
# The scripts that may end a message, and those that a person runs.
_END_ONE = {"ack", "settle"}
_BY_A_PERSON = {"purge", "purge_dead_letter", "resolve"}
_STILL = {"claim", "renew", "suspect", "release", "lead", "cancel", "uncancel", "optin", "optout", "resend"}
_PACING = {"hold_number", "release_number", "brake_number", "load_numbers", "restarted"}
_UNFORESEEN = {"error", "undeliverable"}
_NOT_SENT = {"expired", "suppressed", "cancelled", "dead"}


class Broken(AssertionError):  # noqa: N818 - of a promise, not of a program
    """A promise was broken."""


class Promises:
    """The promises of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pushed: Counter[str] = Counter()
        self._places: Counter[str] = Counter()
        self._expires: dict[str, float] = {}
        self._ids: dict[str, str] = {}  # by reference
        self._sent: dict[str, list[Sent]] = defaultdict(list)
        self._decided: Counter[str] = Counter()  # sends that a person allowed or reported
        self._cancelled: set[str] = set()
        self._withdrawn: set[str] = set()  # a message that came before has to be pushed again
        self._opted_out: set[tuple[str, str]] = set()
        self._purged = False
        self._may_post: dict[str, tuple[float, str]] = {}  # id -> when and for which tag Redis last allowed a send
        self._written: dict[Process, deque[float]] = defaultdict(deque)
        world.server.watch = self.after_script
        world.server.watch_before = self.before_script
        self._before, self._resent = "", False  # the claim before `resend`
        self.pace = None if world.numbers is None else Pace(world, world.numbers, self._break)

    def _break(self, what: str) -> None:
        """End the run, whatever catches the exception on its way."""
        self._world.trace("BROKEN", what=what)
        self._world.broken = self._world.broken or what
        raise Broken(what)

    # -- what people do

    def pushing(self, id_: str, wire: dict[str, Any]) -> None:
        if self.pace is not None:
            self.pace.pushing(id_, wire)
        self._pushed[id_] += 1
        self._places[id_] += 1
        self._ids[reference_of(id_)] = id_
        if "valido_ate" in wire:
            self._expires[id_] = datetime.fromisoformat(wire["valido_ate"]).timestamp()

    def deciding(self, id_: str, decision: Decision) -> None:
        if decision is not Decision.DISCARD:
            self._decided[id_] += 1

    def decided(self, id_: str, decision: Decision, done: bool) -> None:
        if not done and decision is not Decision.DISCARD:
            self._decided[id_] -= 1
        elif done and decision is Decision.DISCARD:
            self._purged = True  # what a person discards may have been sent

    # -- Redis

    def before_script(self, name: str, keys: list[str]) -> None:
        if name == "resend":
            was = self._world.server.fields(keys[0])
            self._before, self._resent = was.get(b"state", b"").decode(), b"resent" in was

    def after_script(self, name: str, keys: list[str], args: list[Any], answer: Any) -> None:
        if name not in _STILL | _PACING:
            self._check_places(name, keys, answer)
        if self.pace is not None:
            self.pace.after_script(name, keys, args, answer)
        if name == "claim":
            self._world.trace(
                "claim", id=_id_in(keys[0]), verdict=_text(answer[0]), was=_text(answer[1]), held=_text(args[7])
            )
        match name:
            case "claim" if answer[0] == b"go":
                self._allowed(_id_in(keys[0]), _text(args[0]), again=answer[1] == b"sending")
                if answer[1] != b"sending":
                    self._check_permission(_id_in(keys[0]), _text(args[5]), keys[2], keys[6])
            case "resend" if answer == b"go":
                self._allowed(_id_in(keys[0]), _text(args[0]), again=self._before == "sending", resent=True)
                if self._before != "sending":
                    if self._resent:
                        self._break(f"{_id_in(keys[0])} is resent, and was resent before")
                    self._check_permission(_id_in(keys[0]), _text(args[3]), keys[2], keys[3])
            case "cancel" if answer[0] in (b"", b"waiting", b"dead", b"unknown"):
                self._cancelled.add(_text(args[0]))
            case "uncancel" if answer[0]:
                self._cancelled.discard(_text(args[0]))
                self._withdrawn.add(_text(args[0]))
            case "optout":
                self._opted_out |= {(key, _text(args[0])) for key in keys[5:]}
            case "optin":
                self._opted_out.discard((keys[0], _text(args[0])))
            case "replay" if answer and self._before_replay(args):
                self._decided[_text(args[2])] += 1
            case "purge":
                self._purged = True

    def _before_replay(self, args: list[Any]) -> bool:
        """Whether the dead letter was one that may have been sent."""
        return json.loads(args[0])["reason"] in ("unknown", "error", "poison", "revoked", "undeliverable")

    def _allowed(self, id_: str, tag: str, *, again: bool, resent: bool = False) -> None:
        self._world.trace("may send", id=id_, tag=tag, again=again or None)
        self._may_post[id_] = self._world.now, tag
        if self.pace is not None:
            self.pace.allowed(id_, again=again, resent=resent)

    def _check_permission(self, id_: str, pseudonym: str, *optouts: str) -> None:
        if id_ in self._cancelled:
            self._break(f"{id_} is sent although it was cancelled")
        if any((key, pseudonym) in self._opted_out for key in optouts):
            self._break(f"{id_} is sent although its recipient opted out")

    def _check_places(self, name: str, keys: list[str], answer: Any) -> None:
        """No script but those that end a message may change how many of an id there are."""
        places = self.places()
        changed = {id_: places[id_] - self._places[id_] for id_ in places | self._places}
        changed = {id_: by for id_, by in changed.items() if by}
        self._places = places
        if not changed or name in _BY_A_PERSON:
            return
        if name in _END_ONE and answer in (1, b"freed") and list(changed.values()) == [-1]:
            return
        if name in ("delay", "postpone") and self._are_one(changed, keys[2]):
            return
        self._break(f"{name} changed the number of messages: {changed}")

    def _are_one(self, changed: dict[str, int], delayed: str) -> bool:
        """Whether a message joined another with the same bytes, since a sorted set has them once; both have one id."""
        return list(changed.values()) == [-1] and changed.keys() <= set(
            map(id_of, self._world.server.elements(delayed))
        )

    def places(self) -> Counter[str]:
        """How many messages of each id are ready, delayed, in a lane, in flight or dead."""
        elements = self._world.server.elements
        found: Counter[str] = Counter()
        for keys in KEYS:
            for place in (keys.ready, keys.delayed, keys.in_flight, f"{keys.ready}:purga", f"{keys.delayed}:purga"):
                found.update(map(id_of, elements(place)))
            for lane in self._lanes(keys):
                found.update(map(id_of, elements(lane)))
            found.update(map(_id_of_letter, elements(keys.dead)))
        return found

    def _lanes(self, keys: Keys) -> list[str]:
        return [] if self.pace is None else self.pace.order.keys(keys.ready)

    # -- the gateway

    def posted(self, process: Process) -> None:
        """A worker writes a request to send."""
        now, written = self._world.now, self._written[process]
        written.append(now)
        while written[0] <= now - 1.0:
            written.popleft()
        if len(written) > RATE + BURST:
            self._break(f"{process.name} wrote {len(written)} requests within a second")

    def requested(self, process: Process, text: str, instance: str) -> str:
        """A worker is about to write a request. Returns the tag of the message for which Redis allowed it."""
        id_ = self._ids[reference_in(text) or ""]
        at, tag = self._may_post.get(id_, (0.0, ""))
        assert isinstance(process, Worker)
        if not tag.startswith(process.prefix):
            self._break(f"{process.name} sends {id_}, which Redis did not allow it")
        if self._world.now - at > YOUNG_S + 0.01:
            self._break(f"{process.name} sends {id_}, which Redis allowed {self._world.now - at:.1f} s ago")
        if (until := self._expires.get(id_)) is not None and self._world.now > until + YOUNG_S:
            self._break(f"{id_} is sent {self._world.now - until:.1f} s after it expired")
        if self.pace is not None:
            self.pace.requested(id_, tag, instance)
        return tag

    def refused(self, instance: str) -> None:
        """The gateway answers that an instance is not connected."""
        if self.pace is not None:
            self.pace.refused(instance)

    def sent(self, sent: Sent) -> None:
        """WhatsApp has a message."""
        id_ = self._ids[reference_in(sent.text) or ""]
        before = self._sent[id_]
        before.append(sent)
        unseen = any(not one.stored for one in before)
        if len(before) > 1 + unseen + self._decided[id_]:
            self._break(f"{id_} was sent {len(before)} times")
        if self.pace is not None:
            self.pace.sent(id_, sent, sure=not self._decided[id_])

    # -- the dead

    def check_leases(self, workers: list[Worker]) -> None:
        """A message of a dead worker is held no longer than the lease."""
        dead = {worker.prefix: worker.died_at for worker in workers if worker.died_at is not None and worker.prefix}
        for keys in KEYS:
            for tag, deadline in self._world.server.scores(keys.deadlines).items():
                died_at = dead.get(_text(tag).split(".")[0] + ".")
                if died_at is not None and deadline / 1000 > died_at + LEASE_S + _SLOWEST_COMMAND_S:
                    self._break(f"{_text(tag)} is held by a dead worker until {deadline / 1000 - EPOCH_S:.1f}")

    # -- the end

    def is_quiet(self) -> bool:
        """Whether every message has come to an end, or is a dead letter."""
        return not self.where()

    def check_end(self) -> None:
        """Called after a long time without faults."""
        if not self.is_quiet():
            self._break(f"something is stuck: {self.where()}")
        for keys in KEYS:
            for record in self._world.server.elements(keys.dead):
                if (letter := dead_letters.decode(keys.ready, record)).reason in _UNFORESEEN:
                    self._break(f"{letter.id} ended in an unforeseen error: {letter.error}")
        if self.pace is not None:
            self.pace.check_end()
        letters = {_id_of_letter(each) for keys in KEYS for each in self._world.server.elements(keys.dead)}
        events = Counter(
            (fields[b"id"].decode(), fields[b"event"].decode())
            for _, fields in self._world.server.direct.xrange(EVENTS)
        )
        for id_ in self._pushed:
            self._check_end_of(id_, id_ in letters, events)

    def _check_end_of(self, id_: str, has_letter: bool, events: Counter[tuple[str, str]]) -> None:
        state = self._world.server.fields(claim_key(id_)).get(b"state", b"").decode()
        sends = self._sent[id_]
        sure = not self._decided[id_] and all(one.stored for one in sends) and not self._purged
        match state:
            case "waiting" | "" if self._waits_for_a_day(id_) and self._is_delayed(id_):
                pass
            case "sending" | "waiting":
                self._break(f"{id_} is {state} for ever")
            case "unknown" if not has_letter and sure:
                self._break(f"{id_} is in doubt, and nothing will settle it")
            case "sent" if not sends and sure:
                self._break(f"{id_} is recorded as sent, and was not")
            case "" if not has_letter and sure and id_ not in self._withdrawn:
                self._break(f"{id_} has come to no end")
            case "dead" if not has_letter and sure:
                self._break(f"{id_} is dead, and has no dead letter")
        if state in _NOT_SENT and sends and sure:
            self._break(f"{id_} is recorded as {state}, and was sent")
        if events[id_, "sent"] > 1 + self._decided[id_]:
            self._break(f"{id_} has {events[id_, 'sent']} events of a send")

    def where(self) -> dict[str, list[str]]:
        """Where messages are that have come to no end."""
        server = self._world.server
        places = [place for keys in KEYS for place in (keys.ready, keys.in_flight, *self._lanes(keys))]
        found = {place: [id_of(raw) for raw in server.elements(place)] for place in places}
        for place in (keys.delayed for keys in KEYS):
            found[place] = [id_of(raw) for raw in server.elements(place)]
            found[place] = [id_ for id_ in found[place] if not self._waits_for_a_day(id_)]
        return {place: ids for place, ids in found.items() if ids}

    def _waits_for_a_day(self, id_: str) -> bool:
        """Whether a limit of its number or its person ends on another day."""
        return self.pace is not None and self.pace.waits_for_a_day(id_)

    def _is_delayed(self, id_: str) -> bool:
        return any(id_ in map(id_of, self._world.server.elements(keys.delayed)) for keys in KEYS)

    def summary(self) -> dict[str, int]:
        return {"ids": len(self._pushed), "sent": sum(len(sends) for sends in self._sent.values())}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _id_in(key: str) -> str:
    return key.removeprefix(claim_key(""))


@functools.lru_cache(maxsize=4096)
def _id_of_letter(record: bytes) -> str:
    return dead_letters.decode(NORMAL, record).id or "?"
