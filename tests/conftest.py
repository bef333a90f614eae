from __future__ import annotations

import gc
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
from ledgers import database, emptied, migrated
from processes import Fleet, Queue, Simulated, fleet_of, postgres_server, redis_server, stopping
from sqlalchemy import Engine

from ifinu.embedded import Postgres, Valkey
from ifinu.ledger.engine import connect

# A busy machine must not fail a test: no time limit for an example, nor for generating one.
hypothesis.settings.register_profile(
    "unhurried",
    hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unhurried")


# The beginnings of variables that change what ifinu, its libraries or its terminal do.
_FOREIGN = (
    "IFINU_", "CELERY_", "EVOLUTION_API_", "REDIS_ADDR", "OTEL_", "PG", "AWS_", "SSL_CERT_", "NO_COLOR", "FORCE_COLOR",
    "COLUMNS", "LINES",
)  # fmt: skip


def pytest_configure() -> None:
    """Remove such variables, and proxies, so that a developer's environment affects no test and no server."""
    for name in [*os.environ]:
        if name.startswith(_FOREIGN) or name.lower().endswith("_proxy"):
            del os.environ[name]


def pytest_collectstart() -> None:
    """Collect no garbage while modules are imported and tests collected, since nearly all of that stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Freeze the imported modules and collected tests, so that the garbage collector skips them."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _amid_an_hour() -> None:
    """Start no test in the last seconds of an hour, and so of a day: sends are counted by both."""
    left_s = 3600 - time.time() % 3600
    if left_s < 20:
        time.sleep(left_s + 0.1)


@pytest.fixture(scope="session")
def _valkey_of_the_session() -> Iterator[Valkey]:
    # No test restarts it, so it need not write to the disk either.
    with redis_server(config={"appendfsync": "no"}) as server:
        yield server


@pytest.fixture
def valkey(_valkey_of_the_session: Valkey) -> Valkey:
    """An empty Valkey, shared by the tests that do not kill it."""
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


@pytest.fixture(scope="session")
def _postgres_of_the_session() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def _postgres_ledger(_postgres_of_the_session: Postgres) -> str:
    return migrated(database(_postgres_of_the_session.url, "ledger"))


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ledger") / "ledger.db"
    migrated(f"sqlite:///{file}")
    return file


@pytest.fixture
def postgres(_postgres_of_the_session: Postgres) -> str:
    """URL of a new database without tables, on a server shared by the tests that do not kill it."""
    return database(_postgres_of_the_session.url, f"empty_{uuid.uuid4().hex}")


@pytest.fixture
def postgres_ledger(_postgres_ledger: str) -> str:
    """URL of a ledger with this version's tables and no rows; emptying it is far faster than creating one a test."""
    emptied(_postgres_ledger)
    return _postgres_ledger


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated and empty ledger in each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(request.getfixturevalue('_sqlite_template'), tmp_path / 'ledger.db')}"
    return str(request.getfixturevalue("postgres_ledger"))


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Engine]:
    """A migrated and empty ledger as an engine."""
    engine = connect(ledger_url)
    yield engine
    engine.dispose()


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulated]:
    """The gateway simulator, with outcomes selected by number ending."""
    with stopping(Simulated(tmp_path)) as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path, valkey: Valkey, simulator: Simulated) -> Iterator[Fleet]:
    """Workers on the shared Valkey and the simulator, with quick retries and short leases."""
    with stopping(fleet_of(tmp_path, valkey.url, simulator.url)) as workers:
        yield workers
