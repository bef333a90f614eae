from __future__ import annotations

import contextlib
import time

import pytest
import structlog

from ifinu.loop import Loop, after, sleep
from ifinu.worker import loop_watch
from ifinu.worker.loop_watch import LoopWatch


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watch, "_EVERY_S", 0.02)
    monkeypatch.setattr(loop_watch, "_BLOCKED_S", 0.2)


def computes() -> None:
    time.sleep(0.6)


def test_a_call_that_holds_the_loop_is_named_and_counted(quick):
    with structlog.testing.capture_logs() as logs, contextlib.closing(Loop()) as loop:
        watch = LoopWatch(loop)
        loop.spawn(computes)
        loop.spawn(lambda: sleep(0.2))
        loop.run_until(lambda: not loop.tasks)
        watch.stop()
    assert [line["event"] for line in logs] == ["ifinu.loop.blocked", "ifinu.loop.back"]
    assert "test_loop_watch.py" in logs[0]["at"]
    assert " computes" in logs[0]["at"]
    assert watch.blocked_s >= 0.2


def test_a_loop_that_only_waits_is_not_blocked(quick):
    with structlog.testing.capture_logs() as logs, contextlib.closing(Loop()) as loop:
        watch = LoopWatch(loop)
        until = after(0.6)
        loop.run_until(lambda: time.monotonic() > until)
        assert watch.blocked_s == 0
        watch.stop()
    assert logs == []
