from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import exceptions, signals
from celery.app.trace import build_tracer
from celery.worker import state
from kombu.message import Message

from ifinu import errors
from ifinu.broker import NORMAL
from ifinu.broker.claims import ClaimState
from ifinu.broker.clock import Difference
from ifinu.broker.events import Event, Name
from ifinu.broker.headers import FIRST_TRY, QUEUE, TAG
from ifinu.broker.leases import Settled
from ifinu.errors import Reason
from ifinu.outcome import Dead, GiveBack, Outcome, Retry
from ifinu.settings import load
from ifinu.worker.app import app
from ifinu.worker.attempt import Attempt
from ifinu.worker.request import Request
from ifinu.worker.tasks import send_notification

THEN = "2026-11-01T10:00:00+00:00"
CLOSED = errors.NotSent("closed", reason=Reason.CONNECTION_CLOSED)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.NotSent("x", reason=Reason.CONNECTION_CLOSED), "connection_closed"),
        (errors.MaybeSent("x", reason=Reason.UNKNOWN), "unknown"),
        (errors.Poison("", "x"), "poison"),
        (errors.Refused("x", reason=Reason.NUMBER_NOT_ON_WHATSAPP), "number_not_on_whatsapp"),
        (errors.Throttled("x", retry_after_s=1.0), "rate_overlimit"),
        (errors.Misconfigured("x", reason=Reason.UNAUTHORIZED), "unauthorized"),
        (errors.InvalidNotification("telefone", "is required"), "invalid"),
        (errors.IdReused("id", "was used before"), "id_reused"),
    ],
)
def test_the_reason_of_a_dead_letter_is_one_word_of_a_closed_set(error: Any, reason: str):
    assert Dead(error, {}).reason == reason


def attempt_of(**headers: Any) -> Attempt:
    return Attempt(Message(headers={"retries": 0, QUEUE: NORMAL, TAG: "a-tag", **headers}))


@pytest.mark.parametrize(
    ("headers", "at"),
    [
        ({FIRST_TRY: THEN}, datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ({FIRST_TRY: "2026-11-01T07:00:00-03:00"}, datetime(2026, 11, 1, 10, tzinfo=UTC)),
        # Without a readable time the first attempt is now.
        ({}, None),
        ({FIRST_TRY: None}, None),
        ({FIRST_TRY: 7}, None),
        ({FIRST_TRY: "yesterday"}, None),
        ({FIRST_TRY: "2026-11-01T10:00:00"}, None),
    ],
)
def test_the_first_attempt_time_comes_from_the_retry(headers: dict[str, Any], at: datetime | None):
    assert attempt_of(**headers).first_at == at


class Channel:
    """A channel with one message that remembers the calls for it, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.buried: list[dict[str, Any]] = []
        self.clock = Difference()

    def bury(self, tag: str, **fields: Any) -> None:
        assert tag == "a-tag"
        self.seen.append("buried")
        self.buried.append(fields)

    @property
    def leases(self) -> Channel:
        return self

    def acknowledge(self, *args: Any) -> None:
        self.seen.append("acknowledged")

    def reject(self, logger: Any, errors: Any, requeue: bool) -> None:
        self.seen.append("requeued" if requeue else "rejected")


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def request_of(channel: Channel) -> Callable[..., Request]:
    """A request as the worker makes it from a message."""
    app.use(load())
    app.finalize()

    def make(**headers: Any) -> Request:
        message = Message(
            b"[[], {}, {}]",
            delivery_tag="a-tag",
            content_type="application/json",
            content_encoding="utf-8",
            headers={
                "task": send_notification.name, "id": "inv-1", "retries": 0, QUEUE: NORMAL, TAG: "a-tag", **headers,
            },
            channel=channel,
        )  # fmt: skip
        consumer = SimpleNamespace(hostname="w@host", event_dispatcher=None, connection_errors=())
        task = app.tasks[send_notification.name]
        return Request(
            message, task=task, app=app, on_ack=channel.acknowledge, on_reject=channel.reject, consumer=consumer
        )

    return make


def failed_with(exc: BaseException) -> ExceptionInfo:
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()


def dead(error: Any) -> Dead:
    return Dead(error, {"id": "inv-1"})


@pytest.mark.parametrize(
    ("outcome", "raised", "retries", "letter"),
    [
        (
            dead(CLOSED), CLOSED, 3,
            {"reason": "connection_closed", "error": "closed", "attempts": 4, "maybe_sent": False},
        ),
        (
            dead(errors.MaybeSent("lost", reason=Reason.UNKNOWN)), CLOSED, 0,
            {"reason": "unknown", "error": "lost", "attempts": 1, "maybe_sent": True},
        ),
        (
            dead(errors.Poison("", "3 workers died of it in a row")), CLOSED, 0,
            {"reason": "poison", "error": "3 workers died of it in a row", "attempts": 0, "maybe_sent": False},
        ),
        (
            dead(errors.InvalidNotification("telefone", "is required")), CLOSED, 0,
            {"reason": "invalid", "error": "telefone: is required", "attempts": 0, "maybe_sent": False},
        ),
        # A foreign exception may quote its input, and an unforeseen one may come from the middle of a send.
        (None, KeyError("77998616740"), 2, {"reason": "error", "error": "KeyError", "attempts": 2, "maybe_sent": True}),
        # It was to be retried, and failed before it was in the delayed set.
        (
            Retry(CLOSED, datetime.now(UTC), "token", Event(Name.RETRYING, "inv-1", {})), KeyError("x"), 1,
            {"reason": "error", "error": "KeyError", "attempts": 1, "maybe_sent": True},
        ),
    ],
)  # fmt: skip
def test_a_task_that_failed_for_good_is_dead_lettered_and_then_acknowledged(
    request_of: Callable[..., Request],
    channel: Channel,
    outcome: Outcome | None,
    raised: Exception,
    retries: int,
    letter: dict[str, Any],
):
    request = request_of(retries=retries, **{FIRST_TRY: THEN})
    request.attempt.outcome = outcome
    request.on_failure(failed_with(raised))
    assert channel.buried == [
        {**letter, "first_at": datetime(2026, 11, 1, 10, tzinfo=UTC), "event_fields": {"id": "inv-1"}}
    ]
    assert channel.seen == ["buried", "acknowledged"]


@pytest.mark.parametrize(
    ("outcome", "raised", "seen"),
    [
        (
            Retry(CLOSED, datetime.now(UTC), "token", Event(Name.RETRYING, "inv-1", {})),
            exceptions.Retry("later"),
            "acknowledged",
        ),
        (
            GiveBack(errors.NotSent("away", reason=Reason.UNREACHABLE)),
            exceptions.Reject("away", requeue=True),
            "requeued",
        ),
    ],
)
def test_a_task_that_will_run_again_is_not_dead_lettered(
    request_of: Callable[..., Request], channel: Channel, outcome: Outcome, raised: Exception, seen: str
):
    request = request_of()
    request.attempt.outcome, request.attempt.moved = outcome, isinstance(outcome, Retry)
    request.on_failure(failed_with(raised))
    assert channel.seen == [seen]


def test_a_task_around_which_celery_failed_is_dead_lettered_as_one_that_may_have_been_sent(
    request_of: Callable[..., Request], channel: Channel
):
    """
    In that case Celery reports success without a result.
    """
    request_of(retries=1).on_success((0, None, 0.1))
    (letter,) = channel.buried
    assert (letter["reason"], letter["maybe_sent"], letter["attempts"]) == ("error", True, 2)
    assert channel.seen == ["buried", "acknowledged"]


@pytest.mark.parametrize(("off_s", "reasons"), [(0.0, ["expired"]), (7_200.0, [])])
def test_a_message_expires_by_the_clock_of_redis_and_its_id_stays_free(
    request_of: Callable[..., Request], channel: Channel, off_s: float, reasons: list[str]
):
    """
    The worker's clock is right or two hours ahead.
    """
    channel.clock.off_s = off_s
    request = request_of(id=f"off by {off_s}", expires=(datetime.now(UTC) - timedelta(hours=1)).isoformat())
    assert request.revoked() is bool(reasons)
    assert [letter["reason"] for letter in channel.buried] == reasons
    assert request.id not in state.revoked


def test_a_callback_that_breaks_leaves_no_message_in_flight(
    request_of: Callable[..., Request], channel: Channel, monkeypatch: pytest.MonkeyPatch
):
    """
    The callback runs in a thread of the pool, where an exception would be lost.
    """
    request = request_of()
    request.attempt.outcome = Settled(ClaimState.SENT, Event(Name.SENT, "inv-1", {}), "3EB0")
    monkeypatch.setattr(request, "_settle", lambda outcome: 1 / 0)
    request.on_success((False, "'sent 3EB0'", 0.1))
    (letter,) = channel.buried
    assert (letter["reason"], letter["error"], letter["maybe_sent"]) == (
        "error", "ZeroDivisionError after the task", True,
    )  # fmt: skip


class Runs:
    """The delivery of one message, and the tracer around it; both remember that they ran."""

    def __init__(self, ends: Outcome | Exception) -> None:
        self.ends = ends
        self.seen: list[str] = []

    def deliver(self, attempt: Attempt, message: str) -> Outcome:
        self.seen.append(f"delivered {message}")
        if isinstance(self.ends, Exception):
            raise self.ends
        return self.ends

    def trace(self, *call: Any) -> Any:
        self.seen.append("traced")
        task = app.tasks[send_notification.name]
        return build_tracer(task.name, task, app.loader, "w@host", app=app)(*call)


SENT = Settled(ClaimState.SENT, Event(Name.SENT, "inv-1", {}), "3EB0")


@pytest.fixture
def ran_as(request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[str]]]:
    """Run a message that ends in a certain way; return what its request returns and what ran."""

    def run(ends: Outcome | Exception, **headers: Any) -> tuple[Any, list[str]]:
        request, runs = request_of(**headers), Runs(ends)
        task = app.tasks[send_notification.name]
        monkeypatch.setattr(task, "outcome_of", runs.deliver, raising=False)
        monkeypatch.setattr(task, "__trace__", runs.trace, raising=False)
        request._args = ["{}"]
        return request._trace(), runs.seen

    return run


def test_a_message_that_is_settled_is_not_traced_where_nothing_listens(ran_as: Callable[..., tuple[Any, list[str]]]):
    (failed, _, took_s), ran = ran_as(SENT)
    assert not failed
    assert took_s >= 0
    assert ran == ["delivered {}"]


def test_a_message_is_traced_for_the_receivers_of_signals(ran_as: Callable[..., tuple[Any, list[str]]]):
    heard: list[str] = []

    def hear(task_id: str, **_: Any) -> None:
        heard.append(task_id)

    signals.task_prerun.connect(hear)
    try:
        (failed, shown, _), ran = ran_as(SENT)
    finally:
        signals.task_prerun.disconnect(hear)
    assert (failed, shown) == (0, "'sent 3EB0'")
    assert ran == ["traced", "delivered {}"]
    assert heard == ["inv-1"]


def test_a_message_whose_result_is_kept_is_traced(ran_as: Callable[..., tuple[Any, list[str]]]):
    (failed, shown, _), ran = ran_as(SENT, ignore_result=False)
    assert (failed, shown) == (0, "'sent 3EB0'")
    assert ran == ["traced", "delivered {}"]


@pytest.mark.parametrize(
    ("ends", "raised"),
    [
        (GiveBack(errors.NotSent("away", reason=Reason.UNREACHABLE)), exceptions.Reject),
        (dead(errors.InvalidNotification("telefone", "is required")), errors.InvalidNotification),
        (KeyError("unforeseen"), KeyError),
    ],
)
def test_a_message_that_is_not_settled_is_delivered_once_and_then_traced(
    ran_as: Callable[..., tuple[Any, list[str]]], ends: Outcome | Exception, raised: type[Exception]
):
    (failed, returned, _), ran = ran_as(ends)
    assert failed
    assert isinstance(getattr(returned.exception, "exc", returned.exception), raised)
    assert ran == ["delivered {}", "traced"]
