"""The application on a machine whose clock is off by `SKEW_S` seconds."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import time_machine

time_machine.travel(datetime.now(UTC) + timedelta(seconds=float(os.environ["SKEW_S"])), tick=True).start()

from ifinu.worker.app import app  # noqa: E402 - imported after the clock is changed

__all__ = ["app"]
