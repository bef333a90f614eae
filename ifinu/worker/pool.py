"""
The pool: each message is a task of the event loop, in the loop's thread.

Ten threads that hand the interpreter's lock to each other cost more than the sends. A worker is one process with one
busy thread; more workers are more pods. `worker_concurrency` limits the sends under way (`consumer.py`), not the pool.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from celery.concurrency.base import BasePool, apply_target

from ifinu.loop import Loop
from ifinu.worker.loop_watch import LoopWatch


class TaskPool(BasePool):
    """
    `worker_pool` of the application.

    Attributes:
        loop: The loop of its tasks.
        watch: Notices when one call holds the loop.
        on_end: Called whenever a task has ended, in the greenlet of the task.
    """

    body_can_be_buffer = True
    signal_safe = False
    loop: Loop
    watch: LoopWatch
    on_end: Callable[[], None] | None = None

    def on_start(self) -> None:
        """Make the loop, in the thread that Celery's event loop runs in."""
        self.loop = Loop()
        self.watch = LoopWatch(self.loop)

    def register_with_event_loop(self, loop: Any) -> None:
        """Let Celery's event loop drive ours; called again after each reconnect."""
        self.loop.attach(loop)

    def on_stop(self) -> None:
        """Let the tasks under way end."""
        self.loop.run_until(lambda: not self.loop.tasks)
        self.watch.stop()
        self.loop.close()

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> None:
        """Start a task."""
        self.loop.spawn(functools.partial(self._run, target, args, kwargs, callback, accept_callback))

    def _run(self, *call: Any) -> None:
        try:
            apply_target(*call)
        finally:
            if self.on_end is not None:
                self.on_end()
