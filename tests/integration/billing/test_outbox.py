from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import bills
import pytest
import redis
from sqlalchemy import Connection, Engine, insert, select, text, update

from ifinu.billing import epoch, outbox, tenants, withdrawals
from ifinu.billing.billing_schema import billing_epoch, billing_tenants, cancel_flags, customers, intents
from ifinu.billing.outbox import Pushed
from ifinu.broker import NORMAL, URGENT
from ifinu.broker.keys import EPOCH, claim_key
from ifinu.notification import Kind, Notification, Priority, Stop

NOW = datetime(2026, 12, 15, 13, tzinfo=UTC)
WEEK_S = 604_800.0
VALID = {"not_before": NOW - timedelta(hours=1), "valid_until": NOW + timedelta(days=1)}


class Composer:
    """Makes a message of each intent, except of those with a reason why it does not go."""

    def __init__(self) -> None:
        self.stops: dict[str, Stop] = {}
        self.priority = Priority.NORMAL

    def __call__(
        self, connection: Connection, wanted: Iterable[tuple[int, str]], now: datetime
    ) -> dict[str, Notification | Stop]:
        return {
            id_: self.stops.get(id_)
            or Notification(
                id=id_, kind=Kind.OVERDUE, phone=bills.PHONE, text="Oi", tenant="u1", priority=self.priority
            )
            for _, id_ in wanted
        }


@pytest.fixture
def compose() -> Composer:
    return Composer()


@pytest.fixture
def agreed(engine: Engine, client: redis.Redis) -> None:
    """Redis and the database have one epoch."""
    with engine.begin() as connection:
        epoch.check(connection, client, NOW, claim_ttl_s=WEEK_S)


def plan(engine: Engine, count: int = 1, **columns: Any) -> list[str]:
    """Plan messages about as many charges of a customer each, and return their ids, the first due first."""
    ids = []
    with engine.begin() as connection:
        if connection.execute(select(billing_tenants.c.id)).first() is None:
            bills.tenant(connection)
        for n in range(count):
            id_ = uuid.uuid4().hex
            bills.customer(connection, id_)
            seq = bills.charge(connection, id_, id_)
            due = VALID["not_before"] + timedelta(seconds=n)
            ids.append(bills.intent(connection, seq, **{**VALID, "not_before": due, **columns})[1])
    return ids


def push(engine: Engine, client: redis.Redis, compose: Composer, **arguments: Any) -> Pushed:
    with engine.begin() as connection:
        return outbox.push(connection, client, NOW, compose=compose, claim_ttl_s=WEEK_S, **arguments)


def on(client: redis.Redis, queue: str = NORMAL) -> list[str]:
    """Ids on a queue, the one that is served next first."""
    return [json.loads(raw)["id"] for raw in reversed(client.lrange(queue, 0, -1))]


def states(engine: Engine) -> dict[str, tuple[str, str | None]]:
    with engine.connect() as connection:
        return {row.id: (row.state, row.reason) for row in connection.execute(select(intents))}


def columns_of(engine: Engine, table: Any) -> Any:
    with engine.connect() as connection:
        return connection.execute(select(table)).one()


@pytest.mark.usefixtures("agreed")
def test_messages_that_are_due_are_pushed_in_their_order_and_become_queued(
    engine: Engine, client: redis.Redis, compose: Composer
):
    ids = plan(engine, 3)
    plan(engine, not_before=NOW + timedelta(seconds=1))
    assert push(engine, client, compose, limit=2) == Pushed(2, more=True)
    assert push(engine, client, compose, limit=2) == Pushed(1)
    assert on(client) == ids
    assert [states(engine)[id_] for id_ in ids] == [("queued", None)] * 3
    with engine.connect() as connection:
        row = connection.execute(select(intents).where(intents.c.id == ids[0])).one()
        assert (row.queued_at, row.epoch) == (NOW, connection.scalar(select(billing_epoch.c.epoch)))
    message = json.loads(client.lrange(NORMAL, -1, -1)[0])
    assert message == {
        "id": ids[0], "tipo_notificacao": "atraso", "telefone": bills.PHONE, "texto": "Oi", "usuario_id": "u1",
        "criado_em": "2026-12-15T13:00:00.000+00:00",
    }  # fmt: skip


@pytest.mark.usefixtures("agreed")
def test_a_message_goes_on_the_queue_of_its_priority(engine: Engine, client: redis.Redis, compose: Composer):
    compose.priority = Priority.URGENT
    ids = plan(engine)
    push(engine, client, compose)
    assert (on(client, URGENT), on(client)) == (ids, [])


@pytest.mark.usefixtures("agreed")
@pytest.mark.parametrize(
    ("kind", "notice", "overdue"),
    [
        ("lembrete", date(2026, 12, 15), None),
        ("atraso", date(2026, 12, 15), date(2026, 12, 15)),
        ("pagamento", None, None),
    ],
)
def test_the_customer_remembers_the_day_of_the_last_notice(
    engine: Engine, client: redis.Redis, compose: Composer, kind: str, notice: date | None, overdue: date | None
):
    plan(engine, kind=kind)
    push(engine, client, compose)
    row = columns_of(engine, customers)
    assert (row.last_notice_on, row.last_overdue_on) == (notice, overdue)


@pytest.mark.usefixtures("agreed")
def test_a_push_without_its_commit_is_pushed_again_with_the_same_id(
    engine: Engine, client: redis.Redis, compose: Composer
):
    ids = plan(engine)
    with engine.connect() as connection:
        outbox.push(connection, client, NOW, compose=compose, claim_ttl_s=WEEK_S)
        connection.rollback()
    assert push(engine, client, compose).count == 1
    assert on(client) == ids * 2


@pytest.mark.usefixtures("agreed")
def test_two_pushes_at_once_take_different_messages(engine: Engine, client: redis.Redis, compose: Composer):
    ids = plan(engine, 4)
    with engine.begin() as one:
        outbox.push(one, client, NOW, compose=compose, claim_ttl_s=WEEK_S, limit=2)
        assert push(engine, client, compose).count == 2
    assert sorted(on(client)) == sorted(ids)


@pytest.mark.usefixtures("agreed")
def test_nothing_of_a_paused_tenant_is_pushed(engine: Engine, client: redis.Redis, compose: Composer):
    ids = plan(engine)
    with engine.begin() as connection:
        connection.execute(update(billing_tenants).values(paused_at=NOW))
    assert push(engine, client, compose) == Pushed()
    with engine.begin() as connection:
        connection.execute(update(billing_tenants).values(paused_at=None))
    assert push(engine, client, compose).count == 1
    assert on(client) == ids


def pause(engine: Engine, client: redis.Redis) -> None:
    with engine.begin() as connection:
        tenants.pause(connection, "u1", NOW)
    with engine.begin() as connection:
        withdrawals.apply_flags(connection, client, 100, NOW)


@pytest.mark.usefixtures("agreed")
@pytest.mark.parametrize("committed", [True, False], ids=["queued", "pushed without its commit"])
def test_what_a_pause_took_back_goes_once_after_it_if_it_is_still_valid(
    engine: Engine, client: redis.Redis, compose: Composer, committed: bool
):
    plan(engine, valid_until=NOW + timedelta(minutes=1))
    ids = plan(engine, 2)
    with engine.connect() as connection:
        outbox.push(connection, client, NOW, compose=compose, claim_ttl_s=WEEK_S)
        (connection.commit if committed else connection.rollback)()
    pause(engine, client)
    assert all(client.hget(claim_key(id_), "state") == b"cancelled" for id_ in on(client))
    assert push(engine, client, compose) == Pushed()
    client.delete(NORMAL)
    with engine.begin() as connection:
        tenants.resume(connection, "u1", NOW)
    assert push(engine, client, compose) == Pushed()
    with engine.begin() as connection:
        later = NOW + timedelta(minutes=2)
        assert outbox.push(connection, client, later, compose=compose, claim_ttl_s=WEEK_S).count == 2
        assert outbox.expire(connection, later) == 1
    assert sorted(on(client)) == sorted(f"{id_}~1" for id_ in ids)


@pytest.mark.usefixtures("agreed")
def test_what_was_sent_at_the_moment_of_a_pause_does_not_go_again(
    engine: Engine, client: redis.Redis, compose: Composer
):
    (id_,) = plan(engine)
    push(engine, client, compose)
    client.hset(claim_key(id_), "state", "sent")
    pause(engine, client)
    assert states(engine) == {id_: ("queued", None)}


@pytest.mark.usefixtures("agreed")
def test_a_pause_takes_back_what_a_push_has_begun(engine: Engine, client: redis.Redis, compose: Composer):
    ids = plan(engine, 3)
    paused = threading.Event()

    def pauses() -> None:
        pause(engine, client)
        paused.set()

    with engine.connect() as connection:
        assert outbox.push(connection, client, NOW, compose=compose, claim_ttl_s=WEEK_S).count == 3
        thread = threading.Thread(target=pauses)
        thread.start()
        assert not paused.wait(0.5)
        connection.commit()
    thread.join(20)
    assert states(engine) == {f"{id_}~1": ("planned", None) for id_ in ids}


@pytest.mark.usefixtures("agreed")
def test_a_push_passes_over_a_tenant_that_is_being_paused(engine: Engine, client: redis.Redis, compose: Composer):
    plan(engine)
    with engine.begin() as connection:
        tenants.pause(connection, "u1", NOW)
        assert push(engine, client, compose) == Pushed()


@pytest.mark.usefixtures("agreed")
@pytest.mark.parametrize("rev", [1, 2])
def test_a_replacement_is_pushed_once_redis_has_answered_for_the_former_message(
    engine: Engine, client: redis.Redis, compose: Composer, rev: int
):
    (id_,) = plan(engine, rev=rev)
    former = id_.replace("~1", "").replace("~2", "~1")
    with engine.begin() as connection:
        connection.execute(insert(cancel_flags).values(id=former))
    assert push(engine, client, compose) == Pushed()
    with engine.begin() as connection:
        withdrawals.apply_flags(connection, client, 100, NOW)
    assert push(engine, client, compose) == Pushed(1)


def test_a_replacement_looks_up_the_flags_of_its_own_step(engine: Engine):
    """
    PostgreSQL takes the table for empty until it is analysed. It ended a push that read all flags for each replacement.
    """
    with engine.begin() as connection:
        connection.execute(text("ANALYZE cancel_flags"))
        connection.execute(text("INSERT INTO cancel_flags (id) SELECT 'c' || g FROM generate_series(1, 20000) g"))
        due = text(f"EXPLAIN {outbox._DUE}")
        plan = "\n".join(connection.scalars(due, {"now": NOW, "limit": 1000}))
    assert "using cancel_flags_pkey" in plan, plan


@pytest.mark.usefixtures("agreed")
def test_messages_stay_in_the_database_while_the_queue_is_full(
    engine: Engine, client: redis.Redis, compose: Composer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outbox, "MOST_WAITING", 3)
    plan(engine)
    client.lpush(NORMAL, *"abcd")
    assert push(engine, client, compose) == Pushed(full=True)
    client.lpop(NORMAL)
    assert push(engine, client, compose).count == 1


@pytest.mark.usefixtures("agreed")
@pytest.mark.parametrize(
    ("stop", "becomes"),
    [
        ("paid", ("cancelled", "paid")),
        ("charge_cancelled", ("cancelled", "charge_cancelled")),
        ("on_hold", ("skipped", "on_hold")),
        ("no_phone", ("skipped", "no_phone")),
        ("tenant_paused", ("planned", None)),
    ],
)
def test_a_message_that_does_not_go_after_all_has_the_reason(
    engine: Engine, client: redis.Redis, compose: Composer, stop: str, becomes: tuple[str, str | None]
):
    stopped, goes = plan(engine, 2)
    compose.stops[stopped] = Stop(stop)
    pushed = push(engine, client, compose)
    assert (pushed.count, pushed.withdrawn) == (1, int(stop != "tenant_paused"))
    assert states(engine)[stopped] == becomes
    assert on(client) == [goes]


@pytest.mark.usefixtures("agreed")
def test_a_message_whose_validity_has_ended_expires(engine: Engine, client: redis.Redis, compose: Composer):
    late, good = plan(engine, valid_until=NOW) + plan(engine)
    assert push(engine, client, compose).count == 1
    with engine.begin() as connection:
        assert outbox.expire(connection, NOW) == 1
    assert states(engine) == {late: ("expired", "stale"), good: ("queued", None)}


def test_what_was_merged_into_a_message_that_expires_goes_if_it_is_still_valid(engine: Engine, compose: Composer):
    with engine.begin() as connection:
        bills.tenant(connection)
        bills.customer(connection)
        seqs = [bills.charge(connection, f"inv-{n}") for n in range(4)]
        merged = {**VALID, "state": "merged", "reason": "merged", "leader": seqs[0]}
        bills.intent(connection, seqs[0], **VALID | {"valid_until": NOW}, leader=seqs[0])
        bills.intent(connection, seqs[1], "lembrete", **merged)
        bills.intent(connection, seqs[2], **merged)
        bills.intent(connection, seqs[3], **merged | {"valid_until": NOW})
    with engine.begin() as other, engine.begin() as connection:
        # A payment may withdraw it at this moment, and waits for nothing that is locked here.
        other.execute(select(intents).where(intents.c.charge_seq == seqs[1]).with_for_update())
        assert outbox.expire(connection, NOW) == 0
    with engine.begin() as connection:
        assert outbox.expire(connection, NOW) == 1
        assert outbox.expire(connection, NOW) == 0
        found = {row.charge_seq: (row.state, row.leader) for row in connection.execute(select(intents))}
        assert found == {
            seqs[0]: ("expired", seqs[0]),
            seqs[1]: ("merged", seqs[2]),
            seqs[2]: ("planned", seqs[2]),
            seqs[3]: ("merged", seqs[0]),
        }


def test_nothing_is_pushed_before_there_is_an_epoch(engine: Engine, client: redis.Redis, compose: Composer):
    plan(engine)
    assert push(engine, client, compose) == Pushed(refused=True)
    assert on(client) == []


@pytest.mark.usefixtures("agreed")
@pytest.mark.parametrize("lost", ["gone", "another"])
def test_a_server_without_the_epoch_gets_nothing(engine: Engine, client: redis.Redis, compose: Composer, lost: str):
    ids = plan(engine)
    if lost == "gone":
        client.flushall()
    else:
        client.hset(EPOCH, "epoca", "another")
    assert push(engine, client, compose).refused
    assert on(client) == []
    assert states(engine) == {ids[0]: ("planned", None)}


@pytest.mark.usefixtures("agreed")
def test_a_queued_message_of_which_the_ledger_never_heard_expires_without_a_trace(engine: Engine):
    ended = {"state": "queued", "queued_at": NOW - timedelta(days=2)}
    (lost,) = plan(engine, **ended, valid_until=NOW - timedelta(hours=2))
    (recent,) = plan(engine, **ended, valid_until=NOW - timedelta(minutes=30))
    (cancelled,) = plan(engine, **ended, valid_until=NOW - timedelta(hours=2))
    (forgotten,) = plan(engine, **ended | {"queued_at": NOW - timedelta(days=99)}, valid_until=NOW - timedelta(days=9))
    with engine.begin() as connection:
        connection.execute(insert(cancel_flags).values(id=cancelled))
        assert outbox.expire_untraced(connection, NOW) == 1
    found = states(engine)
    assert found.pop(lost) == ("expired", "no_trace")
    assert set(found.values()) == {("queued", None)}
    assert found.keys() == {recent, cancelled, forgotten}
