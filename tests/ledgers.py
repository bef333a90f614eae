"""Databases for ledgers."""

from __future__ import annotations

from sqlalchemy import create_engine, make_url

from ifinu.ledger.engine import connect
from ifinu.ledger.migrate import migrate


def database(server_url: str, name: str, template: str = "template1") -> str:
    """Make a database at a server; its URL."""
    url = make_url(server_url)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


def migrated(url: str) -> str:
    """Give it the ledger's tables; the same URL."""
    engine = connect(url)
    migrate(engine)
    engine.dispose()
    return url
