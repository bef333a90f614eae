"""Commands that pods run once, started a moment before their servers can be reached."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import wait_until
from sqlalchemy import make_url
from tcp_proxy import Proxy

from ifinu.broker.connections import connect as connect_redis
from ifinu.cli.connection import is_away
from ifinu.embedded import Valkey, free_port
from ifinu.errors import LedgerUnavailable
from ifinu.ledger.engine import connect


@pytest.fixture
def closed() -> int:
    """A port without a listener."""
    return free_port()


@contextmanager
def trying(folder: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, once it has logged that it tries again."""
    said = folder / "stderr"
    with (folder / "stdout").open("wb") as out, said.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "ifinu", *arguments], env=os.environ | environment, stdout=out, stderr=err
        )
    try:
        wait_until(lambda: "No connection yet" in said.read_text() or process.poll() is not None, seen=said.read_text)
        assert process.poll() is None, said.read_text()
        yield process
    finally:
        process.kill()
        process.wait(60)


def test_migrate_waits_for_a_database_that_starts_late(postgres: str, closed: int, tmp_path: Path) -> None:
    url = make_url(postgres)
    late = url.set(host="127.0.0.1", port=closed, query={}).render_as_string(hide_password=False)
    with trying(tmp_path, "migrate", IFINU_DATABASE_URL=late) as process:
        proxy = Proxy(int(url.port or url.query["port"]), port=closed)
        try:
            assert process.wait(60) == 0, (tmp_path / "stderr").read_text()
        finally:
            proxy.stop()
    assert "The ledger was migrated from nothing" in (tmp_path / "stdout").read_text()


def test_doctor_with_wait_accepts_a_redis_that_starts_late(valkey: Valkey, closed: int, tmp_path: Path) -> None:
    late = {"IFINU_REDIS_URL": f"redis://127.0.0.1:{closed}/0", "IFINU_DATABASE_URL": f"sqlite:///{tmp_path / 'no.db'}"}
    with trying(tmp_path, "doctor", "--wait", "--json", **late) as process:
        proxy = Proxy(int(make_url(valkey.url).port or 0), port=closed)
        try:
            process.wait(60)
        finally:
            proxy.stop()
    printed = (tmp_path / "stdout").read_text()
    # A slow answer gives a warning on this machine.
    assert any(f'"check": "redis", "level": "{level}"' in printed for level in ("ok", "warn"))


def test_the_errors_of_real_clients_are_distinguished(valkey: Valkey, postgres: str, closed: int) -> None:
    url = make_url(postgres)
    refusing = url.set(database="no_such_database").render_as_string(hide_password=False)
    for address, away in ((f"postgresql+psycopg2://ifinu@127.0.0.1:{closed}/x", True), (refusing, False)):
        with pytest.raises(LedgerUnavailable) as failed:
            connect(address).connect()
        assert is_away(failed.value) is away, failed.value
    for address, away in ((f"redis://127.0.0.1:{closed}/0", True), (valkey.url.replace("//", "//stranger:x@"), False)):
        with connect_redis(address) as client, pytest.raises(Exception) as refused:  # noqa: PT011 - which error is the question
            client.ping()
        assert is_away(refused.value) is away, refused.value
