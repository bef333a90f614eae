"""Backups that fail while they are created, and how a complete one is distinguished from the rest."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
import redis
from backups import ROWS, Store, digest, manifest_of, run
from command_line import Shell
from forks import Forked
from processes import Queue, numbered, redis_server, start, wait_until
from sqlalchemy import make_url

from ifinu.backup import manifest, rotation
from ifinu.backup.folder import Folder
from ifinu.cli import connection
from ifinu.embedded import Valkey

COMMAND = [sys.executable, "-m", "ifinu", "backup"]


@contextlib.contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    """Lock a table, so that no other connection can read it."""
    address = make_url(url)
    connection = psycopg2.connect(host=address.host, port=address.port, user=address.username, dbname=address.database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        connection.close()


def children(pid: int, name: str) -> list[int]:
    """The ids of the processes of this name that a process has started."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                found.append(int(child))
    return found


def complete(store: Store) -> list[str]:
    return [name for name, files in store.files().items() if "manifest.json" in files]


def begun(store: Store) -> tuple[subprocess.Popen[bytes] | Forked, float]:
    """Start a backup in a new process group. Returns it and the time when its folder appeared or it ended."""
    before = store.names()
    process = start("ifinu", ["backup"], os.environ, Path(os.devnull))
    wait_until(lambda: store.names() != before or process.poll() is not None, 60)
    return process, time.monotonic()


@pytest.mark.parametrize("file", ["redis.rdb", "ledger.dump", "evolution.dump"])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_one_changed_byte_is_found_and_its_file_named(ifinu: Shell, queue: Queue, store: Store, file: str, at: float):
    queue.push(*numbered(100))
    assert ifinu("backup").code == 0
    (name,) = store.names()
    assert ifinu("backup", "verify").code == 0
    store.damage(name, file, at)
    ended = ifinu("backup", "verify", "--json")
    assert ended.code == 1
    (problem,) = ended.json["problems"]
    assert file in problem
    assert [one["part"] for one in ended.json["checked"] if one["problems"]] == [file.partition(".")[0]]


def test_a_truncated_or_missing_file_is_found(ifinu: Shell, queue: Queue, store: Store):
    assert ifinu("backup").code == 0
    (name,) = store.names()
    os.truncate(store.path / name / "redis.rdb", 20)
    (store.path / name / "ledger.dump").unlink()
    ended = ifinu("backup", "verify", "--json")
    assert ended.code == 1
    cut, missing = ended.json["problems"]
    assert (f"{name}: redis.rdb is damaged: it has 20 bytes, not " in cut, "No such file" in missing) == (True, True)


def test_a_killed_pg_dump_leaves_no_backup(ifinu: Shell, queue: Queue, store: Store, ledger_url: str):
    """
    `pg_dump` is killed while it and the count of the rows wait for a locked table.
    """
    with locked(ledger_url, "events"):
        process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        (child,) = wait_until(lambda: children(process.pid, "pg_dump"), 60)
        os.kill(child, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.splitlines()[-1] == "error: the ledger: pg_dump failed: killed by signal 9"
    assert store.names() == []


def test_no_password_is_in_the_process_list_or_in_the_output(
    ifinu: Shell, queue: Queue, store: Store, ledger_url: str, monkeypatch: pytest.MonkeyPatch
):
    secret = "s3cr3t-of-the-test"
    url = make_url(ledger_url).set(drivername="postgresql", password=secret).render_as_string(hide_password=False)
    monkeypatch.setenv("IFINU_DATABASE_URL", url)
    monkeypatch.setenv("IFINU_PHONE_KEY", "another-secret-of-the-test-of-32-bytes")
    with locked(ledger_url, "events"):
        process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        (child,) = wait_until(lambda: children(process.pid, "pg_dump"), 60)
        lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (process.pid, child)]
        given = Path(f"/proc/{child}/environ").read_text()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "--snapshot=" in lines[1]
    assert not [text for text in (*lines, out, err) if secret in text]
    assert (secret in given, "another-secret" in given, "IFINU_" in given) == (True, False, False)
    assert secret not in str(manifest_of(store, store.names()[0]))


def test_a_full_disk_leaves_nothing(ifinu: Shell, queue: Queue, store: Store):
    """
    The limit on a file's size is below the size of the snapshot.
    """
    queue.client.set("large", os.urandom(200_000))

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    ended = subprocess.run(COMMAND, capture_output=True, text=True, timeout=60, check=False, preexec_fn=small)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: the store {store.path}: ")
    assert store.names() == []


@pytest.mark.fault
@pytest.mark.timeout(300)
def test_a_backup_killed_at_any_moment_never_looks_complete(
    ifinu: Shell, queue: Queue, store: Store, evolution_url: str
):
    """
    All its processes get kill -9; the files they leave are deleted a day later.
    """
    queue.push(*numbered(3_000))
    run(evolution_url, "INSERT INTO nothing_in_it SELECT n FROM generate_series(1, 200000) AS n")
    draw = random.Random(5)
    process, began = begun(store)
    assert process.wait(60) == 0
    longest_s = time.monotonic() - began
    killed = 0
    for _ in range(100):
        process, began = begun(store)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, longest_s))  # not a deadline: the backup is killed after this time
            longest_s = min(longest_s, time.monotonic() - began)  # it ended by itself: the first one had a busy machine
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        killed += process.wait(20) == -signal.SIGKILL
        if killed == 12:
            break
    assert killed == 12
    for name in complete(store):
        ended = ifinu("backup", "verify", name)
        assert ended.code == 0, ended.out
    left = set(store.names()) - set(complete(store))
    assert left, "some were killed after they had begun"
    listed = {one["name"]: one["complete"] for one in _lines(ifinu("backup", "list", "--json").out)}
    assert {name for name, is_complete in listed.items() if not is_complete} == left

    gone = rotation.prune(Folder(store.path), datetime.now(UTC) + timedelta(days=1, minutes=5), 14)
    assert set(gone) == left
    assert store.names() == complete(store)


def _lines(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_two_backups_at_once_are_both_complete(ifinu: Shell, queue: Queue, store: Store):
    processes = [subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert len(store.names()) == len(complete(store)) == 3
    for name in store.names():
        assert ifinu("backup", "verify", name).code == 0


def test_an_expired_backup_is_deleted_once_a_new_one_is_complete(
    ifinu: Shell, queue: Queue, store: Store, monkeypatch: pytest.MonkeyPatch
):
    assert ifinu("backup").code == 0
    (first,) = store.names()
    old, older = (manifest.name_of(datetime.now(UTC) - timedelta(days=days)) for days in (5, 20))
    for name in (old, older):
        (store.path / name).mkdir()
        for file in (store.path / first).iterdir():
            (store.path / name / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("IFINU_BACKUP_KEEP_DAYS", "10")
    ended = ifinu("backup", "--without", "redis", "--json")
    assert (ended.code, ended.json["deleted"]) == (0, [older])
    assert set(store.names()) == {old, first, ended.json["name"]}


def test_a_snapshot_written_to_the_servers_disk_first_is_the_same(
    ifinu: Shell, queue: Queue, target: Valkey, store: Store
):
    queue.push(*numbered(2_000))
    queue.client.config_set("repl-diskless-sync", "no")
    assert ifinu("backup", "--without", "evolution", "--without", "ledger").code == 0
    ended = ifinu("backup", "verify", "--into-redis", target.url)
    assert ended.code == 0, ended.out
    with redis.Redis.from_url(target.url) as fresh:
        assert digest(fresh) == digest(queue.client)


def test_passwords_of_redis_and_other_databases_of_it(ifinu: Shell, store: Store, tmp_path: Path, monkeypatch):
    """
    A backup holds all databases of a server; the queues are in the one that the URL names.
    """
    config = {"requirepass": "p@ss w/rd", "repl-diskless-sync-delay": "0", "enable-debug-command": "yes"}
    with redis_server(tmp_path / "a", config) as source, redis_server(tmp_path / "b", config) as into:
        with redis.Redis.from_url(source.url) as zero, redis.Redis.from_url(source.url[:-1] + "3") as three:
            zero.set("other", "1")
            Queue(three).push(*numbered(7))
            before = digest(zero)
        monkeypatch.setenv("IFINU_REDIS_URL", source.url[:-1] + "3")
        assert ifinu("backup", "--without", "evolution").code == 0
        monkeypatch.setenv("IFINU_REDIS_URL", into.url[:-1] + "3")
        ended = ifinu("restore", "--only", "redis", "--yes", "--json")
        assert (ended.code, ended.json["queue"]["waiting"]) == (0, 7), ended.err
        assert ifinu("queue", "resume", "--queue", "all").code == 0
        with redis.Redis.from_url(into.url) as fresh:
            assert digest(fresh) == before
            assert fresh.info("keyspace")["db3"]["keys"] == 1


@pytest.mark.parametrize(
    ("refuse", "error"),
    [
        (lambda client: client.execute_command("ACL", "SETUSER", "default", "-sync", "-psync"), "NOPERM"),
        (lambda client: client.execute_command("ACL", "SETUSER", "default", "-replconf", "-sync"), "NOPERM"),
    ],
)
def test_the_error_for_a_redis_that_refuses_a_snapshot_names_the_remedy(
    ifinu: Shell, queue: Queue, store: Store, refuse, error: str
):
    refuse(queue.client)
    ended = ifinu("backup")
    assert ended.code == 1
    assert ended.err.startswith(f"error: Redis refuses SYNC ({error}")
    assert "`ifinu backup --without redis`" in ended.err
    assert store.names() == []
    assert ifinu("backup", "--without", "redis").code == 0


def test_a_redis_that_dies_in_the_middle_leaves_nothing(ifinu: Shell, queue: Queue, store: Store, valkey: Valkey):
    queue.client.config_set("rdb-key-save-delay", "10000")  # microseconds a key: ten seconds
    queue.client.mset({f"k{n}": "x" * 1_000 for n in range(1_000)})
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: queue.client.info("persistence")["rdb_bgsave_in_progress"], 60)
    wait_until(lambda: store.names() and store.files()[store.names()[0]], 60, store.files)
    valkey.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "in the middle of a snapshot" in err
    assert store.names() == []


@pytest.mark.parametrize(
    ("environment", "arguments", "code", "error"),
    [
        ({"IFINU_BACKUP_STORE": ""}, (), 2, "IFINU_BACKUP_STORE is not set"),
        ({"IFINU_DATABASE_URL": "sqlite:///x.db"}, (), 2, "the ledger is a SQLite file: copy it by"),
        ({"PATH": "/nowhere"}, (), 1, "pg_dump is not installed"),
        ({"IFINU_DATABASE_URL": "postgresql://ifinu@127.0.0.1:1/x"}, (), 3, "the ledger failed (connection to server"),
        ({"IFINU_REDIS_URL": "redis://127.0.0.1:1/0"}, (), 3, "Redis cannot be reached"),
        ({"IFINU_EVOLUTION_DATABASE_URL": ""}, ("--without", "redis", "--without", "ledger"), 2, "nothing to back up"),
    ],
)
def test_a_backup_that_cannot_be_made_is_reported_and_leaves_nothing(
    ifinu: Shell, queue: Queue, store: Store, monkeypatch, environment: dict[str, str], arguments, code: int, error: str
):
    monkeypatch.setattr(connection, "PATIENCE_S", 2.0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ended = ifinu("backup", *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert error in ended.err
    assert ("No connection yet" in ended.err) == (code == 3)  # only a server that is away is tried again
    assert store.names() == []


def test_the_gateways_own_database_url_is_accepted(
    ifinu: Shell, queue: Queue, store: Store, evolution_url: str, monkeypatch: pytest.MonkeyPatch
):
    url = evolution_url.replace("+psycopg2", "")
    monkeypatch.setenv("IFINU_EVOLUTION_DATABASE_URL", f"{url}?schema=public&connection_limit=5")
    ended = ifinu("backup", "--without", "redis", "--without", "ledger", "--json")
    assert (ended.code, ended.json["parts"]["evolution"]["rows"]) == (0, sum(ROWS.values())), ended.err


def test_an_empty_store_lists_no_backup(ifinu: Shell, queue: Queue, store: Store):
    ended = ifinu("backup", "list")
    assert (ended.code, ended.out) == (1, f"There is no backup in {store.path}.\n")
    assert ifinu("backup").code == 0
    ended = ifinu("backup", "list")
    assert (ended.code, store.names()[0] in ended.out, "evolution, ledger, redis" in ended.out) == (0, True, True)
