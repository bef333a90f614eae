"""`ifinu instance list`, `state`, `show` and `test`."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import redis
import typer

from ifinu import phone as phones
from ifinu import settings
from ifinu.broker import clock, lanes
from ifinu.broker.keys import number_key
from ifinu.cli import terminal
from ifinu.cli.instance import access, paces
from ifinu.cli.sentences import clock as written
from ifinu.errors import ConfigurationError, GatewayError, IfinuError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Engine

    from ifinu.numbers.portfolios import Usage
    from ifinu.numbers.registry import Number

_REGISTRY = ("tenant", "preset", "held", "portfolio")
_COUNTED = timedelta(days=7)
_STEPS = 5  # of the guard, the newest
_TEXT = "Teste do ifinu: este número está conectado."


def show_all(as_json: terminal.Json = False) -> None:
    """
    List the gateway's instances, and whether each is connected to WhatsApp.

    An instance whose connection keeps opening and closing is shown as flapping. Those
    that are registered as numbers are shown with their tenant, preset and hold.

    With [bold]IFINU_EVOLUTION_SHARDED[/bold] it lists the instances of all gateway
    processes, each with the address of the process that holds it.

    [bold]Examples[/bold]

    ifinu instance list
    ifinu instance list --json | jq -r '.instances[] | select(.state != "open") | .name'
    """
    from ifinu.gateway import Integration, flaps

    with access.gateway() as gateway:
        found, quiet = access.listed(gateway)
        asked = [one.name for one, _ in found if one.channel == Integration.BAILEYS]
        states, unsteady = flaps.watch(gateway, asked)
    numbers = access.registered_numbers()
    missing = sorted(numbers.keys() - {one.name for one, _ in found})
    shared = _portfolios(numbers.values())
    if as_json:
        rows = [
            {
                "name": one.name,
                "state": states.get(one.name, one.state).value,
                "flapping": one.name in unsteady,
                "channel": one.channel,
                "code": one.disconnection_code,
            }
            | ({} if where is None else {"shard": where})
            | _of_the_registry(numbers.get(one.name))
            for one, where in found
        ]
        rows += [{"name": name, "state": "missing"} | _of_the_registry(numbers[name]) for name in missing]
        of_meta = [{"name": each.name, **_portfolio_document(each)} for each in shared]
        optional = {"portfolios": of_meta, "away": quiet}
        terminal.print_json({"instances": rows} | {name: part for name, part in optional.items() if part})
        return
    sharded = any(where is not None for _, where in found)
    columns = (*(("shard",) if sharded else ()), "last reason to close", *(_REGISTRY if numbers else ()))
    table = terminal.columns("instance", "state", "channel", *columns, whole=("instance",))
    for one, where in found:
        code = "" if one.disconnection_code is None else str(one.disconnection_code)
        at = () if where is None else (where,)
        shown = "[red]flapping[/]" if one.name in unsteady else access.painted(states.get(one.name, one.state))
        registered = _registry_cells(numbers.get(one.name)) if numbers else ()
        table.add_row(terminal.plain(one.name), shown, terminal.plain(one.channel), *at, code, *registered)
    for name in missing:
        at = ("",) if sharded else ()
        table.add_row(terminal.plain(name), "[red]missing[/]", "", *at, "", *_registry_cells(numbers[name]))
    terminal.results().print(table if found or missing else "The gateway has no instances.")
    for each in shared:
        terminal.results().print(f"Portfolio {_portfolio_words(each)}.")
    for name in sorted(unsteady):
        terminal.notes().print(f"[yellow]{terminal.plain(name)} flaps:[/] {flaps.FIX}")
    if quiet:
        terminal.notes().print(f"[yellow]These gateway processes do not answer: {', '.join(quiet)}[/]")


def state(name: access.Name, as_json: terminal.Json = False) -> None:
    """
    Show whether an instance is connected to WhatsApp; the exit code is 1 if it is not.

    This is the last state the gateway heard of: a dead connection can look open for
    a long time.

    [bold]Examples[/bold]

    ifinu instance state ifinu
    """
    with access.gateway() as gateway:
        found = gateway.connection_state(name)
    terminal.answer({"name": name, "state": found.value}, access.painted(found), as_json=as_json)
    if found.value != "open":
        raise typer.Exit(1)


def show(name: access.Name, as_json: terminal.Json = False) -> None:
    """
    Show a registered number: state, pace, hold, and what it has sent.

    Of its pace also what it has used today; its warm-up; why it is held; and the latest
    steps of the guard.

    Times are in São Paulo's time zone; a number's day is that of its own zone.

    [bold]Examples[/bold]

    ifinu instance show acme
    ifinu instance show acme --json | jq .today
    """
    from ifinu.numbers import answers, registry

    with access.registry() as (client, engine):
        found = registry.registered(engine, name)
        now = clock.now(client)
        used, in_force = _used(client, found, now)
        shared = _shared(client, engine, found)
        waiting = lanes.waiting(client, name)[name]
        done = registry.activity(engine, [name], now - _COUNTED).get(name)
        steps = registry.steps(engine, name, _STEPS)
        wrote = answers.lately(client, name, now)
    state = _state(name)
    document = {
        **access.number_document(found),
        "state": state,
        "pace": paces.document_of(found.pace(now)),
        "warm_up_day": found.warm_up_day(now),
        "today": used,
        "conversations": None if shared is None else _portfolio_document(shared),
        "waiting": waiting,
        "held": in_force,
        "last_7_days": None if done is None else {"sent": done.sent, "failed": done.failed},
        "answers": wrote,
        "last_at": done and done.last_at and done.last_at.isoformat(timespec="seconds"),
        "steps": [{"at": at.isoformat(timespec="seconds"), **data} for at, data in steps],
    }
    if as_json:
        terminal.print_json(document)
        return
    pace = found.pace(now)
    whose = "all tenants" if found.tenant is None else f"tenant {terminal.plain(found.tenant)}"
    banned = "" if found.banned_at is None else f"; [red]banned since {written(found.banned_at)}[/]"
    rows = [
        ("state", f"{state}{banned}"),
        ("number", f"{found.channel.value}, {found.phone or 'phone not known'}, {found.zone}"),
        ("tenant", whose),
        ("paired", written(found.paired_at)),
        ("pace", paces.sentence(found, now)),
        ("today", f"{used['sent']} of {_most(pace.per_day)} messages"),
        ("", f"{used['new_chats']} of {_most(pace.new_chats)} new chats"),
        *(() if shared is None else (("portfolio", _portfolio_words(shared)),)),
        ("waiting", f"{waiting:,}"),
        ("guard", f"risk {found.risk} of 100, brake {found.brake:g}"),
        ("hold", _hold_words(in_force)),
        ("7 days", "nothing" if done is None else f"{done.sent:,} sent, {done.failed:,} failed"),
        ("answers", "not known: its webhook reports none" if wrote is None else f"{wrote:,} people in 7 days"),
        ("last", "–" if done is None else written(done.last_at)),
    ]
    table = terminal.columns("", "")
    table.show_header = False
    for label, value in rows:
        table.add_row(f"[dim]{label}[/]", value)
    terminal.results().print(table)
    for at, data in steps:
        why = " ".join(str(data[part]) for part in ("step", "signal", "reason") if data.get(part))
        terminal.results().print(f"{written(at)}  {terminal.plain(why)}")


def ask(
    name: access.Name,
    send_to: Annotated[
        str | None,
        typer.Option("--send-to", metavar="PHONE", help="Also send a test message to this phone: your own."),
    ] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Ask the gateway for an instance's state and its own phone; sends nothing.

    With [bold]--send-to[/bold] it sends one message, past the queue and the number's pace. The exit
    code is 1 if the instance is not connected.

    [bold]Examples[/bold]

    ifinu instance test acme
    ifinu instance test acme --send-to "77 99861-6740"
    """
    config = settings.load()
    try:
        to = None if send_to is None else phones.normalize(send_to)
    except ValueError as exc:
        raise ConfigurationError(f"--send-to {exc}") from exc
    with access.gateway(config) as gateway:
        state = gateway.connection_state(name)
        own = next((access.phone_of(one) for one in gateway.fetch_instances() if one.name == name), None)
    document: dict[str, Any] = {"name": name, "state": state.value, "phone": own and phones.mask(own), "sent": None}
    words = f"{terminal.plain(name)}: {access.painted(state)}, phone {document['phone'] or 'not known'}"
    if state.value == "open" and to is not None:
        known = access.registered_numbers(needed=True).get(name)
        if known is not None and (known.held_until is not None or known.banned_at is not None):
            raise ConfigurationError(f"{name} is held, so nothing was sent: see `ifinu instance show`")
        document["sent"] = _send(config, name, to)
        words += f"; the gateway took the message to {phones.mask(to)}"
    terminal.answer(document, words, as_json=as_json)
    if state.value != "open":
        raise typer.Exit(1)


def _send(config: settings.Settings, name: str, to: str) -> str | None:
    from ifinu.gateway import gateway_of

    with contextlib.closing(gateway_of(config, worker="cli")) as sender:
        return sender.send_text(name, to, _TEXT).key_id


def _state(name: str) -> str:
    """The state of an instance, or why it is not known."""
    try:
        with access.gateway() as gateway:
            return gateway.connection_state(name).value
    except GatewayError as exc:
        return "missing" if exc.status == 404 else "not known: the gateway does not answer"
    except ConfigurationError:
        return "not known: no gateway is set"


def _used(client: redis.Redis, number: Number, now: datetime) -> tuple[dict[str, int], dict[str, Any] | None]:
    """What a number has used of its local day by Redis, and its hold there if one is in force."""
    key = number_key(number.name)
    raw: Any = client.hmget(key, ["dia", "hoje", "presa", "motivo", "fuso"])
    day, today, held_ms, reason, zone_ms = (b"" if each is None else each for each in raw)
    now_ms = now.timestamp() * 1000
    local_day = int((now_ms + int(zone_ms or 0)) // 86_400_000)
    sent = int(today or 0) if day and int(day) == local_day else 0
    new_chats = int(client.scard(f"{key}:novos:{local_day}"))
    until_ms = float(held_ms or 0)
    held = None
    if until_ms > now_ms:
        until = datetime.fromtimestamp(until_ms / 1000, now.tzinfo)
        held = {"until": until.isoformat(timespec="seconds"), "reason": reason.decode()}
    return {"sent": sent, "new_chats": new_chats}, held


def _shared(client: redis.Redis, engine: Engine, number: Number) -> Usage | None:
    """What its portfolio has used of its tier; None without one."""
    from ifinu.numbers import portfolios, registry

    if number.portfolio is None:
        return None
    tiers = {number.portfolio: registry.portfolio(engine, number.portfolio).conversations}
    return portfolios.read(client, tiers)[0]


def _portfolios(numbers: Iterable[Number]) -> list[Usage]:
    """What the portfolios of these numbers have used of their tiers; none if Redis does not answer."""
    from ifinu.numbers import portfolios, registry

    names = {one.portfolio for one in numbers if one.portfolio is not None}
    if not names:
        return []
    try:
        with access.registry() as (client, engine):
            all_ = registry.read(engine).portfolios
            return portfolios.read(client, {one.name: one.conversations for one in all_ if one.name in names})
    except (redis.RedisError, IfinuError) as exc:
        terminal.notes().print(f"[yellow]What portfolios have used is not known: {terminal.plain(str(exc))}[/]")
        return []


def _portfolio_words(shared: Usage) -> str:
    words = f"{terminal.plain(shared.name)}: {shared.used:,} of {_most(shared.most)} people in 24 hours"
    return f"{words}, [yellow]{shared.waiting:,} more waiting[/]" if shared.waiting else words


def _portfolio_document(shared: Usage) -> dict[str, Any]:
    return {"used": shared.used, "most": shared.most, "waiting": shared.waiting}


def _hold_words(held: dict[str, Any] | None) -> str:
    if held is None:
        return "none"
    from ifinu.numbers.registry import UNTIL_RELEASED

    until = datetime.fromisoformat(held["until"])
    ends = "until it is released" if until >= UNTIL_RELEASED else f"until {written(until)}"
    return f"[red]{ends}[/] ({terminal.plain(held['reason'])})"


def _most(limit: int | None) -> str:
    return "any number of" if limit is None else f"{limit:,}"


def _of_the_registry(number: Number | None) -> dict[str, Any]:
    """A number's part in the list, as JSON; empty if it is not registered."""
    if number is None:
        return {}
    return {
        "tenant": number.tenant,
        "preset": number.preset.value,
        "portfolio": number.portfolio,
        "banned": number.banned_at is not None,
        **paces.held(number),
    }


def _registry_cells(number: Number | None) -> tuple[str, str, str, str]:
    if number is None:
        return "", "", "", ""
    held = "" if number.held_until is None else terminal.plain(number.held_reason or "held")
    held = "banned" if number.banned_at else held
    return terminal.plain(number.tenant or "(all)"), number.preset.value, held, terminal.plain(number.portfolio or "")
