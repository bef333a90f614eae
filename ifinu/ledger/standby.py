"""
Standing by to record: wait for the leadership, and record while this process has it.

SQLAlchemy and the database driver are imported only then, so that processes that stand by do without them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import redis
import structlog

from ifinu.broker import clock
from ifinu.broker.replies import Replies
from ifinu.ledger.leader import Leadership
from ifinu.ledger.progress import Progress
from ifinu.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = structlog.get_logger(__name__)

Beside = Callable[["Engine", threading.Event], None]

_ASK_EVERY_S = 3.0
_ENDS_WITHIN_S = 3.0  # what runs beside the recorder; it is left behind after that
_MAYBES_AGE = timedelta(days=30)  # `maybe` replies older than this are deleted


def stand_by(client: redis.Redis, stop: threading.Event, run: Callable[[Leadership], None]) -> None:
    """
    Run a recorder whenever this process is the leader, until `stop` is set. Wait while Redis is away.

    Args:
        client: A Redis client that nothing else uses, and that returns bytes.
        stop: Ends it, within seconds.
        run: Records until `stop` is set or another process leads; its errors end the standing by.
    """
    leadership = Leadership(client)
    logged = ""
    while not stop.is_set():
        try:
            is_leader = leadership.acquire()
        except redis.RedisError as exc:
            is_leader, waits_for = False, f"Redis ({exc})"
        else:
            waits_for = leadership.holder
        if is_leader:
            logged = ""
            with resigning(leadership):
                run(leadership)
        elif logged != waits_for:
            logged = waits_for
            log.info("ifinu.recorder.standing_by", holder=waits_for)
        stop.wait(_ASK_EVERY_S)


@contextlib.contextmanager
def resigning(leadership: Leadership) -> Iterator[None]:
    """Let another process lead at the end of the block. While Redis is away, the lease expires instead."""
    try:
        yield
    finally:
        with contextlib.suppress(redis.RedisError):
            leadership.resign()


def record(
    client: redis.Redis,
    settings: Settings,
    stop: threading.Event,
    progress: Progress,
    leadership: Leadership,
    beside: Beside | None = None,
) -> None:
    """
    Record until `stop` is set or another process leads. Wait while Redis or the database is away.

    Args:
        client: A Redis client that nothing else uses, and that returns bytes.
        settings: The ledger's URL and retention.
        stop: Ends it, within seconds.
        progress: Updated as it records.
        leadership: Held by this process; renewed here.
        beside: Runs in a thread until its event is set, which is when recording ends.

    Raises:
        ConfigurationError: The ledger's URL is not a database URL.
    """
    from ifinu.ledger.engine import connect
    from ifinu.ledger.recorder import Recorder
    from ifinu.ledger.reply_resolution import ReplyResolver
    from ifinu.ledger.retention import tend

    def upkeep() -> bool:
        now = clock.now(client)  # by its own clock, a machine that is a year ahead would purge the ledger
        Replies(client).forget_maybes(now - _MAYBES_AGE)
        done = tend(engine, settings, now)
        if done.unconfirmed or done.purged.notifications:
            log.info("ifinu.ledger.tended", unconfirmed=done.unconfirmed, purged=done.purged.notifications)
        return done.more

    database_url = settings.database_url.get_secret_value()
    log.info("ifinu.recorder.started", who=leadership.name, database=database_url.partition(":")[0])
    engine = connect(database_url)
    recorder = Recorder(
        client, engine, upkeep=upkeep, caught_up=ReplyResolver(client, engine).settle, progress=progress
    )
    progress.active = True
    try:
        with _running(beside, engine):
            recorder.run(stop, leadership.keep)
    finally:
        progress.active = False
        engine.dispose()
        log.info("ifinu.recorder.ended", recorded=recorder.progress.recorded, lag=recorder.progress.lag)


@contextlib.contextmanager
def _running(beside: Beside | None, engine: Engine) -> Iterator[None]:
    """Run something in a thread during the block, so that it does not delay the recorder."""
    if beside is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=beside, args=(engine, ended), name="beside", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_ENDS_WITHIN_S)
