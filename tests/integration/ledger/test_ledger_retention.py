"""The rows that the ledger deletes, on SQLite and on PostgreSQL."""

from datetime import UTC, datetime, timedelta

import ledger_rows as rows
import pytest

from ifinu.ledger import retention, schema
from ifinu.ledger.queries import By, counts
from ifinu.ledger.retention import RowCounts, Tended
from ifinu.ledger.states import State
from ifinu.settings import Settings

NOW = datetime(2026, 11, 24, 15, 30, tzinfo=UTC)  # 12:30 in São Paulo
NIGHT = datetime(2026, 11, 24, 6, 30, tzinfo=UTC)  # 03:30 there
LARGE = (schema.notifications, schema.events, schema.receipts)


def ago(**length):
    return NOW - timedelta(**length)


def left(engine):
    return tuple(rows.count(engine, table) for table in LARGE)


@pytest.fixture
def aged(ledger):
    """Ten old rows of each table, which take several batches, and three recent ones."""
    for number in range(13):
        at = ago(days=400, seconds=number // 2) if number < 10 else ago(days=number)
        rows.notification(ledger, f"n{number}", State.READ, at, key_id=f"K{number}")
        rows.event(ledger, f"n{number}", "sent", at, seq=2 * number, key_id=f"K{number}")
        rows.receipt(ledger, f"K{number}", State.READ, at, seq=2 * number + 1)
    # It was sent long ago and read lately.
    rows.notification(ledger, "late", State.READ, ago(days=1), first_at=ago(days=400))
    return ledger


def test_a_purge_deletes_old_rows_in_batches(aged):
    assert retention.purge(aged, ago(days=365), batch=3) == (RowCounts(10, 20, 10), False)
    assert left(aged) == (4, 6, 3)
    assert retention.purge(aged, ago(days=365), batch=3) == (RowCounts(), False)


def test_a_purge_limited_in_batches_reports_that_rows_are_left(aged):
    taken = RowCounts()
    more = True
    for _ in range(20):
        rows_, more = retention.purge(aged, ago(days=365), batches=1, batch=3)
        taken += rows_
        if not more:
            break
    assert (taken, more) == (RowCounts(10, 20, 10), False)


def test_an_active_opt_out_is_never_purged(ledger):
    for tenant, removed_at in (("stands", None), ("lately", ago(days=1)), ("back", ago(days=400))):
        rows.add(
            ledger, schema.opt_outs, tenant=tenant, phone_hash="h", at=ago(days=500), removed_at=removed_at, ms=1, seq=0
        )
    rows.add(ledger, schema.gaps, found_at=ago(days=400), ms=1, seq=0, cause="went_back")
    retention.purge(ledger, ago(days=365))
    assert [row["tenant"] for row in rows.rows(ledger, schema.opt_outs)] == ["lately", "stands"]
    assert rows.count(ledger, schema.gaps) == 0


@pytest.mark.parametrize(
    ("state", "values", "with_receipt", "marked"),
    [
        (State.SENT, {}, False, True),
        (State.SENT, {}, True, False),
        (State.SENT, {"sent_at": ago(seconds=59)}, False, False),
        (State.SENT, {"key_id": None}, False, False),
        (State.SENT, {"unconfirmed_at": ago(days=1)}, False, False),
        (State.SENT, {"sent_at": ago(days=31), "last_at": ago(days=31)}, False, False),
        (State.DELIVERED, {}, True, False),
        (State.DEAD, {}, False, False),
    ],
)
def test_a_message_without_a_receipt_in_time_is_marked(ledger, state, values, with_receipt, marked):
    given = {"key_id": "K", "sent_at": ago(seconds=60)} | values
    rows.notification(ledger, "n1", state, ago(seconds=30), **({"last_at": ago(seconds=30)} | given))
    if with_receipt:
        rows.receipt(ledger, "K", State.SERVER_ACK, ago(seconds=10))
    assert retention.mark_unconfirmed(ledger, 60, NOW) == (int(marked), False)
    (row,) = rows.rows(ledger, schema.notifications)
    assert row["unconfirmed_at"] == (NOW if marked else given.get("unconfirmed_at"))
    assert retention.mark_unconfirmed(ledger, 60, NOW) == (0, False)


def test_unconfirmed_messages_are_marked_in_batches(ledger):
    for number in range(7):
        rows.notification(ledger, f"n{number}", State.SENT, ago(hours=1), key_id=f"K{number}", sent_at=ago(hours=1))
    assert retention.mark_unconfirmed(ledger, 60, NOW, batches=2, batch=2) == (4, True)
    assert retention.mark_unconfirmed(ledger, 60, NOW, batches=2, batch=2) == (3, False)


@pytest.mark.parametrize(
    ("now", "purged"),
    [
        (NIGHT, RowCounts(10, 20, 10)),
        (NIGHT - timedelta(minutes=30), RowCounts(10, 20, 10)),
        (NIGHT - timedelta(minutes=31), RowCounts()),
        (NIGHT + timedelta(minutes=30), RowCounts()),
        (NOW, RowCounts()),
    ],
)
def test_upkeep_purges_at_night_and_marks_at_any_time(aged, now, purged):
    rows.notification(aged, "sent", State.SENT, now - timedelta(hours=2), key_id="K", sent_at=now - timedelta(hours=2))
    settings = Settings(retention_days=365, unconfirmed_after_s=3600)
    assert retention.tend(aged, settings, now) == Tended(unconfirmed=1, purged=purged, more=False)
    assert retention.tend(aged, settings, now) == Tended()


def test_an_erased_person_is_nowhere_and_the_counts_stay(ledger):
    for number, (hash_, state) in enumerate(
        [("h", State.READ), ("h", State.DEAD), ("h", State.SENT), ("other", State.READ)]
    ):
        rows.notification(
            ledger, f"maria-{number}", state, NOW, phone_hash=hash_, phone="+55 77 9****-6740", key_id=f"K{number}",
            error="about +55 77 9****-6740", attempts=2,
        )  # fmt: skip
        rows.event(ledger, f"maria-{number}", "unknown", NOW, seq=3 * number, key_id=f"first-K{number}", hash=hash_)
        rows.event(ledger, f"maria-{number}", "sent", NOW, seq=3 * number + 1, key_id=f"K{number}", hash=hash_)
        rows.receipt(ledger, f"K{number}", State.READ, NOW, seq=3 * number + 2)
    rows.receipt(ledger, "first-K0", State.READ, NOW, seq=50)
    # A notification of somebody else was once sent to this person's phone.
    rows.event(ledger, "maria-3", "dead", NOW, seq=51, reason="id_reused", hash="h")
    rows.event(ledger, None, "optout", NOW, seq=52, hash="h")
    rows.event(ledger, None, "optout", NOW, seq=53, hash="other")
    for tenant, removed_at in (("stands", None), ("back", NOW)):
        rows.add(ledger, schema.opt_outs, tenant=tenant, phone_hash="h", at=NOW, removed_at=removed_at, ms=1, seq=0)
    before = counts(ledger, By.STATE, NOW - timedelta(days=1))
    assert retention.of_person(ledger, "h") == 3

    assert retention.erase(ledger, "h", batch=2) == RowCounts(notifications=3, events=3 * 3 + 1 + 2, receipts=4)

    assert counts(ledger, By.STATE, NOW - timedelta(days=1)) == before
    *erased, other = rows.rows(ledger, schema.notifications)
    assert (other["id"], other["phone_hash"], other["key_id"]) == ("maria-3", "other", "K3")
    for row in erased:
        assert row["id"].startswith("erased:")
        assert {row[name] for name in ("phone", "phone_hash", "key_id", "error")} == {None}
        assert (row["tenant"], row["kind"], row["attempts"], row["last_at"]) == ("t1", "lembrete", 2, NOW)
    assert len({row["id"] for row in erased}) == 3
    assert {one["notification_id"] for one in rows.rows(ledger, schema.events)} == {"maria-3", None}
    assert [one["key_id"] for one in rows.rows(ledger, schema.receipts)] == ["K3"]
    assert [row["tenant"] for row in rows.rows(ledger, schema.opt_outs)] == ["stands"]
    assert retention.of_person(ledger, "h") == 0
    assert retention.erase(ledger, "h") == RowCounts()


def test_events_of_a_person_are_found_range_by_range(ledger, monkeypatch):
    monkeypatch.setattr(retention, "_READ", 3)
    for number in range(8):
        # Two events of one millisecond, which a range must not split.
        rows.event(ledger, None, "optout", ago(seconds=number // 2), seq=number, hash="h" if number % 3 else "other")
    assert retention.erase(ledger, "h") == RowCounts(events=5)
    assert {one["data"]["hash"] for one in rows.rows(ledger, schema.events)} == {"other"}
