"""`ifinu send`: enqueue one notification."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from ifinu import phone as phones
from ifinu import producer, settings, window
from ifinu.broker.keys import QUEUE_OF
from ifinu.cli import durations, terminal
from ifinu.cli.durations import span
from ifinu.errors import ConfigurationError, InvalidNotification
from ifinu.notification import Kind, Notification, Priority


def send(
    id: Annotated[str, typer.Option(help="Idempotency key, such as inv-42:lembrete; it is sent once.")],  # noqa: A002 - the option's name
    kind: Annotated[Kind, typer.Option(help="What it is about; chooses the text.")],
    phone: Annotated[str, typer.Option(help="Brazilian phone number, in any usual spelling.")],
    name: Annotated[str | None, typer.Option(help="Name of the person.")] = None,
    amount: Annotated[str | None, typer.Option(help="Amount in BRL, such as 1234.50.")] = None,
    due_date: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Due date of the charge.")] = None,
    description: Annotated[str | None, typer.Option(help="What the charge is for.")] = None,
    instance: Annotated[str | None, typer.Option(help="WhatsApp instance to send from.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Your customer on whose behalf it is sent.")] = None,
    payment_link: Annotated[str | None, typer.Option(metavar="URL", help="Page on which to pay.")] = None,
    pix_code: Annotated[str | None, typer.Option(help='Pix "copia e cola" code.')] = None,
    boleto_line: Annotated[str | None, typer.Option(help="Linha digitável of a boleto.")] = None,
    valid_until: Annotated[str | None, typer.Option(metavar="TIME", help="Do not send it after this ISO time.")] = None,
    priority: Annotated[
        str | None, typer.Option(metavar=f"[{'|'.join(Priority)}]", help="Queue to use; normal by default.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text to send in place of the kind's template.")] = None,
    wait: Annotated[
        timedelta | None,
        typer.Option("--in", parser=durations.parse, metavar="WAIT", help="Send it after this long: 10m, 2h, 3d."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Do not send it before this ISO time with a UTC offset.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the text and enqueue nothing; needs neither Redis nor gateway.")
    ] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Enqueue one notification. A worker sends it when it is due.

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
    warnings = _warnings(notification, due or datetime.now(UTC))
    from ifinu.worker.tasks import send_notification

    document: dict[str, object] = {
        "id": notification.id,
        "queue": QUEUE_OF[notification.priority],
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
        document |= {"phone": phones.mask(notification.phone), "text": texts[0]} | (
            {"then": texts[1:]} if codes else {}
        )
    else:
        send_notification.enqueue(
            notification, countdown=wait and wait.total_seconds(), eta=None if wait is not None else due
        )
    if as_json:
        terminal.print_json(document)
        return
    out = terminal.results()
    for warning in warnings:
        terminal.notes().print(f"warning: {warning}", style="yellow", soft_wrap=True)
    if dry_run:
        out.print(f"Dry run, nothing is sent. To {document['phone']}:", style="dim")
        out.print(terminal.plain(str(document["text"]), lines=True), soft_wrap=True)
        for text in texts[1:]:
            out.print("then, as a separate message:", style="dim")
            out.print(terminal.plain(text, lines=True), soft_wrap=True)
        return
    when = f", due in {span(due - datetime.now(UTC))}" if due else ""
    out.print(f"{terminal.plain(notification.id)} is on {document['queue']}{when}", soft_wrap=True)


def _warnings(notification: Notification, at: datetime) -> list[str]:
    """
    Warnings about a due date that does not fit the kind, if it is sent at that time.

    Raises:
        InvalidNotification: A worker would make it a dead letter.
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
        raise ConfigurationError("--at needs a UTC offset, such as 2026-12-01T09:00:00-03:00")
    return due
