"""A payment between any two steps of a message, one after the other: nothing is sent after it."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from bills import charge, customer, intent, tenant
from sqlalchemy import Engine, update

from ifinu import wire
from ifinu.billing import charges
from ifinu.billing.billing_schema import intents
from ifinu.billing.charge_check import ChargeCheck
from ifinu.billing.messages import compose
from ifinu.billing.withdrawals import apply_flags
from ifinu.broker import NORMAL
from ifinu.broker.claims import Claim, Claims, MessageRef
from ifinu.broker.keys import UNKNOWN, Keys, claim_key, script
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.delivery import Delivery
from ifinu.errors import MaybeSent, NotSent, Reason
from ifinu.gateway import Sent
from ifinu.gateway.breaker import Breaker
from ifinu.gateway.instances import Instances
from ifinu.gateway.message_records import ConnectionState
from ifinu.ledger.engine import connect
from ifinu.notification import Notification
from ifinu.outcome import Retry, Wait
from ifinu.render import Renderer
from ifinu.settings import OnUnknown
from ifinu.window import Windows

KEYS = Keys.of(NORMAL)
GRACE_S = 60.0
LOST = MaybeSent("wa1: no answer", reason=Reason.TIMEOUT)
CLOSED = NotSent("closed", reason=Reason.CONNECTION_CLOSED)
# What a message goes through, each with the answer to its first request.
STEPS = ("planned", "written", "queued", "in flight", "claimed")
POINTS = [
    *((point, None) for point in STEPS),
    ("retried", CLOSED), ("in flight again", CLOSED), ("claimed again", CLOSED),
    ("in doubt", LOST), ("in flight again", LOST), ("claimed again", LOST),
    ("sent", None),
]  # fmt: skip


class Gateway:
    """Takes each text, or gives the scripted answer first."""

    def __init__(self) -> None:
        self.answers: list[Exception] = []
        self.requests = 0

    def send_text(self, instance: str, number: str, text: str, *, before: Callable[[], None]) -> Sent:
        before()
        self.requests += 1
        if self.answers:
            raise self.answers.pop()
        return Sent("3EB0", "PENDING")

    def find_sent(self, *args: Any, **where: Any) -> str:
        return ""

    def connection_state(self, instance: str) -> Any:
        return ConnectionState.OPEN


class Clock(Claims):
    """The claims, with a clock that the test moves, and a call after each claim."""

    shift = timedelta()
    on_claim: Callable[[], None] = staticmethod(lambda: None)

    def claim(self, *args: Any, **how: Any) -> Claim:
        answer = super().claim(*args, **how)
        self.on_claim()
        return answer._replace(at=answer.at + self.shift)


@pytest.fixture
def engine(postgres_ledger: str) -> Iterator[Engine]:
    engine = connect(postgres_ledger)
    with engine.begin() as connection:
        tenant(connection)
    yield engine
    engine.dispose()


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def delivery(client: redis.Redis, gateway: Gateway, postgres_ledger: str) -> Delivery:
    renderer = Renderer(reference=True)
    return Delivery(
        gateway=gateway, renderer=renderer, claims=Clock(client, 600), instances=Instances(30.0),
        missing_ttl_s=86_400.0,
        windows=Windows.load(None, None), pseudonyms=Pseudonyms(b"a key of the tests"), instance="wa1",
        on_unknown=OnUnknown.RESEND_ONCE, grace_s=GRACE_S, compares=True,
        charges=ChargeCheck(postgres_ledger, renderer, Breaker(failures_to_open=1)),
    )  # fmt: skip


class Course:
    """One message from its plan to its end, with a payment at one point."""

    def __init__(
        self, engine: Engine, client: redis.Redis, delivery: Delivery, gateway: Gateway, number: int, *, flagged: bool
    ) -> None:
        self.engine, self.client, self.gateway, self.flagged = engine, client, gateway, flagged
        self.clock = Clock(client, 600)
        self.delivery = replace(delivery, claims=self.clock, instances=Instances(30.0))
        self.id = f"inv-{number}"
        self.now = datetime.now(UTC)
        self.requests_at_payment: int | None = None
        with engine.begin() as connection:
            customer(connection, self.id, phone=f"+55119{80000000 + number}")
            seq = charge(connection, self.id, self.id, due=self.now.date() + timedelta(days=3))
            self.key = intent(connection, seq, "lembrete", planned_on=self.now.date())

    def pay(self) -> None:
        with self.engine.begin() as connection:
            charges.pay(connection, "u1", self.id, via="pix", now=self.now)
        if self.flagged:
            with self.engine.begin() as connection:
                apply_flags(connection, self.client, 100, self.now)
        self.requests_at_payment = self.gateway.requests

    def run(self, pays_at: str, first_answer: Exception | None) -> str:
        """Run it, and return its state in the end."""
        self.gateway.answers = [first_answer] if first_answer else []
        self.reach("planned", pays_at)
        with self.engine.begin() as connection:
            made = compose(connection, [self.key], self.now)[self.key[1]]
        if not isinstance(made, Notification):
            return "not pushed"
        self.reach("written", pays_at)
        message = wire.decode(wire.parse(json.dumps(wire.encode(made))))
        with self.engine.begin() as connection:
            connection.execute(
                update(intents).where(intents.c.id == made.id, intents.c.state == "planned").values(state="queued")
            )
        self.reach("queued", pays_at)
        token, again = "", ""
        for tag in map(str, itertools.count()):
            self.client.hset(KEYS.in_flight, tag, b"m")
            self.reach(f"in flight{again}", pays_at)
            self.clock.on_claim = functools.partial(self.reach, f"claimed{again}", pays_at)
            outcome = self.delivery.deliver(message, MessageRef(NORMAL, tag, token), attempt=1)
            if not isinstance(outcome, (Wait, Retry)):
                self.client.hdel(KEYS.in_flight, tag)
                self.reach("sent", pays_at)
                return str(outcome.state)  # type: ignore[union-attr] # it is settled
            state = "waiting" if isinstance(outcome, Retry) else outcome.claim
            places = KEYS.in_flight, KEYS.deadlines, KEYS.delayed, claim_key(message.id), UNKNOWN
            script("postpone")(self.client, places, (tag, "m", 0, state, message.id))
            self.clock.shift += timedelta(seconds=GRACE_S + 1)
            self.reach("retried" if isinstance(outcome, Retry) else "in doubt", pays_at)
            token, again = outcome.token, " again"
        raise AssertionError("it has an end")

    def reach(self, point: str, pays_at: str) -> None:
        if point == pays_at and self.requests_at_payment is None:
            self.pay()


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_nothing_is_sent_after_a_payment_between_any_two_steps(
    engine: Engine, client: redis.Redis, delivery: Delivery, gateway: Gateway, sized
):
    """
    With and without the cancellation in Redis.
    """
    ends: dict[tuple[str, str], set[str]] = {}
    for number in range(sized(4 * len(POINTS), 1_000)):
        point, answer = POINTS[number % len(POINTS)]
        flagged = bool(number // len(POINTS) % 2)
        course = Course(engine, client, delivery, gateway, number, flagged=flagged)
        end = course.run(point, answer)
        assert course.requests_at_payment is not None, point
        assert gateway.requests == course.requests_at_payment, (point, answer, flagged)
        ends.setdefault((point, answer.reason if answer else ""), set()).add(end)
    assert ends == {
        key: {"not pushed" if key[0] == "planned" else "sent" if key[0] == "sent" else "cancelled"} for key in ends
    }
    assert len(ends) == len(POINTS)
