"""The checks of `ifinu doctor` that are about the ledger, and about what the ledger's settings decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import redis

from ifinu.cli import ledger_status
from ifinu.cli.findings import Finding, Level
from ifinu.errors import ConfigurationError, LedgerUnavailable
from ifinu.settings import Settings
from ifinu.window import Windows

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ifinu.ledger.queries import Gap

_GAPS_OF = timedelta(days=7)


def examine_ledger(engine: Engine) -> Iterator[Finding]:
    """Whether the database answers and has the tables; when it is away, that alone."""
    from ifinu.ledger import migrate, queries
    from ifinu.ledger.engine import exists

    if not exists(engine):
        yield Finding("ledger", Level.OK, "none yet: the first worker makes the file")
        return
    try:
        current = migrate.is_current(engine)
        name = engine.dialect.name
        yield Finding("ledger", Level.OK, f"{'PostgreSQL' if name == 'postgresql' else 'SQLite'} answers")
        if name == "postgresql" and _reads_only(engine):
            mend = "name the primary in IFINU_DATABASE_URL, or give the role its rights: nothing can be recorded"
            yield Finding("ledger writes", Level.FAIL, "its transactions are read-only", mend)
        if not current:
            yield Finding("ledger schema", Level.FAIL, "not that of this version", "run `ifinu migrate`")
            return
        yield Finding("ledger schema", Level.OK, "that of this version")
        yield from _gaps(queries.found_gaps(engine, datetime.now(UTC) - _GAPS_OF))
    except LedgerUnavailable as exc:
        mend = "start the database, or correct IFINU_DATABASE_URL; sending goes on, and the events wait in Redis"
        yield Finding("ledger", Level.FAIL, str(exc), mend)


def examine_stream(client: redis.Redis) -> Iterator[Finding]:
    """Whether events wait, and somebody records them; nothing when Redis is away, which another check says."""
    try:
        waiting, somebody = ledger_status.waiting(client), ledger_status.is_recorded(client)
    except redis.ConnectionError:
        return
    except redis.RedisError as exc:
        yield Finding("recorder", Level.WARN, f"may not be asked: {exc}", "allow the user to read the keys ifinu:*")
        return
    seen = f"{waiting:,} events wait" if waiting else "no events wait"
    if waiting and not somebody:
        mend = "start a worker with IFINU_RECORDER=true, or `ifinu recorder`"
        yield Finding("recorder", Level.WARN, f"{seen}, and nobody records", mend)
    elif waiting >= ledger_status.MANY:
        mend = "more than it keeps up with, or the ledger was away: look again in a minute, and at the database's load"
        yield Finding("recorder", Level.WARN, seen, mend)
    else:
        yield Finding("recorder", Level.OK, seen)


def examine_settings(config: Settings) -> Iterator[Finding]:
    """The key of the pseudonyms; the texts and the sending windows where some are set."""
    if config.phone_key is None:
        mend = (
            "opt-outs are lost with it: set IFINU_PHONE_KEY to what workers and webhook have, or else to what "
            "`redis-cli GET ifinu:chave:telefone` prints; another one would lose them. A pod that hashes no phone "
            "(metrics) runs without"
        )
        yield Finding(
            "phone key", Level.WARN, "not set here: where no process has one, it is kept in Redis alone", mend
        )
    else:
        yield Finding("phone key", Level.OK, "set")
    if config.templates is not None:
        from ifinu.render import Renderer

        try:
            Renderer(config.templates)
        except ConfigurationError as exc:
            yield Finding("texts", Level.FAIL, str(exc), "correct them, then `ifinu template check`: no worker starts")
        else:
            yield Finding("texts", Level.OK, f"those in {config.templates} can be read")
    if config.sending_window is None and config.sending_windows_file is None:
        return
    try:
        Windows.load(config.sending_window, config.sending_windows_file, rest=config.sending_holidays is not None)
    except ConfigurationError as exc:
        yield Finding("sending window", Level.FAIL, str(exc), "correct it: no worker starts with it")
    else:
        yield Finding("sending window", Level.OK, "can be read")


def _reads_only(engine: Engine) -> bool:
    """Whether it is a replica, or the role may only read."""
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on")


def _gaps(gaps: Sequence[Gap]) -> Iterator[Finding]:
    if gaps:
        mend = "what was sent then is right, and not recorded: let nobody delete `ifinu:eventos`, and keep Redis' AOF"
        yield Finding("gaps", Level.WARN, f"events were lost {len(gaps)} times in a week", mend)
