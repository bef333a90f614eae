"""`ifinu instance webhook`, and the registration of a webhook at the gateway."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import redis
import typer

from ifinu import settings
from ifinu.cli import connection, terminal
from ifinu.cli.instance import access
from ifinu.errors import ConfigurationError
from ifinu.settings import Settings

if TYPE_CHECKING:
    from ifinu.gateway import Webhook

EVENTS = ("MESSAGES_UPDATE", "SEND_MESSAGE", "MESSAGES_UPSERT", "MESSAGES_EDITED", "CONNECTION_UPDATE")


def webhook(
    name: access.Name,
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
        with access.gateway(config) as gateway:
            found = gateway.find_webhook(name)
        terminal.answer({"webhook": described(found)}, shown_line(found), as_json=as_json)
        return
    where, headers = receiver(config, name)
    with access.gateway(config) as gateway:
        before = gateway.find_webhook(name)
        now = gateway.set_webhook(name, where, EVENTS, headers=headers)
    note(name, now)
    document = {"before": described(before), "webhook": described(now)}
    terminal.answer(document, f"before: {shown_line(before)}\nnow:    {shown_line(now)}", as_json=as_json)


def receiver(config: Settings, instance: str) -> tuple[str, dict[str, str]]:
    """URL of `ifinu webhook`, and the headers with which an instance authenticates there."""
    if config.webhook_url is None:
        raise ConfigurationError(
            "the URL at which the gateway reaches `ifinu webhook` is not set: give --url or set IFINU_WEBHOOK_URL"
        )
    if config.webhook_secret is None:
        raise ConfigurationError("IFINU_WEBHOOK_SECRET is not set: set it to the same value as for `ifinu webhook`")
    from ifinu.receipts.auth import headers_of

    return config.webhook_url, headers_of(instance, config.webhook_secret.get_secret_value())


def reports_messages(found: Webhook | None) -> bool:
    """Whether a webhook reports what people write."""
    return found is not None and found.enabled and (not found.events or "MESSAGES_UPSERT" in found.events)


def note(name: str, found: Webhook | None) -> None:
    """Let the guard know that an instance's webhook reports what people write, where the instance is registered."""
    from ifinu.numbers import answers

    if reports_messages(found):
        with contextlib.suppress(redis.RedisError), connection.broker() as client:  # the first message does it, too
            answers.listen(client, name)


def described(found: Webhook | None) -> dict[str, Any] | None:
    """A webhook as JSON, with the names of its headers only: their values are secrets."""
    if found is None:
        return None
    return {
        "url": found.url,
        "enabled": found.enabled,
        "events": list(found.events),
        "headers": sorted(found.headers),
    }


def shown_line(found: Webhook | None) -> str:
    if found is None:
        return "none"
    events = ", ".join(found.events) or "all events"
    shown = f", with {', '.join(sorted(found.headers))}" if found.headers else ""
    off = "" if found.enabled else " (switched off)"
    return terminal.plain(f"{found.url}{off}: {events}{shown}")
