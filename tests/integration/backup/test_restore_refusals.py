"""The cases in which `ifinu restore` refuses, and how it resumes after an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import redis
from backups import Store, digest, run
from command_line import Shell
from processes import wait_until

from ifinu.broker import QUEUES, Keys
from ifinu.cli import connection
from ifinu.embedded import Valkey

TABLES = "SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'public'"


def kept(client: redis.Redis) -> list[bytes]:
    """All keys except the temporary ones of Celery's remote control."""
    return [key for key in client.scan_iter() if not key.startswith(b"_kombu.")]


def test_a_non_empty_server_is_left_alone_without_replace(
    ifinu: Shell, elsewhere: tuple[str, str], fresh: redis.Redis, evolution_url: str
):
    fresh.set("mine", "1")
    run(elsewhere[1], "CREATE TYPE mine AS ENUM ('a')", "CREATE TABLE mine_too (a mine, b serial)")
    run(elsewhere[1], "CREATE SCHEMA other", "CREATE VIEW other.seen AS SELECT 1 AS one")
    run(elsewhere[1], "CREATE FUNCTION doubled(n text) RETURNS text LANGUAGE sql AS 'SELECT n || n'")
    for only, held in {"evolution": "the gateway's database at 127.0.0.1", "redis": "Redis"}.items():
        ended = ifinu("restore", "--only", only, "--only", "ledger", "--yes")
        assert ended.code == 1
        assert f"{held} is not empty: it holds " in ended.err
        assert run(elsewhere[0], TABLES) == [(0,)]
    assert fresh.get("mine") == b"1"
    assert run(elsewhere[1], "SELECT count(*) FROM mine_too") == [(0,)]

    ended = ifinu("restore", "--yes", "--replace")
    assert ended.code == 0, ended.err
    assert fresh.get("mine") is None
    assert run(elsewhere[1], "SELECT relname FROM pg_class WHERE relname IN ('mine_too', 'seen')") == []
    assert run(elsewhere[1], "SELECT typname FROM pg_type WHERE typname = 'mine'") == []
    query = 'SELECT * FROM "Instance" ORDER BY id'
    assert run(elsewhere[1], query) == run(evolution_url, query)
    again = ifinu("restore", "--yes", "--replace")
    assert again.code == 0, again.err


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("IFINU_REDIS_URL", "redis://127.0.0.1:1/0"),
        ("IFINU_DATABASE_URL", "postgresql://ifinu@127.0.0.1:1/x"),
        ("IFINU_EVOLUTION_DATABASE_URL", "postgresql://ifinu@127.0.0.1:1/x"),
    ],
)
def test_an_unavailable_server_is_detected_before_anything_is_touched(
    ifinu: Shell,
    elsewhere: tuple[str, str],
    fresh: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    url: str,
):
    monkeypatch.setattr(connection, "PATIENCE_S", 2)
    monkeypatch.setenv(setting, url)
    ended = ifinu("restore", "--yes")
    assert ended.code == 3, ended.err
    assert "No connection yet" in ended.err
    assert "restoring" not in ended.err
    assert kept(fresh) == []


def test_a_damaged_backup_touches_nothing(
    ifinu: Shell, elsewhere: tuple[str, str], backup: str, store: Store, fresh: redis.Redis
):
    store.damage(backup, "evolution.dump", 0.5)
    fresh.set("mine", "1")
    ended = ifinu("restore", "--yes", "--replace")
    assert ended.code == 1
    assert f"{backup}: evolution.dump is damaged: its checksum is not that of the manifest" in ended.err
    assert kept(fresh) == [b"mine"]
    assert run(elsewhere[0], TABLES) == [(0,)]
    assert ifinu("restore", "--yes", "--replace", "--only", "redis", "--only", "ledger").code == 0


def test_nothing_is_restored_into_a_database_with_other_connections(ifinu: Shell, elsewhere: tuple[str, str]):
    from sqlalchemy import create_engine

    engine = create_engine(elsewhere[1], connect_args={"application_name": "the gateway"})
    with engine.connect():
        ended = ifinu("restore", "--yes")
        assert ended.code == 1
        assert "the gateway's database has other connections (1 of 'the gateway')" in ended.err
        assert run(elsewhere[0], TABLES) == [(0,)]
        assert ifinu("restore", "--yes", "--force").code == 0
    engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        ((), 2, "stdin is not a terminal: add --yes"),
        (("--yes", "--gateway-kept"), 2, "--gateway-kept means that the gateway's database was not lost"),
        (("--yes", "--only", "redis"), 1, "the ledger has no tables, and Redis is reconciled with it"),
        (("--yes", "--listen", "here"), 2, "--listen must be HOST:PORT or :PORT"),
        (("--yes", "20200101T000000Z"), 1, "there is no backup '20200101T000000Z'"),
        (("--yes", "--only", "nothing"), 2, "Invalid value for '--only'"),
    ],
)
def test_a_refused_restore_touches_nothing(
    ifinu: Shell, elsewhere: tuple[str, str], fresh: redis.Redis, arguments: tuple[str, ...], code: int, error: str
):
    ended = ifinu("restore", *arguments)
    assert ended.code == code
    assert error in " ".join(ended.err.replace("│", " ").split())
    assert run(elsewhere[0], TABLES) == [(0,)]
    assert kept(fresh) == []


def test_a_restore_into_a_replica_is_refused(
    ifinu: Shell, elsewhere: tuple[str, str], fresh: redis.Redis, valkey: Valkey
):
    fresh.replicaof("127.0.0.1", valkey.port)
    wait_until(lambda: fresh.info("replication")["master_link_status"] == "up")
    ended = ifinu("restore", "--yes", "--replace")
    assert (ended.code, ended.err) == (1, "error: Redis is a replica of 127.0.0.1: restore into the primary\n")


def test_a_redis_that_cannot_reach_the_restore_keeps_its_data(
    ifinu: Shell, elsewhere: tuple[str, str], fresh: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    """
    No server listens at the address that Redis gets.
    """
    fresh.set("mine", "1")
    fresh.config_set("masterauth", "its own")
    arguments = ("restore", "--yes", "--replace", "--only", "redis", "--only", "ledger")
    with monkeypatch.context() as hurried:
        hurried.setattr("ifinu.backup.primary._CONNECT_S", 2.0)
        ended = ifinu(*arguments, "--listen", "192.0.2.1:0")
    assert (ended.code, "Redis did not connect to fetch its snapshot" in ended.err) == (1, True)
    assert fresh.get("mine") == b"1"
    assert fresh.info("replication")["role"] == "master"
    assert fresh.config_get("masterauth") == {"masterauth": "its own"}
    assert ifinu(*arguments, "--listen", "127.0.0.1:0").code == 0
    assert fresh.get("mine") is None
    assert fresh.info("replication")["role"] == "master"
    assert fresh.config_get("masterauth") == {"masterauth": "its own"}


@pytest.mark.timeout(180)
def test_a_killed_restore_can_be_repeated(
    ifinu: Shell, elsewhere: tuple[str, str], fresh: redis.Redis, client: redis.Redis
):
    """
    The restore dies while Redis replicates from it and so refuses writes.
    """
    unreachable = "192.0.2.1:0"  # a reserved address, which no host has
    command = [sys.executable, "-m", "ifinu", "restore", "--yes", "--listen", unreachable]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy())
    wait_until(lambda: fresh.info("replication")["role"] == "slave", 60)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    ended = ifinu("restore", "--yes")
    assert (ended.code, "the ledger at 127.0.0.1 is not empty: it holds 1 row of public.gaps" in ended.err) == (1, True)
    ended = ifinu("restore", "--yes", "--replace")
    assert ended.code == 0, ended.err
    for name in QUEUES:
        assert fresh.delete(Keys.of(name).paused) == 1
    assert digest(fresh) == digest(client)
