"""
What the process that leads the recording does for the numbers, in one thread beside the recorder.

    once a second   see that Redis has the registry's copy, and load it if not
    once a minute   load it again, since the pace of a number that warms up changes with the day; run the guard

After a start, and whenever Redis has lost the copy or is another server than before, what the numbers have sent today
and to whom is counted in the ledger, too, and again for a while: a send that was under way reaches the ledger a little
later. The people of this month and the last come from the ledger, too, unless Redis says that it has them. If the copy
was gone, no number sends until the people are back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from time import monotonic

import redis
import structlog
from sqlalchemy import Engine

from ifinu.broker import connections, restarts
from ifinu.broker.keys import GENERATION, PEOPLE
from ifinu.errors import IfinuError
from ifinu.numbers import cache, contacts, registry
from ifinu.numbers.patrol import Rounds

log = structlog.get_logger(__name__)

EVERY_S = 1.0
PATROL_EVERY_S = 60.0
_LOAD_EVERY_S = 60.0
_RECOUNT_FOR_S = 15.0  # longer than a send and its way into the ledger take


class Copy:
    """
    The registry's copy in Redis.

    Args:
        client: A Redis client that returns bytes.
        engine: The ledger.
    """

    def __init__(self, client: redis.Redis, engine: Engine) -> None:
        self._client = client
        self._engine = engine
        self._generation = ""  # of the copy that was there when this process looked last
        self._server = ""  # that it was in
        self._load_at = self._recount_until = 0.0
        self._contacts_due = False
        self._senders_due = False

    def keep(self) -> None:
        """
        Load it if Redis needs it.

        Raises:
            errors.LedgerUnavailable: The database does not answer, or is not migrated.
            redis.RedisError: Redis does not answer.
        """
        server = restarts.server(self._client)
        is_there = bool(self._client.get(GENERATION))
        lost = server != self._server or (bool(self._generation) and not is_there)
        self._senders_due = self._senders_due or (lost and not self._client.exists(PEOPLE))
        if lost or monotonic() >= self._load_at or monotonic() < self._recount_until:
            if self._load(recount=lost or monotonic() < self._recount_until):
                lost = self._senders_due = True  # even if it was there a moment ago
            self._load_at = monotonic() + _LOAD_EVERY_S
            if lost:
                contacts.restore(self._client, self._engine, closed=not is_there)
                if self._senders_due:
                    contacts.restore_senders(self._client, self._engine, closed=not is_there)
                    self._senders_due = False
                self._server, self._recount_until = server, monotonic() + _RECOUNT_FOR_S
                self._contacts_due = True
        if self._contacts_due and monotonic() >= self._recount_until:
            contacts.restore(self._client, self._engine)
            self._contacts_due = False

    def _load(self, *, recount: bool) -> bool:
        """Load it; whether Redis had none."""
        restarts.pause_numbers(self._client)
        missing: list[bool] = []
        if registry.generation(self._engine):
            self._generation = cache.load(
                self._client, self._engine, recount=recount, missing=lambda: missing.append(True)
            )
        return bool(missing)


class _Duty:
    """Something done again and again. An outage, or a fault, ends one time of it; an outage is logged once."""

    def __init__(self, name: str, do: Callable[[], None], every_s: float, first_in_s: float) -> None:
        self._name = name
        self._do = do
        self._every_s = every_s
        self._at = monotonic() + first_in_s
        self._waiting = False

    def turn(self) -> None:
        if monotonic() < self._at:
            return
        try:
            self._do()
        except (IfinuError, redis.RedisError) as exc:
            if not self._waiting:
                log.warning("ifinu.numbers.waiting", duty=self._name, error=str(exc))
            self._waiting = True
        except Exception:
            log.exception("ifinu.numbers.failed", duty=self._name)
        else:
            self._waiting = False
        self._at = monotonic() + self._every_s


def tend(
    engine: Engine,
    redis_url: str,
    stop: threading.Event,
    steps: dict[str, int],
    every_s: float = EVERY_S,
    patrol_s: float = PATROL_EVERY_S,
) -> None:
    """
    Do it until `stop` is set.

    Args:
        redis_url: As `Settings.redis_url`.
        steps: Counts the guard's steps by their names.
        every_s: Seconds between two looks at the copy.
        patrol_s: Seconds between two passes of the guard; the first begins after that time.
    """
    with contextlib.closing(connections.connect(redis_url)) as client:
        duties = (
            _Duty("copy", Copy(client, engine).keep, every_s, 0.0),
            _Duty("guard", Rounds(client, engine, steps).go, patrol_s, patrol_s),
        )
        while not stop.is_set():
            for duty in duties:
                duty.turn()
            stop.wait(min(every_s, patrol_s))
