from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ifinu.backup.postgres import Database, entries
from ifinu.errors import BackupFailed, ConfigurationError


@pytest.mark.parametrize(
    ("url", "host", "options"),
    [
        ("postgresql://ifinu:p%40ss@db:5433/ledger", "db", ["host=db", "port=5433", "user=ifinu", "dbname=ledger"]),
        ("postgresql+psycopg2://ifinu@db/ledger?password=p%40ss&sslmode=require", "db", ["sslmode=require"]),
        ("postgresql://ifinu:p%40ss@/ledger?host=/run/postgresql", "/run/postgresql", ["host=/run/postgresql"]),
        ("postgresql://db/evolution?schema=public&connection_limit=5&connect_timeout=3", "db", ["connect_timeout=3"]),
    ],
)
def test_the_command_line_has_the_databases_address_and_no_password(url: str, host: str, options: list[str]):
    database = Database(url, "the ledger")
    assert database.host == host
    words = database._address.split()
    assert set(options) <= set(words)
    assert not [word for word in words if "p@ss" in word or word.startswith(("password", "schema", "connection_limit"))]
    assert "p@ss" not in repr(database)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///ledger.db", "the ledger is in sqlite, not in PostgreSQL"),
        ("ledger", "the URL of the ledger is not a database URL"),
        ("postgresql://db/x?sslpassword=y", "has sslpassword"),
    ],
)
def test_a_database_other_than_postgresql_is_refused(url: str, message: str):
    with pytest.raises(ConfigurationError, match=message):
        Database(url, "the ledger")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            'echo "pg_restore: while PROCESSING TOC:" >&2; '
            'echo "pg_restore: error: COPY failed for table \\"people\\": ERROR:  invalid input: \\"Maria\\"" >&2; '
            'echo "CONTEXT:  COPY people, line 1: Maria, +55 77 99861-6740" >&2; exit 1',
            'x: pg_restore failed: COPY failed for table "people": ERROR:  invalid input: "…"',
        ),
        (
            'echo "pg_restore: error: no room for +55 77 99861-6740" >&2; exit 1',
            "x: pg_restore failed: no room for +55 77 9****-6740",
        ),
        ("exit 3", "x: pg_restore failed with exit code 3"),
        ("kill -9 $$", "x: pg_restore failed: killed by signal 9"),
    ],
)
def test_a_failed_programs_error_is_one_line_and_quotes_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
):
    program = tmp_path / "pg_restore"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(BackupFailed) as raised:
        entries([b"x" * 100_000] * 5, "x")
    assert str(raised.value) == message
