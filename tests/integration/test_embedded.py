from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from processes import stopping

from ifinu.embedded import Postgres, Valkey, free_port
from ifinu.errors import ConfigurationError


def ended(pid: int) -> bool:
    """Whether the process does not exist; a zombie still does."""
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_valkey_keeps_its_data_through_a_kill_and_a_restart(tmp_path: Path, end: str):
    with Valkey(tmp_path / "data") as server, redis.Redis.from_url(server.url) as client:
        client.lpush("a", *range(1_000))
        client.execute_command("WAITAOF", 1, 0, 5_000)
        first = server.pid
        getattr(server, end)()
        assert ended(first)
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert client.llen("a") == 1_000
        assert server.pid != first


def test_valkey_is_configured_to_keep_everything(tmp_path: Path):
    with Valkey(config={"maxmemory": "123456789"}) as server, redis.Redis.from_url(server.url) as client:
        config = {name: client.config_get(name)[name] for name in ("appendonly", "maxmemory-policy", "save", "bind")}
        assert config == {"appendonly": "yes", "maxmemory-policy": "noeviction", "save": "", "bind": "127.0.0.1"}
        assert client.config_get("maxmemory") == {"maxmemory": "123456789"}


@pytest.mark.parametrize("password", ["secret", "p@ss:w/ord#?%"])
def test_valkey_asks_for_its_password_and_its_url_has_it(password: str):
    with Valkey(config={"requirepass": password}) as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_only_a_directory_made_by_the_server_itself_is_removed(tmp_path: Path):
    with Valkey() as server:
        own = server.directory
        assert own.exists()
    assert not own.exists()
    with Valkey(tmp_path / "given"):
        pass
    assert (tmp_path / "given").exists()


@pytest.mark.parametrize("make", [Valkey, Postgres])
def test_a_port_in_use_is_one_clear_error(make: Callable[..., Any]):
    """
    Even if a server of the same kind uses the port, which would answer in its place.
    """
    with make() as first, stopping(make(port=first.port)) as second:
        with pytest.raises(ConfigurationError, match=f"port {first.port} .*Address already in use"):
            second.start()
        with pytest.raises(RuntimeError, match="is not running"):
            _ = second.pid


def test_an_unknown_option_is_one_clear_error_that_quotes_valkey():
    server = Valkey(config={"maxmemory-policy": "none-such"})
    with pytest.raises(ConfigurationError, match=r"(?s)embedded valkey did not start:.*argument"):
        server.start()
    server.stop()


def test_a_free_port_is_one_that_can_be_bound():
    port = free_port()
    for host in ("127.0.0.1", ""):
        with socket.socket() as probe:
            probe.bind((host, port))


def test_a_free_port_goes_to_nobody_else_before_it_is_bound():
    """
    Neither to a client of any program, which the system gives a port, nor to a server of another process.
    """
    first, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [free_port() for _ in range(50)]
    assert max(ports) < first
    assert len({*ports}) == 50
    another = f"import ifinu.embedded as e; e._PORTS = {ports} * 10; e.free_port()"
    ended = subprocess.run([sys.executable, "-c", another], stderr=subprocess.PIPE, text=True, timeout=200)
    assert "no port is free" in ended.stderr


def ask(server: Postgres, statement: str) -> str:
    connect = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "ifinu", "-d", "postgres"]
    answer = subprocess.run(
        [server.binaries() / "psql", *connect, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return answer.stdout.strip()


def test_postgres_keeps_its_rows_through_a_restart_for_any_user():
    """
    As root too: the server then runs as another user, since it refuses to run as root.
    """
    with Postgres() as server:
        assert ask(server, "SELECT current_user, getdatabaseencoding()") == "ifinu|UTF8"
        owner = Path(f"/proc/{server.pid}").stat().st_uid
        assert owner != 0
        assert os.geteuid() in (0, owner)
        ask(server, "CREATE TABLE a AS SELECT generate_series(1, 1000) AS n")
        first = server.pid
        server.terminate()
        assert ended(first)
        server.start()
        assert ask(server, "SELECT count(*), sum(n) FROM a") == "1000|500500"
        own = server.directory
    assert not own.exists()


def test_postgres_runs_from_folders_closed_to_its_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """
    The virtual environment and TMPDIR are in root's home, and so are the libraries that its programs load.
    """
    package = Postgres.binaries().parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, tmp_path / part.name, symlinks=True)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Postgres(binaries=tmp_path / package.name / "pginstall" / "bin") as server:
        assert ask(server, "SELECT 1") == "1"
        own = server.directory
    assert not own.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has it run by another account")
def test_postgres_says_which_folder_its_account_cannot_enter(tmp_path: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = Postgres(closed / "data")
    with pytest.raises(ConfigurationError, match=r"PostgreSQL runs as nobody, which cannot enter /.*: choose"):
        server.start()
