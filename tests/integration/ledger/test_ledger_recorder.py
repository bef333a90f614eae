"""
The recorder: each event goes from the stream into the ledger once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from processes import wait_until
from recording import add_event, count, record, running, table
from sqlalchemy import Engine, event

from ifinu.broker.keys import EVENTS
from ifinu.embedded import Valkey
from ifinu.ledger import upserts
from ifinu.ledger.recorder import Recorder
from ifinu.ledger.schema import events, instances, notifications, opt_outs, receipts
from ifinu.ledger.stream import GROUP, Stream


def _story(client: redis.Redis, number: int) -> None:
    """The usual history of a notification, out of order where that can happen."""
    id_, key_id = f"n{number:05}", f"K{number:05}"
    add_event(client, "retrying", id_, kind="lembrete", tenant="t", hash=f"h{number}", reason="unreachable", attempts=1)
    add_event(client, "receipt", key_id=key_id, status="delivered", instance="i")
    add_event(client, "sent", id_, kind="lembrete", tenant="t", key_id=key_id, confirmed=True, attempts=2, by="gateway")
    add_event(client, "receipt", key_id=key_id, status="server_ack", instance="i")


def _pending(client: redis.Redis) -> int:
    return int(client.xpending(EVENTS, GROUP)["pending"])


def test_recorded_events_are_in_the_ledger_and_no_longer_in_the_stream(
    client: redis.Redis, valkey: Valkey, ledger: Engine
) -> None:
    for number in range(3):
        _story(client, number)
    add_event(client, "optout", tenant="t", phone="+55 11 9****-0001", hash="h", source="whatsapp", on=True)
    add_event(client, "connection", instance="i", state="open", code=200)
    add_event(client, "dead", "n00003", reason="number_not_on_whatsapp", error="exists: false")

    progress = record(client, valkey.url, ledger).progress

    assert (progress.recorded, progress.refused, progress.lag, progress.gaps) == (15, 0, 0, 0)
    assert table(ledger, notifications, "id", "state", "key_id", "attempts", "reason") == [
        ("n00000", "delivered", "K00000", 2, None),
        ("n00001", "delivered", "K00001", 2, None),
        ("n00002", "delivered", "K00002", 2, None),
        ("n00003", "dead", None, 0, "number_not_on_whatsapp"),
    ]
    assert table(ledger, receipts, "key_id", "status") == [(f"K0000{i}", "delivered") for i in range(3)]
    assert table(ledger, opt_outs, "tenant", "phone_hash", "removed_at") == [("t", "h", None)]
    assert table(ledger, instances, "name", "state", "code") == [("i", "open", 200)]
    assert count(ledger, events) == 15
    assert (client.xlen(EVENTS), _pending(client)) == (0, 0)


@pytest.mark.parametrize("batch", [1, 7])
def test_batches_of_any_size_make_the_same_ledger(
    client: redis.Redis, valkey: Valkey, ledger: Engine, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ifinu.ledger.recorder._GATHER_S", 0)
    for number in range(5):
        _story(client, number)
    record(client, valkey.url, ledger, batch=batch)
    assert {row[0] for row in table(ledger, notifications, "state")} == {"delivered"}
    assert count(ledger, events) == 20


class _Killed(BaseException):
    """Stands for kill -9 in a thread."""


@pytest.mark.parametrize("moment", ["write", "acknowledge"])
def test_a_recorder_killed_between_two_steps_is_followed_by_one_that_records_the_same(
    client: redis.Redis, valkey: Valkey, ledger: Engine, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Before the commit nothing is written, after it everything is: both end in the same ledger, without a wait.
    """
    for number in range(5):
        _story(client, number)
    client.xgroup_create(EVENTS, GROUP, id="0")

    def killed(*_: object) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(*((upserts, "move") if moment == "write" else (Stream, "acknowledge")), killed)
        with pytest.raises(_Killed):
            Recorder(client, ledger).run(threading.Event())
    assert _pending(client) == 20
    assert count(ledger, events) == (0 if moment == "write" else 20)

    record(client, valkey.url, ledger)
    assert {row[0] for row in table(ledger, notifications, "state")} == {"delivered"}
    assert (count(ledger, notifications), count(ledger, events), _pending(client)) == (5, 20, 0)


def test_events_of_a_dead_consumer_are_taken_over(client: redis.Redis, valkey: Valkey, ledger: Engine) -> None:
    client.xgroup_create(EVENTS, GROUP, id="0", mkstream=True)
    for number in range(3):
        _story(client, number)
    client.xreadgroup(GROUP, "another", {EVENTS: ">"}, count=5)
    record(client, valkey.url, ledger, dead_after_s=0.1)
    assert count(ledger, events) == 12
    assert _pending(client) == 0


def test_two_recorders_at_once_do_no_harm(client: redis.Redis, valkey: Valkey, ledger: Engine) -> None:
    """
    They share the work, in batches that split the history of every notification.
    """
    pipe = client.pipeline(transaction=False)
    for number in range(400):
        _story(pipe, number)
    pipe.execute()
    with running(valkey.url, ledger, batch=37) as one, running(valkey.url, ledger, batch=23) as other:
        wait_until(lambda: client.xlen(EVENTS) == 0, seen=lambda: (one.progress, other.progress))
    assert count(ledger, events) == 1600
    assert table(ledger, notifications, "id", "state", "attempts") == [(f"n{i:05}", "delivered", 2) for i in range(400)]
    assert (one.progress.gaps, other.progress.gaps) == (0, 0)
    assert one.progress.recorded + other.progress.recorded >= 1600


def test_an_entry_that_is_no_event_is_skipped(client: redis.Redis, valkey: Valkey, ledger: Engine) -> None:
    client.xadd(EVENTS, {"event": "sent", "id": "n1", "data": "no json"})
    client.xadd(EVENTS, {"what": "is this"})
    add_event(client, "sent", "n2", key_id="K")
    progress = record(client, valkey.url, ledger).progress
    assert (progress.recorded, progress.refused) == (1, 2)
    assert table(ledger, notifications, "id") == [("n2",)]


def test_an_event_that_the_database_refuses_holds_up_no_other(
    client: redis.Redis, valkey: Valkey, ledger: Engine
) -> None:
    """
    PostgreSQL's JSON has no NaN; SQLite accepts it.
    """
    for number in range(8):
        client.xadd(EVENTS, {"event": "dead", "id": f"n{number}", "data": '{"x": NaN}' if number == 5 else "{}"})
    progress = record(client, valkey.url, ledger).progress
    refused = {"sqlite": 0, "postgresql": 1}[ledger.dialect.name]
    assert (progress.recorded, progress.refused) == (8 - refused, refused)
    assert count(ledger, notifications) == 8 - refused


def test_texts_that_no_database_can_hold_are_recorded_all_the_same(
    client: redis.Redis, valkey: Valkey, ledger: Engine
) -> None:
    add_event(client, "dead", "n\x00", reason="invalid_request", error="half a pair: \ud800, and nothing: \x00")
    assert record(client, valkey.url, ledger).progress.refused == 0
    assert table(ledger, notifications, "id", "error") == [("n\ufffd", "half a pair: \ufffd, and nothing: \ufffd")]


def test_events_unread_by_another_group_are_not_deleted(client: redis.Redis, valkey: Valkey, ledger: Engine) -> None:
    client.xgroup_create(EVENTS, "audit", id="0", mkstream=True)
    for number in range(2):
        _story(client, number)
    entries = client.xreadgroup("audit", "a", {EVENTS: ">"}, count=3)[0][1]
    client.xack(EVENTS, "audit", *(id_ for id_, _ in entries[:2]))
    with running(valkey.url, ledger):
        wait_until(lambda: count(ledger, events) == 8 and _pending(client) == 0)
    assert client.xlen(EVENTS) == 6
    assert client.xpending(EVENTS, "audit")["min"] == entries[2][0] == client.xrange(EVENTS, count=1)[0][0]


def test_events_that_arrive_during_the_wait_are_recorded_at_once(
    client: redis.Redis, valkey: Valkey, ledger: Engine
) -> None:
    with running(valkey.url, ledger) as recorder:
        for number in range(3):
            wait_until(lambda: client.exists(EVENTS))
            add_event(client, "sent", f"n{number}", key_id=f"K{number}")
            wait_until(lambda want=number + 1: recorder.progress.recorded == want, seen=lambda: recorder.progress)


def test_events_from_before_the_stop_are_recorded_before_the_recorder_ends(
    client: redis.Redis, ledger: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A worker writes the events of its last sends after it was asked to stop.
    """
    stop = threading.Event()

    def stopped_meanwhile(*_: object) -> None:
        add_event(client, "sent", "n", key_id="K")
        stop.set()

    monkeypatch.setattr(Stream, "wait", stopped_meanwhile)
    Recorder(client, ledger).run(stop)
    assert table(ledger, notifications, "id", "state") == [("n", "sent")]


def test_the_recorder_ends_when_another_is_the_leader(client: redis.Redis, ledger: Engine) -> None:
    asked = iter([True, True, False])
    Recorder(client, ledger).run(threading.Event(), lambda: next(asked))
    assert next(asked, None) is None


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"{what}: {1000 * (time.perf_counter() - began):.1f} ms")


def test_a_batch_of_500_is_a_handful_of_statements(client: redis.Redis, ledger: Engine) -> None:
    """
    The duration is printed. One statement a row would be as fast in SQLite, which needs no network round trip.
    """
    statements: list[tuple[str, bool]] = []
    event.listen(ledger, "before_cursor_execute", lambda *args: statements.append((args[2], args[5])))
    stream = Stream(client)
    stream.make_group()
    recorder = Recorder(client, ledger)
    for first in (0, 1000, 2000, 2000):
        pipe = client.pipeline(transaction=False)
        for number in range(125):
            _story(pipe, first + number)
        pipe.execute()
        taken = stream.take(500, again=False, recorded_to=(0, 0))
        assert taken is not None
        assert len(taken.entries) == 500
        statements.clear()
        with _timed(f"{ledger.dialect.name}: a batch of 500 events"):
            recorder._record(taken.entries)
        assert len(statements) <= 9
        many = [text for text, of_many_rows in statements if of_many_rows or "json_to_recordset" in text]
        assert len(many) == 3  # events, notifications, receipts


def test_upkeep_runs_between_batches_and_repeats_at_once_while_work_is_left(
    client: redis.Redis, valkey: Valkey, ledger: Engine
):
    more = iter([True, True, False])
    tended: list[int] = []

    def upkeep() -> bool:
        tended.append(1)
        return next(more)

    with running(valkey.url, ledger, upkeep=upkeep):
        wait_until(lambda: len(tended) == 3)
        add_event(client, "sent", "n1", key_id="3EB0")
        wait_until(lambda: not client.xlen(EVENTS))
    assert len(tended) == 3
