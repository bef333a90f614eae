from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from backups import ODD, Store, run
from command_line import Shell
from ledgers import database
from processes import API_KEY, Fleet, Queue, Simulated, fleet_of, numbered, postgres_server, redis_server, stopping

from ifinu.embedded import Postgres, Valkey

# A snapshot starts at once, and all data of a server can be compared by one digest.
_QUICK = {"repl-diskless-sync-delay": "0", "enable-debug-command": "yes"}


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the `pg_dump` and `pg_restore` of the tests' own server."""
    folder = os.environ.get("POSTGRES_BIN") or str(Postgres.binaries())
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server for this test only, so that the test may kill it."""
    with redis_server(tmp_path / "valkey", _QUICK) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Valkey]:
    """A second, empty server."""
    with redis_server(tmp_path / "target", _QUICK) as server:
        yield server


@pytest.fixture
def fresh(target: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(target.url) as connection:
        yield connection


@pytest.fixture(scope="module")
def fresh_postgres() -> Iterator[Postgres]:
    """A new server, into which a backup is restored."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def fresh_urls(fresh_postgres: Postgres) -> tuple[str, str]:
    """The URLs of two empty databases on it: for the ledger and for the gateway."""
    names = (f"{name}_{uuid.uuid4().hex}" for name in ("ledger", "evolution"))
    ledger, evolution = (database(fresh_postgres.url, name) for name in names)
    return ledger, evolution


@pytest.fixture
def ledger_url(postgres_ledger: str) -> str:
    return postgres_ledger


@pytest.fixture
def evolution_url(_postgres_of_the_session: Postgres) -> str:
    """A database like the gateway's, plus unusual objects."""
    url = database(_postgres_of_the_session.url, f"evolution_{uuid.uuid4().hex}")
    run(url, ODD)
    return url


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulated]:
    """A simulator where every send succeeds."""
    with stopping(Simulated(tmp_path, "--plain", "--instance", "ifinu")) as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path, valkey: Valkey, simulator: Simulated) -> Iterator[Fleet]:
    with stopping(fleet_of(tmp_path, valkey.url, simulator.url)) as workers:
        yield workers


@pytest.fixture
def ifinu(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    valkey: Valkey,
    ledger_url: str,
    evolution_url: str,
    store: Store,
) -> Shell:
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", ledger_url)
    monkeypatch.setenv("IFINU_EVOLUTION_DATABASE_URL", evolution_url.replace("+psycopg2", ""))
    monkeypatch.setenv("IFINU_BACKUP_STORE", str(store.path))
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY", API_KEY)
    return Shell(capsys, monkeypatch)


@pytest.fixture
def backup(ifinu: Shell, queue: Queue) -> str:
    """The name of a backup of a Redis with three messages, a ledger and a gateway's database."""
    queue.push(*numbered(3))
    taken = ifinu("backup", "--json")
    assert taken.code == 0, taken.err
    return str(taken.json["name"])


@pytest.fixture
def elsewhere(
    backup: str, target: Valkey, fresh_urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """The settings name empty servers from here on. Returns the URLs of their databases."""
    monkeypatch.setenv("IFINU_REDIS_URL", target.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", fresh_urls[0])
    monkeypatch.setenv("IFINU_EVOLUTION_DATABASE_URL", fresh_urls[1])
    return fresh_urls
