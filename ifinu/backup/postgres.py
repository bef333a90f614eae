"""
A PostgreSQL database, dumped by the program `pg_dump` and restored by `pg_restore`.

They get the address on the command line, and the password only in their environment. Their errors may quote rows, so
only the first line of an error is passed on, phones masked.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple

import psycopg2
import sqlalchemy.exc
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ, make_dsn
from sqlalchemy import make_url

from ifinu import phone
from ifinu.backup import emptiness, fingerprints
from ifinu.backup.emptiness import Fresh, Thing
from ifinu.backup.manifest import TableSummary
from ifinu.backup.store import Sink
from ifinu.backup.streams import CHUNK_BYTES
from ifinu.errors import BackupFailed, ConfigurationError, LedgerUnavailable

_CONNECT_S = 10
_LOCK_WAIT_MS = 60_000  # for a running migration
_LONGEST_WORDS = 300
# Options for the gateway's ORM in its URL, which libpq does not know.
_NOT_LIBPQS = ("schema", "connection_limit", "pool_timeout", "pgbouncer", "socket_timeout", "statement_cache_size")
_SECRETS = ("IFINU_", "AWS_")  # variables that these programs do not get

_VIEW = "SELECT pg_export_snapshot(), current_setting('server_version'), transaction_timestamp()"
_USERS = r"namespace.nspname <> 'information_schema' AND namespace.nspname !~ '^pg_'"
_NOT_AN_EXTENSIONS = """NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS depends
  WHERE depends.classid = '{catalogue}'::regclass AND depends.objid = {object}.oid AND depends.deptype = 'e')"""
# Objects that `pg_dump` would dump: kind and name as DROP takes them; after tables those that are dropped with one.
_OBJECTS = f"""
SELECT class.relkind = 'S',
       CASE class.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
         WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END,
       class.oid::regclass::text
FROM pg_catalog.pg_class AS class JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE class.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {_USERS}
  AND {_NOT_AN_EXTENSIONS.format(catalogue="pg_catalog.pg_class", object="class")}
UNION ALL
SELECT true, CASE type.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, type.oid::regtype::text
FROM pg_catalog.pg_type AS type JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = type.typnamespace
LEFT JOIN pg_catalog.pg_class AS class ON class.oid = type.typrelid
WHERE (type.typtype IN ('e', 'd', 'r') OR (type.typtype = 'c' AND class.relkind = 'c')) AND {_USERS}
  AND {_NOT_AN_EXTENSIONS.format(catalogue="pg_catalog.pg_type", object="type")}
UNION ALL
SELECT true, CASE proc.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END,
       proc.oid::regprocedure::text
FROM pg_catalog.pg_proc AS proc JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
WHERE {_USERS} AND {_NOT_AN_EXTENSIONS.format(catalogue="pg_catalog.pg_proc", object="proc")}
ORDER BY 1
"""  # noqa: S608 - of constants
_SCHEMAS = f"""
SELECT namespace.nspname FROM pg_catalog.pg_namespace AS namespace
WHERE {_USERS} AND namespace.nspname <> 'public'
  AND {_NOT_AN_EXTENSIONS.format(catalogue="pg_catalog.pg_namespace", object="namespace")}
"""  # noqa: S608 - of constants
_OTHERS = """
SELECT coalesce(nullif(application_name, ''), 'unnamed'), count(*) FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename IS NOT NULL GROUP BY 1 ORDER BY 1
"""


class ExportedSnapshot(NamedTuple):
    """
    A database as it was at one instant.

    Attributes:
        snapshot: Its id, for `pg_dump --snapshot`.
        connection: A psycopg2 connection whose transaction sees it.
        server: Name and version: `PostgreSQL 17.6`.
        at: That instant, by the server's clock.
    """

    snapshot: str
    connection: Any
    server: str
    at: datetime

    def cancel(self) -> None:
        """Cancel the statement that another thread runs on the connection."""
        with contextlib.suppress(psycopg2.Error):  # the server is gone, and the statement with it
            self.connection.cancel()


class Database:
    """
    One database.

    Args:
        url: `postgresql://…` or `postgresql+psycopg2://…`.
        what: Its name in messages: `the ledger`.

    Raises:
        ConfigurationError: The URL is not one of PostgreSQL.
    """

    def __init__(self, url: str, what: str) -> None:
        try:
            parts = make_url(url)
        except sqlalchemy.exc.ArgumentError as exc:
            raise ConfigurationError(f"the URL of {what} is not a database URL") from exc
        if parts.get_backend_name() != "postgresql":
            raise ConfigurationError(f"{what} is in {parts.get_backend_name()}, not in PostgreSQL")
        given = {name: value for name, value in parts.query.items() if name not in _NOT_LIBPQS}
        if "sslpassword" in given:
            raise ConfigurationError(f"the URL of {what} has sslpassword: use a key without one, or `passfile`")
        query_password = given.pop("password", None)
        self.what = what
        self.host = parts.host or str(given.get("host", "localhost"))
        password = parts.password if parts.password is not None else query_password
        self._password = None if password is None else str(password)
        places = {"host": parts.host, "port": parts.port, "user": parts.username, "dbname": parts.database}
        wanted = {"connect_timeout": _CONNECT_S, **{name: value for name, value in places.items() if value}, **given}
        self._address = make_dsn(application_name="ifinu backup", **wanted)

    def __repr__(self) -> str:
        return f"<{self.what} at {self.host}>"

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """
        A psycopg2 connection without timeouts for statements, closed at the end of the block.

        Raises:
            LedgerUnavailable: The server is away, or fails within the block.
        """
        secret = {} if self._password is None else {"password": self._password}
        try:
            connection = psycopg2.connect(self._address, **secret)
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SET statement_timeout = 0")
                    cursor.execute("SET idle_in_transaction_session_timeout = 0")
                connection.commit()
                yield connection
            finally:
                connection.close()
        except psycopg2.Error as exc:
            words = str(exc).strip().partition("\n")[0]
            raise LedgerUnavailable(f"{self.what} failed ({phone.mask_in(words)[:_LONGEST_WORDS]})") from exc

    def ask(self) -> None:
        """
        Check that the database accepts connections.

        Raises:
            LedgerUnavailable: It is away, or refuses.
        """
        with self.connected():
            pass

    @contextlib.contextmanager
    def viewed(self) -> Iterator[ExportedSnapshot]:
        """
        A snapshot that stays the same until the end of the block.

        Raises:
            LedgerUnavailable: The server is away.
        """
        with self.connected() as connection:
            connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
            with connection.cursor() as cursor:
                cursor.execute(_VIEW)
                snapshot, version, at = cursor.fetchone()
            yield ExportedSnapshot(snapshot, connection, f"PostgreSQL {version.split()[0]}", at.astimezone(UTC))

    def dump(self, view: ExportedSnapshot, sink: Sink) -> None:
        """
        Dump the database, in pg_dump's custom format.

        Args:
            view: The snapshot to dump.
            sink: The file to write.

        Raises:
            BackupFailed: pg_dump is not installed, older than the server, or ended before it was done.
        """
        options = ("--format=custom", f"--snapshot={view.snapshot}", f"--lock-wait-timeout={_LOCK_WAIT_MS}")
        with self._program("pg_dump", *options, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None  # noqa: S101 - it is a pipe
            while chunk := running.stdout.read(CHUNK_BYTES):
                sink.write(chunk)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """
        Load a dump, in one transaction.

        Args:
            chunks: The dump.

        Raises:
            BackupFailed: pg_restore is not installed, or failed; nothing was loaded.
        """
        options = ("--format=custom", "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges")
        with self._program("pg_restore", *options, stdin=subprocess.PIPE) as running:
            _feed(running, chunks)
        with self.connected() as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE")  # else queries are slow until autovacuum does it

    def tables(self) -> dict[str, TableSummary]:
        """
        The fingerprints of its tables.

        Raises:
            LedgerUnavailable: The server is away.
        """
        with self.viewed() as view:
            return fingerprints.tables(view.connection)

    def is_empty(self) -> bool:
        """
        Whether it has no object that a dump would hold.

        Raises:
            LedgerUnavailable: The server is away.
        """
        with self.connected() as connection, connection.cursor() as cursor:
            cursor.execute(_OBJECTS)
            return cursor.fetchone() is None

    def found(self, fresh: Fresh) -> list[str]:
        """
        What it holds beyond a fresh install; see `emptiness.in_database`.

        Raises:
            LedgerUnavailable: The server is away, or the role may not read all of it.
        """
        with self.connected() as connection, connection.cursor() as cursor:
            return emptiness.in_database(cursor, _things(cursor), fresh)

    def empty(self, only: Fresh | None = None) -> list[str]:
        """
        Drop all objects that a dump would hold, in one transaction; extensions stay.

        Args:
            only: Drop nothing if it holds more than such an install. Its tables are locked before the check, so that
                writes meanwhile either are seen, or fail.

        Returns:
            What it holds beyond that; if there is anything, nothing was dropped.

        Raises:
            LedgerUnavailable: The server is away, or the role may not drop; nothing was dropped.
        """
        with self.connected() as connection, connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {_LOCK_WAIT_MS}")
            things = _things(cursor)
            cursor.execute(_SCHEMAS)
            schemas = [sql.Identifier(schema) for (schema,) in cursor.fetchall()]
            if only is not None:
                if tables := ", ".join(thing.name for thing in things if thing.kind == "TABLE"):
                    cursor.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
                if found := emptiness.in_database(cursor, things, only):
                    return found
            for thing in things:
                cursor.execute(f"DROP {thing.kind} IF EXISTS {thing.name} CASCADE")
            # RESTRICT: an object created since the check was not checked, and makes all of it fail.
            rest = sql.SQL("CASCADE" if only is None else "RESTRICT")
            for schema in schemas:
                cursor.execute(sql.SQL("DROP SCHEMA {} {}").format(schema, rest))
            connection.commit()
        return []

    def others(self) -> dict[str, int]:
        """
        The number of connections that other applications have to it, by application.

        Raises:
            LedgerUnavailable: The server is away.
        """
        with self.connected() as connection, connection.cursor() as cursor:
            cursor.execute(_OTHERS)
            return dict(cursor.fetchall())

    def _program(self, name: str, *arguments: str, **files: Any) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return _running(self.what, name, (*arguments, "--dbname", self._address), self._password, **files)


def _things(cursor: Any) -> list[Thing]:
    """The objects that `pg_dump` would dump, with names as PostgreSQL writes them."""
    cursor.execute("SET LOCAL search_path = pg_catalog")  # so that names include their schemas
    cursor.execute(_OBJECTS)
    return [Thing(kind, name) for _, kind, name in cursor.fetchall()]


def listed(chunks: Iterable[bytes], what: str) -> int:
    """
    The number of entries in a dump's table of contents, as `pg_restore --list` reads it.

    Args:
        chunks: The dump, which is read to its end.
        what: Its name in messages.

    Raises:
        BackupFailed: It is not a dump; or as the chunks raise.
    """
    with tempfile.TemporaryFile() as out:
        with _running(what, "pg_restore", ("--list",), None, stdin=subprocess.PIPE, stdout=out) as running:
            _feed(running, chunks)
        out.seek(0)
        return sum(not line.startswith(b";") for line in out)


def program(name: str) -> str:
    """
    The path of a program of PostgreSQL.

    Raises:
        BackupFailed: It is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise BackupFailed(f"{name} is not installed: it comes with PostgreSQL's client programs")
    return found


@contextlib.contextmanager
def _running(
    what: str, name: str, arguments: Sequence[str], password: str | None, **files: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """
    Run a program of PostgreSQL during the block, and kill it if the block raises.

    Raises:
        BackupFailed: It is not installed, or ended with an error.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_SECRETS)}
    if password is not None:
        environment["PGPASSWORD"] = password
    with tempfile.TemporaryFile() as said:
        running = subprocess.Popen([program(name), "--no-password", *arguments], stderr=said, env=environment, **files)
        try:
            yield running
        except BaseException:
            running.kill()
            raise
        finally:
            for pipe in (running.stdin, running.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            running.wait()
        if running.returncode:
            raise BackupFailed(f"{what}: {name} failed{_words(said, running.returncode)}")


def _feed(running: subprocess.Popen[bytes], chunks: Iterable[bytes]) -> None:
    """Write chunks to a program, which may stop reading before their end; all chunks are read."""
    assert running.stdin is not None  # noqa: S101 - it is a pipe
    reads = True
    for chunk in chunks:
        if reads:
            try:
                running.stdin.write(chunk)
            except BrokenPipeError:
                reads = False
    if reads:
        with contextlib.suppress(BrokenPipeError):
            running.stdin.flush()


def _words(said: IO[bytes], code: int) -> str:
    """The reason in a program's output: the first line of an error, which quotes no rows."""
    said.seek(0)
    for line in said.read(100_000).decode(errors="replace").splitlines():
        _, error, reason = line.partition(": error: ")
        if error:
            what, of_the_server, words = reason.partition("ERROR:")
            words = re.sub(r'"[^"]*"', '"…"', words)  # it may quote a value
            return f": {phone.mask_in(what + of_the_server + words)[:_LONGEST_WORDS]}"
    return f", with {code}" if code > 0 else f": it was ended by signal {-code}"
