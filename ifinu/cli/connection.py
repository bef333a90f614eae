"""The option `--queue`, connections to Redis and the ledger, and the wait for servers that are not up yet."""

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

PATIENCE_S = 30.0  # a new pod may run for some seconds before its network policies apply
_PAUSE_S = 0.5
# libpq has no code for a refused connection, only words. A server that is starting up refuses too, for a while.
_REFUSALS, _STARTS = ("FATAL:", "SSL", "password"), "starting up"


class QueueName(enum.StrEnum):
    """The values of `--queue`: the last part of a queue's key, or `all`."""

    URGENT = "urgente"
    NORMAL = "whatsapp"
    LOW = "baixa"
    ALL = "all"

    @property
    def lists(self) -> tuple[str, ...]:
        match self:
            case QueueName.URGENT:
                return (URGENT,)
            case QueueName.NORMAL:
                return (NORMAL,)
            case QueueName.LOW:
                return (LOW,)
            case QueueName.ALL:
                return QUEUES


Queue = Annotated[QueueName, typer.Option("--queue", "-q", help="The queue, or all.")]


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
    The ledger at `IFINU_DATABASE_URL`. The first query connects, and the end of the block disconnects.

    Args:
        create: Create a missing SQLite file; a command that only reads must not leave an empty one.

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
        LedgerUnavailable: The database does not answer, or refuses.
    """
    with engine.connect():
        pass


def reach(*asks: Callable[[], object]) -> None:
    """
    Wait until each server answers, for `PATIENCE_S` in all; print one note for each that does not answer at once.

    Args:
        asks: Functions that ask one server each, and raise its client's errors.

    Raises:
        redis.RedisError: Redis still does not answer, or refused; a refusal is raised at once.
        IfinuError: Likewise for a database or the gateway.
    """
    until = time.monotonic() + PATIENCE_S
    for ask in asks:
        reported = False
        while True:
            try:
                ask()
            except (redis.RedisError, IfinuError) as exc:
                if not is_away(exc) or time.monotonic() >= until:
                    raise
                if not reported:
                    words = terminal.plain(str(exc))
                    terminal.notes().print(f"No connection yet ({words}): trying for {PATIENCE_S:.0f} s.")
                    reported = True
                time.sleep(_PAUSE_S)
            else:
                break


def is_away(exc: redis.RedisError | IfinuError) -> bool:
    """Whether the error means that a server could not be reached, rather than that it refused."""
    match exc:
        case redis.AuthenticationError() | redis.exceptions.AuthorizationError():
            return False
        case redis.ConnectionError() | redis.TimeoutError():
            return not isinstance(exc.__context__, ssl.SSLError)
        case LedgerUnavailable():
            words = str(exc.__cause__)
            # An error within a connection has a code; SQLite's errors lack the attribute.
            lost = getattr(exc.__cause__, "pgcode", "") is None
            return lost and (_STARTS in words or not any(word in words for word in _REFUSALS))
        case GatewayError():
            return exc.status is None
    return False
