"""The order of what waits for numbers: who came first is served first, and the tenants of a number take turns."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ifinu.broker.headers import LINE
from ifinu.broker.keys import number_key
from simulation.numbers import Numbers
from simulation.world import World

_TENANTS = ("", "t1", "t2")
_RELOAD = -2  # a worker has another directory of numbers than Redis, and gets nothing
_FROM_THE_FRONT = {"lift", "purge_lane", "return_lane"}


class _Lane(NamedTuple):
    """The messages of a tenant in a queue that wait for a number."""

    queue: str
    number: str
    tenant: str


class _Flight(NamedTuple):
    """
    A message that was taken.

    Attributes:
        line: What `Order.pushed` knows it by, or None.
    """

    tag: str
    lane: _Lane
    raw: bytes
    line: tuple[Any, ...] | None


@dataclass
class Order:
    """
    The promises of order in one world.

    A lane is joined at its end and left at its front; what comes back goes to the front. Between scripts it does not
    change. Of messages in the list, those of one line (that go by one number) leave in the order in which they came.

    Args:
        world: The world.
        numbers: Its numbers.
        fail: Called with what is broken.
    """

    world: World
    numbers: Numbers
    fail: Callable[[str], None]
    _lanes: dict[_Lane, list[bytes]] = field(default_factory=dict)  # the message that is served next comes first
    _flying: dict[str, _Flight] = field(default_factory=dict)  # by tag, the oldest first
    _passed: Counter[_Lane] = field(default_factory=Counter)  # how often others were served since a lane was
    _untouched: dict[tuple[Any, ...], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    _seen: set[bytes] = field(default_factory=set)

    # -- producers

    def pushed(self, queue: str, wire: dict[str, Any], raw: bytes, form: str) -> None:
        """A message was put at the end of its queue. Messages of one line are those that go by one number."""
        tenant, instance = wire.get("usuario_id"), wire.get("instancia")
        if instance is None and self.numbers.policies.get(tenant or "") == "rodizio":
            return  # they go by several numbers
        line = queue, form, tenant, instance, wire["telefone"][-8:]
        if raw not in self._seen:
            self._seen.add(raw)
            self._untouched[line].append(raw)
            return
        # Two messages with the same bytes cannot be told apart; the others of their line can.
        for raws in self._untouched.values():
            if raw in raws:
                raws.remove(raw)
        self._flying = {
            tag: each._replace(line=None) if each.raw == raw else each for tag, each in self._flying.items()
        }

    def forget_lines(self) -> None:
        """It has changed by which numbers messages go."""
        self._untouched.clear()
        self._flying = {tag: each._replace(line=None) for tag, each in self._flying.items()}

    # -- Redis

    def after_script(self, name: str, keys: list[str], args: list[Any], answer: Any) -> None:
        """A script has run that may have moved messages."""
        before, self._lanes = self._lanes, {lane: raws for queue in self.world.queues for lane, raws in self._in(queue)}
        if name in ("purge", "replay", "resolve", "load_numbers"):
            self.forget_lines()  # it may change by which number a message goes
        taken = self._taken(keys, answer) if name == "fetch" else []
        if name == "fetch":
            self._check_priorities(keys, args, answer)
        ended = self._ended()
        for lane in sorted(before.keys() | self._lanes.keys()):
            was, now = before.get(lane, []), self._lanes.get(lane, [])
            expected = self._expected(name, args, lane, was, now, [each for each in taken if each.lane == lane], ended)
            if now != expected:
                self.fail(f"{name} changed the order of {lane}")
            for raw in now:
                if tenant_of(raw) != lane.tenant:
                    self.fail(f"a message of tenant {tenant_of(raw)!r} waits in {lane}")
        self._count_turns(before, taken)
        self._check_rings()
        if name in ("give_back", "sweep") or (name == "postpone" and _text(args[9]) == "1"):
            self._back_in_line(name, args, ended)

    def _taken(self, keys: list[str], answer: list[Any]) -> list[_Flight]:
        """What a fetch has taken for numbers. Of each line it is the first."""
        taken = []
        for index, tag, raw, mark in zip(answer[2::4], answer[3::4], answer[4::4], answer[5::4], strict=True):
            line = self._check_line(raw)
            if number := _text(mark).partition(" ")[2]:
                each = _Flight(_text(tag), _Lane(keys[7 * index], number, tenant_of(raw)), raw, line)
                taken.append(each)
                self._flying[each.tag] = each
        return taken

    def _check_line(self, raw: bytes) -> tuple[Any, ...] | None:
        """Check that a message that is taken is the first of its line. Returns the line, if it is known."""
        for line, raws in self._untouched.items():
            if raw in raws:
                if raws[0] != raw:
                    self.fail(f"a message of {line} overtook {raws.index(raw)} others")
                raws.remove(raw)
                return line
        return None

    def _ended(self) -> list[_Flight]:
        """What is not in flight any more, the oldest first."""
        there = {queue: self.world.server.fields(f"{queue}:em_voo") for queue in self.world.queues}
        ended = [each for each in self._flying.values() if each.tag.encode() not in there[each.lane.queue]]
        for each in ended:
            del self._flying[each.tag]
        return ended

    def _expected(
        self,
        name: str,
        args: list[Any],
        lane: _Lane,
        was: list[bytes],
        now: list[bytes],
        taken: list[_Flight],
        ended: list[_Flight],
    ) -> list[bytes]:
        """What a lane has to be after a script. What joins its end may be anything that came from its queue."""
        back = [each.raw for each in ended if each.lane == lane] if lane.number in self.numbers.named else []
        match name:
            case "fetch":
                gone = [each.raw for each in taken[: len(was)]]
                return [*(was if gone != was[: len(gone)] else was[len(gone) :]), *now[max(0, len(was) - len(gone)) :]]
            case "give_back":
                return [*back, *was]
            case "sweep":  # of several workers, which may have died in any order
                return [*(now[: len(back)] if Counter(now[: len(back)]) == Counter(back) else back), *was]
            case "postpone" if _text(args[9]) == "1":  # its successor stands where it stood, and may say more of itself
                ours = [each for each in ended if each.lane._replace(tenant=tenant_of(_bytes(args[1]))) == lane]
                return [_bytes(args[1]), *was] if ours and lane.number in self.numbers.named else was
            case "settle":  # codes follow their message
                return [*now[: len(now) - len(was)], *was]
            case "reroute" | "move_lane" if len(now) > len(was):
                return [*was, *now[len(was) :]]
            case "move_lane" if (lane.number, lane.tenant) == (_text(args[0]), _text(args[1])):
                left = iter(was)
                return now if all(raw in left for raw in now) else was
            case _ if name in _FROM_THE_FRONT and (lane.number, lane.tenant) == (_text(args[0]), _text(args[1])):
                return was[len(was) - len(now) :]
        return was

    def _back_in_line(self, name: str, args: list[Any], ended: list[_Flight]) -> None:
        """Messages that go back into their lanes are the first of their lines again, the oldest before the others."""
        by_line: dict[tuple[Any, ...], list[bytes]] = defaultdict(list)
        for each in ended:
            if each.line is not None and each.lane.number in self.numbers.named:
                by_line[each.line].append(_bytes(args[1]) if name == "postpone" else each.raw)
        for line, raws in by_line.items():
            if name == "sweep" and len(raws) > 1:  # in any order
                self._untouched[line].clear()
            else:
                self._untouched[line][:0] = raws

    # -- queues

    def _check_priorities(self, keys: list[str], args: list[Any], answer: list[Any]) -> None:
        """A queue is served once those before it are empty, but for a share of the lowest one, which comes first."""
        if answer[0] == _RELOAD:
            return
        server, want = self.world.server, int(args[0])
        taken = Counter(keys[7 * index] for index in answer[2::4])
        open_ = [keys[at] for at in range(0, len(keys), 7) if server.text(keys[at + 5]) is None]
        left = [queue for queue in open_ if server.elements(queue)]
        paced = len(args) > 3 and _text(args[3]) and len(open_) > 1
        share = math.floor(want / 10 + float(args[4])) if paced and self.numbers.named else 0
        if share and taken[open_[-1]] < share and open_[-1] in left:
            self.fail(f"{taken[open_[-1]]} messages of {open_[-1]} were taken, and not {share}")
        for before, queue in itertools.combinations(open_, 2):
            if before in left and taken[queue] > (share if queue == open_[-1] else 0):
                self.fail(f"{taken[queue]} messages of {queue} were taken before those of {before}")

    # -- tenants

    def _count_turns(self, before: dict[_Lane, list[bytes]], taken: list[_Flight]) -> None:
        """A tenant that waits for a number is passed over as often as the others have turns, and not more."""
        waiting = Counter({lane: len(raws) for lane, raws in before.items()})
        for each in taken:
            queue, number, tenant = each.lane
            for other in (_Lane(queue, number, other) for other in _TENANTS if other != tenant):
                if waiting[other] > 0:
                    self._passed[other] += 1
                    if self._passed[other] > sum(self._weight(each) for each in _TENANTS if each != other.tenant):
                        self.fail(f"{other} is passed over {self._passed[other]} times")
            waiting[each.lane] -= 1
            self._passed[each.lane] = 0
        for lane in self._passed.keys() - self._lanes.keys():
            del self._passed[lane]

    def _check_rings(self) -> None:
        """A tenant stands in the ring of a number as often as its weight says, while something of it waits."""
        for queue in self.world.queues:
            for name in self.numbers.names():
                ring = Counter(map(_text, self.world.server.elements(f"{number_key(name)}:roda:{queue}")))
                weights = {lane.tenant: self._weight(lane.tenant) for lane in self._lanes if lane[:2] == (queue, name)}
                if ring != weights:
                    self.fail(f"the ring of {name} in {queue} is {dict(ring)}, not {weights}")

    def _weight(self, tenant: str) -> int:
        return self.numbers.weights.get(tenant, 1)

    # -- lanes

    def _in(self, queue: str) -> list[tuple[_Lane, list[bytes]]]:
        """The lanes of a queue that are not empty."""
        found = []
        for name in self.numbers.names():
            for tenant in _TENANTS:
                if raws := self.world.server.elements(f"{queue}:espera:{name}:{tenant}"):
                    found.append((_Lane(queue, name, tenant), raws[::-1]))
        return found

    def lanes(self, queue: str) -> dict[tuple[str, str], int]:
        """How many messages are in each lane, by number and tenant."""
        return {(lane.number, lane.tenant): len(raws) for lane, raws in self._lanes.items() if lane.queue == queue}

    def keys(self, queue: str) -> list[str]:
        """The keys of the lanes of a queue."""
        return [f"{queue}:espera:{name}:{tenant}" for name in self.numbers.names() for tenant in _TENANTS]


@functools.lru_cache(maxsize=4096)
def tenant_of(raw: bytes) -> str:
    """The tenant of a message, as Redis can know it: not from the body of an envelope."""
    message = json.loads(raw)
    said: str = (
        message["headers"].get(LINE, "").partition("\t")[0] if "headers" in message else message.get("usuario_id", "")
    )
    return said


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
