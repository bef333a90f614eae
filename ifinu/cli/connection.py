"""Which queues a command means, and its connection to them."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from typing import Annotated

import redis
import typer

from ifinu import producer, settings
from ifinu.broker import LOW, NORMAL, QUEUES, URGENT


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
