"""A restore overwrites the data that a fresh install creates; anything else needs `--replace`."""

from __future__ import annotations

import re
import threading

import pytest
import redis
from backups import run
from command_line import Shell
from ledgers import migrated
from processes import Fleet, wait_until
from sqlalchemy import create_engine, text
from waiting import FOREVER_MS, message, put_aside, register

from ifinu.backup import emptiness
from ifinu.backup.emptiness import FRESH
from ifinu.backup.manifest import Part
from ifinu.backup.postgres import Database
from ifinu.billing.billing_schema import metadata as billing
from ifinu.broker import NORMAL, QUEUES, Keys
from ifinu.broker.claims import Claims
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import (
    EPOCH,
    EVENTS,
    RECORDER,
    REPLIES,
    TENANTS,
    UNKNOWN,
    instance_key,
    seen_key,
    senders_key,
    tenant_key,
)  # fmt: skip
from ifinu.broker.locations import Locations, creating
from ifinu.broker.optouts import OptOuts
from ifinu.broker.pseudonyms import KEY, Pseudonyms
from ifinu.embedded import Valkey
from ifinu.ledger.schema import metadata

# The state that the gateway's own migrations leave.
GATEWAY = """
CREATE SCHEMA evolution_api;
CREATE TYPE evolution_api."InstanceConnectionStatus" AS ENUM ('open', 'close', 'connecting');
CREATE TABLE evolution_api._prisma_migrations (id varchar(36) PRIMARY KEY, migration_name text);
CREATE TABLE evolution_api."Instance" (
  id text PRIMARY KEY, name text, "connectionStatus" evolution_api."InstanceConnectionStatus" NOT NULL
);
CREATE TABLE evolution_api."Message" (id text PRIMARY KEY, "instanceId" text REFERENCES evolution_api."Instance");
INSERT INTO evolution_api._prisma_migrations VALUES ('1', '20240609181238_init'), ('2', '20240712144948_more');
"""


@pytest.fixture
def installed(elsewhere: tuple[str, str]) -> tuple[str, str]:
    """The settings name servers that were installed and never used. Returns the URLs of their databases."""
    migrated(elsewhere[0])
    run(elsewhere[1], GATEWAY)
    return elsewhere


@pytest.fixture
def ledger(fresh_urls: tuple[str, str]) -> Database:
    """A ledger right after its migration."""
    return Database(migrated(fresh_urls[0]), "the ledger")


@pytest.fixture
def gateways(fresh_urls: tuple[str, str]) -> Database:
    """A gateway's database right after its migrations."""
    run(fresh_urls[1], GATEWAY)
    return Database(fresh_urls[1], "the gateway's database")


def test_a_restore_overwrites_a_fresh_installs_data_once_its_workers_ended(
    ifinu: Shell, installed: tuple[str, str], fleet: Fleet, target: Valkey, fresh: redis.Redis, evolution_url: str
):
    """
    Its worker records to the ledger, and is killed, as can happen to a pod.
    """
    servers = {"IFINU_REDIS_URL": target.url, "IFINU_DATABASE_URL": installed[0], "IFINU_RECORDER": "true"}
    worker = fleet.start(**servers).ready()
    wait_until(lambda: fresh.exists(RECORDER, EVENTS) == 2)
    ended = ifinu("restore", "--yes", "--replace")
    assert (ended.code, ended.err) == (1, "error: workers are running: w0@test; stop them first\n")
    worker.kill()
    assert fresh.persist(RECORDER)  # the leader's key otherwise expires after 15 s
    assert fresh.exists("_kombu.binding.ifinu.pidbox", "_kombu.binding_deadlines") == 2
    ended = ifinu("restore", "--yes", "--replace")
    assert (ended.code, "a recorder is running" in ended.err) == (1, True)
    assert run(installed[0], "SELECT ms FROM recorder") == [(0,)]
    assert run(installed[1], "SELECT count(*) FROM evolution_api._prisma_migrations") == [(2,)]
    fresh.pexpire(RECORDER, 1)
    wait_until(lambda: not fresh.exists(RECORDER))

    ended = ifinu("restore", "--yes")
    assert ended.code == 0, ended.err
    assert fresh.llen(NORMAL) == 3
    query = 'SELECT * FROM "Instance" ORDER BY id'
    assert run(installed[1], query) == run(evolution_url, query)
    assert run(installed[1], "SELECT nspname FROM pg_namespace WHERE nspname = 'evolution_api'") == []


def test_all_existing_data_is_named_before_any_server_is_touched(
    ifinu: Shell, installed: tuple[str, str], fresh: redis.Redis
):
    OptOuts(fresh, Pseudonyms.load(fresh, None)).add("t1", "+5577998616740", source="whatsapp")
    run(installed[0], "INSERT INTO gaps (found_at, ms, seq, cause) VALUES (now(), 1, 0, 'group_gone')")
    run(installed[1], """INSERT INTO evolution_api."Instance" VALUES ('1', 'Maria', 'open')""")
    ended = ifinu("restore", "--yes")
    assert ended.code == 1
    assert ended.err == (
        "error: the ledger at 127.0.0.1 is not empty: it holds 1 row of public.gaps; "
        'the gateway\'s database at 127.0.0.1 is not empty: it holds 1 row of evolution_api."Instance"; '
        "Redis is not empty: it holds 1 entry of ifinu:eventos, 1 key ifinu:optout:…. "
        "Restore into other servers, or leave this one out with --only; "
        "--replace deletes all its data, in Redis that of every database\n"
    )
    assert run(installed[0], "SELECT count(*) FROM gaps") == [(1,)]
    assert run(installed[1], 'SELECT count(*) FROM evolution_api."Instance"') == [(1,)]


def test_a_fresh_installs_keys_count_as_an_empty_redis(target: Valkey, fresh: redis.Redis):
    for stream in (fresh.xgroup_create(EVENTS, "ledger", id="0", mkstream=True), fresh.xadd(EVENTS, {"event": "sent"})):
        assert stream
    fresh.xtrim(EVENTS, 0, approximate=False)  # as if all events had been recorded
    fresh.set(RECORDER, "somebody")
    Pseudonyms.load(fresh, None).of("+5577998616740")
    for exchange in ("ifinu.pidbox", "reply.ifinu.pidbox", "ifinu.celeryev"):
        fresh.sadd(f"_kombu.binding.{exchange}", "x")
    fresh.zadd("_kombu.binding_deadlines", {"x": 1})
    locations = Locations(target.url)
    locations.remember("vendas", "10.0.0.7")
    locations.close()
    register(fresh, "vendas")  # the copy of the registry
    fresh.sadd(TENANTS, "t:1")
    fresh.hset(tenant_key("t:1"), "peso", 1)
    fresh.hset(EPOCH, "epoca", "e")
    assert emptiness.in_redis(fresh) == []


def test_any_other_key_counts_as_data_in_redis(target: Valkey, fresh: redis.Redis):
    keys = Keys.of(NORMAL)
    optouts = OptOuts(fresh, Pseudonyms(b"k"))
    event = Event(Name.CONNECTION, "", {"instance": "vendas", "state": "open"}).arguments()
    cases = {
        "2 entries of ifinu:fila:whatsapp": lambda: fresh.lpush(keys.ready, "a", "b"),
        "1 entry of ifinu:fila:whatsapp:agendadas": lambda: fresh.zadd(keys.delayed, {"a": 1}),
        "1 key ifinu:numero:…, 2 entries of ifinu:fila:whatsapp:espera": lambda: (
            register(fresh, "vendas", livre=FOREVER_MS),
            put_aside(fresh, *(message(n, "vendas") for n in "ab")),
        ),
        "1 entry of ifinu:fila:whatsapp:em_voo": lambda: fresh.hset(keys.in_flight, "a", "b"),
        "1 entry of ifinu:fila:whatsapp:em_voo:prazos": lambda: fresh.zadd(keys.deadlines, {"a": 1}),
        "1 entry of ifinu:fila:whatsapp:dlq": lambda: fresh.lpush(keys.dead, "a"),
        "1 entry of ifinu:fila:baixa:pausada": lambda: fresh.set(Keys.of(QUEUES[2]).paused, "2026"),
        "1 entry of ifinu:fila:urgente:suspeitas": lambda: fresh.hset(Keys.of(QUEUES[0]).suspects, "a", 1),
        "1 entry of ifinu:eventos, 1 key ifinu:claim:…": lambda: Claims(fresh, 60).cancel("fatura:77998616740"),
        "1 key ifinu:optout:…": lambda: (optouts.add(None, "+5577998616740", source="csv"), fresh.delete(EVENTS)),
        "1 entry of ifinu:eventos": lambda: fresh.xadd(EVENTS, dict(zip(("event", "id", "data"), event, strict=True))),
        "1 entry of ifinu:desconhecidas": lambda: fresh.zadd(UNKNOWN, {"a": 1}),
        "1 entry of ifinu:respostas": lambda: fresh.hset(REPLIES, "a", "{}"),
        "1 key ifinu:visto:…": lambda: fresh.set(seen_key("r", "i", "p"), "k"),
        "1 key ifinu:remetentes:…": lambda: fresh.hset(senders_key("vendas", "2026-11"), "p", "t1"),
        "1 key ifinu:instancia:…": lambda: fresh.hset(instance_key("vendas"), "more", "x"),
        "1 key of another application": lambda: fresh.set("maria:77998616740", "x"),
        "2 keys of another application": lambda: (fresh.sadd("_kombu.binding.celery", "x"), fresh.lpush("celery", "x")),
        "1 key ifinu:chave:…": lambda: fresh.hset(KEY, "another", "type"),
        "more than 1,000 keys ifinu:claim:…": lambda: fresh.mset({f"ifinu:claim:{n}": "x" for n in range(1_500)}),
        "1 key in its database 3": lambda: redis.Redis(port=target.port, db=3).set("mine", "1"),
    }
    seen = {}
    for expected, write in cases.items():
        write()
        seen[expected] = ", ".join(sorted(emptiness.in_redis(fresh)))
        fresh.flushall()
    assert seen == {expected: expected for expected in cases}
    with creating(fresh, "vendas"):
        assert emptiness.in_redis(fresh) == ["1 key ifinu:instancia:…"]


ROWS = {
    "notifications": "(id, state, state_rank, state_ms, state_seq, attempts, first_at, last_at)"
    " VALUES ('a', 'sent', 1, 1, 0, 1, now(), now())",
    "events": "(ms, seq, at, name, data) VALUES (1, 0, now(), 'connection', '{}')",
    "receipts": "(key_id, status, rank, last_at) VALUES ('k', 'read', 3, now())",
    "opt_outs": "(tenant, phone_hash, ms, seq) VALUES ('t1', 'h', 1, 0)",
    "instances": "(name, at, ms, seq) VALUES ('vendas', now(), 1, 0)",
    "numbers": "(name, channel, zone, preset, overrides, warm_up, risk, brake, guard, registered_at, missing_count)"
    " VALUES ('vendas', 'BAILEYS', 'America/Sao_Paulo', 'conservador', '{}', true, 0, 1, '{}', now(), 0)",
    "tenants": "(name, policy, weight) VALUES ('t1', 'fixo', 1)",
    "portfolios": "(name, conversations) VALUES ('acme', 250)",
    "registry": "(id, generation, changed_at) VALUES (1, 'a', now())",
    "recorder": "(id, ms, seq, updated_at) VALUES (2, 0, 0, now())",
    "gaps": "(found_at, ms, seq, cause) VALUES (now(), 0, 0, 'restored')",
}
_RULE = "(SELECT max(id) FROM rules)"
_CALENDAR = "(SELECT max(id) FROM calendars)"
_CHARGE = "(SELECT max(seq) FROM charges)"
BILLING_ROWS = {  # each refers to those before it
    "rules": "(name, version) VALUES ('padrao', 1)",
    "rule_steps": "(rule_id, step, ord, kind, at, valid_days, effective_on)"
    f" VALUES ({_RULE}, 'd0', 1, 'vencimento', '09:00', 1, '2000-01-01')",
    "calendars": "(window_spec, uf) VALUES ('lei-sp', 'SP')",
    "send_days": f"(calendar_id, day, send_on, opens, closes) VALUES ({_CALENDAR}, now(), now(), '08:00', '20:00')",
    "bank_days": "(day, next_open, ord) VALUES (now(), now(), 1)",
    "billing_tenants": f"(id, legal_name, uf, rule_id) VALUES ('t1', 'Academia Fit LTDA', 'SP', {_RULE})",
    "own_holidays": "(tenant, day, name) VALUES ('t1', now(), 'festa')",
    "texts": "(tenant, name, version, body) VALUES ('t1', 'atraso', 1, 'Oi')",
    "customers": f"(tenant, id, name, calendar_id) VALUES ('t1', 'k1', 'Ana', {_CALENDAR})",
    "recurrences": "(tenant, id, customer_id, amount, every, unit, anchor)"
    " VALUES ('t1', 'r1', 'k1', 1, 1, 'months', now())",
    "charges": "(tenant, id, customer_id, amount, due_date, payable_on, late_from, known_on)"
    " VALUES ('t1', 'c1', 'k1', 1, now(), now(), now(), now())",
    "agenda": f"(charge_seq, tenant, next_on) VALUES ({_CHARGE}, 't1', now())",
    "intents": "(charge_seq, step, due_date, id, tenant, customer_id, kind, channel, planned_on, state)"
    f" VALUES ({_CHARGE}, 'd0', now(), 'c1.d0.261201', 't1', 'k1', 'vencimento', 'whatsapp', now(), 'planned')",
    "payment_events": "(provider, tenant, event_id, event, effect, raw, state)"
    " VALUES ('asaas', 't1', 'e1', 'PAYMENT_RECEIVED', 'paid', '{}', 'unmatched')",
    "cancel_flags": "(id) VALUES ('c1.d0.261201')",
    "imports": "(tenant, file_digest, counts) VALUES ('t1', 'd', '{}')",
    "billing_epoch": "(id, epoch) VALUES (1, gen_random_uuid())",
}


def test_one_row_in_any_table_makes_a_ledger_non_empty(ledger: Database, fresh_urls: tuple[str, str]):
    assert ROWS.keys() == metadata.tables.keys()
    fresh = FRESH[Part.LEDGER]
    assert ledger.beyond(fresh) == []
    for table, row in ROWS.items():
        run(fresh_urls[0], f"INSERT INTO {table} {row}")
        assert ledger.empty(fresh) == ledger.beyond(fresh) == [f"1 row of public.{table}"]
        own = "id = 1" if table == "recorder" else "false"
        assert run(fresh_urls[0], f"SELECT count(*) FROM {table} WHERE NOT ({own})") == [(1,)]
        run(fresh_urls[0], f"DELETE FROM {table} WHERE NOT ({own})")
    assert BILLING_ROWS.keys() == billing.tables.keys()
    rows = dict(BILLING_ROWS)
    run(fresh_urls[0], *(f"INSERT INTO {table} {rows.pop(table)}" for table in ("bank_days", "billing_epoch")))
    assert ledger.beyond(fresh) == []  # a scheduler fills these two when it starts
    for count, (table, row) in enumerate(rows.items(), 1):
        run(fresh_urls[0], f"INSERT INTO {table} {row}")
        *found, last = ledger.beyond(fresh)
        more = re.fullmatch(r"and (\d+) more", last)
        assert len(found) + (int(more[1]) if more else 1) == count
    run(fresh_urls[0], *(f"DELETE FROM {table}" for table in reversed(rows)))
    run(fresh_urls[0], "UPDATE recorder SET ms = 1")  # an event was recorded
    assert ledger.beyond(fresh) == ["1 row of public.recorder"]


def test_a_foreign_object_makes_the_ledgers_database_non_empty(ledger: Database, fresh_urls: tuple[str, str]):
    """
    The ledger may share its database with empty tables of another application.
    """
    url, fresh = fresh_urls[0], FRESH[Part.LEDGER]
    run(url, "CREATE TABLE mine (a int)", "CREATE VIEW ours AS SELECT 1 AS one", "CREATE SEQUENCE counted")
    held = ["sequence public.counted", "table public.mine", "view public.ours"]
    assert sorted(ledger.empty(fresh)) == sorted(ledger.beyond(fresh)) == held
    run(url, "DROP VIEW ours", "DROP SEQUENCE counted", "DROP TABLE mine", "DROP TABLE ledger_version")
    assert any(found.startswith("table public.") for found in ledger.beyond(fresh))


def test_rows_in_a_partition_or_behind_a_policy_count(gateways: Database, fresh_urls: tuple[str, str]):
    url, fresh = fresh_urls[1], FRESH[Part.EVOLUTION]
    assert gateways.beyond(fresh) == []
    run(url, "CREATE TABLE parts (n int) PARTITION BY RANGE (n)")
    run(url, "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (9)", "INSERT INTO parts VALUES (1)")
    run(url, "CREATE TABLE hidden (n int)", "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY")
    run(url, "ALTER TABLE hidden FORCE ROW LEVEL SECURITY", "INSERT INTO hidden SELECT generate_series(1, 2000)")
    assert sorted(gateways.beyond(fresh)) == ["1 row of public.parts_1", "more than 1,000 rows of public.hidden"]
    run(url, "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DELETE FROM parts", "DELETE FROM hidden")
    assert gateways.beyond(fresh) == ["function public.one()"]
    run(url, "DROP FUNCTION one()", "DROP TABLE evolution_api._prisma_migrations")
    assert "table public.hidden" in gateways.beyond(fresh)


def test_a_drill_refuses_a_freshly_migrated_database(ledger: Database, gateways: Database):
    assert not ledger.is_empty()
    assert not gateways.is_empty()
    assert gateways.empty(FRESH[Part.EVOLUTION]) == []
    assert gateways.is_empty()


def test_a_row_written_while_the_tables_are_checked_is_not_dropped(ledger: Database, fresh_urls: tuple[str, str]):
    found: list[str] = []
    emptying = threading.Thread(target=lambda: found.extend(ledger.empty(FRESH[Part.LEDGER])))
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
    engine = create_engine(fresh_urls[0])
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO opt_outs {ROWS['opt_outs']}"))
        emptying.start()
        wait_until(lambda: run(fresh_urls[0], waits) == [(1,)])
    emptying.join(20)
    engine.dispose()
    assert found == ["1 row of public.opt_outs"]
    assert run(fresh_urls[0], "SELECT count(*) FROM opt_outs") == [(1,)]


def test_a_message_pushed_to_redis_at_the_last_moment_is_kept_or_refused(
    ifinu: Shell, installed: tuple[str, str], fresh: redis.Redis, target: Valkey, monkeypatch: pytest.MonkeyPatch
):
    """
    One producer pushes after the first check, and another during the last check.
    """
    look = emptiness.in_redis
    looks: list[list[str]] = []
    late = redis.Redis.from_url(target.url).connection_pool.get_connection()
    late.connect()

    def pushed_after_the_first_look(client: redis.Redis) -> list[str]:
        looks.append(look(client))
        if len(looks) == 1:
            client.lpush(NORMAL, "early")
        return looks[-1]

    monkeypatch.setattr(emptiness, "in_redis", pushed_after_the_first_look)
    ended = ifinu("restore", "--only", "redis", "--yes")
    assert (ended.code, "it holds 1 entry of ifinu:fila:whatsapp." in ended.err) == (1, True), ended.err
    assert fresh.lrange(NORMAL, 0, -1) == [b"early"]
    assert fresh.info("replication")["role"] == "master"
    fresh.delete(NORMAL)
    looks.clear()

    def pushed_within_the_last_look(client: redis.Redis) -> list[str]:
        looks.append(look(client))
        if len(looks) == 2:
            late.send_command("LPUSH", NORMAL, "late")
            wait_until(lambda: client.info("clients")["blocked_clients"] == 1)
        return looks[-1]

    monkeypatch.setattr(emptiness, "in_redis", pushed_within_the_last_look)
    ended = ifinu("restore", "--only", "redis", "--yes")
    assert ended.code == 0, ended.err
    with pytest.raises(redis.exceptions.ReadOnlyError):
        late.read_response()
    assert fresh.llen(NORMAL) == 3
    late.disconnect()
