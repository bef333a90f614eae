"""The application with messages that kill their worker: before the claim, after it, or at the look-up."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ifinu import wire
from ifinu.gateway import Evolution
from ifinu.worker.app import app

__all__ = ["app"]

BEFORE_THE_CLAIM = "kills the worker that decodes it"
AFTER_THE_CLAIM = "kills the worker that sends it"
AT_THE_LOOK_UP = "81999999"  # a phone's last digits


def _deadly(call: Callable[..., Any], word: str) -> Callable[..., Any]:
    """Wrap `call`: the process dies if an argument contains `word`."""

    def call_or_die(*args: Any, **kwargs: Any) -> Any:
        if any(word in str(each) for each in (*args, *kwargs.values())):
            os._exit(9)
        return call(*args, **kwargs)

    return call_or_die


wire.decode = _deadly(wire.decode, BEFORE_THE_CLAIM)
Evolution.send_text = _deadly(Evolution.send_text, AFTER_THE_CLAIM)  # the purpose of this module
Evolution.find_messages = _deadly(Evolution.find_messages, AT_THE_LOOK_UP)  # likewise
