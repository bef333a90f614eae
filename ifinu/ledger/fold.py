"""
Entries of the stream -> rows, one row per id, so that a batch takes a handful of statements.

This module does no I/O. `upserts.py` merges its rows with those in the database, by the same rules:

    state, reason, error, due_at      of the event with the greatest (rank, stream id); see `states.py`
    attempts, last_at                 the greatest value
    first_at, sent_at, …              the earliest value
    every other column                the first value
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ifinu.broker.claims import ClaimState
from ifinu.broker.events import Name
from ifinu.ledger.entries import LONGEST_ID, Entry
from ifinu.ledger.states import BEFORE_SENT, IMPLIED, State, rank

Row = dict[str, Any]

_BRINGS = {
    Name.SENT: State.SENT,
    Name.RETRYING: State.RETRYING,
    Name.DEFERRED: State.DEFERRED,
    Name.UNKNOWN: State.UNKNOWN,
    Name.RESENDING: State.UNKNOWN,
    Name.HELD: State.UNKNOWN,
    Name.DEAD: State.DEAD,
    Name.REPLAYED: State.QUEUED,
    Name.EXPIRED: State.EXPIRED,
    Name.SUPPRESSED: State.SUPPRESSED,
    Name.CANCELLED: State.CANCELLED,
    Name.UNCANCELLED: State.QUEUED,
    Name.UNQUEUED: State.PURGED,
}
# State of a claim -> state in the ledger.
_CLAIMED: dict[str, State] = {ClaimState.SENDING: State.UNKNOWN, ClaimState.WAITING: State.RETRYING}

_FACTS = {"tenant": "tenant", "kind": "kind", "instance": "instance", "queue": "queue", "phone": "phone"}
_FACTS |= {"hash": "phone_hash"}


@dataclass(slots=True)
class RowBatch:
    """
    The rows of each table, by their keys.

    Attributes:
        last: The greatest id of the stream among them; 0-0 if there are none.
    """

    events: dict[tuple[int, int], Row] = field(default_factory=dict)
    notifications: dict[str, Row] = field(default_factory=dict)
    receipts: dict[str, Row] = field(default_factory=dict)
    opt_outs: dict[tuple[str, str], Row] = field(default_factory=dict)
    instances: dict[str, Row] = field(default_factory=dict)
    last: tuple[int, int] = (0, 0)

    def key_ids(self) -> list[str]:
        """WhatsApp's ids by which a notification and its receipts may have to be joined."""
        sent = {row["key_id"] for row in self.notifications.values() if row["key_id"] is not None}
        return sorted(sent | self.receipts.keys())


def fold(entries: Iterable[Entry]) -> RowBatch:
    rows = RowBatch()
    for entry in sorted(entries, key=lambda entry: (entry.ms, entry.seq)):
        at = entry.ms, entry.seq
        rows.last = at
        rows.events[at] = {
            "ms": entry.ms,
            "seq": entry.seq,
            "at": entry.at,
            "name": entry.event.name.value,
            "notification_id": entry.notification_id,
            "key_id": entry.text("key_id", LONGEST_ID),
            "data": entry.event.data,
        }
        match entry.event.name:
            case Name.RECEIPT:
                _receipt(rows, entry)
            case Name.OPTOUT:
                _opt_out(rows, entry)
            case Name.CONNECTION:
                _instance(rows, entry)
            case _ if entry.notification_id is not None:
                _notification(rows, entry, entry.notification_id)
    return rows


def _notification(rows: RowBatch, entry: Entry, id_: str) -> None:
    at = entry.at
    state, state_rank = _state(entry)
    row = rows.notifications.setdefault(id_, _blank(id_, at))
    for name, column in _FACTS.items():
        _once(row, column, entry.text(name, LONGEST_ID))
    row["attempts"] = max(row["attempts"], entry.number("attempts") or 0)
    row["last_at"] = max(row["last_at"], at)
    if (state_rank, entry.ms, entry.seq) > (row["state_rank"], row["state_ms"], row["state_seq"]):
        row.update(
            state=state.value,
            state_rank=state_rank,
            state_ms=entry.ms,
            state_seq=entry.seq,
            reason=entry.text("reason"),
            error=entry.text("error"),
            due_at=entry.time("due_ms"),
        )
    if entry.event.name is Name.SENT:
        _once(row, "sent_at", at)
        _once(row, "key_id", entry.text("key_id", LONGEST_ID))
        _once(row, "confirmed", entry.flag("confirmed"))


def _blank(id_: str, at: datetime) -> Row:
    columns = ("key_id", "confirmed", "sent_at", *_FACTS.values())
    decided = {"state_rank": -1, "state_ms": 0, "state_seq": 0}  # by any event
    return {"id": id_, "attempts": 0, "first_at": at, "last_at": at, **decided, **dict.fromkeys(columns)}


def _state(entry: Entry) -> tuple[State, int]:
    if entry.event.name is Name.UNQUEUED and entry.text("first") == State.DEAD:
        return State.DEAD, rank(State.DEAD)
    if (state := _BRINGS.get(entry.event.name)) is not None:
        return state, rank(state)
    if entry.event.name is Name.PURGED:
        return State.DEAD, IMPLIED
    first = entry.text("first") or ""
    try:
        return _CLAIMED.get(first) or State(first), IMPLIED
    except ValueError:
        return State.UNKNOWN, IMPLIED


def _receipt(rows: RowBatch, entry: Entry) -> None:
    key_id = entry.event.data["key_id"][:LONGEST_ID]
    status = State(entry.event.data["status"])
    times = dict.fromkeys(("server_ack_at", "delivered_at", "read_at", "failed_at"))
    blank = {"key_id": key_id, "instance": None, "rank": BEFORE_SENT, "last_at": entry.at, **times}
    row = rows.receipts.setdefault(key_id, blank)
    _once(row, "instance", entry.text("instance", LONGEST_ID))
    _once(row, f"{status}_at", entry.at)
    row["last_at"] = max(row["last_at"], entry.at)
    if rank(status) > row["rank"]:
        row.update(status=status.value, rank=rank(status))


def _opt_out(rows: RowBatch, entry: Entry) -> None:
    key = entry.text("tenant", LONGEST_ID) or "", entry.event.data["hash"][:LONGEST_ID]
    blank = {"tenant": key[0], "phone_hash": key[1], "at": None}
    row = rows.opt_outs.setdefault(key, blank)
    row.update(
        phone=entry.text("phone", LONGEST_ID),
        source=entry.text("source", LONGEST_ID),
        ms=entry.ms,
        seq=entry.seq,
        removed_at=entry.at,
    )
    if entry.flag("on") is not False:
        row.update(at=entry.at, removed_at=None)


def _instance(rows: RowBatch, entry: Entry) -> None:
    name = entry.event.data["instance"][:LONGEST_ID]
    rows.instances[name] = {
        "name": name,
        "state": entry.text("state", LONGEST_ID),
        "code": entry.number("code"),
        "at": entry.at,
        "ms": entry.ms,
        "seq": entry.seq,
    }


def _once(row: Row, column: str, value: Any) -> None:
    if row[column] is None:
        row[column] = value
