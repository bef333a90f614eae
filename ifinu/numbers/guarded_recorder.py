"""The recorder with the upkeep of numbers beside it: what a worker starts as its child, and `ifinu recorder` runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ifinu.ledger import child
from ifinu.ledger.progress import Progress
from ifinu.ledger.standby import Beside
from ifinu.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine


def guarding(config: Settings, progress: Progress) -> Beside:
    """The guard and the registry's copy, as the recorder runs them; the guard's steps count in `progress`."""

    def tend(engine: Engine, stop: threading.Event) -> None:
        from ifinu.numbers import upkeep  # with the database's driver, which a process that stands by does without

        upkeep.tend(engine, config.redis_url.get_secret_value(), stop, progress.guard_steps)

    return tend


if __name__ == "__main__":
    child.main(guarding)
