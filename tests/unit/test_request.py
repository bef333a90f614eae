from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from billiard.einfo import ExceptionInfo
from celery import exceptions
from celery.worker import state
from celery.worker.request import create_request_cls
from kombu.message import Message

from ifinu import errors
from ifinu.broker.clock import Difference
from ifinu.broker.headers import FIRST_TRY
from ifinu.errors import Reason
from ifinu.settings import load
from ifinu.worker.app import app
from ifinu.worker.request import Request, first_try_at, reason_of
from ifinu.worker.tasks import send_notification

THEN = "2026-11-01T10:00:00+00:00"


@pytest.mark.parametrize(
    ("exc", "reason"),
    [
        (errors.NotSent("x", reason=Reason.CONNECTION_CLOSED), "connection_closed"),
        (errors.MaybeSent("x", reason=Reason.UNKNOWN), "unknown"),
        (errors.Poison("", "x"), "poison"),
        (errors.Refused("x", reason=Reason.NUMBER_NOT_ON_WHATSAPP), "number_not_on_whatsapp"),
        (errors.Throttled("x", retry_after_s=1.0), "rate_overlimit"),
        (errors.Misconfigured("x", reason=Reason.UNAUTHORIZED), "unauthorized"),
        (errors.InvalidNotification("telefone", "is required"), "invalid"),
        (errors.IdReused("id", "was used before"), "id_reused"),
        (errors.GatewayError("x"), "error"),
        (ValueError("77998616740"), "error"),
    ],
)
def test_the_reason_of_an_exception_is_one_word_of_a_closed_set(exc: Exception, reason: str):
    assert reason_of(exc) == reason


@pytest.mark.parametrize(
    ("headers", "at"),
    [
        ({FIRST_TRY: THEN}, datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ({FIRST_TRY: "2026-11-01T07:00:00-03:00"}, datetime(2026, 11, 1, 10, tzinfo=UTC)),
    ],
)
def test_the_first_attempt_time_comes_from_the_retry(headers: dict[str, Any], at: datetime):
    assert first_try_at(headers, datetime.now(UTC)) == at


@pytest.mark.parametrize(
    "headers",
    [None, {}, {FIRST_TRY: None}, {FIRST_TRY: 7}, {FIRST_TRY: "yesterday"}, {FIRST_TRY: "2026-11-01T10:00:00"}],
)
def test_without_a_readable_time_the_first_attempt_is_now(headers: dict[str, Any] | None):
    now = datetime.now(UTC)
    assert first_try_at(headers, now) == now


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

    def give_back(self, tags: tuple[str, ...], *, suspect: bool) -> None:
        assert tags == ("a-tag",)
        self.seen.append(f"given back{', suspect' * suspect}")

    def acknowledge(self, *args: Any) -> None:
        self.seen.append("acknowledged")


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
            headers={"task": send_notification.name, "id": "inv-1", "retries": 0, **headers},
            channel=channel,
        )
        task = app.tasks[send_notification.name]
        pool = SimpleNamespace(apply_async=None)
        derived = create_request_cls(Request, task, pool, "w@host", None, app=app)
        return cast(Request, derived(message, app=app, task=task, on_ack=channel.acknowledge))

    return make


def failed_with(exc: BaseException) -> ExceptionInfo:
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()


@pytest.mark.parametrize(
    ("exc", "retries", "letter"),
    [
        (
            errors.NotSent("closed", reason=Reason.CONNECTION_CLOSED), 3,
            {"reason": "connection_closed", "error": "closed", "attempts": 4, "maybe_sent": False},
        ),
        (
            errors.MaybeSent("lost", reason=Reason.UNKNOWN), 0,
            {"reason": "unknown", "error": "lost", "attempts": 1, "maybe_sent": True},
        ),
        (
            errors.Poison("", "3 workers died of it in a row"), 0,
            {"reason": "poison", "error": "3 workers died of it in a row", "attempts": 0, "maybe_sent": False},
        ),
        (
            errors.InvalidNotification("telefone", "is required"), 0,
            {"reason": "invalid", "error": "telefone: is required", "attempts": 0, "maybe_sent": False},
        ),
        # A foreign exception may quote its input, and an unforeseen one may come from the middle of a send.
        (KeyError("77998616740"), 2, {"reason": "error", "error": "KeyError", "attempts": 2, "maybe_sent": True}),
    ],
)  # fmt: skip
def test_a_task_that_failed_for_good_is_dead_lettered_and_then_acknowledged(
    request_of: Callable[..., Request], channel: Channel, exc: Exception, retries: int, letter: dict[str, Any]
):
    request_of(retries=retries, **{FIRST_TRY: THEN}).on_failure(failed_with(exc))
    assert channel.buried == [
        {**letter, "first_at": datetime(2026, 11, 1, 10, tzinfo=UTC), "event_fields": {"id": "inv-1"}}
    ]
    assert channel.seen == ["buried", "acknowledged"]


def test_a_task_that_will_run_again_is_not_dead_lettered(request_of: Callable[..., Request], channel: Channel):
    request_of().on_failure(failed_with(exceptions.Retry("later")))
    assert channel.buried == []


@pytest.mark.parametrize(("soft", "seen"), [(True, []), (False, ["given back, suspect", "acknowledged"])])
def test_a_task_killed_for_its_time_limit_comes_back_to_be_looked_up(
    request_of: Callable[..., Request], channel: Channel, soft: bool, seen: list[str]
):
    """
    `celery worker --time-limit` kills a child of the prefork pool in the middle of a send.
    """
    request_of().on_timeout(soft, 30)
    assert channel.seen == seen


def test_a_message_whose_process_died_comes_back_and_is_suspect(request_of: Callable[..., Request], channel: Channel):
    request_of().on_failure(failed_with(exceptions.WorkerLostError("signal 9")))
    assert channel.seen[0] == "given back, suspect"
    assert channel.buried == []


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
    monkeypatch.setattr(request, "_settle", lambda outcome: 1 / 0)
    request.on_success((False, "'sent 3EB0'", 0.1))
    (letter,) = channel.buried
    assert (letter["reason"], letter["error"], letter["maybe_sent"]) == (
        "error", "ZeroDivisionError after the task", True,
    )  # fmt: skip
