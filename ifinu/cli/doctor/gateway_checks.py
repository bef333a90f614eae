"""The checks of `ifinu doctor` on the gateway and on the default instance."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ifinu.cli.doctor.findings import Finding, Level
from ifinu.errors import ConfigurationError, GatewayError
from ifinu.settings import Settings

if TYPE_CHECKING:
    from ifinu.gateway import ConnectionState, ManagedShards, Management

_TIMEOUT_S = 5.0
_NOT_FOUND = 404


def connect(config: Settings) -> Management:
    """
    A client of the gateway with short timeouts, to be closed by the caller.

    Raises:
        ConfigurationError: The URL or the key is missing or wrong.
    """
    from ifinu.gateway import management_of

    return management_of(config, worker="doctor", connect_timeout_s=_TIMEOUT_S, read_timeout_s=_TIMEOUT_S)


def ask(gateway: Management, instance: str) -> None:
    """
    Send the gateway one request; where several processes share its name, one to each.

    Raises:
        GatewayError: The gateway does not answer or refuses; of several processes, none answers.
    """
    from ifinu.gateway import ManagedShards

    if not isinstance(gateway, ManagedShards):
        gateway.connection_state(instance)
        return
    answers = gateway.states(instance).values()
    if all(isinstance(answer, GatewayError) and answer.status is None for answer in answers):
        raise GatewayError(f"{gateway.url}: no gateway process answers")


def examine_gateway(config: Settings) -> Iterator[Finding]:
    """Check that the gateway answers, accepts the key and has the default instance connected."""
    from ifinu.gateway import ConnectionState, ManagedShards

    try:
        gateway = connect(config)
    except ConfigurationError as exc:
        fix = "correct IFINU_EVOLUTION_URL and IFINU_EVOLUTION_API_KEY: no worker starts without them"
        yield Finding("gateway", Level.FAIL, str(exc), fix)
        return
    with contextlib.closing(gateway):
        if isinstance(gateway, ManagedShards):
            yield from _shards(config, gateway)
            return
        try:
            state = gateway.connection_state(config.evolution_instance)
        except GatewayError as exc:
            yield Finding("gateway", Level.FAIL, str(exc), _fix(exc.status))
            return
        yield Finding("gateway", Level.OK, f"{config.evolution_url} answers and accepts the key")
        if state is ConnectionState.ABSENT:
            fix = (
                "its name leads to one of several gateway processes: set IFINU_EVOLUTION_SHARDED=true, and "
                "IFINU_EVOLUTION_URL to a name that resolves to all of them"
            )
            seen = "not held by the process that answered"
            yield Finding(f"instance {config.evolution_instance}", Level.FAIL, seen, fix)
        else:
            yield _connection(config.evolution_instance, gateway, state)


def _shards(config: Settings, gateway: ManagedShards) -> Iterator[Finding]:
    """Check how many processes answer, and which one holds the default instance."""
    from ifinu.gateway import ConnectionState

    answers = gateway.states(config.evolution_instance)
    failures = {address: exc for address, exc in answers.items() if isinstance(exc, GatewayError)}
    states = {address: state for address, state in answers.items() if isinstance(state, ConnectionState)}
    if not states:
        nothing = GatewayError(f"no gateway process answers: {config.evolution_url} resolves to no address")
        worst = max(failures.values(), key=lambda exc: exc.status or 0, default=nothing)
        yield Finding("gateway", Level.FAIL, str(worst), _fix(worst.status))
        return
    answering = len(answers) - sum(exc.status is None for exc in failures.values())
    seen = f"{answering} of {len(answers)} processes of {config.evolution_url} answer"
    if failures:
        fix = "the messages of their instances wait until they are back: see their pods"
        yield Finding("gateway", Level.WARN, f"{seen}; without a state: {', '.join(failures)}", fix)
    else:
        yield Finding("gateway", Level.OK, f"{seen} and accept the key")
    check = f"instance {config.evolution_instance}"
    held = {address: state for address, state in states.items() if state is not ConnectionState.ABSENT}
    if not held:
        fix = "its process is starting or down, and its messages wait: see the gateway's pods"
        yield Finding(check, Level.FAIL, "held by no process that answers", fix)
    elif any(sum((":" in one) is version_6 for one in held) > 1 for version_6 in (False, True)):
        fix = "they disconnect each other: give each gateway pod another DATABASE_CONNECTION_CLIENT_NAME"
        yield Finding(check, Level.FAIL, f"held by {len(held)} processes: {', '.join(held)}", fix)
    else:
        address, state = next(iter(held.items()))
        yield _connection(config.evolution_instance, gateway, state, f", at {address}")


def _connection(instance: str, gateway: Management, state: ConnectionState, where: str = "") -> Finding:
    from ifinu.gateway import flaps

    check = f"instance {instance}"
    if flaps.watch(gateway, [instance])[1]:
        return Finding(check, Level.FAIL, f"keeps opening and closing{where}", flaps.FIX)
    if state.value == "open":
        return Finding(check, Level.OK, f"{state.value}{where}")
    fix = "connect its phone again: `ifinu instance connect`, or the QR code in the gateway's manager"
    return Finding(check, Level.FAIL, f"{state.value}{where}", fix)


def _fix(status: int | None) -> str:
    if status is None:
        return "start the gateway, or correct IFINU_EVOLUTION_URL"
    if status in (401, 403):
        return "correct IFINU_EVOLUTION_API_KEY"
    if status == _NOT_FOUND:
        return "create the instance, or correct IFINU_EVOLUTION_INSTANCE and IFINU_EVOLUTION_URL"
    return "see the gateway's log"
