"""
The table at the top of `delivery.py`, against the delivery, Celery's autoretry and the documentation.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery

from ifinu import delivery, errors
from ifinu.broker import NORMAL
from ifinu.broker.claims import Claim, MessageRef, Resend, Verdict
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.delivery import Delivery
from ifinu.errors import NotSent, Reason, SendError, Throttled
from ifinu.gateway import Sent
from ifinu.gateway.instances import Instances
from ifinu.gateway.message_records import ConnectionState
from ifinu.loop import Loop, sleep
from ifinu.notification import Kind, Notification
from ifinu.outcome import Dead, Outcome, Retry
from ifinu.render import Renderer
from ifinu.settings import OnUnknown, load
from ifinu.window import Windows
from ifinu.worker import tasks
from ifinu.worker.tasks import NotificationTask, send_notification

NOTIFICATION = Notification(id="inv-1", kind=Kind.REMINDER, phone="+5577998616740", text="Olá!")
SENDING = Path(__file__).parents[2] / "docs/sending.md"


class Row(NamedTuple):
    """What follows one kind of error; the usual outcome comes first."""

    error: str
    outcomes: tuple[str, ...]
    reasons: frozenset[str]


def in_the_code() -> list[Row]:
    table = (delivery.__doc__ or "").partition("    error  ")[2].partition("\n\n")[0]
    text = re.sub(r"\n {30,}", " ", table)  # a line goes on in the next one
    found = (re.fullmatch(r" {4}(\w+) +((?:\w+, )*\w+)  +(.+)", line) for line in text.splitlines()[1:])
    return [Row(row[1], tuple(row[2].split(", ")), frozenset(row[3].split(", "))) for row in found if row]


def in_the_documentation() -> list[Row]:
    rows = [line.split("|")[1:-1] for line in SENDING.read_text(encoding="utf-8").splitlines() if "| `" in line]
    named = [(re.search(r"\(`(\w+)`\)", proves), *rest) for proves, *rest in rows]
    words = re.compile(r"`(\w+)`").findall
    return [
        Row(error[1], tuple(words(outcomes)), frozenset(words(reasons)))
        for error, outcomes, _, reasons in named
        if error is not None
    ]


CASES = [(row, Reason(reason)) for row in in_the_code() for reason in sorted(row.reasons)]


def test_the_table_names_each_reason_once():
    assert sorted(reason for _, reason in CASES) == sorted(Reason)


def test_the_documentation_shows_the_same_table():
    assert in_the_documentation() == in_the_code()


class Claims:
    """Claims that always answer alike."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.released: list[str] = []

    def claim(self, *_: Any, **__: Any) -> Claim:
        now = datetime.now(UTC)
        then = now - timedelta(hours=1)
        return Claim(self.verdict, "", "token", then, then, False, "", now, 0.0)

    def release(self, notification_id: str, tag: str) -> None:
        self.released.append(notification_id)


class Gateway:
    """A gateway that fails every send and has stored nothing."""

    def __init__(self, error: SendError) -> None:
        self.error = error

    def send_text(self, *_: Any, **__: Any) -> Sent:
        raise self.error

    def find_sent(self, *_: Any, **__: Any) -> str:
        return ""

    def connection_state(self, instance: str) -> ConnectionState:
        return ConnectionState.OPEN


def outcome_of(row: Row, reason: Reason, *, last: bool = False) -> tuple[Outcome, Claims]:
    kind = getattr(errors, row.error)
    error = kind("x", retry_after_s=1.0, reason=reason) if kind is Throttled else kind("x", reason=reason)
    claims = Claims(Verdict.LOOK_UP if reason is Reason.UNKNOWN else Verdict.GO)
    outcome = Delivery(
        gateway=Gateway(error),
        renderer=Renderer(reference=True),
        claims=claims,  # type: ignore[arg-type]  # as much of them as a send needs
        instances=Instances(30.0),
        missing_ttl_s=86_400.0,
        windows=Windows.load(None, None),
        pseudonyms=Pseudonyms(b"a key of the tests"),
        instance="wa1",
        on_unknown=OnUnknown.HOLD,
        grace_s=60.0,
        compares=True,
    ).deliver(NOTIFICATION, MessageRef(NORMAL, "tag"), attempt=1, last=last)
    return outcome, claims


@pytest.mark.parametrize(("row", "reason"), CASES, ids=[f"{row.error}-{reason}" for row, reason in CASES])
def test_each_error_of_a_send_has_the_usual_outcome_of_its_row(row: Row, reason: Reason):
    outcome, claims = outcome_of(row, reason)
    assert type(outcome).__name__ == row.outcomes[0]
    assert claims.released == (["inv-1"] if row.outcomes[0] == "GiveBack" else [])


@pytest.mark.parametrize(("row", "reason"), [case for case in CASES if case[0].outcomes[0] == "Retry"])
def test_the_last_try_ends_in_the_dead_letters(row: Row, reason: Reason):
    retry, _ = outcome_of(row, reason)
    dead, _ = outcome_of(row, reason, last=True)
    assert isinstance(retry, Retry)
    assert isinstance(dead, Dead)
    assert (dead.reason, dead.fields["id"], dead.maybe_sent) == (reason, "inv-1", False)


def test_the_decorator_shows_the_defaults_of_the_settings():
    shown = inspect.getsource(tasks).partition("@app.task(")[2]
    config = load()
    assert f'rate_limit="{config.rate_limit}"' in shown
    assert f"max_retries={config.max_retries}," in shown
    assert f"retry_backoff={config.retry_backoff_s:g}," in shown
    assert f"retry_backoff_max={config.retry_backoff_max_s:g}," in shown


def test_the_settings_override_what_the_decorator_shows():
    another = Celery("another", set_as_current=False)
    another.settings = load(rate_limit="7/s", max_retries=2, retry_backoff_s=0.5, retry_backoff_max_s=9.0)

    @another.task(base=NotificationTask, rate_limit="50/s", max_retries=3, retry_backoff=5, autoretry_for=(NotSent,))
    def task() -> None: ...

    numbers = task.rate_limit, task.max_retries, task.retry_backoff, task.retry_backoff_max
    assert numbers == ("7/s", 2, 0.5, 9.0)


def test_celery_retries_each_error_that_may_be_retried_and_no_other_class_that_ends_a_message():
    may_be_retried = {row.error for row in in_the_code() if "Retry" in row.outcomes}
    assert may_be_retried <= {error.__name__ for error in send_notification.autoretry_for}


class Died(Claims):
    """Claims in doubt, by the death of a worker or otherwise."""

    def __init__(self, *, died: bool) -> None:
        super().__init__(Verdict.LOOK_UP)
        self._died = died

    def claim(self, *_: Any, **__: Any) -> Claim:
        return super().claim()._replace(died=self._died)

    def resend(self, *_: Any, **__: Any) -> Resend:
        return Resend.GO


class SlowGateway(Gateway):
    """A gateway that sends, and counts the sends under way."""

    def __init__(self) -> None:
        super().__init__(NotSent("x", reason=Reason.UNREACHABLE))
        self.under_way = self.most = 0

    def send_text(self, *_: Any, **__: Any) -> Sent:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        sleep(0.005)
        self.under_way -= 1
        return Sent("3EB0", None, None)


@pytest.mark.parametrize(("died", "at_once"), [(True, 1), (False, 3)])
def test_messages_that_a_worker_died_with_are_sent_again_one_at_a_time(died: bool, at_once: int):
    """One of them may kill this worker too, and the others would be in doubt for the second time."""
    gateway = SlowGateway()
    sender = Delivery(
        gateway=gateway,
        renderer=Renderer(reference=True),
        claims=Died(died=died),  # type: ignore[arg-type]  # as much of them as a resend needs
        instances=Instances(30.0),
        missing_ttl_s=86_400.0,
        windows=Windows.load(None, None),
        pseudonyms=Pseudonyms(b"a key of the tests"),
        instance="wa1",
        on_unknown=OnUnknown.RESEND_ONCE,
        grace_s=60.0,
        compares=True,
    )
    with contextlib.closing(Loop()) as loop:
        outcomes: list[Outcome] = []
        for number in range(3):
            ref = MessageRef(NORMAL, f"tag-{number}")
            loop.spawn(lambda ref=ref: outcomes.append(sender.deliver(NOTIFICATION, ref, attempt=1)))
        loop.run_until(lambda: not loop.tasks)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Settled"] * 3
    assert gateway.most == at_once
