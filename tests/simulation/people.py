"""Those who push, cancel, opt out, replay and decide; they act at once and without faults."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from ifinu.broker import lanes
from ifinu.broker.claims import Claims
from ifinu.broker.dead_letters import DeadLetters, Filter
from ifinu.broker.headers import ACCEPTED, LINE
from ifinu.broker.intake import TASK
from ifinu.broker.keys import NORMAL, QUEUES, Keys
from ifinu.broker.optouts import OptOuts
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.purge import purge
from ifinu.broker.unknown import Decision, Unknowns
from simulation.numbers import NAMED
from simulation.world import World

_PHONES = ("+5577998616740", "+5511987654321", "+5541988887777")
_MORE_PHONES = (*_PHONES, "+5521977776666", "+5531966665555", "+5551955554444")
_TENANTS = ("t1", "t2")
_TTL_S = 604_800.0


class Person:
    """
    The world's producers and its operator.

    Args:
        world: The world.
        ids: How many ids they use.
        for_s: For how long they act, in seconds.
    """

    def __init__(self, world: World, ids: int, for_s: float) -> None:
        self._world = world
        self._client = client = world.server.direct
        self._claims = Claims(client, _TTL_S)
        self._optouts = OptOuts(client, Pseudonyms(b"p" * 32))
        self._unknowns = Unknowns(client, _TTL_S)
        self._for_s = for_s
        self._until = world.now + for_s
        self._wire = {name: self._notification(name) for name in (f"n{number}" for number in range(ids))}
        rng = world.rng
        for name in self._wire:
            for _ in range(rng.choices((1, 2, 3), (8, 3, 1))[0]):
                self._at(rng.uniform(0, for_s * 0.6), lambda name=name: self._push(name))
        # A backlog, so that the pace is what decides.
        if rng.random() < (0.1 if world.numbers is None else 0.5):
            self._at(rng.uniform(0, for_s * 0.3), lambda: self._push_many(20))
        for do, chance in (
            (self._cancel, 0.25), (self._uncancel, 0.05), (self._opt_out, 0.15), (self._opt_in, 0.05),
            (self._replay, 0.15), (self._resolve, 0.2),
        ):  # fmt: skip
            for name in self._wire:
                if rng.random() < chance:
                    self._at(rng.uniform(0, for_s), lambda do=do, name=name: do(name))
        if rng.random() < 0.2:
            self._at(rng.uniform(0, for_s), self._pause)
        if rng.random() < 0.1:
            self._at(rng.uniform(0, for_s), self._purge)

    def _at(self, delay_s: float, do: Any) -> None:
        self._world.after(delay_s, do)

    def _notification(self, name: str) -> dict[str, Any]:
        rng = self._world.rng
        wire: dict[str, Any] = {
            "id": name,
            "tipo_notificacao": "pagamento",
            "telefone": rng.choice(_PHONES),
            "nome": "Maria",
            "valor": "10.00",
        }
        if rng.random() < 0.7:
            wire["usuario_id"] = rng.choice(_TENANTS)
        if rng.random() < 0.2:
            until = datetime.fromtimestamp(self._world.now + rng.uniform(1, self._for_s), UTC)
            wire["valido_ate"] = until.isoformat()
        if self._world.numbers is not None:
            wire |= self._of_numbers()
        return wire

    def _of_numbers(self) -> dict[str, Any]:
        """What else a notification says in a world with numbers."""
        rng = self._world.rng
        more: dict[str, Any] = {"telefone": rng.choice(_MORE_PHONES)}
        if rng.random() < 0.25:
            more["instancia"] = rng.choice(NAMED)
        if rng.random() < 0.3:
            more |= {"tipo_notificacao": "lembrete", "vencimento": "2026-12-05"}
        return more

    def _push_many(self, count: int) -> None:
        for number in range(count):
            name = f"m{number}"
            self._wire[name] = self._notification(name)
            self._push(name)

    def _push(self, name: str) -> None:
        rng, wire = self._world.rng, self._wire[name]
        queue = rng.choice(self._world.queues)
        self._world.promises.pushing(name, wire)
        form = rng.choice(("plain", "plain", "envelope", "eta", "delayed"))
        self._world.trace("push", id=name, queue=queue, form=form)
        if form == "plain":
            self._client.lpush(queue, json.dumps(wire))
            self._joined(queue, wire, json.dumps(wire), form)
            return
        due = self._world.now + rng.uniform(0.5, 8)
        eta = datetime.fromtimestamp(due, UTC).isoformat() if form == "eta" else None
        message = json.dumps(self._envelope(name, wire, queue, eta))
        if form == "delayed":
            self._client.zadd(Keys.of(queue).delayed, {message: int(due * 1000)})
        else:
            self._client.lpush(queue, message)
            if form == "envelope":
                self._joined(queue, wire, message, form)

    def _joined(self, queue: str, wire: dict[str, Any], message: str, form: str) -> None:
        if (pace := self._world.promises.pace) is not None:
            has_line = form == "plain" or LINE in json.loads(message)["headers"]
            pace.order.pushed(queue, wire, message.encode(), f"{form} {has_line}")

    def _envelope(self, name: str, wire: dict[str, Any], queue: str, eta: str | None) -> dict[str, Any]:
        expires = None
        if self._world.rng.random() < 0.3:
            expires = datetime.fromtimestamp(self._world.now, UTC) + timedelta(seconds=self._world.rng.uniform(1, 20))
        headers = {}
        if self._world.numbers is not None and self._world.rng.random() < 0.6:  # else another producer's
            headers[LINE] = lanes.line(wire.get("usuario_id"), wire.get("instancia"), wire["telefone"])
        return {
            "body": json.dumps([[wire], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "id": name, "task": TASK, "retries": 0, "eta": eta, "expires": expires and expires.isoformat(),
                "argsrepr": "<pagamento>", "ignore_result": True,
                ACCEPTED: datetime.fromtimestamp(self._world.now, UTC).isoformat(), **headers,
            },
            "properties": {
                "correlation_id": name, "reply_to": None, "delivery_mode": 2, "priority": 0, "body_encoding": "utf-8",
                "delivery_info": {"exchange": "", "routing_key": queue}, "delivery_tag": name,
            },
        }  # fmt: skip

    def _cancel(self, name: str) -> None:
        state = self._claims.cancel(name)
        self._world.trace("cancel", id=name, was=state or "-")

    def _uncancel(self, name: str) -> None:
        done = self._claims.uncancel(name)
        self._world.trace("uncancel", id=name, done=done.done, was=done.state or "-")

    def _opt_out(self, name: str) -> None:
        wire = self._wire[name]
        self._world.trace("opt out", tenant=wire.get("usuario_id"), phone=wire["telefone"][-4:])
        self._optouts.add(wire.get("usuario_id"), wire["telefone"], source="person")

    def _opt_in(self, name: str) -> None:
        wire = self._wire[name]
        if self._optouts.remove(wire.get("usuario_id"), wire["telefone"]):
            self._world.trace("opt in", tenant=wire.get("usuario_id"), phone=wire["telefone"][-4:])

    def _replay(self, name: str) -> None:
        now = datetime.fromtimestamp(self._world.now, UTC)
        for queue in QUEUES:
            letters = DeadLetters(self._client, queue)
            letter = letters.newest(Filter(id=name), now)
            if letter is not None and self._world.rng.random() < 0.8:
                self._world.trace("replay", id=name, reason=letter.reason)
                letters.replay(letter)

    def _resolve(self, name: str) -> None:
        doubt = self._unknowns.find(name)
        if doubt is None:
            return
        decision = self._world.rng.choice(list(Decision))
        self._world.promises.deciding(name, decision)
        done = self._unknowns.resolve(doubt, decision)
        self._world.trace("resolve", id=name, decision=decision, done=done.done, state=done.state)
        self._world.promises.decided(name, decision, done.done)

    def _pause(self) -> None:
        self._world.trace("pause")
        self._client.set(Keys.of(NORMAL).paused, "1")
        self._at(self._world.rng.uniform(1, 5), lambda: self._client.delete(Keys.of(NORMAL).paused))

    def _purge(self) -> None:
        self._world.trace("purge")
        purge(self._client, Keys.of(NORMAL), delayed=self._world.rng.random() < 0.5)
