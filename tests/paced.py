"""
The scripts that keep the pace of numbers, beside a model of their promises.

The model reads from Redis only what it checks. What a number may send it works out from the sends that it has seen end.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import redis

from ifinu.broker import lanes
from ifinu.broker.keys import EVENTS, QUEUES, UNKNOWN, Keys, claim_key, script

GENERATION = "g1"
HOUR, DAY = 3_600_000, 86_400_000
BUDGET = 12  # of a fetch; small, so that it ends some
DEFAULT = "solo"
TENANTS = {"ana": ["shared", "own"], "bia": ["shared"], "caio": [], "": []}
WEIGHTS = {"ana": 1, "bia": 2}


@dataclass
class Number:
    """A number's settings, and what the model saw of it; times in ms by Redis' clock."""

    parallel: int
    gap_min: int
    gap_max: int
    per_day: int | None = None
    zone: int = -10_800_000
    brake: float = 1.0
    held_until: float = 0
    free_at: float = 0
    flight: set[str] = field(default_factory=set)
    taken: dict[str, float] = field(default_factory=dict)  # when what counts for the caps was taken, by tag

    def hash(self) -> dict[str, Any]:
        given = {
            "par": self.parallel,
            "min": self.gap_min,
            "max": self.gap_max,
            "teto": self.per_day,
            "fuso": self.zone,
        }
        return {name: value for name, value in given.items() if value is not None} | {"fator": self.brake}

    def opens(self, now: float, since: float) -> float:
        """When it may send next, if no message in flight ends before."""
        at = max(now, self.free_at, self.held_until, since)
        if self.per_day is not None:
            day, hour = (now + self.zone) // DAY, (now + self.zone) // HOUR
            if self._in(DAY, day) >= self.per_day:
                at = max(at, (day + 1) * DAY - self.zone)
            elif self._in(HOUR, hour) >= math.ceil(self.per_day / 8):
                at = max(at, (hour + 1) * HOUR - self.zone)
        if at == now and len(self.flight) >= self.parallel:
            at = math.inf
        return at

    def _in(self, length: int, which: float) -> int:
        return sum((at + self.zone) // length == which for at in self.taken.values())


@dataclass(frozen=True)
class Message:
    """A message: its name, and where it belongs; `number` is empty if it keeps no pace."""

    raw: bytes
    id: str
    queue: str
    number: str
    tenant: str


class Paced:
    """
    Redis with its model.

    Args:
        client: An empty Redis.
        now: Its clock, in ms.
        exact: Whether time passes only when the test lets it; then the model also says what must not wait.
        scale: What gaps are multiplied with.
    """

    def __init__(self, client: redis.Redis, now: Callable[[], float], *, exact: bool, scale: float = 1.0) -> None:
        self.client, self.now, self.exact = client, now, exact
        self.numbers = {
            "solo": Number(1, int(8_000 * scale), int(25_000 * scale), 10),
            "shared": Number(1, int(2_000 * scale), int(4_000 * scale), brake=0.5),
            "own": Number(3, 0, 0, 3, zone=0),
            "slow": Number(2, int(5_000 * scale), int(9_000 * scale)),
        }
        self.since = 0.0
        # A server whose clock the test does not drive returns nothing and delays nothing by itself.
        self.lease_ms, self.wait_ms = (15_000, 5_000) if exact else (HOUR, HOUR)
        self.ids, self.batches = count(), count()
        self.lines: dict[tuple[str, str, str], deque[Message]] = defaultdict(deque)  # by queue, number and tenant
        self.messages: dict[bytes, Message] = {}
        self.pushed: dict[bytes, Message] = {}  # by the number that they say
        self.delayed: dict[bytes, float] = {}
        self.flight: dict[str, Message] = {}
        self.deadlines: dict[str, float] = {}
        self.dead = 0
        self.paused: set[str] = set()
        client.set("ifinu:numeros:geracao", GENERATION)
        client.sadd("ifinu:numeros", *self.numbers)
        for name, number in self.numbers.items():
            client.hset(f"ifinu:numero:{name}", mapping=number.hash())
        for tenant, names in TENANTS.items():
            if tenant in WEIGHTS:
                about = {"numeros": json.dumps(names), "politica": "fixo", "peso": WEIGHTS[tenant]}
                client.hset(f"ifinu:inquilino:{tenant}", mapping=about)

    # -- what producers and workers do

    def push(self, queue: str, tenant: str, named: str, phone: str, *, envelope: bool = False) -> None:
        id_ = f"m{next(self.ids)}"
        wire = {"id": id_, "telefone": phone, "usuario_id": tenant, "instancia": named}
        body: dict[str, Any] = {name: value for name, value in wire.items() if value}
        if envelope:
            body = {"headers": {"id": id_, "ifinu_linha": f"{tenant}\t{named}\t{phone[-8:]}"}, "body": "x"}
        raw = json.dumps(body).encode()
        message = Message(raw, id_, queue, self._number_of(tenant, named, phone), tenant)
        self.pushed[raw] = message
        self.client.lpush(queue, raw)
        self._joins(message)

    def _number_of(self, tenant: str, named: str, phone: str) -> str:
        if named:
            return named if named in self.numbers else ""
        among = TENANTS[tenant] if tenant in WEIGHTS else []
        ranks = {hashlib.sha1(f"{name} {phone[-8:]}".encode()).hexdigest(): name for name in among}
        return ranks[max(ranks)] if ranks else DEFAULT

    def _joins(self, message: Message, *, first: bool = False) -> None:
        self.messages[message.raw] = message
        line = self.lines[message.queue, message.number, message.tenant]
        line.appendleft(message) if first else line.append(message)

    def fetch(self, want: int, u: float, queues: tuple[str, ...] = QUEUES) -> None:
        before = self.now()
        self._due(queues)
        before_it = {queue: self._lanes_of(queue) for queue in queues}
        arguments = (want, self.lease_ms, f"b{next(self.batches):06}.", GENERATION, u, BUDGET, DEFAULT)
        answer = script("fetch")(self.client, [key for queue in queues for key in Keys.of(queue)], arguments)
        after = self.now()
        got = []
        for index, tag, raw, mark in zip(answer[2::4], answer[3::4], answer[4::4], answer[5::4], strict=True):
            got.append(self._taken(queues[index], tag.decode(), raw, mark.decode().partition(" ")[2], before, after))
        assert len(got) <= want
        self._rings_turned(before_it, got)
        if self.exact:
            self._nothing_waits_that_could_go(queues, want - len(got), len(got), answer[0])

    def _taken(self, queue: str, tag: str, raw: bytes, name: str, before: float, after: float) -> Message:
        assert queue not in self.paused
        message = self.messages[raw]
        assert (message.queue, message.number) == (queue, name)
        line = self.lines[queue, name, message.tenant]
        assert line[0] is message, f"{message.id} overtook {line[0].id}"
        line.popleft()
        if name:
            number = self.numbers[name]
            assert number.opens(after, self.since) <= after, f"{name} sends before its time"
            number.flight.add(tag)
            number.taken[tag] = before
        self.flight[tag] = message
        self.deadlines[tag] = after + self.lease_ms
        return message

    def _rings_turned(self, before: dict[str, Any], got: list[Message]) -> None:
        """What was taken from lanes came in the order of the rings that were there before."""
        for queue, numbers in before.items():
            for name, (ring, waiting) in numbers.items():
                left = {tenant: deque(raws) for tenant, raws in waiting.items()}
                known = {raw for raws in waiting.values() for raw in raws}
                for message in (m for m in got if m.queue == queue and m.number == name and m.raw in known):
                    assert message.tenant == ring[-1]
                    assert left[ring[-1]].popleft() == message.raw
                    ring = [ring[-1], *ring[:-1]]
                    if not left[message.tenant]:
                        ring = [tenant for tenant in ring if tenant != message.tenant]

    def _nothing_waits_that_could_go(self, queues: tuple[str, ...], room: int, got: int, wakes_in: int) -> None:
        now = self.now()
        served = [queue for queue in queues if queue not in self.paused]
        waiting = {name for queue in served for name in self._lanes_of(queue)}
        opens = min((self.numbers[name].opens(now, self.since) for name in waiting), default=math.inf)
        due = min((at for raw, at in self.delayed.items() if self.messages[raw].queue in queues), default=math.inf)
        if min(opens, due) < math.inf:
            assert 0 < wakes_in <= max(1, math.ceil(min(opens, due) - now)), "a worker would sleep too long"
        if room and got + sum(len(line) for line in self.lines.values()) < BUDGET // 2:
            assert opens > now, "a number could send, and does not"
            assert not any(self.client.llen(queue) for queue in served)

    # -- how a message ends, or goes back

    def end(self, tag: str, how: str, u: float) -> None:
        message = self.flight[tag]
        keys, name = Keys.of(message.queue), message.number
        pace = (name, u) if name else ("", "")
        claim = claim_key(message.id)
        home = (keys.in_flight, keys.deadlines)
        at = self.now()
        if how in ("sent", "in doubt", "maybe sent"):
            self.client.hset(claim, mapping={"state": "sending", "tag": tag, "since": 1})
        if how == "found":  # its send, at an earlier try, is found
            self.client.hset(claim, mapping={"state": "unknown", "tag": tag, "since": 1})
        went_out = how in ("sent", "in doubt", "maybe sent")
        match how:
            case "sent" | "found":
                arguments = (tag, "sent", "k", 60_000, message.id, "sent", "{}", "", "", "", *pace)
                script("settle")(self.client, (*home, claim, UNKNOWN, EVENTS, keys.ready), arguments)
            case "duplicate":
                script("ack")(self.client, (*home, EVENTS), (tag, "duplicate", message.id, "{}", name))
            case "refused" | "maybe sent":
                state = "dead" if how == "refused" else "unknown"
                arguments = (tag, f"letter {message.id}", state, message.id, state, "{}", "", *pace)
                script("bury")(self.client, (*home, keys.dead, EVENTS, UNKNOWN, claim), arguments)
                self.dead += 1
            case "in doubt" | "retry" | "number at fault":
                state = "unknown" if went_out else "waiting"
                successor = self._successor(message)
                aside = "1" if how == "number at fault" else ""
                arguments = (tag, successor.raw, self.wait_ms, state, message.id, "", "", *pace, aside)
                script("postpone")(self.client, (*home, keys.delayed, claim, UNKNOWN), arguments)
                self._ended(tag, went_out, u, at)
                self.messages[successor.raw] = self.pushed[successor.raw] = successor
                if aside and name:
                    self._joins(successor, first=True)
                else:
                    self._read_due(successor.raw, keys)
                return
            case "not yet due":
                script("delay")(self.client, (*home, keys.delayed), (tag, int(at + self.wait_ms), name))
                self._ended(tag, went_out, u, at)
                self.messages[message.raw] = self.pushed[message.raw]  # where it was rerouted to is forgotten
                self._read_due(message.raw, keys)
                return
            case "given back":
                script("give_back")(self.client, (keys.ready, *home), (tag, ""))
                self._ended(tag, went_out, u, at)
                self._joins(message, first=True)
                return
        self._ended(tag, went_out, u, at)

    def _successor(self, message: Message) -> Message:
        named = message.number or "unregistered"
        line = f"{message.tenant}\t{named}\t98616740"
        raw = json.dumps({"since": next(self.ids), "headers": {"id": message.id, "ifinu_linha": line}}).encode()
        return Message(raw, message.id, message.queue, message.number, message.tenant)

    def _read_due(self, raw: bytes, keys: Keys) -> None:
        score = self.client.zscore(keys.delayed, raw)
        assert score is not None
        self.delayed[raw] = score

    def _ended(self, tag: str, went_out: bool, u: float, at: float) -> None:
        message = self.flight.pop(tag)
        del self.deadlines[tag]
        if not message.number:
            return
        number = self.numbers[message.number]
        number.flight.discard(tag)
        if went_out:
            gap = (number.gap_min + (number.gap_max - number.gap_min) * u) / number.brake
            number.free_at = max(number.free_at, at + math.ceil(gap))
        else:
            number.taken.pop(tag, None)

    def lose(self, u: float) -> None:
        """A worker dies with all it has, and its leases run out."""
        for queue in QUEUES:
            keys = Keys.of(queue)
            mine = sorted(tag for tag, message in self.flight.items() if message.queue == queue)
            if mine:
                self.client.zadd(keys.deadlines, dict.fromkeys(mine, 1))
            self._due((queue,))
            at = self.now()
            script("sweep")(self.client, (*keys[:4], keys.suspects), (500, u))
            for tag in reversed(mine):
                message = self.flight[tag]
                self._ended(tag, True, u, at)
                self._joins(message, first=True)

    def _due(self, queues: tuple[str, ...]) -> None:
        now = self.now()
        for raw, at in sorted(self.delayed.items(), key=lambda one: (one[1], one[0])):
            message = self.messages[raw]
            if at <= now and message.queue in queues:
                del self.delayed[raw]
                self._joins(message)

    # -- what people and the guard do

    def hold(self, name: str, for_ms: float) -> None:
        until = self.now() + for_ms
        script("hold_number")(self.client, (f"ifinu:numero:{name}",), (name, int(until), "teste"))
        self.numbers[name].held_until = int(until)

    def release(self, name: str) -> None:
        script("release_number")(self.client, (f"ifinu:numero:{name}",), (name, ""))
        self.numbers[name].held_until = 0

    def restart(self, pause_ms: float) -> None:
        """What the loader writes after Redis has restarted."""
        self.since = int(self.now() + pause_ms)
        self.client.set("ifinu:numeros:desde", int(self.since))

    def cap(self, name: str, per_day: int) -> None:
        self.numbers[name].per_day = per_day
        self.client.hset(f"ifinu:numero:{name}", "teto", per_day)
        lanes.look_at(self.client, name)

    def pause(self, queue: str) -> None:
        if queue in self.paused:
            self.client.delete(Keys.of(queue).paused)
        else:
            self.client.set(Keys.of(queue).paused, "1")
        self.paused ^= {queue}

    def reroute(self, tag: str, to: str) -> None:
        message = self.flight[tag]
        keys = Keys.of(message.queue)
        in_lane = self.client.llen(f"{message.queue}:espera:{to}:{message.tenant}")
        assert script("reroute")(self.client, (keys.in_flight, keys.deadlines), (tag, message.number, to)) == 1
        self._ended(tag, False, 0.0, self.now())
        moved = self.messages[message.raw] = Message(message.raw, message.id, message.queue, to, message.tenant)
        self.lines[moved.queue, to, moved.tenant].insert(in_lane, moved)  # before those that are still in the list

    # -- what is true after each step

    def check(self) -> None:
        stored: Counter[bytes] = Counter()
        for queue in QUEUES:
            keys = Keys.of(queue)
            ready, flight = self.client.lrange(queue, 0, -1), self.client.hgetall(keys.in_flight)
            delayed = dict(self.client.zrange(keys.delayed, 0, -1, withscores=True))
            waits = self._lanes_of(queue)
            waiting = [raw for _, of in waits.values() for raws in of.values() for raw in raws]
            for place in (ready, delayed, flight.values(), waiting):
                stored.update(place)
            assert int(self.client.get(f"{queue}:na_espera") or 0) == len(waiting)
            turns = dict(self.client.zrange(f"{queue}:turnos", 0, -1, withscores=True))
            assert {name.decode() for name in turns} == waits.keys()
            for ring, of in waits.values():
                assert Counter(ring) == Counter({tenant: WEIGHTS.get(tenant, 1) for tenant in of})
            of_numbers = self.client.hgetall(f"{keys.in_flight}:numeros")
            assert {tag.decode(): taken.decode().split(" ", 1)[1] for tag, taken in of_numbers.items()} == {
                tag: message.number for tag, message in self.flight.items() if message.queue == queue and message.number
            }
        model = Counter([message.raw for line in self.lines.values() for message in line])
        model.update(self.delayed)
        model.update(message.raw for message in self.flight.values())
        assert stored == model
        assert self.dead == sum(self.client.llen(Keys.of(queue).dead) for queue in QUEUES)
        for name, number in self.numbers.items():
            in_flight = {member.decode().split(" ")[1] for member in self.client.smembers(f"ifinu:numero:{name}:voo")}
            assert in_flight == number.flight
            assert len(in_flight) <= number.parallel

    def _lanes_of(self, queue: str) -> dict[str, tuple[list[str], dict[str, list[bytes]]]]:
        """By number: its ring, and what waits, by tenant, the oldest first."""
        found: dict[str, tuple[list[str], dict[str, list[bytes]]]] = {}
        for key in self.client.keys(f"ifinu:numero:*:roda:{queue}"):
            found[key.decode().split(":")[2]] = [tenant.decode() for tenant in self.client.lrange(key, 0, -1)], {}
        for key in self.client.keys(f"{queue}:espera:*"):
            name, tenant = key.decode().removeprefix(f"{queue}:espera:").split(":")
            found.setdefault(name, ([], {}))[1][tenant] = self.client.lrange(key, 0, -1)[::-1]
        return found

    def tags(self) -> Iterator[str]:
        return iter(sorted(self.flight))
