from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from ifinu.broker import NORMAL, Keys
from ifinu.broker.claims import Claim, Claims, MessageRef
from ifinu.broker.events import Event
from ifinu.broker.keys import EVENTS, UNKNOWN, claim_key, number_key, optout_key, script, seen_key, senders_key
from ifinu.broker.leases import Settled
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.delivery import Delivery
from ifinu.errors import GatewayError, InvalidNotification, MaybeSent, Misconfigured, NotSent, Reason, Throttled
from ifinu.gateway import FoundMessage, FoundMessages, Sent
from ifinu.gateway.instances import Instances, Trouble
from ifinu.gateway.message_records import ConnectionState
from ifinu.gateway.sent_search import SentSearch
from ifinu.notification import Kind, Notification, Stop
from ifinu.numbers.directory import Directory, Entry, Tenancy
from ifinu.outcome import Dead, Outcome, Reroute, Retry, Wait
from ifinu.reference import reference_of
from ifinu.render import Renderer, sample
from ifinu.settings import OnUnknown
from ifinu.window import Windows

KEYS = Keys.of(NORMAL)
NOTIFICATION = Notification(id="inv-1", kind=Kind.REMINDER, phone="+5577998616740", text="Olá!", tenant="t1")
LOST = MaybeSent("wa1: no answer", reason=Reason.TIMEOUT)
CLOSED = NotSent("closed", reason=Reason.CONNECTION_CLOSED)
GRACE_S = 60.0


class Gateway(SentSearch):
    """Gives the scripted answers to sends, and finds the messages that a test stored."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.stored: list[tuple[str, str, str]] = []  # JID, text, key id
        self.texts: list[str] = []
        self.sent_by: list[str] = []
        self.templates: list[tuple[str, str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.away = False
        self.state = ConnectionState.OPEN
        self.on_the_way: Callable[[], object] = lambda: None  # called before the request is written

    def connection_state(self, instance: str) -> ConnectionState:
        return self.state

    def send_text(self, instance: str, number: str, text: str, *, before: Callable[[], None]) -> Sent:
        self.on_the_way()
        before()
        self.texts.append(text)
        self.sent_by.append(instance)
        answer = self.answers.pop(0) if self.answers else Sent("3EB0", "PENDING")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def send_template(
        self, instance: str, number: str, name: str, language: str, components: Any, *, private: Any, before: Any
    ) -> Sent:
        sent = self.send_text(instance, number, "", before=before)
        self.templates.append((name, language, components))
        return sent

    def find_messages(self, instance: str, **where: Any) -> FoundMessages:
        self.asked.append({"instance": instance, **where})
        if self.away:
            raise GatewayError("away")
        now = datetime.now(UTC)
        found = [FoundMessage(key, jid, text, now) for jid, text, key in self.stored if jid == where["remote_jid"]]
        return FoundMessages(tuple(found), len(found), 1, 1)


class Clock(Claims):
    """The claims, with a clock that the tests move."""

    shift = timedelta()

    def claim(self, *args: Any, **how: Any) -> Claim:
        answer = super().claim(*args, **how)
        return answer._replace(at=answer.at + self.shift)

    @property
    def now(self) -> datetime:
        return datetime.now(UTC) + self.shift

    @now.setter
    def now(self, now: datetime) -> None:
        self.shift = now - datetime.now(UTC)

    def pass_s(self, seconds: float) -> None:
        self.shift += timedelta(seconds=seconds)


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def clock(client: redis.Redis) -> Clock:
    return Clock(client, 600)


@pytest.fixture
def delivery(client: redis.Redis, gateway: Gateway, clock: Clock) -> Delivery:
    return Delivery(
        gateway=gateway,
        renderer=Renderer(reference=True),
        claims=clock,
        instances=Instances(30.0),
        missing_ttl_s=86_400.0,
        windows=Windows.load(None, None),
        pseudonyms=Pseudonyms(b"a key of the tests"),
        instance="wa1",
        on_unknown=OnUnknown.RESEND_ONCE,
        grace_s=GRACE_S,
        compares=True,
    )


@pytest.fixture
def carry(client: redis.Redis, delivery: Delivery) -> Iterator[Callable[..., Outcome]]:
    """Deliver as a worker does: the message is in flight meanwhile, and a wait postpones it."""
    tags = (f"tag-{number}" for number in range(100))

    def run(
        notification: Notification = NOTIFICATION,
        *,
        token: str = "",
        by: Delivery = delivery,
        trouble: Trouble | None = None,
        number: str = "",
    ) -> Any:
        tag = next(tags)
        client.hset(KEYS.in_flight, tag, b"m")
        outcome = by.deliver(notification, MessageRef(NORMAL, tag, token, number=number), attempt=1, trouble=trouble)
        match outcome:
            case Wait() | Retry():
                wait_ms, state = (
                    (0, "waiting") if isinstance(outcome, Retry) else (round(outcome.wait_s * 1000), outcome.claim)
                )
                places = KEYS.in_flight, KEYS.deadlines, KEYS.delayed, claim_key(notification.id), UNKNOWN
                script("postpone")(client, places, (tag, "m", wait_ms, state, notification.id))
            case Settled():
                name, id_, data = outcome.event.arguments()
                places = KEYS.in_flight, KEYS.deadlines, claim_key(id_), UNKNOWN, EVENTS, KEYS.ready
                script("settle")(client, places, (tag, outcome.state, outcome.key_id, 600_000, id_, name, data))
        return outcome

    return run  # pytest passes it on


def to(number: int) -> Notification:
    """A notification for a different person."""
    return NOTIFICATION.model_copy(update={"id": f"to-{number}", "phone": f"+55779986{16_000 + number}"})


def name_and_reason(event: Event | None) -> tuple[str, str | None]:
    assert event is not None
    return event.name, event.data.get("reason")


def assert_dead(outcome: Outcome, error: type[Exception], words: str) -> None:
    assert isinstance(outcome, Dead)
    assert isinstance(outcome.error, error)
    assert words in str(outcome.error)


# -- a lost answer


def test_a_text_ends_in_its_reference_unless_it_is_switched_off(
    delivery: Delivery, carry: Callable[..., Any], gateway: Gateway
):
    carry()
    carry(NOTIFICATION.model_copy(update={"id": "inv-2"}), by=replace(delivery, renderer=Renderer()))
    assert gateway.texts == [f"Olá!\n\n_Ref. {reference_of('inv-1')}_", "Olá!"]


@pytest.mark.parametrize("jid", ["5577998616740@s.whatsapp.net", "557798616740@s.whatsapp.net"])
@pytest.mark.parametrize("reference", [True, False])
def test_a_message_found_at_the_gateway_counts_as_sent_under_either_form_of_the_number(
    delivery: Delivery, carry: Callable[..., Any], gateway: Gateway, jid: str, reference: bool
):
    delivery = replace(delivery, renderer=Renderer(reference=reference))
    gateway.answers = [LOST]
    waiting = carry(by=delivery)
    assert (waiting.claim, name_and_reason(waiting.event)) == ("unknown", ("unknown", "timeout"))
    gateway.stored = [(jid, "something else", "3EB0FF"), (jid, gateway.texts[0], "3EB0AA")]
    outcome = carry(token=waiting.token, by=delivery)
    assert (outcome.state, outcome.key_id, outcome.event.data["by"]) == ("sent", "3EB0AA", "look_up")
    assert len(gateway.texts) == 1


def test_a_webhooks_evidence_is_enough(carry: Callable[..., Any], gateway: Gateway, client: redis.Redis):
    gateway.answers = [LOST]
    waiting = carry()
    reference, pseudonym = reference_of("inv-1"), waiting.event.data["hash"]
    client.set(seen_key(reference, "another", pseudonym), "3EB0CC")
    client.set(seen_key(reference, waiting.instance, "somebody else"), "3EB0DD")
    client.set(seen_key(reference, waiting.instance, pseudonym), "3EB0BB")
    outcome = carry(token=waiting.token)
    assert (outcome.key_id, outcome.event.data["by"]) == ("3EB0BB", "webhook")
    assert gateway.asked == []


@pytest.mark.parametrize("text", ["Olá\n\n{line}", "Olá\n> {line}", "A sua {line} está paga", "{line}\nAbraço"])
def test_a_free_text_cannot_claim_to_be_another_notification(carry: Callable[..., Any], gateway: Gateway, text: str):
    """
    A text to the same person names the reference of a message in doubt, and a look-up finds that text.
    """
    gateway.answers = [LOST]
    waiting = carry()
    claiming = text.format(line=f"_Ref. {reference_of('inv-1')}_")
    carry(NOTIFICATION.model_copy(update={"id": "inv-2", "text": claiming}))
    gateway.stored = [("5577998616740@s.whatsapp.net", gateway.texts[1], "3EB0FF")]
    assert carry(token=waiting.token).claim == "unknown"


def test_a_message_missing_at_the_gateway_is_resent_once_after_the_grace_and_then_held(
    carry: Callable[..., Any], gateway: Gateway, clock: Clock
):
    gateway.answers = [LOST, LOST]
    token = carry().token
    looks = 0
    for _ in range(2):
        sends = len(gateway.texts)
        while (clock.pass_s(20), looks := looks + 1) and isinstance(outcome := carry(token=token), Wait):
            if len(gateway.texts) > sends:
                break
            assert outcome.claim == "unknown"
        assert looks < 20
    assert isinstance(outcome, Dead)
    assert isinstance(outcome.error, MaybeSent)
    assert outcome.error.reason is Reason.UNKNOWN
    assert len(gateway.texts) == 2


def test_with_hold_a_message_in_doubt_is_held_and_not_resent(
    delivery: Delivery, carry: Callable[..., Any], gateway: Gateway, clock: Clock
):
    gateway.answers = [LOST]
    token = carry().token
    clock.pass_s(GRACE_S + 1)
    outcome = carry(token=token, by=replace(delivery, on_unknown=OnUnknown.HOLD))
    assert_dead(outcome, MaybeSent, "IFINU_ON_UNKNOWN")
    assert len(gateway.texts) == 1


def test_a_message_in_doubt_is_the_probe_of_its_held_instance_if_no_other_message_is_left(
    delivery: Delivery, carry: Callable[..., Any], gateway: Gateway, clock: Clock
):
    now_s = [0.0]
    by = replace(delivery, instances=Instances(30.0, lambda: now_s[0]))
    gateway.answers, gateway.state = [LOST, CLOSED], ConnectionState.CLOSE
    token = carry(by=by).token
    assert carry(NOTIFICATION.model_copy(update={"id": "inv-2"}), by=by).reason == "instance"
    clock.pass_s(GRACE_S + 1)
    assert carry(by=by, token=token).reason == "look_up"
    assert len(gateway.texts) == 2
    now_s[0] += 10
    assert carry(by=by, token=token).state == "sent"
    assert len(gateway.texts) == 3


def test_a_failed_look_up_is_repeated_without_limit(carry: Callable[..., Any], gateway: Gateway, clock: Clock):
    gateway.answers, gateway.away = [LOST], True
    token = carry().token
    for _ in range(5):
        clock.pass_s(GRACE_S)
        outcome = carry(token=token)
        assert (outcome.claim, outcome.event) == ("unknown", None)
    gateway.away = False
    assert carry(token=token).state == "sent"
    assert len(gateway.texts) == 2


def test_a_message_that_expired_in_doubt_is_not_resent(carry: Callable[..., Any], gateway: Gateway, clock: Clock):
    gateway.answers = [LOST]
    soon = NOTIFICATION.model_copy(update={"valid_until": clock.now + timedelta(seconds=GRACE_S / 2)})
    token = carry(soon).token
    clock.pass_s(GRACE_S + 1)
    assert carry(soon, token=token).state == "expired"
    assert len(gateway.texts) == 1


def test_a_message_in_doubt_is_not_resent_to_a_person_who_opted_out(
    delivery: Delivery, carry: Callable[..., Any], client: redis.Redis, gateway: Gateway, clock: Clock
):
    gateway.answers = [LOST]
    token = carry().token
    entry = json.dumps({"at": 1, "source": "cli", "phone": "x", "confirmation": ""})
    client.hset(optout_key("t1"), delivery.pseudonyms.of(NOTIFICATION.phone), entry)
    clock.pass_s(GRACE_S + 1)
    outcome = carry(token=token)
    assert (outcome.state, name_and_reason(outcome.event)) == ("suppressed", ("suppressed", "opt_out"))
    assert len(gateway.texts) == 1


# -- a message is sent only while it should be


@pytest.mark.parametrize(
    ("fields", "now", "state"),
    [
        ({"valid_until": "2026-12-01T12:00:00Z"}, "2026-12-01T11:59:50Z", "sent"),
        ({"valid_until": "2026-12-01T12:00:00Z"}, "2026-12-01T12:00:00Z", "expired"),
        ({"kind": Kind.DUE, "due_date": date(2026, 12, 1)}, "2026-12-02T02:59:50Z", "sent"),
        ({"kind": Kind.DUE, "due_date": date(2026, 12, 1)}, "2026-12-02T03:00:00Z", "expired"),
        ({"kind": Kind.OVERDUE, "due_date": date(2026, 12, 1)}, "2026-12-20T03:00:00Z", "sent"),
    ],
)
def test_a_message_is_sent_until_it_expires(
    carry: Callable[..., Any], gateway: Gateway, clock: Clock, fields: dict[str, Any], now: str, state: str
):
    clock.now = datetime.fromisoformat(now)
    assert carry(Notification.model_validate({**NOTIFICATION.model_dump(), **fields})).state == state
    assert len(gateway.texts) == (state == "sent")


def test_outside_its_window_a_message_waits_for_the_next_opening_or_expires_before_it(
    delivery: Delivery, carry: Callable[..., Any], gateway: Gateway, clock: Clock
):
    delivery = replace(delivery, windows=Windows.load("mon-fri 08:00-20:00", None))
    clock.now = datetime(2026, 12, 4, 23, 30, tzinfo=UTC)  # Friday, 20:30 in Bahia
    waiting = carry(by=delivery)
    opens = datetime(2026, 12, 7, 11, tzinfo=UTC)
    assert waiting.at + timedelta(seconds=waiting.wait_s) == pytest.approx(opens, abs=timedelta(seconds=1))
    assert (waiting.claim, waiting.free, name_and_reason(waiting.event)) == ("waiting", True, ("deferred", "window"))
    short = NOTIFICATION.model_copy(update={"id": "inv-2", "valid_until": datetime(2026, 12, 6, tzinfo=UTC)})
    assert carry(short, by=delivery).state == "expired"
    assert gateway.texts == []
    clock.now = opens + timedelta(seconds=1)
    assert carry(token=waiting.token, by=delivery).state == "sent"


def test_an_overdue_notice_waits_until_its_charge_is_late(
    delivery: Delivery, carry: Callable[..., Any], gateway: Gateway, clock: Clock
):
    """Due on Saturday 2026-12-05, so payable until Monday; late from Tuesday, and sent when Tuesday's window opens."""
    delivery = replace(delivery, windows=Windows.load("daily 08:00-20:00", None))
    due = {"kind": Kind.OVERDUE, "due_date": date(2026, 12, 5)}
    overdue = NOTIFICATION.model_copy(update=due)
    clock.now = datetime(2026, 12, 6, 15, tzinfo=UTC)
    waiting = carry(overdue, by=delivery)
    assert timedelta(seconds=waiting.wait_s) == pytest.approx(
        datetime(2026, 12, 8, 11, tzinfo=UTC) - clock.now, abs=timedelta(seconds=1)
    )
    assert (waiting.claim, waiting.reason, waiting.free) == ("waiting", "not_late", True)
    assert name_and_reason(waiting.event) == ("deferred", "not_late")
    short = NOTIFICATION.model_copy(update={**due, "id": "inv-2", "valid_until": datetime(2026, 12, 8, 9, tzinfo=UTC)})
    assert carry(short, by=delivery).state == "expired"
    assert gateway.texts == []
    clock.now += timedelta(seconds=waiting.wait_s + 1)
    assert carry(overdue, token=waiting.token, by=delivery).state == "sent"
    assert len(gateway.texts) == 1


def test_an_overdue_notice_about_a_future_due_date_is_refused(
    carry: Callable[..., Any], gateway: Gateway, clock: Clock
):
    clock.now = datetime(2026, 12, 6, 15, tzinfo=UTC)
    outcome = carry(NOTIFICATION.model_copy(update={"kind": Kind.OVERDUE, "due_date": date(2026, 12, 7)}))
    assert_dead(outcome, InvalidNotification, "vencimento: 2026-12-07 is yet to come")
    assert gateway.texts == []


def test_a_person_who_opted_out_gets_nothing_from_that_tenant(
    delivery: Delivery, carry: Callable[..., Any], client: redis.Redis, gateway: Gateway
):
    entry = json.dumps({"at": 1, "source": "cli", "phone": "x", "confirmation": ""})
    client.hset(optout_key("t1"), delivery.pseudonyms.of(NOTIFICATION.phone), entry)
    assert carry().state == "suppressed"
    assert carry(NOTIFICATION.model_copy(update={"id": "inv-2", "tenant": "t2"})).state == "sent"
    assert len(gateway.texts) == 1


def test_a_cancelled_message_is_not_sent(delivery: Delivery, carry: Callable[..., Any], gateway: Gateway):
    delivery.claims.cancel("inv-1")
    assert carry().state == "cancelled"
    assert gateway.texts == []


# -- an instance in trouble


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Throttled("slow down", retry_after_s=7), "throttled"),
        (Misconfigured("no such instance", reason=Reason.INSTANCE_NOT_FOUND), "misconfigured"),
    ],
)
def test_an_instance_in_trouble_holds_back_its_own_messages_and_no_others(
    carry: Callable[..., Any], gateway: Gateway, answer: Exception, reason: str
):
    gateway.answers = [answer]
    first = carry()
    assert (first.claim, first.free, name_and_reason(first.event)) == ("waiting", False, ("deferred", reason))
    second = carry(NOTIFICATION.model_copy(update={"id": "inv-2"}))
    assert (second.claim, second.free, name_and_reason(second.event)) == ("waiting", True, ("deferred", "instance"))
    assert len(gateway.texts) == 1
    assert carry(NOTIFICATION.model_copy(update={"id": "inv-3", "instance": "wa2"})).state == "sent"


def test_an_instance_known_to_be_offline_costs_its_messages_no_tries(carry: Callable[..., Any], gateway: Gateway):
    gateway.answers, gateway.state = [CLOSED] * 5, ConnectionState.CLOSE
    outcomes = [carry(to(number)) for number in range(3)]
    assert [(type(outcome), outcome.free) for outcome in outcomes] == [(Wait, False), (Wait, True), (Wait, True)]
    assert len(gateway.texts) == 1


def test_a_failing_instance_that_reports_open_is_detected_and_its_tries_are_refunded(
    carry: Callable[..., Any], gateway: Gateway
):
    gateway.answers = [CLOSED] * 5
    outcomes = [carry(to(number)) for number in range(8)]
    assert [type(outcome) for outcome in outcomes] == [Retry] * 4 + [Wait] * 4
    assert len(gateway.texts) == 5
    again = carry(to(0), token=outcomes[0].token, trouble=outcomes[0].trouble)
    assert (again.reason, again.refund, again.trouble.counted) == ("instance", 1, 0)


def test_a_message_in_doubt_is_looked_up_and_not_resent_while_its_instance_is_on_hold(
    carry: Callable[..., Any], gateway: Gateway, clock: Clock
):
    gateway.answers, gateway.state = [LOST, CLOSED], ConnectionState.CLOSE
    token = carry().token
    carry(to(1))
    clock.pass_s(GRACE_S + 1)
    assert carry(token=token).reason == "look_up"
    gateway.stored = [("5577998616740@s.whatsapp.net", gateway.texts[0], "3EB0AA")]
    assert carry(token=token).state == "sent"
    assert len(gateway.texts) == 2


def test_a_message_to_an_instance_never_created_is_finally_dead_lettered(
    carry: Callable[..., Any], gateway: Gateway, clock: Clock
):
    gateway.answers = [Misconfigured("no such instance", reason=Reason.INSTANCE_NOT_FOUND)]
    carry()
    waiting, waits = None, []
    for _ in range(4):
        waiting = carry(to(1), trouble=waiting and waiting.trouble)
        waits.append(waiting.wait_s)
        assert waiting.free
        clock.pass_s(10 * waiting.wait_s)
    assert max(waits[:1]) < min(waits[2:])
    clock.pass_s(86_400)
    outcome = carry(to(1), trouble=waiting.trouble)
    assert_dead(outcome, Misconfigured, "no such instance, and had none")
    assert outcome.reason is Reason.INSTANCE_NOT_FOUND
    assert len(gateway.texts) == 1


# -- clocks, and workers that were frozen


@pytest.mark.parametrize("wrong", [-3_600.0, 3_600.0])
def test_nothing_is_resent_while_the_workers_clock_and_redis_differ(
    carry: Callable[..., Any], delivery: Delivery, client: redis.Redis, gateway: Gateway, wrong: float
):
    class WrongClock(Clock):
        def claim(self, *args: Any, **how: Any) -> Claim:
            return super().claim(*args, **how)._replace(off_s=wrong)

    gateway.answers = [LOST]
    token = carry().token
    off = WrongClock(client, 600)
    off.pass_s(GRACE_S + 1)
    assert carry(token=token, by=replace(delivery, claims=off)).reason == "look_up"
    assert len(gateway.texts) == 1
    off.pass_s(0)
    right = Clock(client, 600)
    right.shift = off.shift
    assert carry(token=token, by=replace(delivery, claims=right)).state == "sent"


@pytest.mark.parametrize(("lost", "state"), [(True, "duplicate"), (False, "sent")])
def test_a_claim_too_old_at_its_send_is_made_again(
    carry: Callable[..., Any], delivery: Delivery, client: redis.Redis, gateway: Gateway, lost: bool, state: str
):
    """
    The lease of a frozen worker expires, and its message is requeued.
    """

    def freeze() -> None:
        time.sleep(0.1)
        if lost:
            client.delete(KEYS.in_flight)

    gateway.on_the_way = freeze
    assert carry(by=replace(delivery, grace_s=0.2)).state == state
    assert len(gateway.texts) == (not lost)
    if lost:  # its next holder needs no look-up: nothing was sent
        gateway.on_the_way = lambda: None
        assert carry(by=delivery).state == "sent"


def test_a_message_that_expired_while_its_worker_was_frozen_is_not_sent(
    carry: Callable[..., Any], delivery: Delivery, clock: Clock, gateway: Gateway
):
    def freeze() -> None:
        time.sleep(0.1)
        clock.pass_s(3_600)

    gateway.on_the_way = freeze
    soon = NOTIFICATION.model_copy(update={"valid_until": clock.now + timedelta(minutes=1)})
    assert carry(soon, by=replace(delivery, grace_s=0.2)).state == "expired"
    assert gateway.texts == []


def test_a_message_not_in_flight_is_not_logged_as_a_duplicate(
    delivery: Delivery, carry: Callable[..., Any], gateway: Gateway
):
    with capture_logs() as nowhere:
        delivery.deliver(NOTIFICATION, MessageRef(NORMAL, "a tag that no worker holds", ""), attempt=1)
    assert gateway.texts == []
    assert [(line["log_level"], line["event"], line["id"]) for line in nowhere] == [
        ("warning", "ifinu.message.not_held", "inv-1")
    ]
    carry()
    with capture_logs() as second:
        carry()
    assert len(gateway.texts) == 1
    assert [(line["log_level"], line["event"]) for line in second] == [("info", "ifinu.message.duplicate")]


# Registered numbers: n1 and n2 are those of the tenant t1, o1 is another tenant's.

REGISTRY = Directory(
    "1",
    {name: Entry(name, tenant, "BAILEYS") for name, tenant in (("n1", "t1"), ("n2", "t1"), ("o1", "other"))},
    {"t1": Tenancy(("n1", "n2")), "other": Tenancy(("o1",))},
)


@pytest.fixture
def registered(client: redis.Redis, delivery: Delivery) -> Delivery:
    for name in ("n1", "n2", "o1"):
        client.hset(number_key(name), mapping={"par": 1, "fuso": 0})
    return replace(delivery, numbers=lambda: REGISTRY, reminders=1)


def another(id_: str, **fields: Any) -> Notification:
    return NOTIFICATION.model_copy(update={"id": id_, **fields})


def test_a_planned_message_that_comes_again_with_another_amount_is_a_duplicate_and_no_reuse(
    delivery: Delivery, gateway: Gateway, carry: Callable[..., Any]
):
    carry(NOTIFICATION.model_copy(update={"charge_ref": "42"}))
    again = carry(NOTIFICATION.model_copy(update={"charge_ref": "42", "text": "Olá de novo!"}))
    assert again.state == "duplicate"
    carry(another("inv-2"))
    assert isinstance(carry(another("inv-2", text="Olá de novo!")), Dead)
    assert len(gateway.texts) == 2


CHARGED = NOTIFICATION.model_copy(update={"id": "c42.atraso.261210", "charge_ref": "42"})
FRESH = CHARGED.model_copy(update={"text": "Olá, com o valor de hoje!"})


class Charges:
    """Answers for charges as a test scripts it, the last answer for good."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, notification: Notification, now: datetime) -> Any:
        self.asked.append(notification.id)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_a_message_without_a_charge_asks_for_none(delivery: Delivery, gateway: Gateway, carry: Callable[..., Any]):
    charges = Charges(Stop.PAID)
    assert carry(by=replace(delivery, charges=charges)).state == "sent"
    assert charges.asked == []


def test_a_message_goes_with_what_its_charge_says_now(
    delivery: Delivery, gateway: Gateway, client: redis.Redis, carry: Callable[..., Any]
):
    assert carry(CHARGED, by=replace(delivery, charges=Charges(FRESH))).state == "sent"
    assert gateway.texts[0].startswith("Olá, com o valor de hoje!\n\n_Ref. ")


def test_a_message_that_is_written_anew_is_reported_so_that_its_codes_follow(delivery: Delivery, client: redis.Redis):
    fresh: list[Notification] = []
    for tag, charges in (("a", Charges(FRESH)), ("b", Charges(None))):
        client.hset(KEYS.in_flight, tag, b"m")
        message = CHARGED.model_copy(update={"id": f"c42.{tag}.261210"})
        by = replace(delivery, charges=charges)
        by.deliver(message, MessageRef(NORMAL, tag), attempt=1, on_fresh=fresh.append)
    assert fresh == [FRESH]


def test_a_message_whose_charge_is_not_known_goes_as_it_is(
    delivery: Delivery, gateway: Gateway, carry: Callable[..., Any]
):
    assert carry(CHARGED, by=replace(delivery, charges=Charges(None))).state == "sent"
    assert gateway.texts[0].startswith("Olá!\n")


@pytest.mark.parametrize("stop", Stop)
def test_a_message_that_must_not_go_any_more_ends_as_cancelled_with_the_reason(
    delivery: Delivery, gateway: Gateway, carry: Callable[..., Any], stop: Stop
):
    outcome = carry(CHARGED, by=replace(delivery, charges=Charges(stop)))
    assert (outcome.state, outcome.event.name, outcome.event.data["reason"]) == ("cancelled", "cancelled", stop.value)
    assert outcome.event.data["attempts"] == 0
    assert gateway.texts == []
    assert (carry(CHARGED).state, gateway.texts) == ("cancelled", [])


def test_a_cancelled_or_opted_out_message_does_not_ask_for_its_charge(
    delivery: Delivery, gateway: Gateway, clock: Clock, carry: Callable[..., Any]
):
    charges = Charges(FRESH)
    clock.cancel(CHARGED.id)
    assert carry(CHARGED, by=replace(delivery, charges=charges)).state == "cancelled"
    assert (charges.asked, gateway.texts) == ([], [])


def test_a_message_with_a_wrong_window_is_dead_and_one_outside_its_own_window_waits(
    delivery: Delivery, carry: Callable[..., Any], clock: Clock
):
    assert_dead(carry(NOTIFICATION.model_copy(update={"sending_window": "x"})), InvalidNotification, "janela")
    clock.now = datetime(2026, 12, 2, 0, 0, tzinfo=UTC)  # 21:00
    waiting = carry(NOTIFICATION.model_copy(update={"id": "inv-2", "sending_window": "comercial"}))
    assert isinstance(waiting, Wait)
    assert name_and_reason(waiting.event) == ("deferred", "window")


def test_a_message_outside_its_window_asks_for_its_charge_only_when_it_goes(
    delivery: Delivery, gateway: Gateway, clock: Clock, carry: Callable[..., Any]
):
    charges = Charges(Stop.PAID)
    windowed = replace(delivery, charges=charges, windows=Windows.load("daily 08:00-20:00", None))
    clock.now = datetime(2026, 12, 1, 23, 30, tzinfo=UTC)  # 20:30 in Brasília
    waits = carry(CHARGED, by=windowed)
    assert (waits.reason, charges.asked) == ("window", [])
    clock.pass_s(waits.wait_s + 1)
    assert carry(CHARGED, by=windowed, token=waits.token).state == "cancelled"


def test_a_send_that_was_held_up_looks_at_its_charge_again(
    delivery: Delivery, gateway: Gateway, clock: Clock, carry: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ifinu.delivery._YOUNG_S", 0.0)
    charges = Charges(FRESH, Stop.PAID)
    assert carry(CHARGED, by=replace(delivery, charges=charges)).state == "cancelled"
    assert (len(charges.asked), gateway.texts) == (2, [])


@pytest.mark.parametrize(("then", "ends", "sends"), [(Stop.PAID, "cancelled", 1), (FRESH, "sent", 2)])
def test_a_send_in_doubt_is_repeated_only_if_its_charge_still_asks_for_it(
    delivery: Delivery, gateway: Gateway, clock: Clock, carry: Callable[..., Any], then: Any, ends: str, sends: int
):
    gateway.answers = [LOST]
    by = replace(delivery, charges=Charges(FRESH, then))
    doubt = carry(CHARGED, by=by)
    clock.pass_s(GRACE_S + 1)
    assert carry(CHARGED, by=by, token=doubt.token).state == ends
    assert len(gateway.texts) == sends


def test_a_send_in_doubt_is_found_by_its_reference_though_its_text_was_another(
    delivery: Delivery, gateway: Gateway, clock: Clock, carry: Callable[..., Any]
):
    gateway.answers = [LOST]
    charges = Charges(FRESH)
    doubt = carry(CHARGED, by=replace(delivery, charges=charges))
    gateway.stored = [("5577998616740@s.whatsapp.net", gateway.texts[0], "3EB0")]
    clock.pass_s(GRACE_S + 1)
    outcome = carry(CHARGED, by=replace(delivery, charges=charges), token=doubt.token)
    assert (outcome.state, len(gateway.texts), len(charges.asked)) == ("sent", 1, 1)


def test_without_references_a_text_stays_as_it_was_and_the_check_only_stops(
    delivery: Delivery, gateway: Gateway, carry: Callable[..., Any]
):
    bare = replace(delivery, renderer=Renderer(reference=False))
    assert carry(CHARGED, by=replace(bare, charges=Charges(FRESH))).state == "sent"
    assert gateway.texts == ["Olá!"]
    other = CHARGED.model_copy(update={"id": "c43.atraso.261210"})
    assert carry(other, by=replace(bare, charges=Charges(Stop.PAID))).state == "cancelled"


CODE = CHARGED.model_copy(update={"id": "c42.atraso.261210#pix", "text": "antes", "without_reference": True})
FRESH_CODE = CODE.model_copy(update={"text": "depois"})


def test_a_payment_code_goes_as_its_charge_has_it_now(delivery: Delivery, gateway: Gateway, carry: Callable[..., Any]):
    assert carry(CODE, by=replace(delivery, charges=Charges(FRESH_CODE))).state == "sent"
    assert gateway.texts == ["depois"]


@pytest.mark.parametrize("stored", ["antes", "depois"])
def test_a_payment_code_in_doubt_is_found_as_it_was_and_as_it_is(
    delivery: Delivery, gateway: Gateway, clock: Clock, carry: Callable[..., Any], stored: str
):
    gateway.answers = [LOST]
    by = replace(delivery, charges=Charges(FRESH_CODE))
    doubt = carry(CODE, by=by)
    gateway.stored = [("5577998616740@s.whatsapp.net", stored, "3EB0")]
    clock.pass_s(GRACE_S + 1)
    assert carry(CODE, by=by, token=doubt.token).state == "sent"
    assert len(gateway.texts) == 1


def test_a_message_goes_by_the_number_whose_pace_the_fetch_took(
    registered: Delivery, gateway: Gateway, carry: Callable[..., Any]
):
    outcome = carry(by=registered, number="n2")
    assert gateway.sent_by == ["n2"]
    assert outcome.event.data["instance"] == "n2"
    assert outcome.event.data["new"] is True
    assert outcome.sender[0].startswith("ifinu:remetentes:n2:")


@pytest.mark.parametrize("taken", ["", "o1", "n2"], ids=["none", "another tenant's", "another of its own"])
def test_a_message_that_names_another_number_moves_to_its_lane_before_it_claims_anything(
    registered: Delivery, gateway: Gateway, client: redis.Redis, carry: Callable[..., Any], taken: str
):
    assert carry(another("inv-2", instance="n1"), by=registered, number=taken) == Reroute("n1")
    assert gateway.sent_by == []
    assert client.exists(claim_key("inv-2")) == 0


@pytest.mark.parametrize("taken", ["", "o1"])
def test_no_message_leaves_through_another_tenants_number(
    registered: Delivery, gateway: Gateway, carry: Callable[..., Any], taken: str
):
    outcome = carry(another("inv-2", instance="o1"), by=registered, number=taken)
    assert (type(outcome), outcome.reason) == (Dead, "wrong_tenant")
    default = carry(another("inv-3", tenant="t9"), by=replace(registered, instance="o1"), number=taken)
    assert (type(default), default.reason) == (Dead, "wrong_tenant")
    assert gateway.sent_by == []


def test_only_registered_instances_send_where_the_settings_ask_for_that(
    registered: Delivery, gateway: Gateway, carry: Callable[..., Any]
):
    stranger = another("inv-2", tenant="t9")
    assert carry(stranger, by=replace(registered, registered_only=True)).reason == "unknown_instance"
    carry(stranger, by=registered)
    assert gateway.sent_by == ["wa1"]


def test_once_no_number_is_registered_a_message_goes_as_without_a_registry(
    registered: Delivery, gateway: Gateway, carry: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    emptied = replace(registered, numbers=lambda: Directory("g2"))
    assert carry(by=replace(emptied, registered_only=True)).reason == "unknown_instance"
    monkeypatch.delattr("ifinu.delivery.route")
    for taken in ("", "n1"):
        carry(another(f"inv-2{taken}"), by=emptied, number=taken)
    assert gateway.sent_by == ["wa1", "wa1"]


def test_a_new_chat_over_the_numbers_cap_waits_for_tomorrow_and_a_known_person_does_not(
    registered: Delivery, gateway: Gateway, client: redis.Redis, carry: Callable[..., Any]
):
    client.hset(number_key("n1"), "novos", 0)
    wait = carry(by=registered, number="n1")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert (wait.reason, wait.free, wait.event.data["reason"]) == ("new_chats", True, "new_chats")
    assert abs(wait.at + timedelta(seconds=wait.wait_s) - tomorrow) < timedelta(seconds=1)
    month = f"{datetime.now(UTC):%Y-%m}"
    client.hset(senders_key("n1", month), registered.pseudonyms.of(NOTIFICATION.phone), "t1")
    carry(by=registered, number="n1")
    assert gateway.sent_by == ["n1"]


def test_a_person_beyond_the_portfolios_tier_waits_for_the_end_of_a_conversation(
    registered: Delivery, gateway: Gateway, client: redis.Redis, carry: Callable[..., Any]
):
    for name in ("n1", "n2"):
        client.hset(number_key(name), mapping={"grupo": "meta", "conversas": 1})
    carry(by=registered, number="n1")
    wait = carry(another("inv-2", phone="+5511987654321"), by=registered, number="n2")
    assert (wait.reason, wait.free, wait.event.data["reason"]) == ("portfolio", True, "portfolio")
    assert abs(wait.wait_s - 86_400) < 60
    assert gateway.sent_by == ["n1"]


def test_a_second_reminder_waits_for_tomorrow_or_expires_before_and_a_receipt_goes(
    registered: Delivery, gateway: Gateway, client: redis.Redis, carry: Callable[..., Any]
):
    receipt = another("paid", kind=Kind.PAID)
    carry(by=registered, number="n1")
    assert carry(receipt, by=registered, number="n1").reason == "pair_gap"
    client.delete(f"ifinu:contato:t1:{registered.pseudonyms.of(NOTIFICATION.phone)}:ultima")
    assert carry(another("inv-2"), by=registered, number="n1").reason == "person_cap"
    soon = datetime.now(UTC) + timedelta(seconds=1)
    assert carry(another("inv-3", valid_until=soon), by=registered, number="n1").state == "expired"
    assert carry(receipt, by=registered, number="n1").state == "sent"
    assert gateway.sent_by == ["n1", "n1"]


def test_what_answers_at_once_waits_for_no_limit_of_its_person(
    registered: Delivery, gateway: Gateway, carry: Callable[..., Any]
):
    carry(by=registered, number="n1")
    for id_ in ("inv-1#pix", "optout:0123:1"):
        assert carry(another(id_), by=registered, number="n1").state == "sent"


def test_a_send_in_doubt_is_looked_up_at_the_number_that_may_have_sent_it(
    registered: Delivery, gateway: Gateway, clock: Clock, carry: Callable[..., Any]
):
    gateway.answers = [LOST]
    doubt = carry(by=registered, number="n1")
    clock.pass_s(doubt.wait_s)
    carry(token=doubt.token, by=registered, number="n2")
    assert {asked["instance"] for asked in gateway.asked} == {"n1"}


def test_a_webhook_that_saw_it_at_the_number_that_sent_it_settles_a_send_in_doubt(
    registered: Delivery, gateway: Gateway, clock: Clock, client: redis.Redis, carry: Callable[..., Any]
):
    gateway.answers = [LOST]
    doubt = carry(by=registered, number="n1")
    pseudonym = registered.pseudonyms.of(NOTIFICATION.phone)
    client.set(seen_key(reference_of(NOTIFICATION.id), "n1", pseudonym), "3EB0")
    found = carry(token=doubt.token, by=registered, number="n2")
    assert (found.state, found.key_id, found.event.data["instance"]) == ("sent", "3EB0", "n1")
    assert found.sender[0].startswith("ifinu:remetentes:n1:")  # the person knows that number, and answers it


@pytest.mark.parametrize("named", [None, "n2"])
def test_a_send_in_doubt_from_before_its_tenant_had_a_number_is_looked_up_where_it_went(
    registered: Delivery, delivery: Delivery, gateway: Gateway, clock: Clock, client: redis.Redis,
    carry: Callable[..., Any], named: str | None
):  # fmt: skip
    gateway.answers = [LOST]
    notification = another("inv-2", instance=named)
    doubt = carry(notification, by=delivery)
    clock.pass_s(doubt.wait_s)
    carry(notification, token=doubt.token, by=registered, number=named or "n1")
    assert {asked["instance"] for asked in gateway.asked} == {named or "wa1"}
    pseudonym = registered.pseudonyms.of(notification.phone)
    client.set(seen_key(reference_of("inv-2"), named or "wa1", pseudonym), "3EB0")
    assert carry(notification, token=doubt.token, by=registered, number=named or "n1").key_id == "3EB0"


def test_a_number_in_trouble_is_held_and_its_message_stays_first_in_the_lane(
    registered: Delivery, gateway: Gateway, carry: Callable[..., Any]
):
    gateway.answers = [Throttled("slow down", retry_after_s=30.0)]
    wait = carry(by=registered, number="n1")
    assert (wait.held, wait.reason) == (True, "throttled")
    assert wait.wait_s >= 30.0


# Meta's templates: m1 is a number of Meta's channel, n1 is paired with a phone.

BILL = sample(Kind.REMINDER, date(2030, 1, 1), tenant="t1").model_copy(update={"id": "bill-1"})
OF_META = {
    "name": "cobranca",
    "language": "pt_BR",
    "components": [{"type": "body", "parameters": [{"type": "text", "text": "{{ nome }}"}]}],
}


@pytest.fixture
def metas(client: redis.Redis, delivery: Delivery, tmp_path: Path) -> Delivery:
    """A delivery by a number of Meta's channel, with a template for reminders."""
    for name in ("m1", "n1"):
        client.hset(number_key(name), mapping={"par": 1, "fuso": 0})
    entries = {"m1": Entry("m1", "t1", "BUSINESS"), "n1": Entry("n1", "t1", "BAILEYS")}
    directory = Directory("1", entries, {"t1": Tenancy(("m1", "n1"))})
    (tmp_path / "lembrete.meta.json").write_text(json.dumps(OF_META), "utf-8")
    return replace(delivery, numbers=lambda: directory, renderer=Renderer(tmp_path, reference=True))


def test_metas_channel_sends_the_template_and_others_the_text(
    metas: Delivery, gateway: Gateway, carry: Callable[..., Any]
):
    outcome = carry(BILL, by=metas, number="m1")
    filled = [{"type": "body", "parameters": [{"type": "text", "text": "Maria"}]}]
    assert gateway.templates == [("cobranca", "pt_BR", filled)]
    assert (outcome.state, outcome.event.data["template"]) == ("sent", "cobranca")
    by_phone = carry(BILL.model_copy(update={"id": "bill-2", "phone": "+5511987654321"}), by=metas, number="n1")
    own = carry(
        BILL.model_copy(update={"id": "bill-3", "phone": "+5511987654322", "text": "Oi"}), by=metas, number="m1"
    )
    assert [each.event.data.get("template") for each in (by_phone, own)] == [None, None]
    assert len(gateway.templates) == 1
    assert len(gateway.texts) == 3


@pytest.mark.parametrize("configured", [True, False], ids=["as it was", "its file is gone meanwhile"])
def test_a_template_in_doubt_is_left_to_a_person_and_never_sent_a_second_time(
    metas: Delivery, gateway: Gateway, carry: Callable[..., Any], clock: Clock, configured: bool
):
    gateway.answers = [LOST]
    wait = carry(BILL, by=metas, number="m1")
    assert wait.claim == "unknown"
    clock.pass_s(10 * GRACE_S)
    later = metas if configured else replace(metas, renderer=Renderer(reference=True))
    outcome = carry(BILL, token=wait.token, by=later, number="m1")
    assert_dead(outcome, MaybeSent, "which no look-up finds")
    assert outcome.reason == "unknown"
    assert (len(gateway.texts), gateway.asked) == (1, [])


def test_a_doubt_that_the_ledger_brought_back_is_left_to_a_person_too(
    metas: Delivery, gateway: Gateway, client: redis.Redis, carry: Callable[..., Any], clock: Clock
):
    """
    A restored claim does not say how the message was sent.
    """
    gateway.answers = [LOST]
    wait = carry(BILL, by=metas, number="m1")
    client.hdel(claim_key("bill-1"), "template")
    clock.pass_s(10 * GRACE_S)
    assert_dead(carry(BILL, token=wait.token, by=metas, number="m1"), MaybeSent, "which no look-up finds")
    assert len(gateway.texts) == 1


def test_a_template_that_was_not_sent_is_sent_by_a_retry(
    metas: Delivery, gateway: Gateway, carry: Callable[..., Any], clock: Clock
):
    gateway.answers = [NotSent("down", reason=Reason.META_UNAVAILABLE)]
    retry = carry(BILL, by=metas, number="m1")
    assert carry(BILL, token=retry.token, by=metas, number="m1").state == "sent"
    assert len(gateway.texts) == 2


def test_a_template_without_what_it_needs_is_a_dead_letter(
    metas: Delivery, gateway: Gateway, carry: Callable[..., Any]
):
    outcome = carry(BILL.model_copy(update={"name": None}), by=metas, number="m1")
    assert (type(outcome), outcome.reason) == (Dead, "invalid")
    assert gateway.texts == []
