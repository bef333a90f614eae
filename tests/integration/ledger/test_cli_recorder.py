"""
`ifinu migrate` and `ifinu recorder`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from command_line import Shell
from forks import Forked
from processes import start, wait_until
from recording import add_event, table
from sqlalchemy import Engine

from ifinu.broker.keys import EVENTS
from ifinu.cli import connection
from ifinu.embedded import Valkey
from ifinu.ledger.migrate import HEAD
from ifinu.ledger.schema import notifications


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capsys, monkeypatch)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("postgres"))


def test_migrate_prints_the_versions_before_and_after(
    shell: Shell, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IFINU_DATABASE_URL", empty_url)
    first, second = shell("migrate"), shell("migrate")
    assert (first.code, first.out.strip()) == (0, f"The ledger was migrated from nothing to {HEAD}.")
    assert (second.code, second.out.strip()) == (0, f"The ledger is at {HEAD} already.")


def test_migrate_prints_json(shell: Shell, empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFINU_DATABASE_URL", empty_url)
    assert shell("migrate", "--json").json == {"before": None, "after": HEAD, "changed": True}
    assert shell("migrate", "--json").json == {"before": HEAD, "after": HEAD, "changed": False}


def test_migrate_without_a_database_names_the_setting_to_check(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFINU_DATABASE_URL", "postgresql://ifinu:secret@127.0.0.1:1/ifinu")
    monkeypatch.setattr(connection, "PATIENCE_S", 0)
    ended = shell("migrate")
    assert ended.code == 3
    assert "IFINU_DATABASE_URL" in ended.err
    assert "secret" not in ended.err


@contextlib.contextmanager
def _recorder(log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes] | Forked]:
    process = start("ifinu", ["recorder"], os.environ | environment | {"IFINU_LOG_FORMAT": "json"}, log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def _events(log: Path) -> list[str]:
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


def test_recorder_records_alone_a_second_one_waits_and_sigterm_ends_both_in_order(
    client: redis.Redis, valkey: Valkey, ledger: Engine, ledger_url: str, tmp_path: Path
) -> None:
    environment = {"IFINU_REDIS_URL": valkey.url, "IFINU_DATABASE_URL": ledger_url}
    first_log, second_log = tmp_path / "first.log", tmp_path / "second.log"
    with _recorder(first_log, **environment) as first:
        wait_until(lambda: _events(first_log) == ["ifinu.recorder.started"], seen=first_log.read_text)
        with _recorder(second_log, **environment) as second:
            wait_until(lambda: _events(second_log) == ["ifinu.recorder.standing_by"], seen=second_log.read_text)
            add_event(client, "sent", "n1", key_id="K1")
            wait_until(lambda: client.xlen(EVENTS) == 0)
            for process in (second, first):  # so that the second never leads
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
    assert _events(first_log) == ["ifinu.recorder.started", "ifinu.recorder.ended"]
    assert _events(second_log) == ["ifinu.recorder.standing_by"]
    assert table(ledger, notifications, "id", "state") == [("n1", "sent")]
