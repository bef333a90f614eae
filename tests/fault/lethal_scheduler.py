"""
`ifinu scheduler` with small pushes and frequent checks, which kills itself between a push and its commit.

    python -m lethal_scheduler PUSHES    after so many pushes; 0: never
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from ifinu.billing import outbox, scheduler
from ifinu.cli import main

CHUNK = 10

_lpush = outbox._lpush
_pushes = itertools.count(1)


def _lpush_and_die(*arguments: Any) -> bool:
    pushed = _lpush(*arguments)
    if next(_pushes) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return pushed


if __name__ == "__main__":
    outbox._lpush = _lpush_and_die
    scheduler._CHUNK = CHUNK
    scheduler.CHECK_EVERY_S = 1.0
    scheduler.PUSH_IDLE_S = 0.2
    sys.exit(main(["scheduler"]))
