"""The checks of `ifinu doctor` on the Redis server."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis

from ifinu.broker import QUEUES, Keys, rights
from ifinu.cli.doctor.findings import Finding, Level

_OLDEST = (7, 0)
_SKEW_WARN_S, _SKEW_FAIL_S = 1.0, 5.0
_SLOW_PING_MS = 20.0
_FULL_WARN, _FULL_FAIL = 0.8, 0.95
_TYPES = ("list", "zset", "hash", "zset", "list", "string", "hash")  # of Keys, in its order
_MIB = 2**20


def examine_redis(client: redis.Redis) -> Iterator[Finding]:
    """Check the server; yield one failure when it does not answer."""
    try:
        client.ping()  # opens the connection, so that the next one measures the round trip alone
        started = time.perf_counter()
        client.ping()
    except redis.RedisError as exc:
        fix = "start it, or correct IFINU_REDIS_URL (host, port, password, rediss:// for TLS)"
        yield Finding("redis", Level.FAIL, f"{type(exc).__name__}: {exc}", fix)
        return
    ping_ms = (time.perf_counter() - started) * 1000
    fix = "a message takes several round trips: run the workers nearer to Redis"
    seen = f"answers in {ping_ms:.2f} ms"
    yield Finding.graded("redis", ping_ms, seen, warn=_SLOW_PING_MS, fail=float("inf"), fix=fix)
    for name, (check, wanted) in _CHECKS.items():
        try:
            yield check(client)
        except redis.ResponseError as exc:  # managed servers forbid CONFIG and INFO to their users
            fix = f"check in the provider's console that {wanted}"
            yield Finding(name, Level.WARN, f"cannot be read: {exc}", fix)


def examine_rights(client: redis.Redis) -> Iterator[Finding]:
    """Try the commands of a worker as this user; yield nothing when Redis does not answer."""
    fix = "give the user the rights in docs/redis-users.md: no worker starts without them"
    try:
        refused = rights.refused(client)
    except redis.exceptions.NoPermissionError as exc:
        yield Finding("rights", Level.FAIL, f"may not run scripts: {exc}", fix)
    except redis.ResponseError as exc:
        yield Finding("rights", Level.FAIL, f"cannot be tried: {exc}", "see the server's log and its replication")
    except redis.RedisError:
        return
    else:
        seen = f"refused: {', '.join(one.what for one in refused)}"
        ok = Finding("rights", Level.OK, "the user may do all that a worker does")
        yield Finding("rights", Level.FAIL, seen, fix) if refused else ok


def _version(client: redis.Redis) -> Finding:
    info = _info(client, "server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    text = str(info.get(f"{name.lower()}_version", "0"))
    if tuple(int(part) for part in text.split(".")[:2] if part.isdecimal()) < _OLDEST:
        return Finding("version", Level.FAIL, f"{name} {text}", "upgrade to Redis 7.0 or later, or to Valkey")
    return Finding("version", Level.OK, f"{name} {text}")


def _parameter(name: str, wanted: str, danger: str, client: redis.Redis) -> Finding:
    found = client.config_get(name)
    if not found:
        raise redis.ResponseError(f"CONFIG GET {name} answers nothing")
    value = _text(next(iter(found.values())))
    if value != wanted:
        fix = f"{danger}: redis-cli CONFIG SET {name} {wanted}, and the same in redis.conf"
        return Finding(name, Level.FAIL, value, fix)
    return Finding(name, Level.OK, value)


def _memory(client: redis.Redis) -> Finding:
    info = _info(client, "memory")
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
    if not limit:
        return Finding("memory", Level.OK, f"{used / _MIB:.1f} MiB used, no limit set")
    share = used / limit
    seen = f"{used / _MIB:.1f} MiB of {limit / _MIB:.1f} MiB used ({share:.0%})"
    fix = "a full Redis refuses new messages: raise maxmemory, or let the workers drain the queues"
    return Finding.graded("memory", share, seen, warn=_FULL_WARN, fail=_FULL_FAIL, fix=fix)


def _persistence(client: redis.Redis) -> Finding:
    info = _info(client, "persistence")
    bad = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status") if info.get(name, "ok") != "ok"]
    if bad:
        return Finding("persistence", Level.FAIL, f"{', '.join(bad)}: err", "is its disk full? See the server's log")
    if int(info.get("loading", 0)):
        return Finding("persistence", Level.WARN, "loading its data", "wait until it has loaded")
    return Finding("persistence", Level.OK, "the last writes succeeded")


def _clock(client: redis.Redis) -> Finding:
    before = time.time()
    seconds, micros = client.time()
    skew_s = abs(seconds + micros / 1e6 - (before + time.time()) / 2)
    fix = "scheduled messages go out early or late: run NTP on this machine and on that of Redis"
    seen = f"{skew_s:.1f} s apart"
    return Finding.graded("clock", skew_s, seen, warn=_SKEW_WARN_S, fail=_SKEW_FAIL_S, fix=fix)


def _key_types(client: redis.Redis) -> Finding:
    wrong = [
        f"{key} is a {found}, not a {wanted}"
        for queue in QUEUES
        for key, wanted in zip(Keys.of(queue), _TYPES, strict=True)
        if (found := _text(client.type(key))) not in ("none", wanted)
    ]
    if wrong:
        fix = "another program writes there: rename its key, or use another database of Redis"
        return Finding("keys", Level.FAIL, "; ".join(wrong), fix)
    return Finding("keys", Level.OK, "of the right types")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _info(client: redis.Redis, section: str) -> dict[str, Any]:
    return dict(client.info(section))


_CHECKS: dict[str, tuple[Callable[[redis.Redis], Finding], str]] = {
    "version": (_version, "it is 7.0 or later"),
    "appendonly": (
        functools.partial(_parameter, "appendonly", "yes", "Redis loses messages when it stops"),
        "append-only persistence is on",
    ),
    "maxmemory-policy": (
        functools.partial(_parameter, "maxmemory-policy", "noeviction", "a full Redis would delete messages"),
        "it is noeviction",
    ),
    "memory": (_memory, "memory is free"),
    "persistence": (_persistence, "the last write to disk succeeded"),
    "clock": (_clock, "the clocks agree"),
    "keys": (_key_types, "the user may read the keys ifinu:*"),
}
