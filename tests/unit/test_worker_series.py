"""
The Prometheus series of a worker.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from ifinu.broker.claims import ClaimState
from ifinu.broker.events import Event, Name
from ifinu.broker.leases import Settled, Tally
from ifinu.errors import MaybeSent, NotSent, Reason, Throttled
from ifinu.metrics.labels import OTHER, Bounded
from ifinu.metrics.worker_series import Now, WorkerSeries
from ifinu.outcome import Wait

TOLD = {"kind": "atraso", "instance": "ifinu", "confirmed": True, "by": "gateway"}
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def sending(registry: CollectorRegistry) -> WorkerSeries:
    return WorkerSeries(registry)


def wait(reason: str, **changes: object) -> Wait:
    event = Event(Name.DEFERRED, "a", {"reason": reason})
    return Wait(0.0, NOW, ClaimState.WAITING, "token", event, "ifinu", reason)._replace(**changes)


def test_names_from_elsewhere_make_few_labels():
    label = Bounded(most=2)
    assert [label(name) for name in ("a", "b", "c", "a", "c", None)] == ["a", "b", OTHER, "a", OTHER, OTHER]


def test_a_sent_message_counts_once_in_each_series(registry: CollectorRegistry, sending: WorkerSeries):
    settled = Settled(ClaimState.SENT, Event(Name.SENT, "a", TOLD), "3EB0", None, 0.2)
    sending.settled(settled, accepted_at=datetime.fromtimestamp(1_000, UTC), started_at=1_007.0)
    assert registry.get_sample_value("ifinu_messages_total", {"kind": "atraso", "outcome": "sent"}) == 1
    assert registry.get_sample_value("ifinu_gateway_answers_total", {"answer": "sent"}) == 1
    assert registry.get_sample_value("ifinu_send_seconds_sum", {"result": "sent"}) == 0.2
    assert registry.get_sample_value("ifinu_queue_seconds_sum") == 7
    assert registry.get_sample_value("ifinu_end_to_end_seconds_count") == 1


@pytest.mark.parametrize(
    ("settled", "absent"),
    [
        (
            Settled(ClaimState.SENT, Event(Name.SENT, "a", {**TOLD, "by": "look_up"}), "3EB0"),
            "ifinu_gateway_answers_total",
        ),
        (Settled(ClaimState.EXPIRED, Event(Name.EXPIRED, "a", TOLD)), "ifinu_end_to_end_seconds_sum"),
    ],
)  # fmt: skip
def test_only_a_post_that_worked_counts_as_one(registry: CollectorRegistry, sending: WorkerSeries, settled, absent):
    sending.settled(settled, accepted_at=None, started_at=None)
    assert not registry.get_sample_value(absent, {"answer": "sent"} if "answers" in absent else {})
    assert registry.get_sample_value("ifinu_messages_total", {"kind": "atraso", "outcome": settled.state}) == 1


def test_a_clock_behind_that_of_the_producer_makes_no_negative_time(registry: CollectorRegistry, sending: WorkerSeries):
    ahead = datetime.fromtimestamp(4_000_000_000, UTC)
    settled = Settled(ClaimState.SENT, Event(Name.SENT, "a", TOLD), "3EB0", None, 0.2)
    sending.settled(settled, accepted_at=ahead, started_at=1.0)
    assert registry.get_sample_value("ifinu_queue_seconds_sum") == 0
    assert registry.get_sample_value("ifinu_end_to_end_seconds_sum") == 0


def test_a_failed_try_counts_by_its_reason(registry: CollectorRegistry, sending: WorkerSeries):
    error = NotSent("no", reason=Reason.CONNECTION_CLOSED, instance="ifinu")
    error.took_s = 1.0
    sending.failed(error, retried=True)
    sending.failed(NotSent("no", reason=Reason.UNREACHABLE, instance="ifinu"), retried=False)  # was not asked
    assert registry.get_sample_value("ifinu_retries_total", {"reason": "connection_closed"}) == 1
    assert registry.get_sample_value("ifinu_gateway_answers_total", {"answer": "connection_closed"}) == 1
    assert registry.get_sample_value("ifinu_gateway_answers_total", {"answer": "unreachable"}) is None
    assert registry.get_sample_value("ifinu_send_seconds_sum", {"result": "failed"}) == 1


def test_waits_count_by_their_reason(registry: CollectorRegistry, sending: WorkerSeries):
    throttled = Throttled("slow", retry_after_s=1, instance="ifinu")
    doubt = MaybeSent("?", reason=Reason.TIMEOUT, instance="ifinu")
    throttled.took_s = doubt.took_s = 0.1
    for one in (
        wait("window"),
        wait("throttled", error=throttled),
        wait("instance", event=None),  # waits again and was counted already
        wait("unknown", error=doubt),
        wait("look_up", event=None),
    ):
        sending.waits(one)
    assert registry.get_sample_value("ifinu_deferrals_total", {"reason": "window"}) == 1
    assert registry.get_sample_value("ifinu_deferrals_total", {"reason": "throttled"}) == 1
    assert registry.get_sample_value("ifinu_deferrals_total", {"reason": "instance"}) is None
    assert registry.get_sample_value("ifinu_doubts_total", {"reason": "timeout"}) == 1
    assert registry.get_sample_value("ifinu_instance_held", {"whatsapp": "ifinu"}) == 0  # they have expired
    later = wait("throttled", error=throttled, wait_s=3600.0)
    sending.waits(later)
    assert registry.get_sample_value("ifinu_instance_held", {"whatsapp": "ifinu"}) == 1
    assert registry.get_sample_value("ifinu_instance_sends_total", {"whatsapp": "ifinu", "result": "failed"}) == 3


def test_counters_kept_elsewhere_are_read_at_each_scrape(registry: CollectorRegistry, sending: WorkerSeries):
    tally = Tally(reaped=3, lost=2)
    tally.buried.update({("atraso", "dead", "timeout"): 2, ("", "dead", "not_json"): 1, ("atraso", "unknown", "x"): 1})
    sending.look = lambda: Now(50.0, 7, 10, 4, True, 1, tally)
    value = registry.get_sample_value
    assert value("ifinu_messages_total", {"kind": "atraso", "outcome": "dead"}) == 2
    assert value("ifinu_messages_total", {"kind": "unreadable", "outcome": "dead"}) == 1
    assert value("ifinu_messages_total", {"kind": "atraso", "outcome": "held"}) == 1
    assert value("ifinu_dead_letters_total", {"reason": "timeout"}) == 2
    names = ("pace_limit_per_second", "pace_waiting", "slots", "slots_busy", "breaker_open", "leases_owed")
    assert [value(f"ifinu_{name}") for name in names] == [50, 7, 10, 4, 1, 1]
    assert (value("ifinu_leases_reaped_total"), value("ifinu_leases_lost_total")) == (3, 2)
