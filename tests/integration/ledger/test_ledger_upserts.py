"""
Rows written again, late, or in another order give the same ledger.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, delete, select, update

from ifinu.broker.events import Event, Name
from ifinu.ledger import upserts
from ifinu.ledger.engine import writing
from ifinu.ledger.entries import Entry
from ifinu.ledger.fold import fold
from ifinu.ledger.schema import metadata, notifications, opt_outs, recorder

_START_MS = 1_796_000_000_000
_NOW = datetime(2026, 12, 1, tzinfo=UTC)

NamedEvent = tuple[str, dict[str, Any]]


def _second(number: int) -> datetime:
    return datetime.fromtimestamp(_START_MS / 1000 + number, UTC)


def _entries(history: Iterable[NamedEvent]) -> list[Entry]:
    return [
        Entry(_START_MS + 1000 * i, i, Event(Name(name), "" if name in ("receipt", "optout") else "n", data))
        for i, (name, data) in enumerate(history)
    ]


def _write(engine: Engine, *batches: Sequence[Entry]) -> None:
    for batch in batches:
        with writing(engine) as connection:
            upserts.write(connection, fold(batch), _NOW)


def _everything(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return {
            name: sorted((tuple(row) for row in connection.execute(select(table))), key=str)
            for name, table in metadata.tables.items()
        }


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in metadata.tables.values():
            if table is not recorder:
                connection.execute(delete(table))


def _sent(key_id: str | None = "K") -> NamedEvent:
    return "sent", {"key_id": key_id, "confirmed": True, "attempts": 1}


def _receipt(status: str, key_id: str = "K") -> NamedEvent:
    return "receipt", {"key_id": key_id, "status": status, "instance": "i"}


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([("deferred", {}), ("retrying", {"attempts": 1}), _sent()], {"state": "sent", "sent_at": _second(2)}),
        ([("dead", {"reason": "r"}), ("replayed", {})], {"state": "queued", "reason": None}),
        ([_sent(), ("unknown", {"reason": "r"}), ("dead", {})], {"state": "sent", "reason": None, "attempts": 1}),
        ([_sent(), _sent()], {"state": "sent", "sent_at": _second(0), "key_id": "K"}),
        ([_sent(None), _receipt("read")], {"state": "sent", "key_id": None, "read_at": None}),
        ([_sent(), _receipt("read", "another")], {"state": "sent", "read_at": None}),
        ([_sent(), ("duplicate", {"first": "sent"})], {"state": "sent", "last_at": _second(1)}),
        ([("duplicate", {"first": "sent"}), _receipt("read")], {"state": "sent", "read_at": None}),
        (
            [_sent(), _receipt("server_ack"), _receipt("delivered"), _receipt("read")],
            {
                "state": "read", "state_rank": 80, "sent_at": _second(0), "server_ack_at": _second(1),
                "delivered_at": _second(2), "read_at": _second(3), "failed_at": None, "last_at": _second(3),
            },
        ),
        ([_receipt("delivered"), _receipt("delivered"), _sent()], {"state": "delivered", "delivered_at": _second(0)}),
        ([_sent(), _receipt("failed")], {"state": "failed", "failed_at": _second(1)}),
        (
            [_sent(), _receipt("failed"), _receipt("server_ack")],
            {"state": "server_ack", "failed_at": _second(1), "server_ack_at": _second(2)},
        ),
        ([_sent(), _receipt("read"), ("unknown", {"reason": "r"})], {"state": "read", "reason": None}),
        ([("unknown", {"reason": "timeout", "error": "e", "due_ms": 9}), _sent(), _receipt("delivered")],
         {"state": "delivered", "reason": None, "error": None, "due_at": None}),
    ],
)  # fmt: skip
def test_the_ledger_does_not_depend_on_the_order_or_the_number_of_writes(
    ledger: Engine, history: list[NamedEvent], expected: dict[str, Any]
) -> None:
    """
    The events come in one batch, one by one in every order, and all of them twice.
    """
    entries = _entries(history)
    _write(ledger, entries)
    first = _everything(ledger)
    with ledger.connect() as connection:
        row = connection.execute(select(notifications)).one()._mapping
    assert {name: row[name] for name in expected} == expected

    _write(ledger, entries, entries[:1], entries[1:])
    assert _everything(ledger) == first
    for order in list(itertools.permutations(entries))[:24]:
        _empty(ledger)
        _write(ledger, *([entry] for entry in order))
        assert _everything(ledger) == first


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_latest_event_of_an_opt_out_counts_in_any_order_of_arrival(ledger: Engine, order: Sequence[int]) -> None:
    history = [("optout", {"tenant": "t", "hash": "h", "on": on, "source": "whatsapp"}) for on in (True, False, True)]
    entries = _entries(history)
    _write(ledger, *([entries[i]] for i in order))
    with ledger.connect() as connection:
        row = connection.execute(select(opt_outs)).one()
    assert (row.tenant, row.phone_hash, row.removed_at, row.at) == ("t", "h", None, _second(2))


def test_a_withdrawn_opt_out_keeps_the_time_it_was_given(ledger: Engine) -> None:
    entries = _entries([("optout", {"hash": "h", "on": True}), ("optout", {"hash": "h", "on": False})])
    _write(ledger, *([entry] for entry in entries))
    with ledger.connect() as connection:
        row = connection.execute(select(opt_outs)).one()
    assert (row.at, row.removed_at) == (_second(0), _second(1))


def test_a_late_receipt_removes_the_unconfirmed_mark(ledger: Engine) -> None:
    sent, receipt = _entries([_sent(), _receipt("delivered")])
    _write(ledger, [sent])
    with ledger.begin() as connection:
        connection.execute(update(notifications).values(unconfirmed_at=_NOW))
    _write(ledger, [receipt])
    with ledger.connect() as connection:
        row = connection.execute(select(notifications)).one()
    assert (row.state, row.unconfirmed_at) == ("delivered", None)


def test_the_position_moves_with_the_batch_and_never_back(ledger: Engine) -> None:
    entries = _entries([("deferred", {}), ("retrying", {})])
    for batch, expected in (([], (0, 0)), (entries, (_START_MS + 1000, 1)), (entries[:1], (_START_MS + 1000, 1))):
        _write(ledger, batch)
        with ledger.connect() as connection:
            assert upserts.position(connection) == expected
