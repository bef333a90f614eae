"""Which queues a command means, its connections to them and to the ledger, and how long it tries to reach servers."""

from __future__ import annotations

import contextlib
import enum
import ssl
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import redis
import typer

from ifinu import settings
from ifinu.broker import LOW, NORMAL, QUEUES, URGENT, connections
from ifinu.cli import terminal
from ifinu.errors import GatewayError, IfinuError, LedgerUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Engine

PATIENCE_S = 30.0  # a new pod may run for some seconds before its network policies let it through
_PAUSE_S = 0.5
# libpq gives what a server refuses no code, only words; those of a server that starts pass.
_REFUSALS, _STARTS = ("FATAL:", "SSL", "password"), "starting up"


class QueueName(enum.StrEnum):
    """What `--queue` takes: the last part of a queue's key."""

    URGENT = "urgente"
    NORMAL = "whatsapp"
    LOW = "baixa"
    ALL = "all"

    @property
    def lists(self) -> tuple[str, ...]:
        """The keys of their lists."""
        match self:
            case QueueName.URGENT:
                return (URGENT,)
            case QueueName.NORMAL:
                return (NORMAL,)
            case QueueName.LOW:
                return (LOW,)
            case QueueName.ALL:
                return QUEUES


Queue = Annotated[QueueName, typer.Option("--queue", "-q", help="Which queue.")]


@contextlib.contextmanager
def broker() -> Iterator[redis.Redis]:
    """
    A connection to `IFINU_REDIS_URL`, closed at the end.

    Raises:
        ConfigurationError: The environment is wrong.
    """
    client = connections.connect(settings.load().redis_url.get_secret_value())
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


def ask_ledger(engine: Engine) -> None:
    """
    Connect to the ledger.

    Raises:
        LedgerUnavailable: It is away, or refuses.
    """
    with engine.connect():
        pass


def reach(*asks: Callable[[], object]) -> None:
    """
    Ask servers until each has answered; what is away is tried for `PATIENCE_S` in all, and said once.

    Args:
        asks: Ask one server each, and raise what its client raises.

    Raises:
        redis.RedisError: Redis is still away, or refused; a refusal is raised at once.
        IfinuError: The same of a database or the gateway.
    """
    until = time.monotonic() + PATIENCE_S
    for ask in asks:
        said = False
        while True:
            try:
                ask()
            except (redis.RedisError, IfinuError) as exc:
                if not is_away(exc) or time.monotonic() >= until:
                    raise
                if not said:
                    words = terminal.plain(str(exc))
                    terminal.notes().print(f"No connection yet ({words}): trying for {PATIENCE_S:.0f} s.")
                    said = True
                time.sleep(_PAUSE_S)
            else:
                break


def is_away(exc: redis.RedisError | IfinuError) -> bool:
    """Whether a server could not be reached, as opposed to one that refused."""
    match exc:
        case redis.AuthenticationError() | redis.exceptions.AuthorizationError():
            return False
        case redis.ConnectionError() | redis.TimeoutError():
            return not isinstance(exc.__context__, ssl.SSLError)
        case LedgerUnavailable():
            words = str(exc.__cause__)
            # An error within a connection has a code, one of SQLite has not even the attribute.
            lost = getattr(exc.__cause__, "pgcode", "") is None
            return lost and (_STARTS in words or not any(word in words for word in _REFUSALS))
        case GatewayError():
            return exc.status is None
    return False
