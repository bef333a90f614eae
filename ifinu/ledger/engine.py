"""
The connection to the ledger's database, with deadlines, and the translation of its errors into ours.

PostgreSQL in production; SQLite where all processes are on one machine.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

import sqlalchemy.exc
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url, select

from ifinu.errors import ConfigurationError, LedgerUnavailable
from ifinu.ledger.schema import recorder

CONNECT_S = 5
STATEMENT_S = 10  # limit of one statement, and of the wait for a lock
EXCLUSIVE = {"ifinu_exclusive": True}  # option of an engine whose transactions take SQLite's one write lock at once
_IDLE_S = 60  # limit of an idle transaction: a process that hangs must not keep its locks

# Options of libpq; the last four end a connection whose peer is gone without having closed it.
_POSTGRES = {
    "connect_timeout": CONNECT_S,
    "application_name": "ifinu",
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 1000 * (STATEMENT_S + 5),
}
# Errors of a write for which the data are at fault, not the database.
_OF_THE_DATA = (sqlalchemy.exc.DataError, sqlalchemy.exc.IntegrityError)
_UNDEFINED = ("42P01", "42703")  # PostgreSQL: no such table, no such column
_LONGEST_WORDS = 200


def connect(url: str, *, create: bool = True, statement_s: int = STATEMENT_S, autocommit: bool = False) -> Engine:
    """
    An engine for the ledger; it connects when it is first used.

    Its errors are `LedgerUnavailable`, except those for which the data are at fault.

    Args:
        url: As `Settings.database_url`.
        create: Whether SQLite creates a missing file.
        statement_s: PostgreSQL's limit of one statement, and of the wait for a lock, in seconds.
        autocommit: Whether each statement is a transaction in PostgreSQL, and one round trip.

    Raises:
        ConfigurationError: The URL is not a database URL.
    """
    try:
        parts = make_url(url)
    except sqlalchemy.exc.ArgumentError as exc:
        raise ConfigurationError("IFINU_DATABASE_URL is not a database URL") from exc
    engine = (
        _sqlite(parts, create)
        if parts.get_backend_name() == "sqlite"
        else _postgres(parts, statement_s, "AUTOCOMMIT" if autocommit else None)
    )
    event.listen(engine, "handle_error", _translate, retval=True)
    return engine


def exists(engine: Engine) -> bool:
    """Whether the SQLite file exists; always True for a server, which is not asked."""
    file = engine.url.database or ""
    return engine.dialect.name != "sqlite" or Path(unquote(file.removeprefix("file:"))).exists()


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """
    A transaction that writes the ledger. It locks the row of `recorder`, so there is one at a time, and no deadlock.

    Raises:
        LedgerUnavailable: Nothing is written; or if the answer to the commit was lost, perhaps all of it.
    """
    with engine.execution_options(**EXCLUSIVE).begin() as connection:
        connection.execute(select(recorder.c.id).with_for_update())  # no lock in SQLite, which needs none
        yield connection


def _postgres(url: URL, statement_s: int, isolation_level: Literal["AUTOCOMMIT"] | None) -> Engine:
    arguments = {name: value for name, value in _POSTGRES.items() if name not in url.query}
    # Small, and without a limit to wait at: few threads use it.
    engine = create_engine(
        url,
        connect_args=arguments,
        pool_size=2,
        max_overflow=-1,
        pool_pre_ping=True,
        pool_recycle=1800,
        hide_parameters=True,
        isolation_level=isolation_level,
    )
    event.listen(engine, "connect", functools.partial(_set_deadlines, statement_s))
    return engine


def _sqlite(url: URL, create: bool) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError("a ledger in memory forgets everything; write IFINU_DATABASE_URL=sqlite:///file")
    if create:
        # It holds ids and masked phones. Its -wal and -shm files get the same rights.
        with contextlib.suppress(OSError):  # it exists, or SQLite has the better error
            os.close(os.open(url.database, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    else:
        url = url.set(database=f"file:{quote(url.database)}", query={"mode": "rw", "uri": "true"})
    engine = create_engine(
        url, connect_args={"timeout": STATEMENT_S}, pool_size=2, max_overflow=-1, hide_parameters=True
    )
    event.listen(engine, "connect", _prepare_file)
    event.listen(engine, "begin", _begin)
    return engine


def _set_deadlines(statement_s: int, connection: Any, _record: object) -> None:
    # Not as a start-up option, since a connection pooler may refuse those.
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = '{statement_s}s'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_S}s'")
    connection.commit()


def _prepare_file(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # `_begin` begins; the driver would keep DDL and reads out of transactions
    with contextlib.suppress(sqlite3.OperationalError):  # another process does the same at this moment
        connection.execute("PRAGMA journal_mode = WAL")  # readers and the one writer do not block each other


def _begin(connection: Connection) -> None:
    # A transaction that starts by reading cannot write any more once another one has written.
    exclusive = EXCLUSIVE.items() <= connection.get_execution_options().items()
    connection.exec_driver_sql("BEGIN IMMEDIATE" if exclusive else "BEGIN")


def _translate(context: ExceptionContext) -> BaseException | None:
    error = context.sqlalchemy_exception
    if not isinstance(error, sqlalchemy.exc.DBAPIError) or isinstance(error, _OF_THE_DATA):
        return None
    if context.is_pre_ping:  # SQLAlchemy replaces the lost connection if it sees its own error
        return None
    words = str(error.orig).strip().partition("\n")[0][:_LONGEST_WORDS]
    if words == "unable to open database file":
        return LedgerUnavailable("there is no such file yet as IFINU_DATABASE_URL names: the first worker makes it")
    if getattr(error.orig, "pgcode", None) in _UNDEFINED or words.startswith(("no such table", "no such column")):
        return LedgerUnavailable(f"the ledger is not as this version needs it ({words}); run `ifinu migrate`")
    return LedgerUnavailable(f"the ledger failed ({words}); is the database there, is IFINU_DATABASE_URL right?")
