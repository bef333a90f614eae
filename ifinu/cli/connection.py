"""Which queues a command means, and its connections: to them and to the ledger."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import redis
import typer

from ifinu import producer, settings
from ifinu.broker import LOW, NORMAL, QUEUES, URGENT

if TYPE_CHECKING:
    from sqlalchemy import Engine


class Queues(enum.StrEnum):
    """What `--queue` takes: the last part of a queue's key."""

    URGENT = "urgente"
    NORMAL = "whatsapp"
    LOW = "baixa"
    ALL = "all"

    @property
    def lists(self) -> tuple[str, ...]:
        """The keys of their lists."""
        match self:
            case Queues.URGENT:
                return (URGENT,)
            case Queues.NORMAL:
                return (NORMAL,)
            case Queues.LOW:
                return (LOW,)
            case Queues.ALL:
                return QUEUES


Queue = Annotated[Queues, typer.Option("--queue", "-q", help="Which queue.")]


@contextlib.contextmanager
def broker() -> Iterator[redis.Redis]:
    """
    A connection to `IFINU_REDIS_URL`, closed at the end.

    Raises:
        ConfigurationError: The environment is wrong.
    """
    client = producer.connect(settings.load().redis_url.get_secret_value())
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def ledger(*, create: bool = False) -> Iterator[Engine]:
    """
    The ledger at `IFINU_DATABASE_URL`; it is connected to when it is first asked, and left at the end.

    Args:
        create: Make the file where there is none; who only looks must not leave an empty one.

    Raises:
        ConfigurationError: The environment is wrong.
    """
    from ifinu.ledger import engine  # not loaded by the commands that need no database

    made = engine.connect(settings.load().database_url.get_secret_value(), create=create)
    try:
        yield made
    finally:
        made.dispose()
