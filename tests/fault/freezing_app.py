"""The application in a worker that freezes (SIGSTOP) once, after it claimed a message and before it sends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from ifinu.render import Renderer
from ifinu.worker.app import app

__all__ = ["app"]


def _freezing(call: Callable[..., Any]) -> Callable[..., Any]:
    frozen = False

    def call_after_a_freeze(*args: Any, **kwargs: Any) -> Any:
        nonlocal frozen
        if not frozen:
            frozen = True
            # Stop this thread at once: a signal to the process may take effect later, in the middle of the send.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return call(*args, **kwargs)

    return call_after_a_freeze


Renderer.render = _freezing(Renderer.render)  # the purpose of this module
