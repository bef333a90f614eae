"""
The watch over the event loop: while one call holds the loop, no other message moves, so the log names the call.

A thread looks whether the loop still turns. The heartbeat file goes stale by itself meanwhile: the loop touches it.
"""

from __future__ import annotations

import itertools
import sys
import threading
import traceback
from pathlib import Path
from time import monotonic

import structlog

from ifinu.loop import Loop

log = structlog.get_logger(__name__)

_EVERY_S = 0.5
_BLOCKED_S = 2.0
_FRAMES = 4


class LoopWatch:
    """
    Watches one loop.

    Args:
        loop: The loop, whose thread makes this object.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._past_s = 0.0
        self._stop = threading.Event()
        self._tick()
        threading.Thread(target=self._watch, name="ifinu-loop-watch", daemon=True).start()

    @property
    def blocked_s(self) -> float:
        """Seconds for which calls have held the loop since the start, each one longer than two; any thread may ask."""
        return self._past_s + self._blocked_for_s()

    def stop(self) -> None:
        """Watch no more."""
        self._stop.set()

    def _blocked_for_s(self) -> float:
        silent_s = monotonic() - self._loop.turned_at
        return silent_s if silent_s > _BLOCKED_S else 0.0

    def _tick(self) -> None:
        """Have the loop turn often, also while it has nothing to do."""
        if not self._stop.is_set():
            self._loop.call_at(monotonic() + _EVERY_S, self._tick)

    def _watch(self) -> None:
        looked_at, blocked_s = monotonic(), 0.0
        while not self._stop.wait(_EVERY_S):
            before, looked_at = looked_at, monotonic()
            if looked_at - before > _BLOCKED_S:  # the whole process stood still, and the loop with it
                continue
            now_s = self._blocked_for_s()
            if now_s and not blocked_s:
                log.error("ifinu.loop.blocked", at=self._where())
            if blocked_s and not now_s:
                self._past_s += blocked_s
                log.warning("ifinu.loop.back", blocked_s=round(blocked_s, 1))
            blocked_s = now_s

    def _where(self) -> str:
        """The innermost calls of the loop's thread: files, lines and names, and no values."""
        frame = sys._current_frames().get(self._loop.thread)
        calls = itertools.islice(traceback.walk_stack(frame), _FRAMES)
        return " < ".join(f"{Path(f.f_code.co_filename).name}:{line} {f.f_code.co_name}" for f, line in calls)
