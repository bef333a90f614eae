"""
The restore drill: a backup of real servers with data in every place, restored into new servers.
"""

from __future__ import annotations

import json
import stat

import pytest
import redis
from backups import ODD, ROWS, Store, dead_ids, dead_letters, digest, fill, manifest_of, run
from command_line import Shell
from integration.ledger.recording import record
from processes import Fleet, Queue, Simulated, wait_until

from ifinu.broker import NORMAL
from ifinu.broker.keys import EVENTS
from ifinu.embedded import Valkey
from ifinu.ledger.engine import connect


@pytest.fixture
def filled(queue: Queue, fleet: Fleet, simulator: Simulated, valkey: Valkey, ledger_url: str) -> Queue:
    """
    Messages ready, delayed, dead and in flight, claims of sent messages, opt-outs, events, and rows in the ledger.
    """
    fill(queue, 2_000)
    simulator.control.set_fault(latency_ms=50)
    queue.client.rpush(queue.keys.ready, *dead_letters(queue, 10))  # served first
    worker = fleet.start(IFINU_RATE_LIMIT="200/s", IFINU_RATE_BURST="20").ready()
    wait_until(lambda: simulator.total() > 300 and queue.counts()["in_flight"] > 10, 60, queue.counts)
    worker.kill()
    engine = connect(ledger_url)
    record(queue.client, valkey.url, engine)
    engine.dispose()
    for n in range(100):  # events since, which the ledger lacks
        queue.client.xadd(EVENTS, {"event": "retrying", "id": f"test_{n}", "data": "{}"})
    return queue


@pytest.mark.timeout(240)
def test_the_restored_data_equals_the_backed_up_data(
    ifinu: Shell, filled: Queue, store: Store, target: Valkey, fresh: redis.Redis, fresh_urls: tuple[str, str],
    ledger_url: str, evolution_url: str,
):  # fmt: skip
    """
    Rows, their hashes, and every Redis key with its value and expiry are equal; the drill reports the totals.
    """
    counts = filled.counts()
    assert all(count for place, count in counts.items() if place != "in_lanes"), counts
    before = digest(filled.client)
    taken = ifinu("backup", "--json")
    assert taken.code == 0, taken.err
    name = taken.json["name"]
    assert store.files() == {name: ["evolution.dump", "ledger.dump", "manifest.json", "redis.rdb"]}
    assert {stat.S_IMODE(file.stat().st_mode) for file in (store.path / name).iterdir()} == {0o600}
    assert taken.json["parts"]["redis"]["keys"] == filled.client.dbsize()

    ended = ifinu(
        "backup", "verify", "--json", "--into-database", fresh_urls[0], "--into-evolution-database", fresh_urls[1],
        "--into-redis", target.url,
    )  # fmt: skip
    assert (ended.code, ended.json["problems"]) == (0, []), ended.err
    assert [one["part"] for one in ended.json["restored"]] == ["redis", "ledger", "evolution"]
    assert 0 < ended.json["rto_s"] < 100
    assert 0 < ended.json["rpo_s"] < 100

    assert digest(fresh) == before
    assert Queue(fresh).counts() == counts
    for table in ("notifications", "events", "opt_outs", "recorder", "ledger_version"):
        query = f'SELECT * FROM "{table}" AS t ORDER BY t::text'
        assert run(fresh_urls[0], query) == run(ledger_url, query)
    assert len(run(fresh_urls[0], "SELECT id FROM notifications")) > 250
    for table, rows in ROWS.items():
        query = f"SELECT * FROM {table} AS t ORDER BY t::text"
        assert run(fresh_urls[1], query) == run(evolution_url, query)
        assert len(run(fresh_urls[1], query)) == rows
    assert run(fresh_urls[1], "SELECT doubled(4), (SELECT count(*) FROM open_ones)") == [(8, 500)]


def test_the_manifest_lists_the_contents_and_nothing_personal(ifinu: Shell, filled: Queue, store: Store):
    taken = ifinu("backup")
    assert taken.code == 0, taken.err
    (name,) = store.names()
    manifest = manifest_of(store, name)
    rows = {table: about["rows"] for table, about in manifest["parts"]["evolution"]["tables"].items()}
    assert rows == {
        "public.Instance": 502, "Other Schema.Message": 3, "public.nothing_in_it": 0, "public.parts_2026": 10,
    }  # fmt: skip
    assert manifest["parts"]["ledger"]["tables"]["public.notifications"]["rows"] > 250
    assert manifest["parts"]["redis"]["keys"] == {"0": filled.client.dbsize()}
    for written in (json.dumps(manifest), taken.out, taken.err):
        assert "998616740" not in written
        assert "password" not in written


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("""UPDATE "Instance" SET "the whole row!" = 'x' WHERE id = 7""", "table public.Instance has as many rows"),
        (
            """UPDATE "Instance" SET creds = '{"key": 7, "é": 0}' WHERE id = 7""",
            "table public.Instance has as many rows",
        ),
        ('DELETE FROM "Other Schema"."Message"', "table Other Schema.Message has 0 rows, not 3"),
        ("INSERT INTO nothing_in_it VALUES (NULL)", "table public.nothing_in_it has 1 rows, not 0"),
        ("DROP TABLE nothing_in_it", "table public.nothing_in_it is missing"),
        ("CREATE TABLE more (a int)", "table public.more was not in the backup"),
    ],
)
def test_a_difference_after_a_restore_is_detected(
    ifinu: Shell, fresh_urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch, change: str, expected: str
):
    """
    The restored data is changed before the drill compares it.
    """
    from ifinu.backup.postgres import Database

    assert ifinu("backup", "--without", "redis", "--without", "ledger").code == 0
    restored = Database.restore

    def restore_and_change(self: Database, chunks: object) -> None:
        restored(self, chunks)  # type: ignore[arg-type]
        run(fresh_urls[1], change)

    monkeypatch.setattr(Database, "restore", restore_and_change)
    ended = ifinu("backup", "verify", "--into-evolution-database", fresh_urls[1], "--json")
    assert ended.code == 1
    (problem,) = ended.json["problems"]
    assert problem.startswith(expected)


def test_a_drill_accepts_only_empty_servers(
    ifinu: Shell, queue: Queue, target: Valkey, fresh: redis.Redis, fresh_urls: tuple[str, str]
):
    """
    Existing data is kept.
    """
    assert ifinu("backup").code == 0
    fresh.set("mine", "1")
    ended = ifinu("backup", "verify", "--into-redis", target.url, "--into-database", fresh_urls[0])
    assert (ended.code, ended.err) == (1, "error: the Redis for the drill is not empty: a drill needs an empty one\n")
    assert run(fresh_urls[0], "SELECT relname FROM pg_class WHERE relname = 'notifications'") == []
    run(fresh_urls[1], "CREATE TABLE mine (a int)")
    ended = ifinu("backup", "verify", "--into-evolution-database", fresh_urls[1])
    assert (ended.code, "is not empty" in ended.err) == (1, True)
    assert fresh.get("mine") == b"1"
    assert run(fresh_urls[1], "SELECT count(*) FROM mine") == [(0,)]


def test_the_same_rows_in_another_order_have_the_same_hash(ifinu: Shell, fresh_urls: tuple[str, str], evolution_url):
    from ifinu.backup.postgres import Database

    run(fresh_urls[1], ODD)
    run(
        fresh_urls[1],
        'CREATE TABLE kept AS SELECT * FROM "Instance" ORDER BY id DESC',
        'TRUNCATE "Instance" CASCADE', 'INSERT INTO "Instance" SELECT * FROM kept', "DROP TABLE kept",
        'INSERT INTO "Other Schema"."Message" SELECT 1, \'x\' FROM generate_series(1, 3)',
    )  # fmt: skip
    name = fresh_urls[1].rpartition("/")[2]
    for setting in ("TimeZone = 'America/Sao_Paulo'", "DateStyle = 'SQL, DMY'", "bytea_output = 'escape'",
                    "extra_float_digits = -5", "IntervalStyle = 'iso_8601'"):  # fmt: skip
        run(fresh_urls[1], f'ALTER DATABASE "{name}" SET {setting}')
    assert Database(fresh_urls[1], "one").tables() == Database(evolution_url, "the other").tables()


def test_the_drills_data_includes_dead_letters(filled: Queue):
    """
    Otherwise the drill would prove less than it reports.
    """
    assert set(dead_ids(filled)) == {f"bad_{n}" for n in range(10)}
    assert filled.keys.ready == NORMAL
