import os
import time

import pytest
import redis
from command_line import Shell

from ifinu.cli.doctor import redis_checks
from ifinu.cli.doctor.findings import Level


class Server:
    """A stand-in for Redis with configurable replies; by default those of a healthy server."""

    def __init__(self, config=(), info=(), types=(), ahead_s=0.0, forbidden=()):
        self._config = {"appendonly": "yes", "maxmemory-policy": "noeviction", **dict(config)}
        self._info = {"redis_version": "7.4.1", "used_memory": 2**20, "maxmemory": 0, "loading": 0} | dict(info)
        self._types = dict(types)
        self._ahead_s = ahead_s
        self._forbidden = forbidden

    def ping(self):
        return True

    def info(self, section):
        self._allow("info")
        return self._info

    def config_get(self, name):
        self._allow("config")
        return {name.encode(): self._config[name].encode()} if self._config[name] else {}

    def time(self):
        now = time.time() + self._ahead_s
        return int(now), int(now % 1 * 1e6)

    def type(self, key):
        return self._types.get(key, "none").encode()

    def _allow(self, command):
        if command in self._forbidden:
            raise redis.ResponseError(f"NOPERM this user has no permissions to run the '{command}' command")


def found(server, check):
    return next(finding for finding in redis_checks.examine_redis(server) if finding.check == check)


def test_a_healthy_server_has_no_findings():
    findings = list(redis_checks.examine_redis(Server()))
    assert [(f.check, f.level, f.fix) for f in findings] == [
        (name, Level.OK, "")
        for name in (
            "redis", "version", "appendonly", "maxmemory-policy", "memory", "persistence", "clock", "keys",
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("server", "check", "level", "seen"),
    [
        (Server(info={"redis_version": "6.2.14"}), "version", Level.FAIL, "Redis 6.2.14"),
        (Server(info={"redis_version": "7.0.0"}), "version", Level.OK, "Redis 7.0.0"),
        (Server(info={"valkey_version": "9.1.2"}), "version", Level.OK, "Valkey 9.1.2"),
        (Server(info={"redis_version": "10.0.1"}), "version", Level.OK, "Redis 10.0.1"),
        (Server(config={"appendonly": "no"}), "appendonly", Level.FAIL, "no"),
        (Server(config={"maxmemory-policy": "allkeys-lru"}), "maxmemory-policy", Level.FAIL, "allkeys-lru"),
        (Server(info={"maxmemory": 2 * 2**20}), "memory", Level.OK, "1.0 MiB of 2.0 MiB used (50%)"),
        (Server(info={"maxmemory": 1.2 * 2**20}), "memory", Level.WARN, "1.0 MiB of 1.2 MiB used (83%)"),
        (Server(info={"maxmemory": 1.05 * 2**20}), "memory", Level.FAIL, "1.0 MiB of 1.0 MiB used (95%)"),
        (Server(info={"aof_last_write_status": "err"}), "persistence", Level.FAIL, "aof_last_write_status: err"),
        (
            Server(info={"aof_last_bgrewrite_status": "err"}),
            "persistence",
            Level.FAIL,
            "aof_last_bgrewrite_status: err",
        ),
        (Server(info={"loading": 1}), "persistence", Level.WARN, "loading its data"),
        (Server(ahead_s=2), "clock", Level.WARN, "2.0 s apart"),
        (Server(ahead_s=-9), "clock", Level.FAIL, "9.0 s apart"),
        (
            Server(types={"ifinu:fila:whatsapp": "string"}),
            "keys",
            Level.FAIL,
            "ifinu:fila:whatsapp is a string, not a list",
        ),
        (
            Server(types={"ifinu:fila:baixa:em_voo": "zset"}),
            "keys",
            Level.FAIL,
            "ifinu:fila:baixa:em_voo is a zset, not a hash",
        ),
        (Server(types={"ifinu:fila:urgente:dlq": "list"}), "keys", Level.OK, "of the right types"),
    ],
)  # fmt: skip
def test_each_problem_is_found_with_its_fix(server, check, level, seen):
    finding = found(server, check)
    assert (finding.level, finding.seen) == (level, seen)
    assert bool(finding.fix) == (level is not Level.OK)


@pytest.mark.parametrize(
    ("server", "check"),
    [
        (Server(forbidden=("config",)), "appendonly"),
        (Server(forbidden=("config",)), "maxmemory-policy"),
        (Server(config={"appendonly": ""}), "appendonly"),
        (Server(forbidden=("info",)), "version"),
        (Server(forbidden=("info",)), "memory"),
    ],
)
def test_a_check_that_a_managed_server_forbids_is_a_warning_that_says_where_to_look(server, check):
    finding = found(server, check)
    assert finding.level is Level.WARN
    assert "provider's console" in finding.fix


@pytest.fixture
def ifinu(capsys, monkeypatch):
    monkeypatch.setenv("IFINU_REDIS_URL", "redis://localhost:1")
    monkeypatch.setenv("IFINU_DATABASE_URL", "postgresql://localhost:1/none")
    return Shell(capsys, monkeypatch)


def test_everything_away_is_found_and_ends_with_1(ifinu, monkeypatch):
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY", "hush")
    monkeypatch.setenv("IFINU_EVOLUTION_URL", "http://localhost:1")
    ended = ifinu("doctor", "--json")
    assert ended.code == 1
    assert ended.json["ok"] is False
    assert [(one["check"], one["level"]) for one in ended.json["checks"]] == [
        ("redis", "fail"),
        ("ledger", "fail"),
        ("gateway", "fail"),
        ("phone key", "warn"),
        ("sandbox", "ok"),
    ]
    assert "hush" not in ended.out


@pytest.mark.parametrize(
    ("age_s", "level"),
    [(0, "ok"), (29, "ok"), (60, "fail"), (None, "warn")],
)
def test_the_heartbeat_is_checked_if_it_exists(ifinu, monkeypatch, tmp_path, age_s, level):
    file = tmp_path / "heartbeat"
    monkeypatch.setenv("IFINU_HEARTBEAT_FILE", str(file))
    if age_s is not None:
        file.touch()
        os.utime(file, (time.time() - age_s, time.time() - age_s))
    checks = {one["check"]: one["level"] for one in ifinu("doctor", "--json").json["checks"]}
    assert checks["heartbeat"] == level
    assert checks["gateway"] == "fail"  # no key
