"""A recorder in a thread, and events for it to record."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import redis
from processes import wait_until
from sqlalchemy import Engine, Table, func, select

from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS
from ifinu.ledger.recorder import Recorder


def add_event(client: redis.Redis, name: str, id_: str = "", **data: Any) -> None:
    """Add an event to the stream."""
    Event(Name(name), id_, data).write(client)


@contextlib.contextmanager
def running(redis_url: str, engine: Engine, **arguments: Any) -> Iterator[Recorder]:
    """Run a recorder until the end of the block."""
    stop = threading.Event()
    with redis.Redis.from_url(redis_url, socket_timeout=5) as client:
        recorder = Recorder(client, engine, **arguments)
        thread = threading.Thread(target=recorder.run, args=(stop,))
        thread.start()
        try:
            yield recorder
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()


def record(client: redis.Redis, redis_url: str, engine: Engine, **arguments: Any) -> Recorder:
    """Record all events in the stream."""
    with running(redis_url, engine, **arguments) as recorder:
        wait_until(lambda: client.xlen(EVENTS) == 0, seen=lambda: (client.xlen(EVENTS), recorder.progress))
    return recorder


def table(engine: Engine, which: Table, *columns: str) -> list[tuple[Any, ...]]:
    """The rows of a table, sorted."""
    with engine.connect() as connection:
        return sorted(tuple(row) for row in connection.execute(select(*(which.c[name] for name in columns))))


def count(engine: Engine, which: Table) -> int:
    """The number of rows of a table."""
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(which)).scalar_one()
