"""The database of the commands about charges."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ifinu.cli import connection
from ifinu.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Engine


@contextlib.contextmanager
def database() -> Iterator[Engine]:
    """
    The ledger's database, which is PostgreSQL and migrated.

    Raises:
        ConfigurationError: It is SQLite, or not migrated; the message says what to do.
        LedgerUnavailable: It does not answer.
    """
    from ifinu.ledger import migrate

    with connection.ledger() as engine:
        if engine.dialect.name != "postgresql":
            raise ConfigurationError(
                "charges need PostgreSQL, and IFINU_DATABASE_URL names a SQLite file: set it to postgresql+psycopg2://"
                "USER:PASSWORD@HOST/DATABASE and run `ifinu migrate`. Messages are sent without it too"
            )
        if not migrate.is_current(engine):
            raise ConfigurationError("the database lacks tables of this version: run `ifinu migrate`")
        yield engine
