"""
Waits for its turn to record, and records while it has it.

What a recorder needs (SQLAlchemy, a database driver) is imported when the turn comes: the processes that stand by pay
nothing for it.
"""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta

import redis
import structlog

from ifinu.broker import clock
from ifinu.broker.replies import Replies
from ifinu.ledger.leader import Leader
from ifinu.ledger.progress import Progress
from ifinu.settings import Settings

log = structlog.get_logger(__name__)

_ASK_EVERY_S = 3.0
_MAYBES_OF = timedelta(days=30)  # of answers that may have been a request, and nobody looked into


def stand_by(client: redis.Redis, settings: Settings, stop: threading.Event, progress: Progress | None = None) -> None:
    """
    Record whenever it is this process' turn, until `stop` is set.

    While Redis or the database is away it waits.

    Args:
        client: A connection to Redis of its own that returns bytes.
        settings: Where the ledger is, and how long it remembers.
        stop: Ends it, within seconds.
        progress: Where it tells how far it is.

    Raises:
        ConfigurationError: The URL is none.
    """
    turn = Leader(client)
    progress = progress or Progress()
    told = ""
    while not stop.is_set():
        try:
            mine = turn.take()
        except redis.RedisError as exc:
            mine, waits_for = False, f"Redis ({exc})"
        else:
            waits_for = turn.holder
        if mine:
            told = ""
            _record(client, settings, stop, turn, progress)
        elif told != waits_for:
            told = waits_for
            log.info("ifinu.recorder.standing_by", holder=waits_for)
        stop.wait(_ASK_EVERY_S)


def _record(client: redis.Redis, settings: Settings, stop: threading.Event, turn: Leader, progress: Progress) -> None:
    from ifinu.ledger.engine import connect
    from ifinu.ledger.recorder import Recorder
    from ifinu.ledger.reply_resolution import ReplyResolver
    from ifinu.ledger.retention import tend

    def upkeep() -> bool:
        now = clock.now(client)  # a machine that is a year ahead would purge the ledger
        Replies(client).forget_maybes(now - _MAYBES_OF)
        done = tend(engine, settings, now)
        if done.unconfirmed or done.purged.notifications:
            log.info("ifinu.ledger.tended", unconfirmed=done.unconfirmed, purged=done.purged.notifications)
        return done.more

    database_url = settings.database_url.get_secret_value()

    log.info("ifinu.recorder.started", who=turn.who, database=database_url.partition(":")[0])
    engine = connect(database_url)
    recorder = Recorder(
        client, engine, upkeep=upkeep, caught_up=ReplyResolver(client, engine).settle, progress=progress
    )
    progress.active = True
    try:
        recorder.run(stop, turn.keep)
    finally:
        progress.active = False
        engine.dispose()
        with contextlib.suppress(redis.RedisError):  # it lapses by itself
            turn.leave()
        log.info("ifinu.recorder.ended", recorded=recorder.progress.recorded, lag=recorder.progress.lag)
