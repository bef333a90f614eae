"""
The fault script: what the simulator does wrong, and when.

What decides a send, first match wins:

1. `next`       a queue of outcomes for the next sends
2. `instances`  an outcome for every send of one instance
3. `endings`    by the last digits of the number; the longest match wins, and a whole number is an ending too
4. `rates`      a probability for each outcome
5. `ok`

An ending's outcomes are taken in order, for each number by itself; the last one repeats.
"""

from __future__ import annotations

import collections
import enum
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifinu.errors import ConfigurationError
from ifinu.simulator.ban_rules import ALL, BanRules, read_bans
from ifinu.simulator.script_values import above_zero, amount, floats, known, mapping, member


class Outcome(enum.StrEnum):
    """How one send ends. "Sent" means that WhatsApp has it, regardless of the answer."""

    OK = "ok"  # 201, sent, receipts follow
    NOT_ON_WHATSAPP = "not_on_whatsapp"  # 400 exists:false, not sent
    CONNECTION_CLOSED = "connection_closed"  # not sent; 500 for an unknown number, 400 for a cached one
    LOOKUP_CLOSED = "lookup_closed"  # 500 Connection Closed, not sent
    LOOKUP_TIMEOUT = "lookup_timeout"  # 500 Timed Out, not sent
    LOOKUP_OVERLIMIT = "lookup_overlimit"  # 500 rate-overlimit, not sent
    NEVER_CONNECTED = "never_connected"  # 500 reading 'onWhatsApp', not sent
    DATABASE_DOWN = "database_down"  # 500 Prisma text, not sent
    SEND_CLOSED = "send_closed"  # 400 Error: Connection Closed, not sent
    SEND_TIMEOUT = "send_timeout"  # 400 Error: Timed Out, not sent
    RATE_OVERLIMIT = "rate_overlimit"  # 400 Error: rate-overlimit, not sent
    GROUP_NOT_FOUND = "group_not_found"  # 400 [object Object], not sent
    TYPE_ERROR = "type_error"  # 400 TypeError, not sent
    SENT_THEN_TYPE_ERROR = "sent_then_type_error"  # the same answer, but sent and not stored
    SENT_THEN_DATABASE_ERROR = "sent_then_database_error"  # 400 Prisma text, sent and not stored
    RESET_BEFORE_SEND = "reset_before_send"  # connection reset, not sent
    SENT_THEN_RESET = "sent_then_reset"  # sent and stored, connection reset
    BAD_GATEWAY = "bad_gateway"  # 502 page of a proxy, not sent
    SENT_THEN_GATEWAY_TIMEOUT = "sent_then_gateway_timeout"  # sent and stored, 504 page of a proxy
    HANG = "hang"  # sent and stored at once; 201 only after `hang_ms`
    HANG_UNSENT = "hang_unsent"  # 500 Timed Out after `hang_ms`, not sent
    SLOW_INSERT = "slow_insert"  # sent at once; stored, and 201, after `hang_ms`; receipts are lost
    NO_RECEIPTS = "no_receipts"  # 201, sent, no receipt ever
    REFUSED_LATER = "refused_later"  # 201, then a receipt ERROR (as for code 463); WhatsApp never delivers it
    RECEIPTS_DISORDERED = "receipts_disordered"  # 201; DELIVERY_ACK, READ, READ again, SERVER_ACK
    RECEIPTS_LID = "receipts_lid"  # 201; receipts name an @lid
    ANSWERS_STOP = "answers_stop"  # 201; the person reads it and answers SAIR
    # Of the channel BUSINESS, where each is 201 without a key, not sent; `ok` elsewhere.
    META_UNAUTHORIZED = "meta_190"
    META_BLOCKED = "meta_368"
    META_THROUGHPUT = "meta_130429"
    META_UNAVAILABLE = "meta_131016"
    META_UNDELIVERABLE = "meta_131026"
    META_LOCKED = "meta_131031"
    META_UNPAID = "meta_131042"
    META_RE_ENGAGEMENT = "meta_131047"
    META_SPAM = "meta_131048"
    META_KEPT_BACK = "meta_131049"
    META_PAIR = "meta_131056"
    META_NO_TEMPLATE = "meta_132001"
    META_DOWN = "meta_down"  # 400 TypeError, not sent


HANGING = frozenset({Outcome.HANG, Outcome.HANG_UNSENT, Outcome.SLOW_INSERT})
REALLY_SENT = frozenset(
    {
        Outcome.OK,
        Outcome.SENT_THEN_TYPE_ERROR,
        Outcome.SENT_THEN_DATABASE_ERROR,
        Outcome.SENT_THEN_RESET,
        Outcome.SENT_THEN_GATEWAY_TIMEOUT,
        Outcome.HANG,
        Outcome.SLOW_INSERT,
        Outcome.NO_RECEIPTS,
        Outcome.REFUSED_LATER,
        Outcome.RECEIPTS_DISORDERED,
        Outcome.RECEIPTS_LID,
        Outcome.ANSWERS_STOP,
    }
)

OF_META = frozenset(outcome for outcome in Outcome if outcome.startswith("meta_"))

ENDINGS: Mapping[str, tuple[Outcome, ...]] = {
    "0001": (Outcome.NOT_ON_WHATSAPP,),
    "0002": (Outcome.LOOKUP_CLOSED, Outcome.LOOKUP_CLOSED, Outcome.OK),
    "0003": (Outcome.LOOKUP_CLOSED,),
    "0004": (Outcome.SENT_THEN_RESET,),
    "0005": (Outcome.SENT_THEN_DATABASE_ERROR,),
    "0006": (Outcome.HANG,),
    "0007": (Outcome.SEND_CLOSED,),
    "0008": (Outcome.RATE_OVERLIMIT,),
    "0009": (Outcome.REFUSED_LATER,),
    "0010": (Outcome.NO_RECEIPTS,),
    "0011": (Outcome.SEND_TIMEOUT,),
    "0012": (Outcome.RESET_BEFORE_SEND,),
    "0013": (Outcome.SENT_THEN_TYPE_ERROR,),
    "0014": (Outcome.NOT_ON_WHATSAPP, Outcome.OK),
    "0015": (Outcome.LOOKUP_TIMEOUT,),
    "0016": (Outcome.DATABASE_DOWN,),
    "0017": (Outcome.TYPE_ERROR,),
    "0018": (Outcome.SLOW_INSERT,),
    "0019": (Outcome.HANG_UNSENT,),
    "0020": (Outcome.BAD_GATEWAY, Outcome.OK),
    "0021": (Outcome.SENT_THEN_GATEWAY_TIMEOUT,),
    "0022": (Outcome.RECEIPTS_DISORDERED,),
    "0023": (Outcome.RECEIPTS_LID,),
    "0024": (Outcome.ANSWERS_STOP,),
    "0025": (Outcome.CONNECTION_CLOSED,),
    "0026": (Outcome.RATE_OVERLIMIT, Outcome.OK),
    "0027": (Outcome.LOOKUP_OVERLIMIT, Outcome.OK),
    "0031": (Outcome.META_UNAUTHORIZED,),
    "0032": (Outcome.META_BLOCKED,),
    "0033": (Outcome.META_THROUGHPUT, Outcome.OK),
    "0034": (Outcome.META_UNAVAILABLE, Outcome.OK),
    "0035": (Outcome.META_UNDELIVERABLE,),
    "0036": (Outcome.META_LOCKED,),
    "0037": (Outcome.META_UNPAID,),
    "0038": (Outcome.META_RE_ENGAGEMENT,),
    "0039": (Outcome.META_SPAM, Outcome.OK),
    "0040": (Outcome.META_KEPT_BACK,),
    "0041": (Outcome.META_PAIR, Outcome.OK),
    "0042": (Outcome.META_NO_TEMPLATE,),
    "0043": (Outcome.META_DOWN,),
}


class Window(enum.StrEnum):
    """How Meta refuses anything but a template more than 24 hours after a person's last message."""

    LATER = "later"  # it is accepted, and FAILED follows
    AT_ONCE = "at_once"
    OFF = "off"  # it does not


class Gateway(enum.StrEnum):
    """How the whole gateway behaves; the control surface answers in all of them but `refuse`."""

    UP = "up"
    RESET = "reset"  # every request resets its connection
    UNAVAILABLE = "unavailable"  # 503 page of a proxy
    HANG = "hang"  # requests are read and never answered
    REFUSE = "refuse"  # as if killed: in-flight requests are dropped and connections refused


@dataclass(frozen=True, slots=True)
class Latency:
    """
    Time one request takes, in milliseconds.

    `fixed`: a = ms. `uniform`: from a to b. `lognormal`: a = median ms, b = sigma of the logarithm.
    """

    shape: str = "fixed"
    a: float = 0.0
    b: float = 0.0

    @classmethod
    def parse(cls, value: object) -> Latency:
        """Read `5`, `{"fixed": 5}`, `{"uniform": [1, 9]}` or `{"lognormal": [40, 0.6]}`."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = {"fixed": value}
        if isinstance(value, Mapping) and len(value) == 1:
            ((shape, arguments),) = value.items()
            numbers = floats(arguments if isinstance(arguments, Sequence) else [arguments])
            if numbers and len(numbers) == {"fixed": 1, "uniform": 2, "lognormal": 2}.get(shape):
                return cls(shape, *numbers)
        raise ConfigurationError(
            'latency_ms must be 5, {"fixed": 5}, {"uniform": [1, 9]} or {"lognormal": [median, sigma]}'
        )

    def as_script(self) -> dict[str, object]:
        """The latency in the form that `parse` reads."""
        return {self.shape: self.a if self.shape == "fixed" else [self.a, self.b]}

    def draw_s(self, rng: random.Random) -> float:
        if self.shape == "fixed":
            return self.a / 1000
        if self.shape == "uniform":
            return rng.uniform(self.a, self.b) / 1000
        return self.a * rng.lognormvariate(0.0, self.b) / 1000


class Faults:
    """The script in force; every method runs on the simulator's loop."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.gateway = Gateway.UP
        self.latency = Latency()
        self.hang_s = 120.0
        self.insert_s = 0.0
        self.event_s = 0.0
        self.duplicate_rate = 0.0
        self.drop_rate = 0.0
        self.shuffle_s = 0.0
        self.speed = 1.0
        self.window = Window.LATER
        self.server_ack_ms, self.delivery_ack_ms, self.read_ms = 200.0, 800.0, 3000.0
        self._next: collections.deque[Outcome] = collections.deque()
        self._instances: dict[str, Outcome] = {}
        self._rates: dict[Outcome, float] = {}
        self._bans: dict[str, BanRules] = {}
        self._endings: dict[str, tuple[Outcome, ...]] = {}
        self._lengths: tuple[int, ...] = ()
        self._taken: dict[str, int] = {}
        self._use_endings(ENDINGS)

    def outcome(self, instance: str, number: str) -> Outcome:
        """The outcome of the next send, which advances the script."""
        if self._next:
            return self._next.popleft()
        if self._instances and (fixed := self._instances.get(instance)):
            return fixed
        for length in self._lengths:
            if outcomes := self._endings.get(number[-length:]):
                return self._in_turn(number, outcomes)
        if self._rates:
            return self._by_chance()
        return Outcome.OK

    def rules_of(self, instance: str) -> BanRules | None:
        """The rules by which WhatsApp bans an instance; None if it bans it for nothing."""
        return (self._bans.get(instance) or self._bans.get(ALL)) if self._bans else None

    def is_on_whatsapp(self, number: str) -> bool:
        """Whether a look-up finds a number. The look-up of a number scripted as missing advances its outcomes."""
        for length in self._lengths:
            if outcomes := self._endings.get(number[-length:]):
                turn = min(self._taken.get(number, 0), len(outcomes) - 1)
                return outcomes[turn] is not Outcome.NOT_ON_WHATSAPP or self._in_turn(number, outcomes) is Outcome.OK
        return True

    def forget_turns(self) -> None:
        """Let every number start its ending's outcomes anew."""
        self._taken.clear()

    def apply(self, script: Mapping[str, Any]) -> None:
        """
        Change the parts in `script`, and keep the others. If a part is invalid, none changes.

        Args:
            script: `gateway`, `latency_ms`, `insert_ms` (from a send to its row, which a kill between them prevents),
                `hang_ms`, `next`, `instances`, `endings`, `rates`, `receipts_ms` (`server_ack`, `delivery_ack`,
                `read`), `webhooks` (`duplicate`, `drop`, `shuffle_ms`, and `event_ms`: what each event of an
                instance takes, one after the other), `bans` (see `ban_rules.py`), `window` (see `Window`) and `speed`
                (how many times as fast as the clock the times of both run).

        Raises:
            ConfigurationError: A part is invalid; the message names it.
        """
        readers: dict[str, Callable[[Any], dict[str, Any]]] = {
            "gateway": lambda v: {"gateway": member(Gateway, v)},
            "latency_ms": lambda v: {"latency": Latency.parse(v)},
            "insert_ms": lambda v: {"insert_s": amount("insert_ms", v) / 1000},
            "hang_ms": lambda v: {"hang_s": amount("hang_ms", v) / 1000},
            "next": lambda v: {"_next": collections.deque(_outcomes(v))},
            "instances": lambda v: {"_instances": {k: member(Outcome, o) for k, o in mapping(v).items() if o}},
            "rates": lambda v: {"_rates": _rates(v)},
            "endings": lambda v: {"_endings": {k: _outcomes(o) for k, o in mapping(v).items()}},
            "bans": lambda v: {"_bans": read_bans(v)},
            "speed": lambda v: {"speed": above_zero("speed", v)},
            "window": lambda v: {"window": member(Window, v)},
            "receipts_ms": self._read_receipts,
            "webhooks": self._read_webhooks,
        }
        changes: dict[str, Any] = {}
        for key, value in script.items():
            if key not in readers:
                raise ConfigurationError(f"{key}: no such fault; there are {', '.join(readers)}")
            changes |= readers[key](value)
        endings = changes.pop("_endings", None)
        for name, value in changes.items():
            setattr(self, name, value)
        if endings is not None:
            self._use_endings(endings)

    def as_script(self) -> dict[str, Any]:
        """The script in force, as `apply` reads it."""
        return {
            "gateway": self.gateway,
            "latency_ms": self.latency.as_script(),
            "insert_ms": self.insert_s * 1000,
            "hang_ms": self.hang_s * 1000,
            "next": list(self._next),
            "instances": self._instances,
            "endings": self._endings,
            "rates": self._rates,
            "bans": {name: rules.as_script() for name, rules in self._bans.items()},
            "speed": self.speed,
            "window": self.window,
            "receipts_ms": {
                "server_ack": self.server_ack_ms,
                "delivery_ack": self.delivery_ack_ms,
                "read": self.read_ms,
            },
            "webhooks": {
                "duplicate": self.duplicate_rate,
                "drop": self.drop_rate,
                "shuffle_ms": self.shuffle_s * 1000,
                "event_ms": self.event_s * 1000,
            },
        }

    def _in_turn(self, number: str, outcomes: tuple[Outcome, ...]) -> Outcome:
        if len(outcomes) == 1:
            return outcomes[0]
        turn = self._taken.get(number, 0)
        self._taken[number] = turn + 1
        return outcomes[min(turn, len(outcomes) - 1)]

    def _by_chance(self) -> Outcome:
        point = self._rng.random()
        for outcome, rate in self._rates.items():
            point -= rate
            if point < 0:
                return outcome
        return Outcome.OK

    def _use_endings(self, endings: Mapping[str, tuple[Outcome, ...]]) -> None:
        self._endings = dict(endings)
        self._lengths = tuple(sorted({len(e) for e in endings if e}, reverse=True))
        self._taken.clear()

    @staticmethod
    def _read_receipts(value: object) -> dict[str, Any]:
        names = {"server_ack": "server_ack_ms", "delivery_ack": "delivery_ack_ms", "read": "read_ms"}
        return {names[known(k, names)]: amount(f"receipts_ms.{k}", v) for k, v in mapping(value).items()}

    @staticmethod
    def _read_webhooks(value: object) -> dict[str, Any]:
        names = {
            "duplicate": "duplicate_rate",
            "drop": "drop_rate",
            "shuffle_ms": "shuffle_s",
            "event_ms": "event_s",
        }
        scale = {"shuffle_ms": 0.001, "event_ms": 0.001}
        return {
            names[known(k, names)]: amount(f"webhooks.{k}", v) * scale.get(k, 1.0) for k, v in mapping(value).items()
        }


def _outcomes(value: object) -> tuple[Outcome, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not all(isinstance(v, str) for v in values):
        raise ConfigurationError("outcomes must be a name or a list of names")
    return tuple(member(Outcome, v) for v in values)


def _rates(value: object) -> dict[Outcome, float]:
    rates = {member(Outcome, k): amount(f"rates.{k}", v) for k, v in mapping(value).items()}
    if sum(rates.values()) > 1:
        raise ConfigurationError("rates must add up to 1 or less")
    return rates
