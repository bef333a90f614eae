"""
Entries of the stream -> rows.
"""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ifinu.broker.events import Event, Name
from ifinu.ledger.entries import Entry
from ifinu.ledger.fold import fold
from ifinu.ledger.states import State, rank

_START_MS = 1_796_000_000_000


def _entries(*events: tuple[str, dict[str, Any]]) -> list[Entry]:
    """One entry a second, all of notification `n`."""
    return [Entry(_START_MS + 1000 * i, i, Event(Name(name), "n", data)) for i, (name, data) in enumerate(events)]


def _at(second: int) -> datetime:
    return datetime.fromtimestamp(_START_MS / 1000 + second, UTC)


@pytest.mark.parametrize(
    ("events", "state", "reason", "set_by"),
    [
        (["deferred"], "deferred", "deferred", 0),
        (["deferred", "retrying"], "retrying", "retrying", 1),
        (["retrying", "dead"], "dead", "dead", 1),
        (["dead", "replayed"], "queued", "replayed", 1),
        (["dead", "replayed", "dead"], "dead", "dead", 2),
        (["dead", "purged"], "dead", "dead", 0),
        (["purged"], "dead", "purged", 0),
        (["retrying", "unqueued"], "purged", "unqueued", 1),
        (["deferred", "unqueued", "retrying"], "retrying", "retrying", 2),
        (["deferred", "unqueued", "sent"], "sent", "sent", 2),
        (["sent", "unqueued"], "sent", "sent", 0),
        (["unknown", "resending"], "unknown", "resending", 1),
        (["unknown", "held"], "unknown", "held", 1),
        (["expired"], "expired", "expired", 0),
        (["suppressed"], "suppressed", "suppressed", 0),
        (["deferred", "cancelled"], "cancelled", "cancelled", 1),
        (["cancelled", "uncancelled"], "queued", "uncancelled", 1),
        (["retrying", "sent"], "sent", "sent", 1),
        (["sent", "unknown"], "sent", "sent", 0),
        (["sent", "retrying"], "sent", "sent", 0),
        (["sent", "dead"], "sent", "sent", 0),
        (["sent", "duplicate"], "sent", "sent", 0),
        (["retrying", "duplicate"], "retrying", "retrying", 0),
    ],
)
def test_the_deciding_event_sets_the_state_in_any_order_of_arrival(
    events: list[str], state: str, reason: str, set_by: int
) -> None:
    entries = _entries(*((name, {"reason": name}) for name in events))
    for order in itertools.permutations(entries):
        row = fold(order).notifications["n"]
        assert (row["state"], row["reason"], row["state_seq"]) == (state, reason, set_by)


def test_an_id_that_was_dead_before_its_message_was_purged_is_dead():
    events = (("dead", {}), ("deferred", {}), ("unqueued", {"first": "dead", "reason": "purged"}))
    assert fold(_entries(*events)).notifications["n"]["state"] == "dead"


@pytest.mark.parametrize(
    ("first", "state"),
    [
        ("sent", "sent"),
        ("dead", "dead"),
        ("waiting", "retrying"),
        ("sending", "unknown"),
        ("", "unknown"),
        (7, "unknown"),
    ],
)
def test_a_duplicate_of_an_id_unknown_to_the_ledger_records_the_state_of_the_first(first: object, state: str) -> None:
    row = fold(_entries(("duplicate", {"first": first}))).notifications["n"]
    assert (row["state"], row["state_rank"]) == (state, 0)


def test_every_event_of_a_notification_brings_a_state_that_the_schema_knows() -> None:
    for name in set(Name) - {Name.RECEIPT, Name.OPTOUT, Name.CONNECTION}:
        assert State(fold(_entries((name, {}))).notifications["n"]["state"])


def test_each_state_has_its_rank() -> None:
    after = ["sent", "failed", "server_ack", "delivered", "read"]
    assert [rank(State(state)) for state in after] == [50, 55, 60, 70, 80]
    assert {rank(state) for state in State if state not in after} == {10}


def test_a_row_has_the_facts_of_its_events() -> None:
    """
    The first value of each fact, the greatest of each count, the first and last of each time.
    """
    facts = {"tenant": "t", "kind": "atraso", "instance": "i", "queue": "q", "phone": "+55 11 9****-0001", "hash": "h"}
    rows = fold(
        _entries(
            ("retrying", {**facts, "attempts": 1, "reason": "unreachable", "error": "no", "due_ms": _START_MS + 9000}),
            ("sent", {"tenant": "other", "attempts": 2, "key_id": "K", "confirmed": True, "by": "gateway"}),
            ("duplicate", {"first": "sent", "attempts": 0}),
        )
    )
    assert rows.last == (_START_MS + 2000, 2)
    assert rows.key_ids() == ["K"]
    assert rows.notifications == {
        "n": {
            "id": "n", "tenant": "t", "kind": "atraso", "instance": "i", "queue": "q", "phone": "+55 11 9****-0001",
            "phone_hash": "h", "state": "sent", "state_rank": 50, "state_ms": _START_MS + 1000, "state_seq": 1,
            "attempts": 2, "key_id": "K", "confirmed": True, "reason": None, "error": None, "due_at": None,
            "first_at": _at(0), "last_at": _at(2), "sent_at": _at(1),
        }
    }  # fmt: skip
    assert [(row["name"], row["notification_id"], row["key_id"], row["at"]) for row in rows.events.values()] == [
        ("retrying", "n", None, _at(0)),
        ("sent", "n", "K", _at(1)),
        ("duplicate", "n", None, _at(2)),
    ]


def test_a_wait_ends_with_the_state_that_it_belongs_to() -> None:
    rows = fold(_entries(("deferred", {"due_ms": _START_MS + 60_000.0})))
    assert rows.notifications["n"]["due_at"] == _at(60)
    rows = fold(_entries(("deferred", {"due_ms": _START_MS}), ("expired", {})))
    assert rows.notifications["n"]["due_at"] is None


@pytest.mark.parametrize(
    ("statuses", "status", "times"),
    [
        (["server_ack"], "server_ack", {"server_ack": 0}),
        (["read", "delivered", "server_ack", "delivered"], "read", {"read": 0, "delivered": 1, "server_ack": 2}),
        (["failed", "server_ack"], "server_ack", {"failed": 0, "server_ack": 1}),
        (["failed"], "failed", {"failed": 0}),
    ],
)
def test_a_receipt_keeps_the_highest_status_and_the_first_time_of_each(
    statuses: list[str], status: str, times: dict[str, int]
) -> None:
    events = [("receipt", {"key_id": "K", "status": each, "instance": "i"}) for each in statuses]
    rows = fold(_entries(*events))
    assert rows.notifications == {}
    row = rows.receipts["K"]
    assert (row["status"], row["instance"], row["last_at"]) == (status, "i", _at(len(statuses) - 1))
    assert {k.removesuffix("_at"): v for k, v in row.items() if k.endswith("_at") and v and k != "last_at"} == {
        name: _at(second) for name, second in times.items()
    }


@pytest.mark.parametrize(
    ("on", "at", "removed_at"),
    [([True], 0, None), ([True, False], 0, 1), ([False], None, 0), ([False, True], 1, None), ([True, True], 1, None)],
)
def test_an_opt_out_follows_its_latest_event(on: list[bool], at: int | None, removed_at: int | None) -> None:
    events = [("optout", {"tenant": None, "phone": "+55 11 9****-0001", "hash": "h", "on": each}) for each in on]
    row = fold(_entries(*events)).opt_outs["", "h"]
    assert (row["at"], row["removed_at"]) == tuple(
        None if second is None else _at(second) for second in (at, removed_at)
    )


def test_an_instance_follows_its_latest_event() -> None:
    rows = fold(
        _entries(
            ("connection", {"instance": "i", "state": "open", "code": 200}),
            ("connection", {"instance": "i", "state": "close", "code": 401}),
        )
    )
    assert [(row["state"], row["code"], row["at"]) for row in rows.instances.values()] == [("close", 401, _at(1))]


def _read(name: str = "sent", id_: str = "n", data: str = "{}", at: bytes = b"5-1") -> Entry:
    return Entry.read(at, {b"event": name.encode(), b"id": id_.encode(), b"data": data.encode()})


def test_an_entry_is_read_with_its_place_and_time() -> None:
    entry = _read(at=b"1796000000123-7")
    assert (entry.ms, entry.seq, entry.at) == (1796000000123, 7, datetime(2026, 11, 30, 0, 53, 20, 123000, tzinfo=UTC))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("sent", "[]"),
        ("sent", "no json"),
        ("unheard_of", "{}"),
        ("receipt", '{"status": "read"}'),
        ("receipt", '{"key_id": "K", "status": "sent"}'),
        ("receipt", '{"key_id": "K", "status": ["read"]}'),
        ("optout", '{"on": true}'),
        ("connection", '{"instance": 7}'),
    ],
)
def test_an_entry_that_is_not_an_event_is_refused(name: str, data: str) -> None:
    with pytest.raises(ValueError, match="not an event"):
        _read(name, data=data)


def test_an_entry_deleted_from_the_stream_is_not_an_event() -> None:
    with pytest.raises(ValueError, match="not an event"):
        Entry.read(b"5-1", {})


def test_characters_that_no_database_can_store_are_replaced() -> None:
    entry = _read(data=json.dumps({"error": "a\x00b\ud800c", "deep": [{"\x00": "\udfff"}]}))
    assert entry.event.data == {"error": "a\ufffdb\ufffdc", "deep": [{"\ufffd": "\ufffd"}]}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"attempts": 3}, 3),
        ({"attempts": -1}, 0),
        ({"attempts": 2**40}, 0),
        ({"attempts": True}, 0),
        ({"attempts": "3"}, 0),
        ({}, 0),
    ],
)
def test_a_fact_of_the_wrong_type_is_dropped(data: dict[str, Any], expected: int) -> None:
    assert fold(_entries(("retrying", data))).notifications["n"]["attempts"] == expected


@pytest.mark.parametrize("due", [None, "soon", 1e300, {}])
def test_a_malformed_time_is_unknown(due: object) -> None:
    assert fold(_entries(("retrying", {"due_ms": due}))).notifications["n"]["due_at"] is None


@pytest.mark.parametrize("id_", ["", "x" * 201])
def test_an_id_that_no_notification_can_have_makes_no_row_but_is_kept_as_an_event(id_: str) -> None:
    rows = fold([_read("dead", id_)])
    assert rows.notifications == {}
    assert [row["notification_id"] for row in rows.events.values()] == [None]
