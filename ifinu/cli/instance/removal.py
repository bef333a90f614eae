"""`ifinu instance move`, `delete` and `orphans`."""

from __future__ import annotations

import shlex
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import redis
import typer

from ifinu.broker import clock, lane_burial, lanes
from ifinu.broker.keys import number_key
from ifinu.cli import terminal
from ifinu.cli.instance import access
from ifinu.errors import ConfigurationError, GatewayError, IfinuError

if TYPE_CHECKING:
    from ifinu.gateway import Management
    from ifinu.numbers.registry import Number

_MOVED, _DELETED = "moved", "deleted"  # reasons of a hold
_DRAIN_S = 300.0  # longer than any send
_EVERY_S = 0.2


def move(
    name: access.Name,
    to: Annotated[str, typer.Argument(parser=access.name, metavar="OTHER", help="The number that is to send them.")],
    as_json: terminal.Json = False,
) -> None:
    """
    Move the messages that wait for a number to another one.

    The number is held, and what it is sending ends first. It stays held, so that
    nothing comes to wait for it again: end that with [bold]ifinu instance release[/bold]. A
    message that names the number stays with it.

    [bold]Examples[/bold]

    ifinu instance move acme acme-2
    """
    from ifinu.numbers import registry

    with access.registry() as (client, engine):
        source, target = registry.registered(engine, name), registry.registered(engine, to)
        _refuse(client, source, target)
        registry.hold(engine, name, registry.UNTIL_RELEASED, _MOVED)
        _drain(client, name, _MOVED)
        moved = lanes.move(client, name, [to])
        left = lanes.waiting(client, name)[name]
    words = f"{moved:,} moved to {terminal.plain(to)}; {terminal.plain(name)} is held"
    if left:
        words += f", and {left:,} that name it wait"
    terminal.answer({"name": name, "to": to, "moved": moved, "left": left}, words, as_json=as_json)


def delete(
    name: access.Name,
    move_to: Annotated[
        str | None,
        typer.Option("--move-to", parser=access.name, metavar="OTHER", help="Move what waits for it to this number."),
    ] = None,
    bury: Annotated[
        bool, typer.Option("--bury", help="Move what waits for it to the dead letters; a replay finds another number.")
    ] = False,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Delete an instance, with its pairing and its messages at the gateway, and its registration.

    While messages wait for it, it is refused: [bold]--move-to[/bold] moves them to another number
    first, [bold]--bury[/bold] to the dead letters. Only the gateway process that holds the instance
    is asked. Asks for confirmation.

    [bold]Examples[/bold]

    ifinu instance delete acme
    ifinu instance delete acme --move-to acme-2
    ifinu instance delete acme --bury
    """
    known = access.registered_numbers(needed=True).get(name)
    if known is None and (move_to is not None or bury):
        raise ConfigurationError(f"{name} is not registered, so nothing waits for it: leave out --move-to and --bury")
    if known is not None:
        _refuse_full(name, move_to, bury=bury)
    terminal.confirm(f"{name} is going to be deleted at the gateway, with its pairing.", name, yes=yes)
    moved = buried = 0
    if known is None:
        with access.gateway() as gateway:
            gateway.delete_instance(name)
    else:
        moved, buried = _delete_registered(name, move_to, bury=bury)
    words = f"{terminal.plain(name)} is deleted"
    if moved:
        words += f"; {moved:,} moved to {terminal.plain(move_to or '')}"
    if buried:
        words += f"; {buried:,} moved to the dead letters"
    document = {"name": name, "registered": known is not None, "moved": moved, "buried": buried}
    terminal.answer(document, words, as_json=as_json)


def orphans(
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Remove numbers that the gateway has reported gone three times in 10 minutes."),
    ] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    List instances that are not registered, and registered numbers that the gateway lacks.

    A number counts as gone after three runs over 10 minutes in which the gateway
    answered 404; no answer counts for nothing. [bold]--remove[/bold] then removes it from the
    registry, unless messages wait for it. Instances are never deleted here. The exit
    code is 1 if there are any.

    [bold]Examples[/bold]

    ifinu instance orphans
    ifinu instance orphans --remove
    """
    from ifinu.numbers import cache, registry

    with access.registry() as (client, engine), access.gateway() as gateway:
        found, quiet = access.listed(gateway)
        there = {one.name for one, _ in found}
        numbers = registry.read(engine).numbers
        now = clock.now(client)
        gone = []
        for one in numbers:
            is_missing = one.name not in there and (None if quiet else _is_missing(gateway, one.name))
            if is_missing:
                gone.append(registry.missing(engine, one.name, now))
            elif is_missing is False and one.missing_count:
                registry.found(engine, one.name)
        removed = []
        for one in gone:
            if remove and one.is_gone(now) and not lanes.waiting(client, one.name)[one.name]:
                registry.remove(engine, one.name)
                removed.append(one.name)
        if removed:
            cache.load(client, engine)
            for name in removed:
                lane_burial.bury(client, name)  # what came to wait for it meanwhile
        full = {one.name: lanes.waiting(client, one.name)[one.name] for one in gone}
    foreign = sorted(there - {one.name for one in numbers})
    if as_json:
        rows = [_gone_document(one, now, full[one.name], removed) for one in gone]
        terminal.print_json({"unregistered": foreign, "missing": rows, "away": quiet})
    else:
        _print_orphans(foreign, gone, removed, full, now)
        if quiet:
            terminal.notes().print(f"[yellow]These gateway processes do not answer: {', '.join(quiet)}[/]")
    if foreign or len(removed) < len(gone):
        raise typer.Exit(1)


def in_flight(client: redis.Redis, name: str) -> int:
    """How many messages of a number are being sent."""
    count = 0
    members: Any = client.smembers(f"{number_key(name)}:voo")
    for member in members:
        queue, _, tag = member.decode().rpartition(" ")
        count += bool(client.hexists(f"{queue}:em_voo", tag))
    return count


def _drain(client: redis.Redis, name: str, reason: str) -> None:
    """
    Hold a number, and wait until nothing of it is being sent.

    Raises:
        IfinuError: Something still is, after minutes.
    """
    from ifinu.numbers.registry import UNTIL_RELEASED

    lanes.hold(client, name, UNTIL_RELEASED.timestamp() * 1000, reason)
    until = time.monotonic() + _DRAIN_S
    while count := in_flight(client, name):
        if time.monotonic() >= until:
            raise IfinuError(f"{count} messages of {name} are still being sent; it is held: run the command again")
        time.sleep(_EVERY_S)


def _refuse(client: redis.Redis, source: Number, target: Number) -> None:
    """
    Raises:
        ConfigurationError: The target may not send what waits for the source.
    """
    if source.name == target.name:
        raise ConfigurationError(f"{source.name} is the number that they wait for: name another one")
    if target.banned_at is not None:
        raise ConfigurationError(f"{target.name} is banned: name another number")
    of = {lane.tenant for lane in lanes.counts(client, number=source.name) if lane.length}
    if target.tenant is not None and (others := sorted(of - {target.tenant})):
        raise ConfigurationError(
            f"{target.name} is of tenant {target.tenant}, and messages of {', '.join(others)} wait for {source.name}: "
            "name a number of theirs, or one of all tenants"
        )


def _refuse_full(name: str, move_to: str | None, *, bury: bool) -> None:
    from ifinu.numbers import registry

    with access.registry() as (client, engine):
        source = registry.registered(engine, name)
        if move_to is not None:
            _refuse(client, source, registry.registered(engine, move_to))
        elif not bury and (count := lanes.waiting(client, name)[name]):
            raise ConfigurationError(
                f"{count:,} messages wait for {name}: move them with --move-to OTHER, or bury them with --bury"
            )


def _delete_registered(name: str, move_to: str | None, *, bury: bool) -> tuple[int, int]:
    """Drain a number, empty its lanes, delete it at the gateway and in the registry; how many were moved and buried."""
    from ifinu.numbers import cache, registry

    with access.registry() as (client, engine):
        registry.hold(engine, name, registry.UNTIL_RELEASED, _DELETED)
        _drain(client, name, _DELETED)
        moved = 0 if move_to is None else lanes.move(client, name, [move_to])
        buried = lane_burial.bury(client, name) if bury else 0
        if count := lanes.waiting(client, name)[name]:
            raise ConfigurationError(
                f"{count:,} messages wait for {name} and name it, so they cannot go elsewhere: {name} is held and not "
                f"deleted; give --bury too, or release it (`ifinu instance release {shlex.quote(name)}`)"
            )
        _delete_at_gateway(name)
        registry.remove(engine, name)
        cache.load(client, engine)
        buried += lane_burial.bury(client, name)  # what came to wait for it meanwhile
    return moved, buried


def _delete_at_gateway(name: str) -> None:
    """Delete a number's instance at the process that holds it; one that is gone already is no error."""
    with access.gateway() as gateway:
        try:
            gateway.delete_instance(name)
        except GatewayError as exc:
            if exc.status != 404:
                raise
            terminal.notes().print(f"[yellow]The gateway had no instance {terminal.plain(name)} any more.[/]")


def _is_missing(gateway: Management, name: str) -> bool | None:
    """Whether the gateway says that it has no such instance; None if it does not say."""
    try:
        gateway.connection_state(name)
    except GatewayError as exc:
        return True if exc.status == 404 else None
    return False


def _gone_document(one: Number, now: datetime, count: int, removed: list[str]) -> dict[str, Any]:
    since = one.missing_since
    return {
        "name": one.name,
        "since": since and since.isoformat(timespec="seconds"),
        "answers": one.missing_count,
        "gone": one.is_gone(now),
        "waiting": count,
        "removed": one.name in removed,
    }


def _print_orphans(
    foreign: list[str], gone: list[Number], removed: list[str], full: dict[str, int], now: datetime
) -> None:
    out = terminal.results()
    for name in foreign:
        out.print(f"{terminal.plain(name)}: not registered; `ifinu instance assign` registers it")
    for one in gone:
        if one.name in removed:
            words = "removed from the registry"
        elif not one.is_gone(now):
            words = f"not at the gateway, by {one.missing_count} answers so far; ask again later"
        elif full[one.name]:
            words = f"gone, and {full[one.name]:,} messages wait for it: move them with `ifinu instance move`"
        else:
            words = "gone; --remove removes it from the registry"
        out.print(f"{terminal.plain(one.name)}: {words}", soft_wrap=True)
    if not foreign and not gone:
        out.print("none: each instance is registered, and the gateway has each number")
