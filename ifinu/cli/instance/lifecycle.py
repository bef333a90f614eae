"""`ifinu instance create`, `connect`, `qr`, `restart` and `logout`."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ifinu import settings, window
from ifinu.broker import clock
from ifinu.cli import connection, durations, files, qr, terminal
from ifinu.cli.instance import access, paces, registration, webhooks
from ifinu.errors import ConfigurationError, GatewayError, LedgerUnavailable

if TYPE_CHECKING:
    from ifinu.gateway import CreatedInstance, Management, QrCode

_PAIRING = timedelta(minutes=2)
_PNG_SCALE = 8  # pixels a module
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that looks like another


Wait = Annotated[
    timedelta | None,
    typer.Option(parser=durations.parse, metavar="WAIT", help="Wait this long for the scan; 2m by default."),
]


def _suggested() -> str:
    return "wa-" + "".join(secrets.choice(_LETTERS) for _ in range(8))


def create(
    name: Annotated[
        str | None,
        typer.Argument(
            parser=access.name, metavar="[NAME]", help="Its name at the gateway; by default one is made up."
        ),
    ] = None,
    number: access.PhoneNumber = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            parser=registration.tenant_name,
            metavar="TENANT",
            help="Register it as a number of this tenant (usuario_id); '*' is for all tenants.",
        ),
    ] = None,
    preset: paces.PresetOption = None,
    gap: paces.Gap = None,
    parallel: paces.Parallel = None,
    per_day: paces.PerDay = None,
    new_chats: paces.NewChats = None,
    warm_up: paces.WarmUp = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Create an instance. Then pair it with its phone.

    If there are several gateway processes, the one with the fewest instances gets
    it. Its webhook is registered at once if [bold]IFINU_WEBHOOK_URL[/bold] and
    [bold]IFINU_WEBHOOK_SECRET[/bold] are set.

    With [bold]--tenant[/bold] it is also registered as a number, with a pace; for an instance
    that exists, [bold]ifinu instance assign[/bold] does that. Names show in URLs and logs: let
    them hold no e-mail address and no phone.

    [bold]Examples[/bold]

    ifinu instance create acme
    ifinu instance create acme && ifinu instance connect acme
    ifinu instance create --tenant u1 --preset conservador
    """
    from ifinu.broker.locations import creating

    config = settings.load()
    given = paces.overrides(gap, parallel, per_day, new_chats)
    if tenant is None and (preset is not None or given or warm_up is not None):
        raise ConfigurationError("a pace is for a registered number: give --tenant too ('*' is for all tenants)")
    name = name or _suggested()
    if "@" in name or sum(char.isdigit() for char in name) >= 10:
        terminal.notes().print(
            "[yellow]The name looks like an e-mail address or a phone, and is shown in URLs and logs.[/]"
        )
    hook = registered = None
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(access.gateway(config))
        at = None if tenant is None else stack.enter_context(access.registry())
        client = stack.enter_context(connection.broker()) if at is None else at.client
        if at is not None:
            _refuse_name(at, name)
        stack.enter_context(creating(client, name))
        made = _made(gateway, name, number)
        try:
            hook = _set_webhook(gateway, config, name)
        finally:  # it exists now, with a webhook or without
            if at is not None:
                registered = _register(at, made, number, tenant, preset, given, warm_up)
                webhooks.note(name, hook)
    command = f"ifinu instance connect {shlex.quote(made.name)}"
    if as_json:
        number_ = {} if registered is None else {"number": access.number_document(registered)}
        terminal.print_json({"name": made.name, "id": made.id, "webhook": webhooks.described(hook), **number_})
        return
    out = terminal.results()
    out.print(f"{terminal.plain(made.name)} was created; pair it with `{terminal.plain(command)}`")
    if registered is not None:
        whose = "all tenants" if registered.tenant is None else f"tenant {terminal.plain(registered.tenant)}"
        out.print(f"registered for {whose}; {paces.sentence(registered, datetime.now(UTC))}", soft_wrap=True)
    if hook is not None:
        out.print(f"webhook: {webhooks.shown_line(hook)}")
    else:
        terminal.notes().print("no webhook is registered: set both IFINU_WEBHOOK_URL and IFINU_WEBHOOK_SECRET")


def _made(gateway: Management, name: str, number: str | None) -> CreatedInstance:
    try:
        return gateway.create_instance(name, number=number)
    except GatewayError as exc:
        if exc.status != 403 or all(one.name != name for one in gateway.fetch_instances()):
            raise
        raise ConfigurationError(
            f"the gateway has an instance {name} already: `ifinu instance assign TENANT {shlex.quote(name)}` "
            "registers it"
        ) from exc


def connect(
    name: access.Name,
    number: access.PhoneNumber = None,
    wait: Wait = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Pair an instance with a phone: draw its QR code until it is scanned.

    With [bold]--number[/bold] it also shows a pairing code to type on the phone, if the
    gateway provides one. With [bold]--json[/bold] it prints each code on a line. The exit
    code is 1 if the instance is not connected in time.

    [bold]Examples[/bold]

    ifinu instance connect acme
    ifinu instance connect acme --number "77 99861-6740" --wait 5m
    ifinu instance connect acme --json | jq -r .code
    """
    from ifinu.gateway import flaps

    wait = wait or _PAIRING
    with access.gateway() as gateway:
        coming = qr.codes(gateway, name, number=number, wait_s=wait.total_seconds())
        try:
            if as_json:
                qr.print_json(coming, name)
            else:
                qr.show(coming, terminal.results())
        except qr.NotPaired:
            terminal.notes().print(
                f"{terminal.plain(name)} is not connected after {durations.span(wait)}: the code was not scanned; "
                "run the command again"
            )
            raise typer.Exit(1) from None
        except qr.Flapping:
            terminal.notes().print(
                f"{terminal.plain(name)} is paired, but its connection keeps opening and closing: {flaps.FIX}"
            )
            raise typer.Exit(1) from None
        _note_pairing(gateway, name)
    terminal.answer({"name": name, "state": "open"}, f"{terminal.plain(name)} is [green]connected[/]", as_json=as_json)


def qr_code(
    name: access.Name,
    png: Annotated[
        Path, typer.Option("--png", metavar="FILE", help="Where the image is written; only its owner can read it.")
    ],
    number: access.PhoneNumber = None,
    once: Annotated[bool, typer.Option("--once", help="Write one code, and do not wait for its scan.")] = False,
    wait: Wait = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Write the QR code that pairs an instance as an image, and renew it until it was scanned.

    A code lives for about 20 seconds, and whoever scans it can read and write this
    number's messages: the file is deleted at the end, except with [bold]--once[/bold]. The exit
    code is 1 if the instance is not connected in time.

    [bold]Examples[/bold]

    ifinu instance qr acme --png acme.png
    ifinu instance qr acme --png acme.png --once
    """
    wait = wait or _PAIRING
    with access.gateway() as gateway, contextlib.ExitStack() as stack:
        if not once:
            stack.callback(png.unlink, missing_ok=True)
        try:
            for found in qr.codes(gateway, name, number=number, wait_s=wait.total_seconds()):
                _write_png(found, png)
                document = {"name": name, "state": "connecting", "file": str(png), "pairing_code": found.pairing_code}
                terminal.answer(document, f"{terminal.plain(str(png))} has the code to scan", as_json=as_json)
                if once:
                    return
        except qr.NotPaired:
            terminal.notes().print(f"{terminal.plain(name)} is not connected after {durations.span(wait)}")
            raise typer.Exit(1) from None
        except qr.Flapping:
            from ifinu.gateway import flaps

            terminal.notes().print(f"{terminal.plain(name)} is paired, but it flaps: {flaps.FIX}")
            raise typer.Exit(1) from None
        _note_pairing(gateway, name)
    terminal.answer({"name": name, "state": "open"}, f"{terminal.plain(name)} is [green]connected[/]", as_json=as_json)


def restart(name: access.Name, as_json: terminal.Json = False) -> None:
    """
    Reconnect an instance to WhatsApp; it stays paired.

    Use it if an instance looks open but sends nothing. A closed instance has to be
    paired instead.

    [bold]Examples[/bold]

    ifinu instance restart acme
    """
    with access.gateway() as gateway:
        before = gateway.connection_state(name)
        if before.value not in ("open", "connecting"):
            reasons = {
                "close": f"it is not paired: run `ifinu instance connect {shlex.quote(name)}`",
                "absent": "the gateway process that holds it does not answer, or one address leads to several "
                "processes: run `ifinu doctor`",
            }
            raise GatewayError(f"{name}: {reasons[before.value]}", instance=name, status=200)
        found = gateway.restart_instance(name)
    document = {"name": name, "before": before.value, "state": found.state.value}
    terminal.answer(document, access.painted(found.state), as_json=as_json)


def logout(name: access.Name, yes: terminal.Yes = False, as_json: terminal.Json = False) -> None:
    """
    Unpair an instance: it sends nothing until it is paired again.

    Only the gateway process that holds it is asked. Asks for confirmation.

    [bold]Examples[/bold]

    ifinu instance logout acme
    """
    terminal.confirm(f"{name} is going to be unpaired from its phone.", name, yes=yes)
    with access.gateway() as gateway:
        gateway.logout_instance(name)
    command = f"ifinu instance connect {shlex.quote(name)}"
    words = f"{terminal.plain(name)} is unpaired; pair it again with `{terminal.plain(command)}`"
    terminal.answer({"name": name, "state": "close"}, words, as_json=as_json)


def _refuse_name(at: access.Registered, name: str) -> None:
    from ifinu.numbers import registry

    registry.check_name(name)
    if registry.number(at.engine, name) is not None:
        raise ConfigurationError(f"{name} is registered already: see `ifinu instance show {shlex.quote(name)}`")


def _register(
    at: access.Registered,
    made: CreatedInstance,
    number: str | None,
    tenant: str | None,
    preset: Any,
    given: dict[str, int | None],
    warm_up: bool | None,
) -> Any:
    """Register a new instance. It has the zone of the phone that it is to be paired with."""
    from ifinu.gateway import ConnectionState, Instance, Integration
    from ifinu.numbers import cache, registry

    owner = None if tenant == registration.ALL_TENANTS else tenant
    there = Instance(made.name, made.id, ConnectionState.CLOSE, Integration.BAILEYS)
    now = clock.now(at.client)
    new = registration.numbered(at.client, at.engine, there, owner, preset, given, warm_up, None, now)
    if number is not None:
        import dataclasses

        phone = f"+{number}"
        columns = registration.phone_columns(at.client, phone)
        new = dataclasses.replace(new, zone=window.zone_of(phone), **columns)
    registry.register(at.engine, new)
    cache.load(at.client, at.engine)
    return new


def _set_webhook(gateway: Management, config: settings.Settings, name: str) -> Any:
    if config.webhook_url is None or config.webhook_secret is None:
        return None
    where, headers = webhooks.receiver(config, name)
    try:
        return gateway.set_webhook(name, where, webhooks.EVENTS, headers=headers)
    except GatewayError:
        terminal.notes().print(
            f"[yellow]{terminal.plain(name)} was created, but its webhook is not registered:[/] "
            "register it with `ifinu instance webhook`"
        )
        raise


def _note_pairing(gateway: Management, name: str) -> None:
    """Record the pairing of a registered number: its phone, and the start of its warm-up."""
    if name not in access.registered_numbers():
        return
    from ifinu.numbers import cache, registry

    try:
        with access.registry() as (client, engine):
            phone = next((access.phone_of(one) for one in gateway.fetch_instances() if one.name == name), None)
            if phone is not None:
                columns = registration.phone_columns(client, phone)
                known = registry.registered(engine, name)
                if known.phone_hash not in (None, columns["phone_hash"]):  # another phone is a new number
                    columns |= {"paired_at": None, "warm_up_from": None}
                registry.change(engine, name, zone=window.zone_of(phone), **columns)
            registry.paired(engine, name, clock.now(client))
            cache.load(client, engine)
    except LedgerUnavailable as exc:
        terminal.notes().print(
            f"[yellow]The pairing is not recorded ({terminal.plain(str(exc))}):[/] run the command again later"
        )


def _write_png(found: QrCode, file: Path) -> None:
    """Write a code's image; the file is complete at each moment."""
    import segno  # needed by two commands alone

    if not found.code:
        raise GatewayError("the gateway gave a pairing code and no QR code; use `ifinu instance connect`", status=200)
    part = file.with_name(f".{file.name}.part")
    with files.opened(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "wb") as out:
        segno.make(found.code, micro=False).save(out, kind="png", scale=_PNG_SCALE, border=4)
    part.replace(file)
