"""`ifinu send`: one notification."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from ifinu import phone as phones
from ifinu import producer, settings, window
from ifinu.cli import durations, terminal
from ifinu.cli.durations import span
from ifinu.errors import ConfigurationError, InvalidNotification
from ifinu.notification import Kind, Notification, Priority


def send(
    id: Annotated[str, typer.Option(help="Idempotency key, such as inv-42:lembrete.")],  # noqa: A002 - the option's name
    kind: Annotated[Kind, typer.Option(help="Why it is sent; chooses the text.")],
    phone: Annotated[str, typer.Option(help="Any usual Brazilian spelling.")],
    name: Annotated[str | None, typer.Option(help="Whom it addresses.")] = None,
    amount: Annotated[str | None, typer.Option(help="BRL, such as 1234.50.")] = None,
    due_date: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="The day it is due.")] = None,
    description: Annotated[str | None, typer.Option(help="What the charge is for.")] = None,
    instance: Annotated[str | None, typer.Option(help="WhatsApp instance to send from.")] = None,
    tenant: Annotated[str | None, typer.Option(help="On whose behalf.")] = None,
    payment_link: Annotated[str | None, typer.Option(metavar="URL", help="Where to pay.")] = None,
    pix_code: Annotated[str | None, typer.Option(help='Pix "copia e cola".')] = None,
    boleto_line: Annotated[str | None, typer.Option(help="A boleto's linha digitável.")] = None,
    valid_until: Annotated[
        str | None, typer.Option(metavar="TIME", help="ISO time after which it is not sent.")
    ] = None,
    priority: Annotated[
        str | None, typer.Option(metavar=f"[{'|'.join(Priority)}]", help="Which queue it waits in; by default normal.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Free text in place of the kind's.")] = None,
    wait: Annotated[
        timedelta | None,
        typer.Option("--in", parser=durations.parse, metavar="WAIT", help="Send it after this time: 10m, 2h, 3d."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="ISO time with its zone before which it is not sent.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the text; needs neither Redis nor gateway.")
    ] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Enqueue one notification.

    [bold]Examples[/bold]

    ifinu send --id inv-42:lembrete --kind lembrete --phone 77998616740 \\
      --name Maria --amount 1234.50 --due-date 2026-12-01 --dry-run
    ifinu send --id inv-42:aviso --kind lembrete --phone "(77) 99861-6740" \\
      --text "Bom dia!" --in 10m
    """  # noqa: D301 - the backslash ends a line of shell
    given = {
        "id": id, "kind": kind, "phone": phone, "name": name, "amount": amount, "due_date": due_date,
        "description": description, "instance": instance, "tenant": tenant, "payment_link": payment_link,
        "pix_code": pix_code, "boleto_line": boleto_line, "valid_until": valid_until, "priority": priority,
        "text": text,
    }  # fmt: skip
    notification = producer.notification_of({field: value for field, value in given.items() if value is not None})
    due = _due(wait, at)
    warnings = _doubts(notification, due or datetime.now(UTC))
    from ifinu.worker.tasks import send_notification

    told: dict[str, object] = {
        "id": notification.id,
        "queue": producer.QUEUE_OF[notification.priority],
        "due": due and due.isoformat(),
        "warnings": warnings,
    }
    if dry_run:
        from ifinu.delivery import today_in_brazil
        from ifinu.render import Renderer

        today = today_in_brazil() if due is None else due.astimezone(ZoneInfo(window.BRASILIA)).date()
        config = settings.load()
        renderer = Renderer(config.templates, reference=config.reference, codes_apart=config.pix_separate)
        codes = notification.code_messages(config.evolution_instance) if config.pix_separate else []
        texts = [renderer.render(each, today=today) for each in (notification, *codes)]
        told |= {"phone": phones.mask(notification.phone), "text": texts[0]} | ({"then": texts[1:]} if codes else {})
    else:
        send_notification.enqueue(
            notification, countdown=wait and wait.total_seconds(), eta=None if wait is not None else due
        )
    if as_json:
        terminal.print_json(told)
        return
    out = terminal.results()
    for warning in warnings:
        terminal.notes().print(f"warning: {warning}", style="yellow", soft_wrap=True)
    if dry_run:
        out.print(f"To {told['phone']}, nothing is sent:", style="dim")
        out.print(terminal.plain(str(told["text"]), lines=True), soft_wrap=True)
        for text in texts[1:]:
            out.print("and then, in a message of nothing else:", style="dim")
            out.print(terminal.plain(text, lines=True), soft_wrap=True)
        return
    when = f", due in {span(due - datetime.now(UTC))}" if due else ""
    out.print(f"{terminal.plain(notification.id)} is on {told['queue']}{when}", soft_wrap=True)


def _doubts(notification: Notification, at: datetime) -> list[str]:
    """
    What a person should know before it is sent then.

    Raises:
        InvalidNotification: A worker would make a dead letter of it.
    """
    try:
        found = window.doubt(notification, at)
    except InvalidNotification as exc:
        raise InvalidNotification("due_date", exc.reason) from exc
    return [] if found is None else [found]


def _due(wait: timedelta | None, at: str | None) -> datetime | None:
    if wait is not None and at is not None:
        raise ConfigurationError("give either --in or --at, not both")
    if wait is not None:
        return datetime.now(UTC) + wait
    if at is None:
        return None
    try:
        due = datetime.fromisoformat(at)
    except ValueError:
        raise ConfigurationError("--at must be an ISO time, such as 2026-12-01T09:00:00-03:00") from None
    if due.tzinfo is None:
        raise ConfigurationError("--at needs its zone, such as 2026-12-01T09:00:00-03:00")
    return due
