"""Rows of the ledger, written directly and not by the recorder."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Table, func, insert, select

from ifinu.ledger import schema
from ifinu.ledger.states import State, rank


def add(engine: Engine, table: Table, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(insert(table).values(values))


def notification(engine: Engine, id_: str, state: State, at: datetime, **values: Any) -> None:
    """Insert one notification; `at` fills in every time that is not given."""
    row = {
        "state_rank": rank(state), "state_ms": _ms(at), "state_seq": 0, "attempts": 1, "first_at": at, "last_at": at,
        "kind": "lembrete", "instance": "ifinu", "tenant": "t1",
    }  # fmt: skip
    add(engine, schema.notifications, **(row | {"id": id_, "state": state} | values))


def event(engine: Engine, id_: str | None, name: str, at: datetime, *, seq: int = 0, **data: Any) -> None:
    add(
        engine, schema.events, ms=_ms(at), seq=seq, at=at, name=name, notification_id=id_, key_id=data.get("key_id"),
        data=data,
    )  # fmt: skip


def receipt(engine: Engine, key_id: str, status: State, at: datetime, *, seq: int = 0) -> None:
    """Insert a receipt's row and its event."""
    add(engine, schema.receipts, key_id=key_id, status=status, rank=rank(status), last_at=at)
    event(engine, None, "receipt", at, seq=seq, key_id=key_id, status=status)


def count(engine: Engine, table: Table) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def rows(engine: Engine, table: Table) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [row._asdict() for row in connection.execute(select(table).order_by(*table.primary_key))]


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
