"""The registered numbers of a world: what is registered, changes of it, holds and brakes, by the scripts' own doors."""

from __future__ import annotations

import functools
import json
import random
from dataclasses import dataclass, field
from typing import Any

from ifinu.broker import lane_burial, lanes
from ifinu.broker.keys import GENERATION, LOADING, NUMBERS, SERVER, TENANTS, number_key, script, tenant_key
from ifinu.numbers.directory import BANNED, DISCONNECTED, UNTIL_RELEASED
from simulation import portfolio
from simulation.portfolio import Portfolio
from simulation.world import EPOCH_S, World

OWNERS = {"a1": "t1", "a2": "t1", "b1": "t2", "b2": "t2", "ifinu": ""}  # `ifinu` is the instance of the settings
NAMED = (*OWNERS, "livre")  # `livre` is never registered
_DAY_S = 86_400
_UNTIL_OPEN_MS = int(UNTIL_RELEASED.timestamp() * 1000)
_LOST_S = 1.0  # of what Redis wrote before it died
_DRAINED_S = 20.0  # in which what a number sends has ended, else it is not deleted


@dataclass
class Number:
    """
    A registered number.

    Attributes:
        owners: Its tenants so far, each with the time from which on it was its own; empty: all may send from it.
        most_new: The most new chats a day that it ever had; None if it had no such limit once.
        least_gap_ms: The least gap that it ever had.
        held_by_hand: Whether a person holds it until the person releases it.
    """

    name: str
    since: float
    parallel: int
    gap_min_ms: int
    gap_max_ms: int
    per_day: int | None
    new_chats: int | None
    owners: list[tuple[float, str]]
    most_new: int | None
    least_gap_ms: int = 1_000_000
    is_banned: bool = False
    held_by_hand: bool = False

    @property
    def tenant(self) -> str:
        return self.owners[-1][1]

    def owner_at(self, at: float) -> str:
        return next(tenant for since, tenant in reversed(self.owners) if since <= at or since == self.owners[0][0])


@dataclass
class Numbers:
    """
    The numbers of a world, and those who manage them; they act at once and without faults.

    Args:
        world: The world.
        for_s: For how long they act, in seconds.

    Attributes:
        zone_ms: Offset of all numbers' local time. In some worlds a day or an hour ends in the midst.
        named: Those that are registered.
        past: What each name was registered as when it was removed last.
        weights: The turns of each tenant where it shares a number.
        policies: How each tenant uses its numbers.
        portfolio: The one that some of them share.
    """

    world: World
    for_s: float
    zone_ms: int = 0
    named: dict[str, Number] = field(default_factory=dict)
    past: dict[str, Number] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    portfolio: Portfolio = field(init=False)
    policies: dict[str, str] = field(default_factory=dict)
    _generation: int = 0
    _unregistered: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Draw what happens."""
        rng = self.world.rng
        self.portfolio = Portfolio(self.world, random.Random(f"portfolio {self.world.seed}"), self.for_s)
        self.portfolio.begin(sorted(OWNERS))
        self.zone_ms = rng.choice((-10_800_000, self._ends_in(_DAY_S), self._ends_in(3600)))
        chosen = rng.sample(sorted(OWNERS), rng.choice((2, 3, 4, 5)))
        first = chosen if rng.random() < 0.7 else chosen[:1]
        self._unregistered = chosen[len(first) :]
        for tenant in ("t1", "t2"):
            self.weights[tenant] = rng.choice((1, 1, 2, 3))
            self.policies[tenant] = rng.choice(("fixo", "fixo", "rodizio"))
        if rng.random() < 0.8:
            self._register(*first)
        else:
            self._at(rng.uniform(0, self.for_s * 0.5), lambda: self._register(*first))
        for do, chance in (
            (self._add, 0.5), (self._repace, 0.5), (self._assign, 0.25), (self._ban, 0.2), (self._lose, 0.5),
            (self._lose, 0.3), (self._brake, 0.4), (self._hold, 0.3), (self._hold_by_hand, 0.2), (self._remove, 0.3),
            (self._remove, 0.15), (self._restart, 0.15),
        ):  # fmt: skip
            if rng.random() < chance:
                self._at(rng.uniform(0, self.for_s), do)
        more = random.Random(f"divert {self.world.seed}")
        for _ in range(more.choice((0, 0, 1, 2))):
            self._at(more.uniform(0, self.for_s), functools.partial(self._divert, more))
            self._at(more.uniform(0, self.for_s * 0.7), functools.partial(self._replace_phone, more))
        if self.portfolio.members and self.portfolio.rng.random() < 0.4:
            self._at(self.portfolio.rng.uniform(0, self.for_s), self._retier)

    def _ends_in(self, unit_s: int) -> int:
        """The offset of a local time whose day or hour ends during the run."""
        ends_in_s = self.world.rng.uniform(0.2, 1.0) * self.for_s
        return int((unit_s - (EPOCH_S + ends_in_s) % unit_s) * 1000)

    def _at(self, delay_s: float, do: Any) -> None:
        self.world.after(delay_s, do)

    def names(self) -> list[str]:
        """All numbers that are registered, or were."""
        return sorted({*self.named, *self.past})

    def local(self, at: float) -> tuple[int, int]:
        """The local day and hour of a time, as counts."""
        ms = int(at * 1000) + self.zone_ms
        return ms // 86_400_000, ms // 3_600_000

    # -- the registry

    def _register(self, *names: str) -> None:
        now, rng = self.world.now, self.world.rng
        for name in names:
            before = self.past.get(name)
            self.named[name] = Number(
                name, now, 1, 0, 0, None, None, [(now, OWNERS[name])], 0 if before is None else before.most_new
            )
            self._draw(self.named[name], parallel=rng.choice((1, 1, 3, 5)))
        self._load("register", names=",".join(names))

    def _draw(self, number: Number, *, parallel: int) -> None:
        rng = self.world.rng
        number.parallel = parallel
        number.gap_min_ms = rng.choice((0, 50, 200, 500))
        number.least_gap_ms = min(number.least_gap_ms, number.gap_min_ms)
        number.gap_max_ms = number.gap_min_ms + rng.choice((0, 100, 400))
        number.per_day = rng.choice((None, None, 3, 16, 24, 40))
        number.new_chats = rng.choice((None, None, 1, 2, 3))
        number.most_new = (
            None if None in (number.most_new, number.new_chats) else max(number.most_new or 0, number.new_chats or 0)
        )

    def _add(self) -> None:
        if self._unregistered:
            self._register(self._unregistered.pop())

    def _repace(self) -> None:
        for number in self._some():
            self._draw(number, parallel=number.parallel)
            self._load("repace", names=number.name)
            lanes.look_at(self.world.server.direct, number.name)

    def _retier(self) -> None:
        """Meta raises or lowers the tier."""
        self.portfolio.set_tier(self.portfolio.rng.choice((1, 2, 3, 4, None)))
        self._load("tier", most=self.portfolio.tier)

    def _assign(self) -> None:
        for number in self._some():
            number.owners.append((self.world.now, self.world.rng.choice(("t1", "t2"))))
            self._load("assign", names=number.name, to=number.tenant)

    def _ban(self) -> None:
        for number in self._some():
            number.is_banned = True
            self._load("ban", names=number.name)
            others = sorted(
                one.name for one in self.named.values() if one.tenant == number.tenant and not one.is_banned
            )
            if others and self.world.rng.random() < 0.7:
                moved = lanes.move(self.world.server.direct, number.name, self.world.rng.choice(others))
                self.world.trace("move lane", of=number.name, moved=moved)

    def _divert(self, rng: random.Random) -> None:
        """As `numbers/diversion.py` does with a number that is held for long."""
        client = self.world.server.direct
        tenant = rng.choice(("t1", "t2"))
        own = sorted(one.name for one in self.named.values() if one.tenant == tenant and not one.is_banned)
        if len(own) < 2:
            return
        number = self.named[own.pop(rng.randrange(len(own)))]
        client.hset(number_key(number.name), "desviada", 1)
        moved = lanes.move(client, number.name, own, tenant)
        self.world.trace("divert", number=number.name, moved=moved)
        self.world.promises.pace.order.forget_lines()
        self._at(rng.uniform(1, 5), lambda: self._undivert(number))

    def _undivert(self, number: Number) -> None:
        if self.named.get(number.name) is number:
            self.world.trace("divert no more", number=number.name)
            self.world.server.direct.hdel(number_key(number.name), "desviada")
            self.world.promises.pace.order.forget_lines()

    def _remove(self) -> None:
        """As `ifinu instance delete` does, and `orphans --remove` for one that the gateway has lost."""
        rng, client = self.world.rng, self.world.server.direct
        for number in self._some():
            others = sorted(
                one.name for one in self.named.values() if one.tenant == number.tenant and one is not number
            )
            how = rng.choice(("orphan", "bury", "move")) if others else rng.choice(("orphan", "bury"))
            self.world.trace("remove", number=number.name, how=how)
            if how == "orphan":
                if not lanes.waiting(client, number.name)[number.name]:
                    self._at(rng.uniform(0, 0.1), functools.partial(self._unregister, number))
            else:
                lanes.hold(client, number.name, _UNTIL_OPEN_MS, "deleted")
                to = rng.choice(others) if how == "move" else None
                self._drain(number, to, self.world.now + _DRAINED_S)

    def _drain(self, number: Number, to: str | None, until: float) -> None:
        client, name = self.world.server.direct, number.name
        if self.named.get(name) is not number:
            return
        in_flight = any(name in _flying(self.world, queue) for queue in self.world.queues)
        if in_flight and self.world.now < until:
            self._at(0.2, lambda: self._drain(number, to, until))
            return
        done = 0
        if not in_flight:
            done = lane_burial.bury(client, name) if to is None else lanes.move(client, name, [to])
        left = lanes.waiting(client, name)[name]
        self.world.trace("drained", number=name, to=to or "dead letters", done=done, left=left)
        if in_flight or left:
            lanes.release(client, name, "deleted")
        else:
            self._at(self.world.rng.uniform(0, 2), lambda: self._unregister(number))  # the gateway deletes it

    def _unregister(self, number: Number) -> None:
        if self.named.get(number.name) is number:
            self.past[number.name] = self.named.pop(number.name)
            self.world.promises.pace.removed(number.name)
            self._unregistered.append(number.name)
            self._load("remove", names=number.name)
            client = self.world.server.direct
            if not self.named:
                lanes.return_all(client)
            lane_burial.bury(client, number.name)  # what came meanwhile

    def _some(self) -> list[Number]:
        """One of those that are registered, if any is."""
        return [self.named[self.world.rng.choice(sorted(self.named))]] if self.named else []

    def lift(self) -> None:
        """An operator takes back what would last longer than the run: caps and bans, and registers what is left."""
        for number in self.named.values():
            number.per_day = None
            if number.is_banned:
                number.is_banned = False
                lanes.release(self.world.server.direct, number.name)
            self._release_by_hand(number)
        self.portfolio.set_tier(None)
        self._load("lift")
        lanes.look_at(self.world.server.direct, *self.named)

    def _load(self, why: str, **facts: Any) -> None:
        """Write the copy, as `numbers/cache.py` does."""
        self.world.trace("registry", change=why, **facts)
        self._generation += 1
        numbers = [self._copy(number) for number in self.named.values()]
        tenants = [self._tenant(tenant) for tenant in ("t1", "t2")]
        gone = [
            {"set": NUMBERS, "name": name, "key": number_key(name)} for name in sorted(self.past.keys() - self.named)
        ]
        part = {"numbers": numbers, "tenants": tenants, "gone": gone, "generation": f"g{self._generation}"}
        keys = [LOADING, NUMBERS, TENANTS, GENERATION, *(one["key"] for one in (*numbers, *tenants))]
        client = self.world.server.direct
        client.set(LOADING, "token")
        script("load_numbers")(client, keys, ["token", 15_000, json.dumps(part)])

    def _copy(self, number: Number) -> dict[str, Any]:
        limits: dict[str, int | str | None] = {"teto": number.per_day, "novos": number.new_chats}
        shared = number.name in self.portfolio.members
        limits |= {"grupo": portfolio.NAME if shared else None, "conversas": self.portfolio.tier if shared else None}
        values: dict[str, Any] = {
            "par": number.parallel, "min": number.gap_min_ms, "max": number.gap_max_ms, "fuso": self.zone_ms,
            "inquilino": number.tenant, "canal": "BAILEYS",
            **{name: limit for name, limit in limits.items() if limit is not None},
            **({"presa": _UNTIL_OPEN_MS, "motivo": BANNED} if number.is_banned else {}),
        }  # fmt: skip
        fresh = {"livre": int(self.world.now * 1000) + number.gap_max_ms, "presa": 0, "fator": 1}
        return {
            "name": number.name, "key": number_key(number.name), "set": _pairs(values),
            "clear": [name for name, limit in limits.items() if limit is None],
            "fresh": [] if number.is_banned else _pairs(fresh), "counted": [],
        }  # fmt: skip

    def _tenant(self, name: str) -> dict[str, Any]:
        own = sorted(number.name for number in self.named.values() if number.tenant == name)
        values = {"numeros": json.dumps(own), "politica": self.policies[name], "peso": self.weights[name]}
        return {"name": name, "key": tenant_key(name), "set": _pairs(values)}

    # -- the webhook and the guard

    def _lose(self) -> None:
        """A number loses WhatsApp for a while. The webhook may report it, and then reports its return."""
        rng, world = self.world.rng, self.world
        name, for_s = rng.choice(sorted(self.named) or ["ifinu"]), rng.uniform(0.5, 8)
        world.trace("INSTANCE CLOSED", name=name, for_s=round(for_s, 2))
        world.gateway.close(name, for_s)
        if rng.random() < 0.3:
            self._at(rng.uniform(0, for_s), lambda: self._held_by_hand(name))
        if rng.random() < 0.6:
            self._at(rng.uniform(0, 0.5), lambda: self._reported(name, "close"))
            self._at(for_s + rng.uniform(0, 0.5), lambda: self._reported(name, "open"))

    def _reported(self, name: str, state: str) -> None:
        """As `receipts/sink.py` does."""
        key, client = number_key(name), self.world.server.direct
        self.world.trace("webhook", instance=name, state=state)
        if state == "close":
            client.eval(script("hold_number").source, 1, key, name, _UNTIL_OPEN_MS, DISCONNECTED)
        elif self.world.gateway.is_closed(name):  # again, by another cause: it is reported when it is back
            self._at(0.5, lambda: self._reported(name, state))
        else:
            client.eval(script("release_number").source, 1, key, name, DISCONNECTED)

    def _brake(self) -> None:
        for number in self._some():
            factor = self.world.rng.choice((0.25, 0.5))
            self.world.trace("brake", number=number.name, factor=factor)
            script("brake_number")(self.world.server.direct, (number_key(number.name),), (factor,))

    def _hold(self) -> None:
        for number in self._some():
            until = self.world.now + self.world.rng.uniform(0.5, 6)
            self.world.trace("hold", number=number.name, for_s=round(until - self.world.now, 1))
            lanes.hold(self.world.server.direct, number.name, until * 1000, "guarda")

    def _hold_by_hand(self) -> None:
        for number in self._some():
            self._held_by_hand(number.name)

    def _held_by_hand(self, name: str) -> None:
        if (number := self.named.get(name)) is not None:
            hold = lanes.hold(self.world.server.direct, name, _UNTIL_OPEN_MS, "manual")
            self.world.trace("hold by hand", number=name, in_force=hold and hold.reason)
            number.held_by_hand = hold is not None and hold.reason == "manual"
            self._at(self.world.rng.uniform(1, 6), lambda: self._release_by_hand(number))

    def _replace_phone(self, rng: random.Random) -> None:
        """A person holds a number, and then its connection closes and opens again."""
        if self.named:
            name = rng.choice(sorted(self.named))
            self._held_by_hand(name)
            self._at(0.2, lambda: self._reported(name, "close"))
            self._at(rng.uniform(0.4, 0.8), lambda: self._reported(name, "open"))

    def _release_by_hand(self, number: Number) -> None:
        if number.held_by_hand:
            number.held_by_hand = False
            if number is self.named.get(number.name):
                lanes.release(self.world.server.direct, number.name)

    # -- Redis

    def _restart(self) -> None:
        """Redis dies, and starts again without the gaps that began in its last second."""
        server = self.world.server
        self.world.trace("RESTART", what="redis")
        for name in self.named:
            fields = server.fields(number_key(name))
            began_ms = float(fields.get(b"livre", 0)) - float(fields.get(b"max", 0)) / float(fields.get(b"fator", 1))
            if server.text(SERVER) and began_ms / 1000 > self.world.now - _LOST_S:
                server.direct.hset(number_key(name), "livre", 0)
        self.world.promises.pace.restarted(is_known=bool(server.text(SERVER)))
        server.restart(self.world.rng.uniform(0.1, 3))


def _flying(world: World, queue: str) -> set[str]:
    """The numbers that have a message of a queue in flight."""
    taken = world.server.fields(f"{queue}:em_voo:numeros").values()
    return {each.decode().split(" ", 1)[1] for each in taken}


def _pairs(values: dict[str, Any]) -> list[str]:
    return [str(each) for pair in values.items() for each in pair]
