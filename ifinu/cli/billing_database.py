"""The database of the commands about charges."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import redis
import typer

from ifinu.cli import connection, terminal
from ifinu.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from ifinu.billing.tenants import Tenant

_FLAGS_AT_A_TIME = 1_000

TenantId = Annotated[
    str | None, typer.Option("--tenant", metavar="ID", help="The tenant; you may leave it out if there is only one.")
]


def require_postgresql(engine: Engine) -> None:
    """
    Refuse a ledger in SQLite.

    Raises:
        ConfigurationError: It is SQLite; the message says what to do.
    """
    if engine.dialect.name != "postgresql":
        raise ConfigurationError(
            "charges need PostgreSQL, and IFINU_DATABASE_URL names none: set it to postgresql+psycopg2://"
            "USER:PASSWORD@HOST/DATABASE and run `ifinu migrate`. Messages are sent without it too"
        )


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
        require_postgresql(engine)
        if not migrate.is_current(engine):
            raise ConfigurationError("the database lacks tables of this version: run `ifinu migrate`")
        yield engine


def tenant_of(connection: Connection, given: str | None) -> Tenant:
    """
    The tenant that a command is about.

    Args:
        given: Its id; None if there is only one.

    Raises:
        NotFound: There is no such tenant.
        ConfigurationError: None is given, and there are several or none.
    """
    from ifinu.billing import tenants

    if given is not None:
        return tenants.get(connection, given)
    match tenants.every(connection):
        case [only]:
            return only
        case []:
            raise ConfigurationError("there is no tenant yet: add one with `ifinu tenant add`")
        case several:
            raise ConfigurationError(f"say which tenant: --tenant {' or '.join(each.id for each in several[:5])}")


def cancel_in_redis(engine: Engine) -> None:
    """Cancel in Redis what the database has withdrawn. If Redis is away, say so: the scheduler does it later."""
    from ifinu.billing import charges

    try:
        with connection.broker() as client:
            while True:
                with engine.begin() as opened:
                    applied = charges.apply_cancel_flags(opened, client, _FLAGS_AT_A_TIME, datetime.now(UTC))
                if sum(applied) < _FLAGS_AT_A_TIME:
                    return
    except (redis.RedisError, ConfigurationError) as exc:
        terminal.notes().print(
            f"warning: Redis did not cancel what is queued ({type(exc).__name__}). `ifinu scheduler` will, and workers "
            "with IFINU_DATABASE_URL look at the charge before they send",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
