"""
Dumps and restores of a PostgreSQL database by `pg_dump` and `pg_restore`.

The programs get the address on their command line, and the password only in their environment. Their error output may
quote rows, so errors repeat only its first error line, with phones masked and quoted values removed.
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
from ifinu.backup.emptiness import DatabaseObject, FreshInstall
from ifinu.backup.manifest import TableSummary
from ifinu.backup.store import Sink
from ifinu.backup.streams import CHUNK_BYTES
from ifinu.errors import BackupFailed, ConfigurationError, LedgerUnavailable

_CONNECT_S = 10
_LOCK_WAIT_MS = 60_000  # long enough for a running migration
_LONGEST_ERROR = 300  # characters
# Parameters for the gateway's ORM in its URL, which libpq does not know.
_ORM_PARAMETERS = ("schema", "connection_limit", "pool_timeout", "pgbouncer", "socket_timeout", "statement_cache_size")
_SECRETS = ("IFINU_", "AWS_")  # prefixes of the variables that are kept from these programs

_EXPORT = "SELECT pg_export_snapshot(), current_setting('server_version'), transaction_timestamp()"
_USERS = r"namespace.nspname <> 'information_schema' AND namespace.nspname !~ '^pg_'"
_NOT_AN_EXTENSIONS = """NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS depends
  WHERE depends.classid = '{catalogue}'::regclass AND depends.objid = {object}.oid AND depends.deptype = 'e')"""
# The objects that `pg_dump` would dump: kind and name as DROP takes them; after the tables those that may belong to one
# and are dropped with it.
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
        id: Identifier for `pg_dump --snapshot`.
        connection: A connection of psycopg2, whose transaction sees the snapshot.
        server: Program and version, as in `PostgreSQL 17.6`.
        at: The instant, by the server's clock.
    """

    id: str
    connection: Any
    server: str
    at: datetime

    def cancel(self) -> None:
        """Cancel the statement that another thread runs on the connection."""
        with contextlib.suppress(psycopg2.Error):  # the server is gone, and the statement with it
            self.connection.cancel()


class Database:
    """
    One PostgreSQL database. Its methods raise LedgerUnavailable if the server is away, or refuses.

    Args:
        url: `postgresql://…` or `postgresql+psycopg2://…`.
        label: Its name in messages, as in `the ledger`.

    Raises:
        ConfigurationError: The URL is not one of PostgreSQL, or has `sslpassword`.
    """

    def __init__(self, url: str, label: str) -> None:
        try:
            parts = make_url(url)
        except sqlalchemy.exc.ArgumentError as exc:
            raise ConfigurationError(f"the URL of {label} is not a database URL") from exc
        if parts.get_backend_name() != "postgresql":
            raise ConfigurationError(f"{label} is in {parts.get_backend_name()}, not in PostgreSQL")
        given = {name: value for name, value in parts.query.items() if name not in _ORM_PARAMETERS}
        if "sslpassword" in given:
            raise ConfigurationError(f"the URL of {label} has sslpassword: use a key without one, or `passfile`")
        query_password = given.pop("password", None)
        self.label = label
        self.host = parts.host or str(given.get("host", "localhost"))
        password = parts.password if parts.password is not None else query_password
        self._password = None if password is None else str(password)
        address = {"host": parts.host, "port": parts.port, "user": parts.username, "dbname": parts.database}
        options = {"connect_timeout": _CONNECT_S, **{name: value for name, value in address.items() if value}, **given}
        self._address = make_dsn(application_name="ifinu backup", **options)

    def __repr__(self) -> str:
        return f"<{self.label} at {self.host}>"

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """
        Open a connection of psycopg2 without statement timeouts, and close it at the end of the block.

        Raises:
            LedgerUnavailable: The server is away, or a statement in the block failed.
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
            error = str(exc).strip().partition("\n")[0]
            raise LedgerUnavailable(f"{self.label} failed ({phone.mask_in(error)[:_LONGEST_ERROR]})") from exc

    def ping(self) -> None:
        """
        Check that the server accepts a connection.

        Raises:
            LedgerUnavailable: The server is away, or refuses.
        """
        with self.connected():
            pass

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[ExportedSnapshot]:
        """
        Export a snapshot, which stays the same until the end of the block while others write.

        Raises:
            LedgerUnavailable: The server is away.
        """
        with self.connected() as connection:
            connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
            with connection.cursor() as cursor:
                cursor.execute(_EXPORT)
                id_, version, at = cursor.fetchone()
            yield ExportedSnapshot(id_, connection, f"PostgreSQL {version.split()[0]}", at.astimezone(UTC))

    def dump(self, snapshot: ExportedSnapshot, sink: Sink) -> None:
        """
        Dump the whole database, in the custom format of pg_dump.

        Raises:
            BackupFailed: pg_dump is not installed, is older than the server, or failed.
        """
        options = ("--format=custom", f"--snapshot={snapshot.id}", f"--lock-wait-timeout={_LOCK_WAIT_MS}")
        with self._program("pg_dump", *options, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None  # noqa: S101 - it is a pipe
            while chunk := running.stdout.read(CHUNK_BYTES):
                sink.write(chunk)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """
        Restore a whole dump in one transaction: all or nothing.

        Raises:
            BackupFailed: pg_restore is not installed, or failed.
            LedgerUnavailable: The server went away after it.
        """
        options = ("--format=custom", "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges")
        with self._program("pg_restore", *options, stdin=subprocess.PIPE) as running:
            _feed(running, chunks)
        with self.connected() as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE")  # or queries are slow until autovacuum does it

    def tables(self) -> dict[str, TableSummary]:
        """Compute the fingerprint of each table, by `schema.name`."""
        with self.snapshot() as snapshot:
            return fingerprints.tables(snapshot.connection)

    def is_empty(self) -> bool:
        """Whether a dump of the database would hold no object."""
        with self.connected() as connection, connection.cursor() as cursor:
            cursor.execute(_OBJECTS)
            return cursor.fetchone() is None

    def beyond(self, fresh: FreshInstall) -> list[str]:
        """
        Describe what the database holds beyond a fresh install, in short phrases; see `emptiness.in_database`.

        Raises:
            LedgerUnavailable: The server is away, or the role may not read all of it.
        """
        with self.connected() as connection, connection.cursor() as cursor:
            return emptiness.in_database(cursor, _objects(cursor), fresh)

    def empty(self, only: FreshInstall | None = None) -> list[str]:
        """
        Drop every object that a dump would hold, in one transaction; extensions stay.

        Args:
            only: Drop nothing if the database holds more than this install. The tables are locked before they are
                checked, so a concurrent write is either found, or fails.

        Returns:
            What the database holds beyond `only`. If there is any, nothing was dropped.

        Raises:
            LedgerUnavailable: The server is away, or the role lacks a privilege; nothing was dropped.
        """
        with self.connected() as connection, connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {_LOCK_WAIT_MS}")
            objects = _objects(cursor)
            cursor.execute(_SCHEMAS)
            schemas = [sql.Identifier(schema) for (schema,) in cursor.fetchall()]
            if only is not None:
                if tables := ", ".join(found.name for found in objects if found.kind == "TABLE"):
                    cursor.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
                if beyond := emptiness.in_database(cursor, objects, only):
                    return beyond
            for found in objects:
                cursor.execute(f"DROP {found.kind} IF EXISTS {found.name} CASCADE")
            # RESTRICT fails, and nothing is dropped, if a schema holds an object created since the check.
            rest = sql.SQL("CASCADE" if only is None else "RESTRICT")
            for schema in schemas:
                cursor.execute(sql.SQL("DROP SCHEMA {} {}").format(schema, rest))
            connection.commit()
        return []

    def others(self) -> dict[str, int]:
        """Count the other connections to the database, by application name."""
        with self.connected() as connection, connection.cursor() as cursor:
            cursor.execute(_OTHERS)
            return dict(cursor.fetchall())

    def _program(self, name: str, *arguments: str, **files: Any) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return _running(self.label, name, (*arguments, "--dbname", self._address), self._password, **files)


def _objects(cursor: Any) -> list[DatabaseObject]:
    """List the objects that `pg_dump` would dump, tables first; PostgreSQL quotes the names."""
    cursor.execute("SET LOCAL search_path = pg_catalog")  # so that the names include their schemas
    cursor.execute(_OBJECTS)
    return [DatabaseObject(kind, name) for _, kind, name in cursor.fetchall()]


def entries(chunks: Iterable[bytes], label: str) -> int:
    """
    Count the entries in a dump's table of contents, with `pg_restore --list`.

    Args:
        chunks: Bytes of the dump; they are read to their end.
        label: Name of the dump in messages.

    Raises:
        BackupFailed: pg_restore is not installed or cannot read the dump, or the chunks raised it.
    """
    with tempfile.TemporaryFile() as out:
        with _running(label, "pg_restore", ("--list",), None, stdin=subprocess.PIPE, stdout=out) as running:
            _feed(running, chunks)
        out.seek(0)
        return sum(not line.startswith(b";") for line in out)


def program(name: str) -> str:
    """
    Find the path of one of PostgreSQL's client programs.

    Raises:
        BackupFailed: The program is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise BackupFailed(f"{name} is not installed: it comes with PostgreSQL's client programs")
    return found


@contextlib.contextmanager
def _running(
    label: str, name: str, arguments: Sequence[str], password: str | None, **files: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """
    Run a client program of PostgreSQL during the block, and kill it if the block raises.

    Raises:
        BackupFailed: The program is not installed, or failed.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_SECRETS)}
    if password is not None:
        environment["PGPASSWORD"] = password
    with tempfile.TemporaryFile() as stderr:
        running = subprocess.Popen(
            [program(name), "--no-password", *arguments], stderr=stderr, env=environment, **files
        )
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
            raise BackupFailed(f"{label}: {name} failed{_cause(stderr, running.returncode)}")


def _feed(running: subprocess.Popen[bytes], chunks: Iterable[bytes]) -> None:
    """Write chunks to a program. All are read, also if the program closes its input before the end."""
    assert running.stdin is not None  # noqa: S101 - it is a pipe
    is_open = True
    for chunk in chunks:
        if is_open:
            try:
                running.stdin.write(chunk)
            except BrokenPipeError:
                is_open = False
    if is_open:
        with contextlib.suppress(BrokenPipeError):
            running.stdin.flush()


def _cause(stderr: IO[bytes], code: int) -> str:
    """The first error line of a program, without quoted values; else its exit code or signal."""
    stderr.seek(0)
    for line in stderr.read(100_000).decode(errors="replace").splitlines():
        _, marker, error = line.partition(": error: ")
        if marker:
            step, separator, server_error = error.partition("ERROR:")
            server_error = re.sub(r'"[^"]*"', '"…"', server_error)  # may be a value of a row
            return f": {phone.mask_in(step + separator + server_error)[:_LONGEST_ERROR]}"
    return f" with exit code {code}" if code > 0 else f": killed by signal {-code}"
