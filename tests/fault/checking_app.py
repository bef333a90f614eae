"""
The application that writes when it looks at a charge, and is patient with a database on a busy machine.

A test must not import it: it would change the tests' own process.
"""

from __future__ import annotations

import functools
import sys
import time
from datetime import datetime
from typing import Any

from ifinu.billing import charge_check
from ifinu.billing.charge_check import ChargeCheck
from ifinu.notification import Notification
from ifinu.worker.app import app

__all__ = ["app"]

charge_check._FIRST_PATIENCE_S = charge_check._PATIENCE_S = charge_check._PATIENCE_OF_A_PROBE_S = 30.0
charge_check._STATEMENT_S = 30

_look = ChargeCheck.__call__


@functools.wraps(_look)
def _written(self: ChargeCheck, notification: Notification, now: datetime) -> Any:
    sys.__stderr__.write(f"looked at {notification.id} {time.monotonic()}\n")
    return _look(self, notification, now)


ChargeCheck.__call__ = _written  # type: ignore[method-assign] # the purpose of this module
