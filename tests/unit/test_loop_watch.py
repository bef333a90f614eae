from __future__ import annotations

import contextlib
import time

import pytest
import structlog

from ifinu.loop import Loop
from ifinu.worker import loop_watch
from ifinu.worker.loop_watch import LoopWatch


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watch, "_EVERY_S", 0.02)


def test_a_call_that_holds_the_loop_is_named_and_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop_watch, "_BLOCKED_S", 0.5)
    with structlog.testing.capture_logs() as logs, contextlib.closing(Loop()) as loop:

        def computes() -> None:
            while not logs:
                time.sleep(0.01)

        watch = LoopWatch(loop)
        loop.spawn(computes)
        loop.run_until(lambda: len(logs) > 1)
        watch.stop()
    assert [line["event"] for line in logs] == ["ifinu.loop.blocked", "ifinu.loop.back"]
    assert "test_loop_watch.py" in logs[0]["at"]
    assert " computes" in logs[0]["at"]
    assert watch.blocked_s >= 0.5


def test_a_loop_that_only_waits_turns_and_is_not_blocked():
    turned: list[float] = []
    with structlog.testing.capture_logs() as logs, contextlib.closing(Loop()) as loop:
        watch = LoopWatch(loop)
        loop.run_until(lambda: turned.append(loop.turned_at) or len(turned) > 20)
        assert watch.blocked_s == 0
        watch.stop()
    assert logs == []
