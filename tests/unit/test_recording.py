"""
The worker's recorder thread: no failure in it stops the worker.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import structlog

from ifinu import settings
from ifinu.ledger.progress import Progress
from ifinu.worker import bootsteps
from ifinu.worker.bootsteps import RecorderThread


class _Recorder:
    """A stand-in for `stand_by` that remembers its calls and runs until stopped."""

    def __init__(self, *failures: Exception) -> None:
        self.calls: list[tuple[redis.Redis, str]] = []
        self.entered = threading.Semaphore(0)
        self._failures = list(failures)

    def __call__(
        self, client: redis.Redis, config: settings.Settings, stop: threading.Event, progress: Progress
    ) -> None:
        self.calls.append((client, config.database_url.get_secret_value()))
        self.entered.release()
        if self._failures:
            raise self._failures.pop(0)
        stop.wait()


def _consumer(**given: Any) -> Any:
    return SimpleNamespace(app=SimpleNamespace(settings=settings.load(**given), progress=Progress()), steps=[])


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "recorder"]


def test_it_records_from_the_first_connection_to_the_end_of_the_last_send(
    monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    """
    It starts once. Neither a reconnection nor the start of a warm shutdown stops or restarts it.
    """
    recorder = _Recorder()
    monkeypatch.setattr(bootsteps, "stand_by", recorder)
    consumer = _consumer(database_url=database_url)
    step = RecorderThread(consumer)
    assert _threads() == []
    step.start(consumer)
    assert recorder.entered.acquire(timeout=10)
    step.stop(consumer)
    step.start(consumer)
    step.stop(consumer)
    step.terminate(consumer)
    assert len(_threads()) == 1
    step.shutdown(consumer)
    assert _threads() == []
    assert [url for _, url in recorder.calls] == [database_url]


def test_an_unforeseen_error_is_logged_and_retried(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    recorder = _Recorder(RuntimeError("unforeseen"), ImportError("no driver"))
    monkeypatch.setattr(bootsteps, "stand_by", recorder)
    monkeypatch.setattr(bootsteps, "_RECORD_AGAIN_S", 0.01)
    consumer = _consumer(database_url=database_url)
    step = RecorderThread(consumer)
    with structlog.testing.capture_logs() as lines:
        step.start(consumer)
        for _ in range(3):
            assert recorder.entered.acquire(timeout=10)
        step.shutdown(consumer)
    assert [line["event"] for line in lines] == ["ifinu.recorder.failed"] * 2
    assert _threads() == []


@pytest.mark.parametrize(("enabled", "steps"), [(True, 1), (False, 0)])
def test_the_recorder_does_not_run_if_the_settings_disable_it(enabled: bool, steps: int) -> None:
    consumer = _consumer(recorder=enabled)
    RecorderThread(consumer).include(consumer)
    assert len(consumer.steps) == steps


def test_a_worker_that_ends_before_it_was_connected_has_nothing_to_stop() -> None:
    consumer = _consumer()
    RecorderThread(consumer).shutdown(consumer)
    assert _threads() == []
