"""`ifinu instance`: create, pair and inspect the gateway's WhatsApp instances, and register their webhooks."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ifinu import phone, settings
from ifinu.cli import connection, durations, qr, terminal
from ifinu.errors import ConfigurationError, GatewayError
from ifinu.settings import Settings

if TYPE_CHECKING:
    from ifinu.gateway import ConnectionState, Instance, Management, Webhook

EVENTS = ("MESSAGES_UPDATE", "SEND_MESSAGE", "MESSAGES_UPSERT", "MESSAGES_EDITED", "CONNECTION_UPDATE")

_CONNECT_S = 5.0
_READ_S = 30.0
_PAIRING = timedelta(minutes=2)
_COLOURS = {"open": "green", "connecting": "yellow"}

app = typer.Typer(
    no_args_is_help=True, help="Create, pair and inspect WhatsApp instances, and register their webhooks."
)


def _digits(text: str) -> str:
    try:
        return phone.digits(phone.normalize(text))
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def _name(text: str) -> str:
    """Strip the name, as messages do; an instance with spaces around its name could not be sent from."""
    if not (name := text.strip()):
        raise typer.BadParameter("an instance needs a name")
    return name


Name = Annotated[str, typer.Argument(parser=_name, metavar="NAME", help="Name of the instance at the gateway.")]
Number = Annotated[
    str | None,
    typer.Option(parser=_digits, metavar="PHONE", help="Its phone, to get a pairing code to type as well."),
]


@app.command("list")
def show_all(as_json: terminal.Json = False) -> None:
    """
    List the gateway's instances, and whether each is connected to WhatsApp.

    An instance whose connection keeps opening and closing is shown as flapping.

    With [bold]IFINU_EVOLUTION_SHARDED[/bold] it lists the instances of all gateway
    processes, each with the address of the process that holds it.

    [bold]Examples[/bold]

    ifinu instance list
    ifinu instance list --json | jq -r '.instances[] | select(.state != "open") | .name'
    """
    from ifinu.gateway import Integration, flaps

    with _gateway(settings.load()) as gateway:
        found, quiet = _listed(gateway)
        asked = [one.name for one, _ in found if one.channel == Integration.BAILEYS]
        states, unsteady = flaps.watch(gateway, asked)
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
            for one, where in found
        ]
        terminal.print_json({"instances": rows} | ({"away": quiet} if quiet else {}))
        return
    sharded = any(where is not None for _, where in found)
    table = terminal.columns(
        "instance", "state", "channel", *(("shard",) if sharded else ()), "last reason to close", whole=("instance",)
    )
    for one, where in found:
        code = "" if one.disconnection_code is None else str(one.disconnection_code)
        at = () if where is None else (where,)
        shown = "[red]flapping[/]" if one.name in unsteady else _painted(states.get(one.name, one.state))
        table.add_row(terminal.plain(one.name), shown, terminal.plain(one.channel), *at, code)
    terminal.results().print(table if found else "The gateway has no instances.")
    for name in sorted(unsteady):
        terminal.notes().print(f"[yellow]{terminal.plain(name)} flaps:[/] {flaps.FIX}")
    if quiet:
        terminal.notes().print(f"[yellow]These gateway processes do not answer: {', '.join(quiet)}[/]")


@app.command()
def state(name: Name, as_json: terminal.Json = False) -> None:
    """
    Show whether an instance is connected to WhatsApp; the exit code is 1 if it is not.

    This is the last state the gateway heard of: a dead connection can look open for
    a long time.

    [bold]Examples[/bold]

    ifinu instance state ifinu
    """
    with _gateway(settings.load()) as gateway:
        found = gateway.connection_state(name)
    terminal.answer({"name": name, "state": found.value}, _painted(found), as_json=as_json)
    if found.value != "open":
        raise typer.Exit(1)


@app.command()
def create(name: Name, number: Number = None, as_json: terminal.Json = False) -> None:
    """
    Create an instance. Then pair it with its phone.

    If there are several gateway processes, the one with the fewest instances gets
    it. Its webhook is registered at once if [bold]IFINU_WEBHOOK_URL[/bold] and
    [bold]IFINU_WEBHOOK_SECRET[/bold] are set.

    [bold]Examples[/bold]

    ifinu instance create acme
    ifinu instance create acme && ifinu instance connect acme
    """
    from ifinu.broker.locations import creating

    config = settings.load()
    hook = None
    with _gateway(config) as gateway, connection.broker() as client, creating(client, name):
        made = gateway.create_instance(name, number=number)
        if config.webhook_url is not None and config.webhook_secret is not None:
            where, headers = _receiver(config, name)
            try:
                hook = gateway.set_webhook(name, where, EVENTS, headers=headers)
            except GatewayError:
                terminal.notes().print(
                    f"[yellow]{terminal.plain(name)} was created, but its webhook is not registered:[/] "
                    "register it with `ifinu instance webhook`"
                )
                raise
    if as_json:
        terminal.print_json({"name": made.name, "id": made.id, "webhook": _described(hook)})
        return
    out = terminal.results()
    command = f"ifinu instance connect {shlex.quote(made.name)}"
    out.print(f"{terminal.plain(made.name)} was created; pair it with `{terminal.plain(command)}`")
    if hook is not None:
        out.print(f"webhook: {_webhook_line(hook)}")
    else:
        terminal.notes().print("no webhook is registered: set both IFINU_WEBHOOK_URL and IFINU_WEBHOOK_SECRET")


@app.command()
def connect(
    name: Name,
    number: Number = None,
    wait: Annotated[
        timedelta | None,
        typer.Option(parser=durations.parse, metavar="WAIT", help="Wait this long for the scan; 2m by default."),
    ] = None,
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
    with _gateway(settings.load()) as gateway:
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
    terminal.answer({"name": name, "state": "open"}, f"{terminal.plain(name)} is [green]connected[/]", as_json=as_json)


@app.command()
def restart(name: Name, as_json: terminal.Json = False) -> None:
    """
    Reconnect an instance to WhatsApp; it stays paired.

    Use it if an instance looks open but sends nothing. A closed instance has to be
    paired instead.

    [bold]Examples[/bold]

    ifinu instance restart acme
    """
    with _gateway(settings.load()) as gateway:
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
    terminal.answer(document, _painted(found.state), as_json=as_json)


@app.command()
def webhook(
    name: Name,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="URL at which the gateway reaches `ifinu webhook`; IFINU_WEBHOOK_URL by default."
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the present webhook, and change nothing.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Register [bold]ifinu webhook[/bold] as the receiver of an instance's events.

    The gateway keeps one webhook for each instance: this replaces it, and prints
    the old and the new one. The gateway also gets a secret for the instance,
    derived from [bold]IFINU_WEBHOOK_SECRET[/bold]; [bold]ifinu webhook[/bold] needs the same setting.
    Run it again when that secret changes.

    [bold]Examples[/bold]

    ifinu instance webhook ifinu --show
    ifinu instance webhook ifinu --url http://ifinu-webhook:8090
    """
    config = settings.load(webhook_url=url)
    if show:
        with _gateway(config) as gateway:
            found = gateway.find_webhook(name)
        terminal.answer({"webhook": _described(found)}, _webhook_line(found), as_json=as_json)
        return
    where, headers = _receiver(config, name)
    with _gateway(config) as gateway:
        before = gateway.find_webhook(name)
        now = gateway.set_webhook(name, where, EVENTS, headers=headers)
    document = {"before": _described(before), "webhook": _described(now)}
    terminal.answer(document, f"before: {_webhook_line(before)}\nnow:    {_webhook_line(now)}", as_json=as_json)


@contextlib.contextmanager
def _gateway(config: Settings) -> Iterator[Management]:
    from ifinu.gateway import management_of  # not loaded by the commands that need no gateway

    gateway = management_of(config, worker="cli", connect_timeout_s=_CONNECT_S, read_timeout_s=_READ_S)
    with contextlib.closing(gateway):
        yield gateway


def _listed(gateway: Management) -> tuple[list[tuple[Instance, str | None]], list[str]]:
    """Each instance with its process's address (None if unsharded), and the addresses that did not answer."""
    from ifinu.gateway import ManagedShards

    found: list[tuple[Instance, str | None]]
    quiet: list[str] = []
    if isinstance(gateway, ManagedShards):
        answers = gateway.survey()
        if not any(isinstance(answer, tuple) for answer in answers.values()):
            gateway.fetch_instances()  # raises the reason
        found = [(one, where) for where, answer in answers.items() if isinstance(answer, tuple) for one in answer]
        quiet = sorted(where for where, answer in answers.items() if isinstance(answer, GatewayError))
    else:
        found = [(one, None) for one in gateway.fetch_instances()]
    return sorted(found, key=lambda one: (one[0].name, one[1] or "")), quiet


def _receiver(config: Settings, instance: str) -> tuple[str, dict[str, str]]:
    """URL of `ifinu webhook`, and the headers with which an instance authenticates there."""
    if config.webhook_url is None:
        raise ConfigurationError(
            "the URL at which the gateway reaches `ifinu webhook` is not set: give --url or set IFINU_WEBHOOK_URL"
        )
    if config.webhook_secret is None:
        raise ConfigurationError("IFINU_WEBHOOK_SECRET is not set: set it to the same value as for `ifinu webhook`")
    from ifinu.receipts.auth import headers_of

    return config.webhook_url, headers_of(instance, config.webhook_secret.get_secret_value())


def _painted(found: ConnectionState) -> str:
    return f"[{_COLOURS.get(found.value, 'red')}]{found.value}[/]"


def _described(found: Webhook | None) -> dict[str, Any] | None:
    """A webhook as JSON, with the names of its headers only: their values are secrets."""
    if found is None:
        return None
    return {
        "url": found.url,
        "enabled": found.enabled,
        "events": list(found.events),
        "headers": sorted(found.headers),
    }


def _webhook_line(found: Webhook | None) -> str:
    if found is None:
        return "none"
    events = ", ".join(found.events) or "all events"
    shown = f", with {', '.join(sorted(found.headers))}" if found.headers else ""
    off = "" if found.enabled else " (switched off)"
    return terminal.plain(f"{found.url}{off}: {events}{shown}")
