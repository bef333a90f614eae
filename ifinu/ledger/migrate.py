"""
Migration of the ledger's tables to the revision that this version needs.

Revisions are numbered (`0001`, `0002`, …). A revision only adds, so that an older worker can use newer tables: migrate
the tables before replacing the workers.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, Engine, inspect, text

from ifinu.ledger.engine import EXCLUSIVE

HEAD = "0005"
SCRIPTS = Path(__file__).with_name("migrations")
VERSION_TABLE = "ledger_version"  # another application in the database may use Alembic's default name

_LOCK = 0x1F1_0001  # any number, the same in every process that migrates a ledger
_LONGEST_MIN = 15  # for a new index on a large table, or the wait for another migration


class Migrated(NamedTuple):
    """The revisions before and after; `before` is None if there was no ledger."""

    before: str | None
    after: str


def is_current(engine: Engine) -> bool:
    """
    Whether the tables are as new as this version needs, or newer.

    Raises:
        errors.LedgerUnavailable: The database is away.
    """
    with engine.connect() as connection:
        revision = _revision(connection)
    return revision is not None and revision >= HEAD


def migrate(engine: Engine) -> Migrated:
    """
    Migrate the ledger to `HEAD`; a newer one stays as it is. Of two processes the second waits, and finds it done.

    It is one transaction: if it fails, nothing has changed.

    Raises:
        errors.LedgerUnavailable: The database is away, or existing tables are in the way.
    """
    with engine.execution_options(**EXCLUSIVE).begin() as connection:
        _lock(connection)
        before = _revision(connection)
        if before is not None and before >= HEAD:
            return Migrated(before, before)
        _upgrade(connection)
    return Migrated(before, HEAD)


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        return  # an exclusive transaction holds its one lock already
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_LONGEST_MIN}min'")
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant


def _upgrade(connection: Connection) -> None:
    # Imported here: it takes ten megabytes, and only a migration needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, version_table=VERSION_TABLE)
    command.upgrade(config, "head")
