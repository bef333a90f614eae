"""`ifinu instance`: the gateway's WhatsApp instances, and where they tell what happens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ifinu import settings
from ifinu.cli import terminal
from ifinu.errors import ConfigurationError
from ifinu.settings import Settings

if TYPE_CHECKING:
    from ifinu.gateway import Evolution, State, Webhook

EVENTS = ("MESSAGES_UPDATE", "SEND_MESSAGE", "MESSAGES_UPSERT", "CONNECTION_UPDATE")

_CONNECT_S = 5.0
_READ_S = 30.0
_COLOURS = {"open": "green", "connecting": "yellow"}

app = typer.Typer(no_args_is_help=True, help="See the WhatsApp instances, and have them tell what happens.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The instance, as the gateway knows it.")]


@app.command("list")
def show_all(as_json: terminal.Json = False) -> None:
    """
    List the instances of the gateway, and whether each is connected to WhatsApp.

    [bold]Examples[/bold]

    ifinu instance list
    ifinu instance list --json | jq -r '.instances[] | select(.state != "open") | .name'
    """
    with _gateway(settings.load()) as gateway:
        found = sorted(gateway.fetch_instances(), key=lambda instance: instance.name)
    if as_json:
        rows = [
            {"name": one.name, "state": one.state.value, "channel": one.channel, "code": one.disconnection_code}
            for one in found
        ]
        terminal.print_json({"instances": rows})
        return
    table = terminal.columns("instance", "state", "channel", "last reason to close", whole=("instance",))
    for one in found:
        code = "" if one.disconnection_code is None else str(one.disconnection_code)
        table.add_row(terminal.plain(one.name), _painted(one.state), terminal.plain(one.channel), code)
    terminal.results().print(table if found else "the gateway has no instances")


@app.command()
def state(name: Name, as_json: terminal.Json = False) -> None:
    """
    Tell whether an instance is connected to WhatsApp; exits with 1 when it is not.

    It is the last that the gateway heard: a dead connection can look open for long.

    [bold]Examples[/bold]

    ifinu instance state ifinu
    """
    with _gateway(settings.load()) as gateway:
        found = gateway.connection_state(name)
    if as_json:
        terminal.print_json({"name": name, "state": found.value})
    else:
        terminal.results().print(_painted(found))
    if found.value != "open":
        raise typer.Exit(1)


@app.command()
def webhook(
    name: Name,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the gateway reaches `ifinu webhook`. Else IFINU_WEBHOOK_URL."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show where its events go now, and change nothing.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Have an instance tell [bold]ifinu webhook[/bold] what happens.

    The gateway keeps one webhook an instance: this replaces it, and prints
    what was there. [bold]IFINU_WEBHOOK_SECRET[/bold] goes along, and has to be the
    same where [bold]ifinu webhook[/bold] runs. Repeat it whenever the secret changes.

    [bold]Examples[/bold]

    ifinu instance webhook ifinu --show
    ifinu instance webhook ifinu --url http://ifinu-webhook:8090
    """
    chosen = settings.load(webhook_url=url)
    if show:
        with _gateway(chosen) as gateway:
            found = gateway.find_webhook(name)
        if as_json:
            terminal.print_json({"webhook": _described(found)})
        else:
            terminal.results().print(_told(found))
        return
    if chosen.webhook_url is None:
        raise ConfigurationError("say where the gateway reaches `ifinu webhook`: --url or IFINU_WEBHOOK_URL")
    if chosen.webhook_secret is None:
        raise ConfigurationError(
            "IFINU_WEBHOOK_SECRET is not set: the gateway shows it to `ifinu webhook`, so it is the same there"
        )
    with _gateway(chosen) as gateway:
        before = gateway.find_webhook(name)
        headers = {"jwt_key": chosen.webhook_secret.get_secret_value()}
        now = gateway.set_webhook(name, chosen.webhook_url, EVENTS, headers=headers)
    if as_json:
        terminal.print_json({"before": _described(before), "webhook": _described(now)})
        return
    terminal.results().print(f"before: {_told(before)}\nnow:    {_told(now)}")


@contextlib.contextmanager
def _gateway(chosen: Settings) -> Iterator[Evolution]:
    from ifinu.gateway import Evolution  # not loaded by the commands that need no gateway

    if chosen.evolution_api_key is None:
        raise ConfigurationError(
            "IFINU_EVOLUTION_API_KEY is not set: it is the key that the Evolution API was started with"
        )
    key = chosen.evolution_api_key.get_secret_value()
    gateway = Evolution(chosen.evolution_url, key, connect_timeout_s=_CONNECT_S, read_timeout_s=_READ_S, worker="cli")
    try:
        yield gateway
    finally:
        gateway.close()


def _painted(found: State) -> str:
    return f"[{_COLOURS.get(found.value, 'red')}]{found.value}[/]"


def _described(found: Webhook | None) -> dict[str, Any] | None:
    """Everything but the values of its headers, which are secrets."""
    if found is None:
        return None
    return {
        "url": found.url,
        "enabled": found.enabled,
        "events": list(found.events),
        "headers": sorted(found.headers),
    }


def _told(found: Webhook | None) -> str:
    if found is None:
        return "none"
    events = ", ".join(found.events) or "all events"
    shown = f", with {', '.join(sorted(found.headers))}" if found.headers else ""
    off = "" if found.enabled else " (switched off)"
    return terminal.plain(f"{found.url}{off}: {events}{shown}")
