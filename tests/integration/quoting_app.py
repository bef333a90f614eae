"""The application with a send that fails and quotes its arguments, as a library's error might."""

from __future__ import annotations

from typing import Any

from ifinu.gateway import Evolution
from ifinu.worker.app import app

__all__ = ["app"]

QUOTED = "segredo que se cita"
_send_text = Evolution.send_text


def _quoting(*args: Any, **kwargs: Any) -> Any:
    if QUOTED in str((args, kwargs)):
        raise ValueError(f"cannot send\n{args[1:]} {kwargs}")
    return _send_text(*args, **kwargs)


Evolution.send_text = _quoting  # the purpose of this module
