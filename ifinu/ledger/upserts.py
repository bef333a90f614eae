"""
Rows -> the database: one statement per table, for a batch of any size.

SQL decides which of two states counts, by the rules of `fold.py`, since another recorder may have written meanwhile.
Rows may be written twice, and in any order.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Executable,
    Table,
    Text,
    Update,
    bindparam,
    case,
    cast,
    column,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ifinu.ledger.fold import Row, RowBatch
from ifinu.ledger.schema import events, instances, notifications, opt_outs, receipts, recorder
from ifinu.ledger.states import RECEIPTS

_Insert = postgresql.Insert | sqlite.Insert

_OF_THE_STATE = ("state", "state_rank", "state_ms", "state_seq", "reason", "error", "due_at")
_FIRST_VALUE = ("tenant", "kind", "instance", "queue", "phone", "phone_hash", "key_id", "confirmed")
_RECEIVED_AT = tuple(f"{status}_at" for status in RECEIPTS)

_encode = json.JSONEncoder(separators=(",", ":"), default=datetime.isoformat).encode


class _Statements(NamedTuple):
    events: Executable
    notifications: Executable
    receipts: Executable
    opt_outs: Executable
    instances: Executable
    join: Update


def write(connection: Connection, rows: RowBatch, now: datetime) -> None:
    """
    Write a batch, and move the recorded position to its end.

    Args:
        connection: In a transaction of `engine.writing`.
    """
    statements = _statements(connection.dialect.name)
    _insert(connection, statements.events, rows.events)
    _insert(connection, statements.notifications, rows.notifications)
    _insert(connection, statements.receipts, rows.receipts)
    _insert(connection, statements.opt_outs, rows.opt_outs)
    _insert(connection, statements.instances, rows.instances)
    if key_ids := rows.key_ids():
        connection.execute(statements.join, {"key_ids": key_ids})
    if rows.last > position(connection):
        move(connection, rows.last, now)


def position(connection: Connection) -> tuple[int, int]:
    """Id of the last recorded entry; 0-0 before the first."""
    row = connection.execute(select(recorder.c.ms, recorder.c.seq)).one()
    return row.ms, row.seq


def move(connection: Connection, to: tuple[int, int], now: datetime) -> None:
    """Set the id of the last recorded entry."""
    connection.execute(update(recorder).values(ms=to[0], seq=to[1], updated_at=now))


def _insert(connection: Connection, statement: Executable, rows: Mapping[Any, Row]) -> None:
    if not rows:
        return
    ordered = [row for _, row in sorted(rows.items())]
    if connection.dialect.name == "sqlite":
        connection.execute(statement, ordered)
    else:
        connection.execute(statement, {"rows": _encode(ordered)})


@functools.cache
def _statements(dialect: str) -> _Statements:
    sql = _Dialect(dialect)
    return _Statements(
        events=sql.insert(events).on_conflict_do_nothing(),
        notifications=_upsert_notifications(sql),
        receipts=_upsert_receipts(sql),
        opt_outs=_upsert_opt_outs(sql),
        instances=_upsert_instances(sql),
        join=_join_receipts(sql),
    )


class _Dialect:
    def __init__(self, name: str) -> None:
        self._sqlite = name == "sqlite"

    def insert(self, table: Table) -> _Insert:
        """An insert of many rows. PostgreSQL gets them as one JSON array, cheaper than a parameter a value."""
        if self._sqlite:
            return sqlite.insert(table)
        columns = [column(each.name, each.type) for each in table.c]
        array = cast(bindparam("rows", type_=Text), postgresql.JSON)
        rows = func.json_to_recordset(array).table_valued(*columns).render_derived(with_types=True)
        return postgresql.insert(table).from_select(columns, select(rows))

    def greatest(self, one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.max(one, other) if self._sqlite else func.greatest(one, other)

    def least(self, one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
        """The earlier of two times, ignoring NULL."""
        if self._sqlite:  # its min(NULL, x) is NULL
            return func.coalesce(func.min(one, other), one, other)
        return func.least(one, other)


def _later(table: Table, new: Any, *columns: str) -> ColumnElement[bool]:
    return tuple_(*(new[name] for name in columns)) > tuple_(*(table.c[name] for name in columns))


def _upsert_notifications(sql: _Dialect) -> _Insert:
    insert = sql.insert(notifications)
    old, new = notifications.c, insert.excluded
    counts = _later(notifications, new, "state_rank", "state_ms", "state_seq")
    return insert.on_conflict_do_update(
        index_elements=[old.id],
        set_={name: case((counts, new[name]), else_=old[name]) for name in _OF_THE_STATE}
        | {name: func.coalesce(old[name], new[name]) for name in _FIRST_VALUE}
        | {name: sql.least(old[name], new[name]) for name in ("first_at", "sent_at")}
        | {name: sql.greatest(old[name], new[name]) for name in ("attempts", "last_at")},
    )


def _upsert_receipts(sql: _Dialect) -> _Insert:
    insert = sql.insert(receipts)
    old, new = receipts.c, insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[old.key_id],
        set_={name: case((new.rank > old.rank, new[name]), else_=old[name]) for name in ("status", "rank")}
        | {name: sql.least(old[name], new[name]) for name in _RECEIVED_AT}
        | {"last_at": sql.greatest(old.last_at, new.last_at), "instance": func.coalesce(old.instance, new.instance)},
    )


def _upsert_opt_outs(sql: _Dialect) -> _Insert:
    insert = sql.insert(opt_outs)
    old, new = opt_outs.c, insert.excluded
    replaced = ("phone", "source", "removed_at", "ms", "seq")
    return insert.on_conflict_do_update(
        index_elements=[old.tenant, old.phone_hash],
        set_={name: new[name] for name in replaced} | {"at": func.coalesce(new.at, old.at)},
        where=_later(opt_outs, new, "ms", "seq"),
    )


def _upsert_instances(sql: _Dialect) -> _Insert:
    insert = sql.insert(instances)
    old, new = instances.c, insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[old.name],
        set_={name: new[name] for name in ("state", "code", "at", "ms", "seq")},
        where=_later(instances, new, "ms", "seq"),
    )


def _join_receipts(sql: _Dialect) -> Update:
    """Copy the receipts of these messages into their notifications."""
    old, got = notifications.c, receipts.c
    beyond = got.rank > old.state_rank
    state: Iterable[tuple[Column[Any], Any]] = ((old.state, got.status), (old.state_rank, got.rank))
    return (
        update(notifications)
        .where(old.key_id == got.key_id, old.key_id.in_(bindparam("key_ids", expanding=True)))
        .values(
            {column.name: case((beyond, value), else_=column) for column, value in state}
            | {name: case((beyond, None), else_=old[name]) for name in ("reason", "error", "due_at")}
            | {name: sql.least(old[name], got[name]) for name in _RECEIVED_AT}
            | {"last_at": sql.greatest(old.last_at, got.last_at), "unconfirmed_at": None}
        )
    )
