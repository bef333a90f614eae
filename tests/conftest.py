from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from processes import Fleet, Queue, Simulated, fleet_of, redis_server, stopping

from ifinu.embedded import Valkey

_ALIASES = ("REDIS_ADDR", "EVOLUTION_API_URL", "EVOLUTION_API_KEY")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has exported must not decide a test."""
    for name in [
        n for n in os.environ if n.startswith("IFINU_") or n in ("REDIS_ADDR", "EVOLUTION_API_URL", "EVOLUTION_API_KEY")
    ]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def _valkey_of_the_session() -> Iterator[Valkey]:
    with redis_server() as server:
        yield server


@pytest.fixture
def valkey(_valkey_of_the_session: Valkey) -> Valkey:
    """A real server with nothing in it, shared by tests that do not kill it."""
    with redis.Redis.from_url(_valkey_of_the_session.url) as client:
        client.flushall()
        client.script_flush()
    return _valkey_of_the_session


@pytest.fixture
def client(valkey: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as connection:
        yield connection


@pytest.fixture
def queue(client: redis.Redis) -> Queue:
    return Queue(client)


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulated]:
    """An Evolution API that sends nothing and remembers everything; outcomes by number ending are on."""
    with stopping(Simulated(tmp_path)) as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path, valkey: Valkey, simulator: Simulated) -> Iterator[Fleet]:
    """Workers of the shared server and the simulator; quick retries and leases."""
    with stopping(fleet_of(tmp_path, valkey.url, simulator.url)) as workers:
        yield workers
