"""
The migrations create the schema's tables once, whichever process runs them.
"""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, select, text, update
from sqlalchemy.exc import IntegrityError

from ifinu.billing.billing_schema import metadata as billing
from ifinu.errors import ConfigurationError, LedgerUnavailable
from ifinu.ledger.engine import connect, writing
from ifinu.ledger.migrate import HEAD, SCRIPTS, VERSION_TABLE, Migrated, is_current, migrate
from ifinu.ledger.schema import metadata, recorder


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("postgres"))


def test_the_migrations_create_exactly_the_schema(ledger: Engine) -> None:
    with ledger.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        tables = [metadata, billing] if connection.dialect.name == "postgresql" else [metadata]
        assert compare_metadata(MigrationContext.configure(connection, opts=options), tables) == []


def test_the_head_is_the_last_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_four_concurrent_migrations_all_succeed_and_one_does_the_work(empty_url: str) -> None:
    engines = [connect(empty_url) for _ in range(4)]
    assert not is_current(engines[0])
    with ThreadPoolExecutor(len(engines)) as pool:
        done = list(pool.map(migrate, engines))
    assert sorted(done, key=str) == [Migrated(HEAD, HEAD)] * 3 + [Migrated(None, HEAD)]
    assert is_current(engines[0])
    for engine in engines:
        engine.dispose()


def test_a_ledger_newer_than_this_version_is_current_and_left_alone(ledger: Engine) -> None:
    """
    So old workers keep running during a rollout.
    """
    with ledger.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    assert is_current(ledger)
    assert migrate(ledger) == Migrated("9999", "9999")


def test_a_migration_that_fails_changes_nothing(empty_url: str) -> None:
    engine = connect(empty_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE receipts (id INTEGER)"))
    with pytest.raises(LedgerUnavailable, match="receipts"):
        migrate(engine)
    assert not is_current(engine)
    with engine.connect() as connection, pytest.raises(LedgerUnavailable, match="run `ifinu migrate`"):
        connection.execute(select(recorder))
    engine.dispose()


def test_an_error_names_the_remedy_and_keeps_its_cause_without_any_value(ledger: Engine) -> None:
    with ledger.connect() as connection, pytest.raises(LedgerUnavailable, match="run `ifinu migrate`") as caught:
        connection.execute(text("SELECT :secret FROM nowhere"), {"secret": "+5577998616740"})
    assert "5577" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_an_error_in_the_data_is_not_reported_as_an_unavailable_ledger(ledger: Engine) -> None:
    with ledger.connect() as connection, pytest.raises(IntegrityError):
        connection.execute(recorder.insert().values(id=1, ms=0, seq=0, updated_at=None))


@pytest.mark.parametrize("url", ["postgresql+psycopg2://ifinu@127.0.0.1:1/x", "sqlite:////nowhere/at/all.db"])
def test_an_absent_database_is_reported_as_unavailable(url: str) -> None:
    engine = connect(url)
    with pytest.raises(LedgerUnavailable, match="IFINU_DATABASE_URL"):
        is_current(engine)
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "no url at all"])
def test_an_unusable_ledger_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="IFINU_DATABASE_URL"):
        connect(url)


def test_there_is_one_writer_at_a_time(ledger: Engine) -> None:
    """
    Each reads before it writes, and no increment is lost.
    """

    def add_one(_: int) -> None:
        with writing(ledger) as connection:
            ms = connection.execute(select(recorder.c.ms)).scalar_one()
            connection.execute(update(recorder).values(ms=ms + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_one, range(40)))
    with ledger.connect() as connection:
        assert connection.execute(select(recorder.c.ms)).scalar_one() == 40


def test_postgresql_has_its_deadlines_set(postgres: str) -> None:
    engine = connect(postgres)
    with engine.connect() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar() == "10s"
        assert connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar() == "1min"
        connection.execute(text("SET statement_timeout = '50ms'"))
        with pytest.raises(LedgerUnavailable, match="timeout"):
            connection.execute(text("SELECT pg_sleep(5)"))
    engine.dispose()


def test_sqlite_readers_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(engine)
    plain = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}", connect_args={"timeout": 0})
    with writing(engine) as connection:
        connection.execute(update(recorder).values(ms=7))
        with plain.connect() as reader:
            assert reader.execute(text("SELECT ms FROM recorder")).scalar() == 0
    plain.dispose()
    engine.dispose()


def test_the_files_of_a_ledger_in_sqlite_are_for_their_owner_alone(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/ledger.db")
    migrate(engine)
    with engine.connect():
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    engine.dispose()
