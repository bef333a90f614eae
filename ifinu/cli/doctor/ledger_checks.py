"""The checks of `ifinu doctor` on the ledger, and on the recorder that writes to it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import redis

from ifinu.broker.redis_state import recorder_lag
from ifinu.cli import ledger_status
from ifinu.cli.doctor.findings import Finding, Level
from ifinu.errors import LedgerUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Engine


def examine_ledger(engine: Engine) -> Iterator[Finding]:
    """Check the database and its tables; yield one failure when the database does not answer."""
    from ifinu.ledger import migrate, queries
    from ifinu.ledger.engine import exists

    if not exists(engine):
        yield Finding("ledger", Level.OK, "none yet: the first worker creates the file")
        return
    try:
        current = migrate.is_current(engine)
        is_postgresql = engine.dialect.name == "postgresql"
        yield Finding("ledger", Level.OK, f"{'PostgreSQL' if is_postgresql else 'SQLite'} answers")
        if is_postgresql and _is_read_only(engine):
            fix = "nothing can be recorded: name the primary in IFINU_DATABASE_URL, or let the role write"
            yield Finding("ledger writes", Level.FAIL, "its transactions are read-only", fix)
        if not current:
            yield Finding("ledger schema", Level.FAIL, "not that of this version", "run `ifinu migrate`")
            return
        yield Finding("ledger schema", Level.OK, "that of this version")
        if gaps := queries.found_gaps(engine, datetime.now(UTC) - ledger_status.GAPS_OF):
            fix = "what was sent then is not in the ledger: never delete `ifinu:eventos`, and keep Redis' AOF on"
            yield Finding("gaps", Level.WARN, f"events were lost {len(gaps)} times in a week", fix)
    except LedgerUnavailable as exc:
        fix = "start the database, or correct IFINU_DATABASE_URL; sending goes on, and the events wait in Redis"
        yield Finding("ledger", Level.FAIL, str(exc), fix)


def examine_recorder(client: redis.Redis) -> Iterator[Finding]:
    """Check that the recorder keeps up with the events; yield nothing when Redis does not answer."""
    try:
        lag = recorder_lag(client)
    except redis.ConnectionError:
        return
    except redis.RedisError as exc:
        yield Finding("recorder", Level.WARN, f"cannot be read: {exc}", "allow the user to read the keys ifinu:*")
        return
    seen = f"{lag.events:,} events wait" if lag.events else "no events wait"
    if lag.events and not lag.recorded:
        fix = "start a worker with IFINU_RECORDER=true, or `ifinu recorder`"
        yield Finding("recorder", Level.WARN, f"{seen}, and no recorder runs", fix)
    elif lag.events >= ledger_status.MANY:
        fix = "the recorder is too slow, or the ledger was away: check again in a minute, then the database's load"
        yield Finding("recorder", Level.WARN, seen, fix)
    else:
        yield Finding("recorder", Level.OK, seen)


def _is_read_only(engine: Engine) -> bool:
    """Whether the database is a replica, or the role may only read."""
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on")
