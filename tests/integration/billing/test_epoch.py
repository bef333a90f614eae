from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import bills
import ledger_rows
import pytest
import redis
from processes import redis_server
from sqlalchemy import Engine, insert, select, update

from ifinu.billing import epoch
from ifinu.billing.billing_schema import billing_epoch, billing_tenants, cancel_flags, intents
from ifinu.billing.epoch import Checked, Found
from ifinu.broker.claims import Claims, ClaimState, MessageRef, Verdict
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EPOCH, EVENTS, LEDGER_GROUP, NORMAL, Keys, claim_key, optout_key
from ifinu.embedded import Valkey
from ifinu.ledger import schema
from ifinu.ledger.reconciliation import ClaimWriter
from ifinu.ledger.states import State

NOW = datetime(2026, 12, 15, 13, tzinfo=UTC)
WEEK_S = 604_800.0
LATER = NOW + timedelta(minutes=10)


def check(engine: Engine, client: redis.Redis, now: datetime = NOW) -> Checked:
    with engine.begin() as connection:
        return epoch.check(connection, client, now, claim_ttl_s=WEEK_S)


def queued(engine: Engine, at: datetime = NOW, **columns: Any) -> str:
    """A message that was pushed at a time; returns its id."""
    with engine.begin() as connection:
        if connection.execute(select(billing_tenants.c.id)).first() is None:
            bills.tenant(connection)
        id_ = uuid.uuid4().hex
        bills.customer(connection, id_)
        seq = bills.charge(connection, id_, id_)
        given = {"state": "queued", "queued_at": at, "not_before": at, "valid_until": NOW + timedelta(days=2)}
        return bills.intent(connection, seq, **given | columns)[1]


def found(engine: Engine) -> dict[str, tuple[str, bool]]:
    """State of each message, and whether it is doubtful."""
    with engine.connect() as connection:
        return {row.id: (row.state, row.doubtful) for row in connection.execute(select(intents))}


def agreed(engine: Engine) -> Any:
    with engine.connect() as connection:
        return connection.execute(select(billing_epoch)).one()


def lose(client: redis.Redis) -> None:
    """Lose everything; the recorder has seen it since."""
    client.flushall()
    client.xgroup_create(EVENTS, LEDGER_GROUP, id="0", mkstream=True)


@pytest.fixture(autouse=True)
def _begun(engine: Engine, client: redis.Redis) -> None:
    assert check(engine, client).found is Found.SAME


def test_both_have_one_epoch_from_the_first_check_on(engine: Engine, client: redis.Redis):
    first = agreed(engine)
    assert client.hget(EPOCH, "epoca") == first.epoch.encode()
    assert check(engine, client, LATER) == Checked(Found.SAME)
    second = agreed(engine)
    assert (second.epoch, second.seen_at) == (first.epoch, LATER)
    assert client.hget(EPOCH, "visto") == str(round(LATER.timestamp() * 1000)).encode()


def test_a_check_beside_another_one_does_nothing(engine: Engine, client: redis.Redis):
    with engine.begin() as connection:
        assert epoch.check(connection, client, NOW, claim_ttl_s=WEEK_S).found is Found.SAME
        assert check(engine, client).found is Found.BUSY


@pytest.mark.parametrize(
    ("state", "about", "becomes"),
    [
        (None, {}, ("planned", True)),
        (State.DEFERRED, {"due_at": LATER + timedelta(hours=1)}, ("planned", False)),
        (State.DEFERRED, {"due_at": NOW}, ("planned", True)),
        (State.RETRYING, {}, ("planned", True)),
        (State.QUEUED, {}, ("planned", True)),
        (State.UNKNOWN, {}, ("planned", True)),
        (State.SENT, {}, ("queued", False)),
        (State.READ, {}, ("queued", False)),
        (State.EXPIRED, {}, ("queued", False)),
        (State.SUPPRESSED, {}, ("queued", False)),
        (State.CANCELLED, {}, ("queued", False)),
        (State.DEAD, {}, ("queued", False)),
        (State.PURGED, {}, ("queued", False)),
    ],
)
def test_what_has_not_ended_is_planned_again_when_redis_has_lost_everything(
    engine: Engine,
    client: redis.Redis,
    state: State | None,
    about: dict[str, Any],
    becomes: tuple[str, bool],
):
    id_ = queued(engine)
    if state is not None:
        ledger_rows.notification(engine, id_, state, NOW, **about)
    lose(client)
    checked = check(engine, client, LATER)
    assert (checked.found, checked.again, checked.doubtful) == (Found.LOST, becomes[0] == "planned", becomes[1])
    assert found(engine) == {id_: becomes}


def test_a_loss_begins_a_new_epoch(engine: Engine, client: redis.Redis):
    before = agreed(engine).epoch
    lose(client)
    assert check(engine, client, LATER).found is Found.LOST
    after = agreed(engine).epoch
    assert after != before
    assert client.hget(EPOCH, "epoca") == after.encode()
    assert check(engine, client, LATER).found is Found.SAME


def test_claims_and_opt_outs_are_written_from_the_ledger(engine: Engine, client: redis.Redis):
    ledger_rows.notification(engine, "a", State.SENT, NOW, key_id="WA1")
    ledger_rows.notification(engine, "b", State.UNKNOWN, NOW)
    ledger_rows.notification(engine, "old", State.SENT, NOW - timedelta(days=8))
    ledger_rows.add(
        engine, schema.opt_outs, tenant="u1", phone_hash="h", phone="+55…", source="SAIR", ms=1, seq=0,
        at=NOW - timedelta(days=99),
    )  # fmt: skip
    lose(client)
    checked = check(engine, client, LATER)
    assert (checked.claims, checked.opt_outs) == (2, 1)
    assert client.hget(claim_key("a"), "state") == b"sent"
    # The grace of what may have been sent begins again.
    assert client.hget(claim_key("b"), "started") == str(round(LATER.timestamp() * 1000)).encode()
    assert client.hexists(optout_key("u1"), "h")
    assert not client.exists(claim_key("old"))


def test_those_that_may_have_been_sent_unrecorded_are_the_first_of_a_tenant(engine: Engine, client: redis.Redis):
    ids = [queued(engine, NOW - timedelta(seconds=60 - n)) for n in range(12)]
    for n in range(4):  # 4 in ten seconds at most
        ledger_rows.event(engine, f"x{n}", "sent", NOW - timedelta(minutes=5), seq=n)
    ledger_rows.event(engine, "y", "deferred", NOW)
    lose(client)
    # The ledger is 0 s behind, plus 15 s for what was in transit: twice 4 * 1.5.
    assert check(engine, client, NOW).doubtful == 12
    with engine.begin() as connection:
        connection.execute(update(intents).values(state="queued", doubtful=False))
        connection.execute(schema.events.delete().where(schema.events.c.name == "sent"))
    ledger_rows.event(engine, "x", "sent", NOW - timedelta(minutes=5))
    lose(client)
    assert check(engine, client).doubtful == 3
    assert [id_ for id_, state in found(engine).items() if state[1]] == ids[:3]


def test_what_the_ledger_heard_after_the_loss_says_nothing_of_before(engine: Engine, client: redis.Redis):
    for _ in range(14):
        queued(engine)
    ledger_rows.event(engine, "x", "sent", NOW - timedelta(seconds=45))
    ledger_rows.event(engine, "y", "sent", NOW + timedelta(seconds=1))
    lose(client)
    assert check(engine, client).doubtful == 12  # twice 1 in ten seconds, in 45 s and those in transit


def test_nothing_is_done_while_the_recorder_has_not_seen_the_loss(engine: Engine, client: redis.Redis):
    id_ = queued(engine)
    client.flushall()
    assert check(engine, client, NOW + timedelta(seconds=20)) == Checked(Found.WAITING)
    assert not client.exists(EPOCH)
    assert found(engine) == {id_: ("queued", False)}
    assert check(engine, client, NOW + timedelta(seconds=40)).found is Found.LOST  # it may be away


def test_what_is_cancelled_stays_so(engine: Engine, client: redis.Redis):
    id_ = queued(engine)
    with engine.begin() as connection:
        connection.execute(insert(cancel_flags).values(id=id_, at=NOW, done_at=NOW))
        connection.execute(insert(cancel_flags).values(id="old", at=NOW, done_at=NOW - timedelta(days=8)))
    lose(client)
    checked = check(engine, client, LATER)
    assert (checked.again, checked.cancelled) == (0, 1)
    with engine.connect() as connection:
        assert connection.scalar(select(cancel_flags.c.done_at).where(cancel_flags.c.id == id_)) is None


def test_what_was_queued_before_its_claim_would_have_expired_is_not_sent_again(engine: Engine, client: redis.Redis):
    id_ = queued(engine, NOW - timedelta(days=7, minutes=1))
    lose(client)
    assert check(engine, client).again == 0
    with engine.connect() as connection:
        assert connection.execute(select(intents.c.id, intents.c.state, intents.c.reason)).all() == [
            (id_, "expired", "stale")
        ]


def test_another_server_with_the_same_data_gets_the_last_minute_again(engine: Engine, client: redis.Redis):
    old = queued(engine, NOW - timedelta(seconds=61))
    new = queued(engine, NOW - timedelta(seconds=30))
    with engine.begin() as connection:
        connection.execute(update(billing_epoch).values(redis_run_id="the one before"))
        connection.execute(insert(cancel_flags).values(id="c", at=NOW, done_at=NOW))
    before = agreed(engine).epoch
    assert check(engine, client, LATER) == Checked(Found.RESTARTED, again=1, cancelled=1)
    assert found(engine) == {old: ("queued", False), new: ("planned", False)}
    assert agreed(engine).epoch == before
    assert check(engine, client, LATER) == Checked(Found.SAME)


def test_a_server_that_lost_its_last_seconds_makes_the_pushes_of_these_doubtful(engine: Engine, client: redis.Redis):
    before = queued(engine, NOW - timedelta(seconds=10))
    after = queued(engine, NOW + timedelta(seconds=2))  # Redis knows of none after NOW
    assert check(engine, client, NOW + timedelta(seconds=20)) == Checked(Found.RESTARTED, again=2, doubtful=1)
    assert found(engine) == {before: ("planned", False), after: ("planned", True)}


def test_a_server_with_old_data_has_lost_everything_since(engine: Engine, client: redis.Redis):
    id_ = queued(engine, NOW - timedelta(minutes=5))
    client.hset(EPOCH, "visto", round((NOW - timedelta(hours=1)).timestamp() * 1000))
    client.xgroup_create(EVENTS, LEDGER_GROUP, id="0", mkstream=True)
    before = agreed(engine).epoch
    assert check(engine, client).found is Found.LOST
    assert agreed(engine).epoch != before
    assert found(engine)[id_][0] == "planned"


def test_a_database_with_old_data_changes_nothing_in_redis(engine: Engine, client: redis.Redis):
    id_ = queued(engine, NOW - timedelta(hours=2))
    with engine.begin() as connection:
        connection.execute(update(billing_epoch).values(seen_at=NOW - timedelta(hours=1)))
    assert check(engine, client) == Checked(Found.SAME)
    assert found(engine) == {id_: ("queued", False)}


def test_a_crash_of_redis_is_found_as_a_restart(engine: Engine, own_valkey: Valkey):
    with redis.Redis.from_url(own_valkey.url) as client:
        with engine.begin() as connection:
            connection.execute(billing_epoch.delete())
        check(engine, client)
        own_valkey.kill()
        own_valkey.start()
        assert check(engine, client).found is Found.RESTARTED
        assert check(engine, client).found is Found.SAME


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    with redis_server() as server:
        yield server


def test_a_doubtful_message_is_looked_up_before_it_is_sent(engine: Engine, client: redis.Redis):
    now = datetime.now(UTC).replace(microsecond=0)
    claims = Claims(client, WEEK_S)
    writer = ClaimWriter(client, WEEK_S, now - timedelta(hours=1), started=now, resend=True)
    assert writer.doubt(["a", "b"]) == 2
    assert writer.doubt(["a"]) == 0
    client.hset(Keys.of(NORMAL).in_flight, "tag", b"{}")
    ref = MessageRef(NORMAL, "tag")
    event = Event(Name.UNKNOWN, "a", {})
    claim = claims.claim(ref, event, digest="", tenant=None, pseudonym="p", seen="seen")
    assert (claim.verdict, claim.before) == (Verdict.LOOK_UP, ClaimState.UNKNOWN)
    assert (claim.since, claim.started, claim.resent) == (now - timedelta(hours=1), now, False)
