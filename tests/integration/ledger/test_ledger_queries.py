"""The answers of the ledger, on SQLite and on PostgreSQL."""

from datetime import UTC, datetime, timedelta

import ledger_rows as rows
import pytest

from ifinu.errors import LedgerUnavailable
from ifinu.ledger import queries, schema
from ifinu.ledger.engine import connect
from ifinu.ledger.queries import By, Count, Gap, Position
from ifinu.ledger.states import State

NOW = datetime(2026, 11, 24, 15, 30, tzinfo=UTC)  # 12:30 in São Paulo


def ago(**length):
    return NOW - timedelta(**length)


def test_a_timeline_has_the_events_and_the_receipts_of_every_send(ledger):
    rows.notification(ledger, "n1", State.DELIVERED, NOW, key_id="K2", phone="+55 77 9****-6740", tenant=None)
    rows.event(ledger, "n1", "unknown", ago(minutes=9), key_id="K1", reason="timeout", hash="h")
    rows.event(ledger, "n1", "sent", ago(minutes=5), key_id="K2", by="gateway")
    rows.receipt(ledger, "K1", State.FAILED, ago(minutes=4))
    rows.receipt(ledger, "K2", State.DELIVERED, ago(minutes=3))
    rows.notification(ledger, "n2", State.SENT, NOW, key_id="K3")
    rows.event(ledger, "n2", "sent", ago(minutes=5), seq=1, key_id="K3")
    rows.receipt(ledger, "K3", State.READ, ago(minutes=2))
    rows.event(ledger, None, "connection", ago(minutes=1), instance="ifinu")

    found = queries.timeline(ledger, "n1")
    assert found.known.state is State.DELIVERED
    assert (found.known.tenant, found.known.phone, found.known.last_at) == (None, "+55 77 9****-6740", NOW)
    assert [(one.name, one.data.get("key_id"), one.at) for one in found.happened] == [
        ("unknown", "K1", ago(minutes=9)),
        ("sent", "K2", ago(minutes=5)),
        ("receipt", "K1", ago(minutes=4)),
        ("receipt", "K2", ago(minutes=3)),
    ]
    assert found.left_off == 0
    assert queries.timeline(ledger, "missing") is None


@pytest.mark.parametrize(
    ("events", "limit", "shown", "left_off"),
    [(3, 4, [0, 1, 2], 0), (4, 4, [0, 1, 2, 3], 0), (9, 4, [0, 1, 7, 8], 5), (4, 3, [0, 2, 3], 1)],
)
def test_the_middle_of_a_long_timeline_is_left_out(ledger, events, limit, shown, left_off):
    rows.notification(ledger, "n1", State.DEFERRED, NOW)
    for number in range(events):
        rows.event(ledger, "n1", "deferred", ago(minutes=events - number), number=number)
    found = queries.timeline(ledger, "n1", limit=limit)
    assert [one.data["number"] for one in found.happened] == shown
    assert found.left_off == left_off


@pytest.fixture
def counted(ledger):
    """Six notifications that count for the last day, and two that are too old."""
    for number, (state, values) in enumerate(
        [
            (State.SENT, {"sent_at": ago(hours=1)}),
            (State.READ, {"sent_at": ago(hours=1)}),
            (State.READ, {"sent_at": ago(hours=14), "kind": "atraso"}),  # 22:30 the day before
            (State.DEAD, {"tenant": "t2", "instance": "other"}),
            (State.DEAD, {"tenant": None, "kind": None}),
            (State.UNKNOWN, {"tenant": "t2"}),
            (State.READ, {"sent_at": ago(hours=25)}),  # read a moment ago
            (State.DEAD, {"last_at": ago(hours=25)}),
        ]
    ):
        rows.notification(ledger, f"n{number}", state, NOW, **values)
    return ledger


@pytest.mark.parametrize(
    ("by", "found"),
    [
        (
            By.STATE,
            [("dead", 2, {"dead": 2}), ("read", 2, {"read": 2}), ("sent", 1, {"sent": 1}),
             ("unknown", 1, {"unknown": 1})],
        ),
        (
            By.KIND,
            [("lembrete", 4, {"sent": 1, "read": 1, "dead": 1, "unknown": 1}), ("atraso", 1, {"read": 1}),
             (None, 1, {"dead": 1})],
        ),
        (By.TENANT, [("t1", 3, {"sent": 1, "read": 2}), ("t2", 2, {"dead": 1, "unknown": 1}), (None, 1, {"dead": 1})]),
        (By.INSTANCE, [("ifinu", 5, {"sent": 1, "read": 2, "dead": 1, "unknown": 1}), ("other", 1, {"dead": 1})]),
        (
            By.HOUR,
            [("2026-11-24T12:00:00-03:00", 3, {"dead": 2, "unknown": 1}),
             ("2026-11-24T11:00:00-03:00", 2, {"sent": 1, "read": 1}),
             ("2026-11-23T22:00:00-03:00", 1, {"read": 1})],
        ),
    ],
)  # fmt: skip
def test_counts(counted, by, found):
    counts = queries.counts(counted, by, ago(hours=24))
    assert [(row.key, row.total, row.states) for row in counts.rows] == found
    assert counts.total == 6


def test_counts_are_bounded_and_report_their_total(counted):
    assert queries.counts(counted, By.TENANT, ago(hours=24), limit=1) == queries.Counts(
        (Count("t1", 3, {"sent": 1, "read": 2}),), 6
    )
    latest = queries.counts(counted, By.HOUR, ago(hours=24), limit=1)
    assert [row.key for row in latest.rows] == ["2026-11-24T12:00:00-03:00"]


def test_counts_of_nothing(ledger):
    assert queries.counts(ledger, By.HOUR, ago(hours=24)) == queries.Counts((), 0)


def test_unconfirmed_by_instance(ledger):
    for number, (instance, values) in enumerate(
        [
            ("a", {"unconfirmed_at": NOW}),
            ("b", {"unconfirmed_at": NOW}),
            ("b", {"unconfirmed_at": NOW}),
            ("b", {}),
            ("b", {"unconfirmed_at": NOW, "sent_at": ago(hours=30)}),
        ]
    ):
        rows.notification(ledger, f"n{number}", State.SENT, NOW, **({"instance": instance, "sent_at": NOW} | values))
    assert list(queries.unconfirmed(ledger, ago(hours=24)).items()) == [("b", 2), ("a", 1)]


def test_the_position_and_the_gaps(ledger):
    assert queries.found_gaps(ledger, ago(days=7)) == []
    rows.add(ledger, schema.gaps, found_at=ago(days=8), ms=1, seq=0, cause="went_back")
    rows.add(ledger, schema.gaps, found_at=ago(days=2), ms=0, seq=0, cause="group_gone")
    rows.add(ledger, schema.gaps, found_at=ago(days=1), ms=1_700_000_000_500, seq=3, cause="went_back")
    before = datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)
    assert queries.found_gaps(ledger, ago(days=7)) == [
        Gap(ago(days=1), before, "went_back"),
        Gap(ago(days=2), None, "group_gone"),
    ]
    with ledger.begin() as connection:
        connection.execute(schema.recorder.delete())
    assert queries.position(ledger) is None
    rows.add(ledger, schema.recorder, id=1, ms=5, seq=6, updated_at=NOW)
    assert queries.position(ledger) == Position(5, 6, NOW)


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine: queries.timeline(engine, "n1"),
        lambda engine: queries.counts(engine, By.HOUR, NOW),
        lambda engine: queries.unconfirmed(engine, NOW),
        queries.position,
        lambda engine: queries.found_gaps(engine, NOW),
    ],
)
@pytest.mark.parametrize("url", ["sqlite:///{}/new.db", "postgresql+psycopg2://ifinu@127.0.0.1:1/none"])
def test_an_unavailable_or_unmigrated_ledger_raises_one_error(tmp_path, ask, url):
    engine = connect(url.format(tmp_path))
    with pytest.raises(LedgerUnavailable):
        ask(engine)
    engine.dispose()
