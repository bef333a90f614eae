"""A restore of Redis or of the database, and what the epoch makes of it: each message about a charge goes once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import bills
import pytest
import redis
from command_line import Shell
from sqlalchemy import Engine, select

from ifinu.billing import epoch, outbox
from ifinu.billing.billing_schema import billing_tenants, intents
from ifinu.billing.epoch import Checked, Found
from ifinu.broker import NORMAL, Keys
from ifinu.broker.claims import Claims, MessageRef, Verdict
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, LEDGER_GROUP
from ifinu.embedded import Valkey
from ifinu.ledger.engine import connect

# Redis decides by its own clock, so these times are near.
NOW = datetime.now(UTC).replace(microsecond=0)
LATER = NOW + timedelta(minutes=10)
WEEK_S = 604_800.0


@pytest.fixture
def engine(ledger_url: str) -> Iterator[Engine]:
    made = connect(ledger_url)
    yield made
    made.dispose()


Pusher = Callable[[redis.Redis, datetime], int]


@pytest.fixture
def push(engine: Engine) -> Pusher:
    def push(client: redis.Redis, now: datetime) -> int:
        with engine.begin() as connection:
            return outbox.push(connection, client, now, claim_ttl_s=WEEK_S).count

    return push


def check(engine: Engine, client: redis.Redis, now: datetime) -> Checked:
    with engine.begin() as connection:
        return epoch.check(connection, client, now, claim_ttl_s=WEEK_S)


def plan(engine: Engine, name: str) -> str:
    with engine.begin() as connection:
        if connection.execute(select(billing_tenants.c.id)).first() is None:
            bills.tenant(connection)
        bills.customer(connection, name)
        seq = bills.charge(connection, name, name, due=NOW.date() + timedelta(days=3))
        due = {"not_before": NOW - timedelta(hours=1), "valid_until": NOW + timedelta(days=2)}
        return bills.intent(connection, seq, "lembrete", **due)[1]


def on(client: redis.Redis) -> list[str]:
    return [json.loads(raw)["id"] for raw in reversed(client.lrange(NORMAL, 0, -1))]


def claimed(client: redis.Redis, id_: str, tag: str) -> Verdict:
    """The answer to a worker that asks to send a message with the id."""
    client.hset(Keys.of(NORMAL).in_flight, tag, b"{}")
    ref, event = MessageRef(NORMAL, tag), Event(Name.UNKNOWN, id_, {})
    return Claims(client, WEEK_S).claim(ref, event, digest="", tenant="u1", pseudonym="p", seen="x").verdict


def test_a_restored_redis_gets_what_was_pushed_since_the_backup(
    ifinu: Shell,
    engine: Engine,
    valkey: Valkey,
    target: Valkey,
    fresh: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    push: Pusher,
):
    with redis.Redis.from_url(valkey.url) as client:
        check(engine, client, NOW)
        before = plan(engine, "k1")
        push(client, NOW)
        assert ifinu("backup", "--without", "evolution").code == 0
        check(engine, client, LATER)
        after = plan(engine, "k2")
        push(client, LATER)
        assert on(client) == [before, after]
    valkey.kill()
    monkeypatch.setenv("IFINU_REDIS_URL", target.url)
    ended = ifinu("restore", "--only", "redis", "--yes", "--gateway-kept")
    assert ended.code == 0, ended.err
    fresh.xgroup_create(EVENTS, LEDGER_GROUP, id="0", mkstream=True)
    assert on(fresh) == [before]
    assert push(fresh, LATER) == 0
    checked = check(engine, fresh, LATER)
    assert (checked.found, checked.again, checked.doubtful) == (Found.LOST, 2, 2)
    assert push(fresh, LATER) == 2
    assert on(fresh) == [before, before, after]
    # The worker that takes one of them looks it up, and the other copy is dropped.
    assert [claimed(fresh, before, "a"), claimed(fresh, before, "b")] == [Verdict.LOOK_UP, Verdict.DUPLICATE]
    assert claimed(fresh, after, "c") is Verdict.LOOK_UP
    assert check(engine, fresh, LATER).found is Found.SAME


def test_a_restored_database_pushes_again_and_the_claim_drops_it(
    ifinu: Shell, engine: Engine, valkey: Valkey, push: Pusher
):
    with redis.Redis.from_url(valkey.url) as client:
        check(engine, client, NOW)
        id_ = plan(engine, "k1")
        assert ifinu("backup", "--without", "evolution").code == 0
        push(client, NOW)
        check(engine, client, LATER)
        engine.dispose()
        ended = ifinu("restore", "--only", "ledger", "--yes", "--replace")
        assert ended.code == 0, ended.err
        with engine.connect() as connection:
            assert connection.scalar(select(intents.c.state)) == "planned"
        assert check(engine, client, LATER) == Checked(Found.SAME)
        assert push(client, LATER) == 1
        assert on(client) == [id_, id_]
        assert [claimed(client, id_, "a"), claimed(client, id_, "b")] == [Verdict.GO, Verdict.DUPLICATE]
