"""
The demo's second scene: five numbers of two tenants, on the same servers and workers.

Tenant A floods its three numbers, and B's few messages come behind that. One number of A is set faster than the
simulated WhatsApp allows: it is throttled, held for all workers, slowed by the guard, and released. The connection of
another one closes for some seconds in the middle of its messages.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ifinu.broker import NORMAL, backlog, lanes
from ifinu.broker.keys import SINCE, number_key
from ifinu.cli.demo.stage import Stage, StageError
from ifinu.cli.demo.verdict import Check
from ifinu.cli.demo.view import NumbersView
from ifinu.simulator import Send

if TYPE_CHECKING:
    from sqlalchemy import Engine

TENANTS = {"A": ("a-1", "a-2", "a-3"), "B": ("b-1", "b-2")}
NUMBERS = {name: tenant for tenant, names in TENANTS.items() for name in names}
TOO_FAST, CLOSED = "a-2", "a-3"
COUNTS = {"A": 45, "B": 6}
BOUND_S = 5.0  # the longest that B's messages may take behind A's
CLOSED_S = 3.0
GAP_S = 0.2

_PACE = {"parallel": 1, "gap_min_ms": round(GAP_S * 1000), "gap_max_ms": 240}
# More than a gap and the time of a send, and no more than a gap that the guard has doubled.
_RULES = {"gap_ms": 2_000 * GAP_S, "throttle_s": 0.5}
_CLOSES_AFTER_S = 2.0
_LONGEST_S = 60.0
_POLL_S = 0.1
_HEAD = "1198767"  # of the phones; the simulator gives their endings no meaning
_PREFIX = f"55{_HEAD}"
_OF = {"2": "A", "3": "B"}  # a phone's tenant, by the digit after that


class State(NamedTuple):
    """One number now: why it is held (empty: it is not), and the factor on its pace."""

    held: str
    brake: float


@dataclass(frozen=True)
class Played:
    """
    What the scene left behind.

    Attributes:
        figures: Of each number, by the simulator.
        sends: Those of the scene, in their order.
        tries: Calls to send, also those that sent nothing.
        pushed_at: Epoch seconds.
        brake: The factor on the pace of the number that was too fast.
        was_held: The numbers that were held.
        left: Messages that have not ended.
        letters: Dead letters.
    """

    figures: Mapping[str, Mapping[str, Any]]
    sends: Sequence[Send]
    tries: int
    pushed_at: float
    brake: float
    was_held: frozenset[str]
    left: int
    letters: int


def messages(tenant: str) -> list[bytes]:
    """A tenant's messages, each to another person."""
    digit = next(digit for digit, each in _OF.items() if each == tenant)
    due = datetime.now(UTC).date().isoformat()
    return [
        json.dumps(
            {
                "id": f"demo_{tenant}_{n}",
                "tipo_notificacao": "lembrete",
                "usuario_id": tenant,
                "telefone": f"{_HEAD}{digit}{n:03d}",
                "nome": "Maria",
                "valor": "89.90",
                "vencimento": due,
            }
        ).encode()
        for n in range(COUNTS[tenant])
    ]


def play(running: Stage, watching: NumbersView) -> Played:
    """
    Play the scene.

    Raises:
        StageError: A process ended, or messages have not ended after a minute.
    """
    from ifinu.ledger.engine import connect

    engine = connect(running.database_url)
    try:
        return _play(running, watching, engine)
    finally:
        engine.dispose()


def _play(running: Stage, watching: NumbersView, engine: Engine) -> Played:
    sent_before, tries, dead = running.control.total(), _tries(running), _dead(running)
    _register(running, engine)
    running.control.set_fault(bans={TOO_FAST: _RULES})
    pushed_at, began = time.time(), time.monotonic()
    for tenant in TENANTS:  # A's first, in one go
        running.client.lpush(NORMAL, *messages(tenant))
    script = _Script(running, engine)
    left = -1
    while left:
        running.check()
        elapsed_s = time.monotonic() - began
        states = {name: _state(running, name) for name in NUMBERS}
        script.act(states, elapsed_s)
        waiting, left = lanes.waiting(running.client), _left(running)
        figures = running.control.numbers()
        watching.show({name: figures[name]["sends"] for name in NUMBERS}, waiting, states, at_rest=not left)
        if elapsed_s > _LONGEST_S:
            raise StageError(f"{left} messages of the numbers have not ended; the logs are in {running.directory}")
        time.sleep(_POLL_S)
    running.control.set_fault(bans={})
    return Played(
        figures={name: figures[name] for name in NUMBERS},
        sends=running.control.sends_since(sent_before),
        tries=_tries(running) - tries,
        pushed_at=pushed_at,
        brake=states[TOO_FAST].brake,
        was_held=frozenset(script.was_held),
        left=left,
        letters=_dead(running) - dead,
    )


def judge(played: Played) -> list[Check]:
    """Check every expectation of the scene."""
    sends, count = Counter(send.number for send in played.sends), sum(COUNTS.values())
    wrong = sum(NUMBERS.get(send.instance) != _tenant_of(send) for send in played.sends)
    waits = [send.at - played.pushed_at for send in played.sends if _tenant_of(send) == "B"]
    gaps = [each["least_gap_s"] for each in played.figures.values() if each["least_gap_s"] is not None]
    flight = max(each["most_in_flight"] for each in played.figures.values())
    throttled = played.figures[TOO_FAST]["breaches"]["too_fast"]
    vain = played.tries - len(played.sends)
    of_closed = [send.number for send in played.sends if send.instance == CLOSED]
    in_order = of_closed == sorted(of_closed)
    return [
        Check(
            f"B's {COUNTS['B']} messages behind A's {COUNTS['A']}",
            f"all within {BOUND_S:.0f} s",
            f"after {max(waits):.1f} s" if waits else "never sent",
            len(waits) == COUNTS["B"] and max(waits) <= BOUND_S,
        ),
        Check(
            "the numbers' gaps",
            f"{GAP_S:g} s or more",
            f"{min(gaps):.3f} s, the shortest" if gaps else "none",
            bool(gaps) and min(gaps) >= GAP_S,
        ),
        Check("in flight at one number", "1 at most", f"{flight}", flight == 1),
        Check("sent by another tenant's number", "nothing", str(wrong or "nothing"), wrong == 0),
        Check(
            f"{TOO_FAST}, faster than WhatsApp allows",
            "throttled once, held, slowed by the guard",
            f"{throttled} throttled; at {played.brake:.0%} of its pace",
            throttled == 1 and TOO_FAST in played.was_held and played.brake < 1,
        ),
        Check(
            f"{CLOSED}, closed for {CLOSED_S:.0f} s",
            "held meanwhile, then in order",
            f"{'held' if CLOSED in played.was_held else 'not held'}; {len(of_closed)} sent"
            f"{', in order' if in_order else ', out of order'}",
            CLOSED in played.was_held and bool(of_closed) and in_order,
        ),
        Check("tries in vain at those two", "1 each at most", f"{vain}", 1 <= vain <= 2),
        Check(
            f"all {count} of A and B",
            "each sent once, nothing left",
            f"{len(played.sends)} sends, {played.left} left, {played.letters} dead letters",
            sends == Counter(_phones()) and not played.left and not played.letters,
        ),
    ]


class _Script:
    """What happens to two of the numbers; it notes which were held."""

    def __init__(self, running: Stage, engine: Engine) -> None:
        from ifinu.numbers.patrol import Patrol

        self._running = running
        self._patrol = Patrol(running.client, engine)
        self._slowed_at: float | None = None
        self._changes = ["close", "open"]  # of a connection
        self._changes_at = _CLOSES_AFTER_S
        self.was_held: set[str] = set()

    def act(self, states: Mapping[str, State], elapsed_s: float) -> None:
        self.was_held |= {name for name, state in states.items() if state.held}
        if self._changes and elapsed_s >= self._changes_at:
            self._running.control.set_instance(CLOSED, state=self._changes.pop(0))
            self._changes_at = elapsed_s + CLOSED_S
        if not states[TOO_FAST].held:
            return
        if states[TOO_FAST].brake == 1:
            judged, now = self._patrol.look()  # as the recorder does once a minute
            self._patrol.act(judged, now)
        elif self._slowed_at is None:
            self._slowed_at = elapsed_s
        elif elapsed_s >= self._slowed_at + _RULES["throttle_s"]:
            # WhatsApp names no time, and ifinu waits long. A person who has looked runs `ifinu instance release`.
            lanes.release(self._running.client, TOO_FAST)


def _register(running: Stage, engine: Engine) -> None:
    from ifinu.numbers import cache, registry
    from ifinu.numbers.presets import Preset

    for name, tenant in NUMBERS.items():
        number = registry.Number(name, datetime.now(UTC), tenant, preset=Preset.DIRECT, overrides=_PACE, warm_up=False)
        registry.register(engine, number)
    cache.load(running.client, engine)
    running.client.delete(SINCE)  # this Redis is new: it has forgotten nothing that a number might have sent


def _state(running: Stage, name: str) -> State:
    until, reason, brake = running.client.hmget(number_key(name), ("presa", "motivo", "fator"))
    held = float(until or 0) > time.time() * 1000  # Redis is on this machine
    return State(_text(reason) if held else "", float(brake or 1))


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _left(running: Stage) -> int:
    return sum(each.unsettled for each in backlog.survey(running.client))


def _dead(running: Stage) -> int:
    return sum(each.dead for each in backlog.survey(running.client))


def _tries(running: Stage) -> int:
    return int(running.control.summary()["posts"]["total"])


def _tenant_of(send: Send) -> str | None:
    return _OF.get(send.number.removeprefix(_PREFIX)[:1]) if send.number.startswith(_PREFIX) else None


def _phones() -> list[str]:
    return [f"{_PREFIX}{digit}{n:03d}" for digit, tenant in _OF.items() for n in range(COUNTS[tenant])]
