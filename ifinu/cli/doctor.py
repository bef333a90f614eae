"""`ifinu doctor`: is everything as ifinu needs it, and how to mend what is not."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import redis
import typer

from ifinu import phone, settings
from ifinu.broker import QUEUES, Keys, connections, rights
from ifinu.cli import connection, ledger_checks, terminal
from ifinu.cli.findings import Finding, Level
from ifinu.errors import ConfigurationError, GatewayError, IfinuError
from ifinu.settings import Settings

if TYPE_CHECKING:
    from ifinu.gateway import ConnectionState, Gateway, Shards

_OLDEST_REDIS = (7, 0)
_SKEW_WARN_S, _SKEW_FAIL_S = 1.0, 5.0
_SLOW_PING_MS = 20.0
_FULL_WARN, _FULL_FAIL = 0.8, 0.95
_STALE_HEARTBEAT_S = 30.0
_GATEWAY_S = 5.0
_TYPES = ("list", "zset", "hash", "zset", "list", "string", "hash")  # of Keys, in its order


def doctor(
    wait: Annotated[
        bool, typer.Option("--wait", help="First try to reach Redis, ledger and gateway, each for 30 seconds.")
    ] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Check Redis, ledger, gateway and settings, and say how to mend what is wrong.

    Exit code 1 when anything fails; a warning is no failure.

    [bold]Examples[/bold]

    ifinu doctor
    ifinu doctor --wait
    ifinu doctor --json | jq '.checks[] | select(.level != "ok")'
    """
    config = settings.load()
    if wait:
        _reach(config)
    findings = list(examine(config))
    failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        terminal.print_json({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if failed:
        raise typer.Exit(1)


def _reach(config: Settings) -> None:
    """Until each server answers, or its time is over; what is still away then, the checks say."""
    from ifinu.gateway import gateway_of

    with contextlib.ExitStack() as opened:
        client, ledger = opened.enter_context(connection.broker()), opened.enter_context(connection.ledger())
        asks: list[Callable[[], object]] = [client.ping, lambda: connection.ask_ledger(ledger)]
        with contextlib.suppress(ConfigurationError):
            gateway = gateway_of(config, worker="doctor", connect_timeout_s=_GATEWAY_S, read_timeout_s=_GATEWAY_S)
            opened.callback(gateway.close)
            asks.append(lambda: _ask_gateway(gateway, config.evolution_instance))
        for ask in asks:
            with contextlib.suppress(redis.RedisError, IfinuError):
                connection.reach(ask)


def _ask_gateway(gateway: Gateway, instance: str) -> None:
    """
    Ask the gateway, or one of its processes.

    Raises:
        GatewayError: None answers, or it refuses.
    """
    from ifinu.gateway import Shards

    if not isinstance(gateway, Shards):
        gateway.connection_state(instance)
        return
    said = list(gateway.states(instance).values())
    if all(isinstance(one, GatewayError) and one.status is None for one in said):
        raise GatewayError(f"{gateway.url}: no gateway process answers")


def examine(config: Settings) -> Iterator[Finding]:
    """Every check, by these settings."""
    client = connections.connect(config.redis_url.get_secret_value())
    try:
        yield from examine_redis(client)
        yield from _rights(client)
        with connection.ledger() as engine:
            yield from ledger_checks.examine_ledger(engine)
        yield from ledger_checks.examine_stream(client)
    finally:
        client.close()
    yield from _gateway(config)
    yield from ledger_checks.examine_settings(config)
    yield _sandbox(config)
    if config.heartbeat_file is not None:
        yield _heartbeat(config)


def examine_redis(client: redis.Redis) -> Iterator[Finding]:
    """The checks of the server; when it is away, that alone."""
    started = time.perf_counter()
    try:
        client.ping()
    except redis.RedisError as exc:
        mend = "start it, or correct IFINU_REDIS_URL (host, port, password, rediss:// for TLS)"
        yield Finding("redis", Level.FAIL, f"{type(exc).__name__}: {exc}", mend)
        return
    ping_ms = (time.perf_counter() - started) * 1000
    started = time.perf_counter()
    client.ping()  # the first one opened the connection too
    ping_ms = (time.perf_counter() - started) * 1000
    slow = ping_ms > _SLOW_PING_MS
    mend = "workers make several trips a message: put them nearer to Redis" if slow else ""
    yield Finding("redis", Level.WARN if slow else Level.OK, f"answers in {ping_ms:.2f} ms", mend)
    for check, look in _CHECKS.items():
        try:
            yield look(client)
        except redis.ResponseError as exc:
            # Managed servers forbid CONFIG and INFO to their users.
            mend = f"look at it in the provider's console: {_WANTED[check]}"
            yield Finding(check, Level.WARN, f"may not be asked: {exc}", mend)


def _version(client: redis.Redis) -> Finding:
    info = _info(client, "server")
    text = str(info.get("valkey_version") or info.get("redis_version", "0"))
    name = "Valkey" if "valkey_version" in info else "Redis"
    number = tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
    if number < _OLDEST_REDIS:
        return Finding("version", Level.FAIL, f"{name} {text}", "ifinu needs Redis 7.0 or later, or Valkey")
    return Finding("version", Level.OK, f"{name} {text}")


def _appendonly(client: redis.Redis) -> Finding:
    value = _config(client, "appendonly")
    if value != "yes":
        mend = "messages are lost when Redis stops: redis-cli CONFIG SET appendonly yes, and the same in redis.conf"
        return Finding("appendonly", Level.FAIL, value, mend)
    return Finding("appendonly", Level.OK, value)


def _eviction(client: redis.Redis) -> Finding:
    value = _config(client, "maxmemory-policy")
    if value != "noeviction":
        mend = (
            "a full Redis would delete messages: redis-cli CONFIG SET maxmemory-policy noeviction, "
            "and the same in redis.conf"
        )
        return Finding("maxmemory-policy", Level.FAIL, value, mend)
    return Finding("maxmemory-policy", Level.OK, value)


def _memory(client: redis.Redis) -> Finding:
    info = _info(client, "memory")
    used, most = int(info["used_memory"]), int(info.get("maxmemory", 0))
    if not most:
        return Finding("memory", Level.OK, f"{_mib(used)} used, no limit set")
    share = used / most
    level = Level.FAIL if share >= _FULL_FAIL else Level.WARN if share >= _FULL_WARN else Level.OK
    mend = "producers are refused when it is full: raise maxmemory, or let the workers drain the queues"
    return Finding("memory", level, f"{_mib(used)} of {_mib(most)} used ({share:.0%})", mend * (level is not Level.OK))


def _persistence(client: redis.Redis) -> Finding:
    info = _info(client, "persistence")
    states = ("aof_last_write_status", "aof_last_bgrewrite_status")
    bad = [name for name in states if info.get(name, "ok") != "ok"]
    if bad:
        return Finding("persistence", Level.FAIL, f"{', '.join(bad)}: err", "is its disk full? See the server's log")
    if int(info.get("loading", 0)):
        return Finding("persistence", Level.WARN, "loading its data", "wait until it has")
    return Finding("persistence", Level.OK, "last writes went well")


def _clock(client: redis.Redis) -> Finding:
    before = time.time()
    seconds, micros = client.time()
    skew_s = abs(seconds + micros / 1e6 - (before + time.time()) / 2)
    level = Level.FAIL if skew_s > _SKEW_FAIL_S else Level.WARN if skew_s > _SKEW_WARN_S else Level.OK
    mend = "this machine and Redis disagree, so schedules come early or late: run NTP on both"
    return Finding("clock", level, f"{skew_s:.1f} s apart", mend * (level is not Level.OK))


def _key_types(client: redis.Redis) -> Finding:
    wrong = []
    for queue in QUEUES:
        for key, wanted in zip(Keys.of(queue), _TYPES, strict=True):
            found = client.type(key)
            text = found.decode() if isinstance(found, bytes) else str(found)
            if text not in ("none", wanted):
                wrong.append(f"{key} is a {text}, not a {wanted}")
    if wrong:
        return Finding(
            "keys", Level.FAIL, "; ".join(wrong), "something else writes there: rename its key, or use another db"
        )
    return Finding("keys", Level.OK, "of the right types")


_CHECKS: dict[str, Callable[[redis.Redis], Finding]] = {
    "version": _version,
    "appendonly": _appendonly,
    "maxmemory-policy": _eviction,
    "memory": _memory,
    "persistence": _persistence,
    "clock": _clock,
    "keys": _key_types,
}
_WANTED = {
    "version": "7.0 or later",
    "appendonly": "append-only persistence is on",
    "maxmemory-policy": "it is noeviction",
    "memory": "there is room",
    "persistence": "the last write to disk went well",
    "clock": "the clocks agree",
    "keys": "the user may read the keys ifinu:*",
}


def _rights(client: redis.Redis) -> Iterator[Finding]:
    """What a worker does, tried by this user; nothing when Redis is away, which another check says."""
    mend = "give the user what docs/redis-users.md lists: a worker does not start without"
    try:
        refused = rights.refused(client)
    except redis.exceptions.NoPermissionError as exc:
        yield Finding("rights", Level.FAIL, f"may not run scripts: {exc}", mend)
    except redis.ResponseError as exc:
        yield Finding("rights", Level.FAIL, f"cannot be tried: {exc}", "see the server's log and its replication")
    except redis.RedisError:
        return
    else:
        if refused:
            yield Finding("rights", Level.FAIL, f"refused: {', '.join(one.what for one in refused)}", mend)
        else:
            yield Finding("rights", Level.OK, "the user may do what workers do")


def _gateway(config: Settings) -> Iterator[Finding]:
    from ifinu.gateway import ConnectionState, Shards, gateway_of

    if config.evolution_api_key is None:
        mend = "set it to the key that the Evolution API was started with: no worker starts without it"
        yield Finding("gateway", Level.FAIL, "IFINU_EVOLUTION_API_KEY is not set", mend)
        return
    try:
        gateway = gateway_of(config, worker="doctor", connect_timeout_s=_GATEWAY_S, read_timeout_s=_GATEWAY_S)
    except ConfigurationError as exc:
        yield Finding("gateway", Level.FAIL, str(exc), "correct IFINU_EVOLUTION_URL and IFINU_EVOLUTION_API_KEY")
        return
    with contextlib.closing(gateway):
        if isinstance(gateway, Shards):
            yield from _shards(config, gateway)
            return
        check = f"instance {config.evolution_instance}"
        try:
            state = gateway.connection_state(config.evolution_instance)
        except GatewayError as exc:
            yield Finding("gateway", Level.FAIL, str(exc), _gateway_mend(exc.status))
            return
        connected = _connected(check, config, gateway, state, "")
    yield Finding("gateway", Level.OK, f"{config.evolution_url} answers and takes the key")
    if state is ConnectionState.ABSENT:
        mend = "one address stands for several gateway processes: IFINU_EVOLUTION_SHARDED=true, and the name of all"
        yield Finding(check, Level.FAIL, "not held by the process that answered", mend)
        return
    yield connected


def _shards(config: Settings, gateway: Shards) -> Iterator[Finding]:
    """How many processes answer, and which of them holds the default instance."""
    from ifinu.gateway import ConnectionState

    said = gateway.states(config.evolution_instance)
    failures = {address: exc for address, exc in said.items() if isinstance(exc, GatewayError)}
    states = {address: state for address, state in said.items() if isinstance(state, ConnectionState)}
    quiet = [address for address, exc in failures.items() if exc.status is None]
    telling = max(failures.values(), key=lambda exc: exc.status or 0, default=None)
    if not states:
        seen = f"no gateway process answers: {config.evolution_url} stands for no address"
        status = None if telling is None else telling.status
        yield Finding("gateway", Level.FAIL, seen if telling is None else str(telling), _gateway_mend(status))
        return
    answering = f"{len(said) - len(quiet)} of {len(said)} processes of {config.evolution_url} answer"
    if failures:
        mend = "their instances wait until they are back: see their pods"
        yield Finding("gateway", Level.WARN, f"{answering}; without one: {', '.join(failures)}", mend)
    else:
        yield Finding("gateway", Level.OK, f"{answering}, and take the key")
    check = f"instance {config.evolution_instance}"
    held = {address: state for address, state in states.items() if state is not ConnectionState.ABSENT}
    if not held:
        mend = "its process starts or is away: see the gateway's pods; its messages wait meanwhile"
        yield Finding(check, Level.FAIL, "held by no process that answers", mend)
    elif any(sum((":" in one) is version_6 for one in held) > 1 for version_6 in (False, True)):
        mend = "they disconnect each other: give each gateway pod a DATABASE_CONNECTION_CLIENT_NAME of its own"
        yield Finding(check, Level.FAIL, f"held by {len(held)} processes: {', '.join(held)}", mend)
    else:
        address, state = next(iter(held.items()))
        yield _connected(check, config, gateway, state, f", at {address}")


def _connected(check: str, config: Settings, gateway: Gateway, state: ConnectionState, where: str) -> Finding:
    from ifinu.gateway import flaps

    if flaps.watch(gateway, [config.evolution_instance])[1]:
        return Finding(check, Level.FAIL, f"it opens and closes all the time{where}", flaps.FIX)
    if state.value == "open":
        return Finding(check, Level.OK, f"{state.value}{where}")
    mend = "connect its phone again: `ifinu instance connect`, or the QR code in the gateway's manager"
    return Finding(check, Level.FAIL, f"{state.value}{where}", mend)


def _gateway_mend(status: int | None) -> str:
    match status:
        case None:
            return "start the gateway, or correct IFINU_EVOLUTION_URL"
        case 401 | 403:
            return "correct IFINU_EVOLUTION_API_KEY"
        case 404:
            return "create the instance, or correct IFINU_EVOLUTION_INSTANCE and IFINU_EVOLUTION_URL"
        case _:
            return "see the gateway's log"


def _sandbox(config: Settings) -> Finding:
    if config.sandbox_number is None:
        return Finding("sandbox", Level.OK, "not set: a message without a phone is a dead letter")
    number = phone.mask(config.sandbox_number)
    mend = "right for a demo, staging and load tests; unset IFINU_SANDBOX_NUMBER in production"
    return Finding("sandbox", Level.WARN, f"messages without a phone go to {number}", mend)


def _heartbeat(config: Settings) -> Finding:
    try:
        age_s = time.time() - config.heartbeat_file.stat().st_mtime  # type: ignore[union-attr]  # the caller has looked
    except OSError:
        folder = config.heartbeat_file.parent  # type: ignore[union-attr]  # as above
        if not os.access(folder, os.W_OK | os.X_OK):
            return Finding("heartbeat", Level.FAIL, f"{folder} cannot be written", "make the folder, or mount it")
        mend = "no worker with this IFINU_HEARTBEAT_FILE consumes: it starts, drains, waits for Redis or is not there"
        return Finding("heartbeat", Level.WARN, "no file", mend)
    if age_s > _STALE_HEARTBEAT_S:
        return Finding("heartbeat", Level.FAIL, f"{age_s:.0f} s old", "the worker is stuck or was killed: restart it")
    return Finding("heartbeat", Level.OK, f"{age_s:.0f} s old")


def _info(client: redis.Redis, section: str) -> dict[str, Any]:
    return dict(client.info(section))


def _config(client: redis.Redis, name: str) -> str:
    found: dict[Any, Any] = dict(client.config_get(name))
    if not found:
        raise redis.ResponseError(f"CONFIG GET {name} answers nothing")
    (value,) = found.values()
    return value.decode() if isinstance(value, bytes) else str(value)


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _print(findings: list[Finding]) -> None:
    colours = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
    out = terminal.results()
    table = terminal.columns("", "check", "seen", "mend", whole=("check",))
    for finding in findings:
        level = f"[{colours[finding.level]}]{finding.level}[/]"
        table.add_row(level, *map(terminal.plain, (finding.check, finding.seen, finding.mend)))
    out.print(table)
