"""
The worker's step that stands by to record: no failure in it stops the worker.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import structlog

from ifinu import settings
from ifinu.ledger.child import RecorderError
from ifinu.ledger.progress import Progress
from ifinu.worker import bootsteps
from ifinu.worker.bootsteps import RecorderProcess


class _StandBy:
    """A fake `stand_by` that counts its calls, fails as often as it has failures, and then runs until it is stopped."""

    def __init__(self, *failures: Exception) -> None:
        self.calls = 0
        self.entered = threading.Semaphore(0)
        self._failures = list(failures)

    def __call__(self, client: redis.Redis, stop: threading.Event, run: object) -> None:
        self.calls += 1
        self.entered.release()
        if self._failures:
            raise self._failures.pop(0)
        stop.wait()


def _consumer(**given: Any) -> Any:
    return SimpleNamespace(app=SimpleNamespace(settings=settings.load(**given), progress=Progress()), steps=[])


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "recorder"]


def test_it_stands_by_from_the_first_connection_to_the_end_of_the_last_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Once: not again after a reconnection, and not stopped by one or by the beginning of a warm shutdown.
    """
    stand_by = _StandBy()
    monkeypatch.setattr(bootsteps, "stand_by", stand_by)
    consumer = _consumer()
    step = RecorderProcess(consumer)
    assert _threads() == []
    step.start(consumer)
    assert stand_by.entered.acquire(timeout=10)
    step.stop(consumer)
    step.start(consumer)
    step.stop(consumer)
    step.terminate(consumer)
    assert len(_threads()) == 1
    step.shutdown(consumer)
    assert _threads() == []
    assert stand_by.calls == 1


def test_an_unforeseen_error_is_logged_and_it_stands_by_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_by = _StandBy(RuntimeError("unforeseen"), OSError("no more processes"))
    monkeypatch.setattr(bootsteps, "stand_by", stand_by)
    monkeypatch.setattr(bootsteps, "_AGAIN_S", (0.01,))
    consumer = _consumer()
    step = RecorderProcess(consumer)
    with structlog.testing.capture_logs() as lines:
        step.start(consumer)
        for _ in range(3):
            assert stand_by.entered.acquire(timeout=10)
        step.shutdown(consumer)
    assert [line["event"] for line in lines] == ["ifinu.recorder.failed"] * 2
    assert _threads() == []


def test_the_pause_grows_with_each_recorder_that_dies_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_by = _StandBy(*(RecorderError(-9) for _ in range(4)))
    monkeypatch.setattr(bootsteps, "stand_by", stand_by)
    monkeypatch.setattr(bootsteps, "_AGAIN_S", (0.01, 0.02, 0.03))
    consumer = _consumer()
    step = RecorderProcess(consumer)
    with structlog.testing.capture_logs() as lines:
        step.start(consumer)
        for _ in range(5):
            assert stand_by.entered.acquire(timeout=10)
        step.shutdown(consumer)
    assert [(line["event"], line["code"], line["again_in_s"]) for line in lines] == [
        ("ifinu.recorder.died", -9, pause) for pause in (0.01, 0.02, 0.03, 0.03)
    ]


@pytest.mark.parametrize(("enabled", "steps"), [(True, 1), (False, 0)])
def test_the_recorder_does_not_run_if_the_settings_disable_it(enabled: bool, steps: int) -> None:
    consumer = _consumer(recorder=enabled)
    RecorderProcess(consumer).include(consumer)
    assert len(consumer.steps) == steps


def test_a_worker_that_ends_before_it_was_connected_has_nothing_to_stop() -> None:
    consumer = _consumer()
    RecorderProcess(consumer).shutdown(consumer)
    assert _threads() == []
