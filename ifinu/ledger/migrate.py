"""
Brings the ledger's tables to the form that this version needs.

Revisions are numbered (`0001`, `0002`, …), and each first only adds: an older worker goes on with newer tables, so the
tables are migrated before the workers are replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, Engine, inspect, text

from ifinu.ledger.engine import EXCLUSIVE

HEAD = "0001"
SCRIPTS = Path(__file__).with_name("migrations")
VERSION_TABLE = "ledger_version"  # Alembic's own name for it may be taken where the database has other tenants

_LOCK = 0x1F1_0001  # any number, the same for all who migrate a ledger
_LONGEST_MIN = 15  # for a large table's new index, or another migration that is running


class Migrated(NamedTuple):
    """From which revision to which; `before` is None where there was no ledger."""

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
    Bring the ledger to `HEAD`, or leave a newer one as it is. One at a time does; another waits, and finds it done.

    It is one transaction: when it fails, nothing has changed.

    Raises:
        errors.LedgerUnavailable: The database is away, or what is there before is in the way.
    """
    with engine.execution_options(**EXCLUSIVE).begin() as connection:
        _wait_for_turn(connection)
        before = _revision(connection)
        if before is not None and before >= HEAD:
            return Migrated(before, before)
        _upgrade(connection)
    return Migrated(before, HEAD)


def _wait_for_turn(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        return  # the transaction began with the one lock there is
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_LONGEST_MIN}min'")
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant


def _upgrade(connection: Connection) -> None:
    # Ten megabytes that only this needs.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, version_table=VERSION_TABLE)
    command.upgrade(config, "head")
