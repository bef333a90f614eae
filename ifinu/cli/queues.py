"""`ifinu queue`: inspect, pause, resume and purge the queues."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import redis
import typer

from ifinu import phone, settings, wire
from ifinu.broker import Keys, backlog, intake, lanes
from ifinu.broker.purge import purge as remove
from ifinu.cli import connection, terminal
from ifinu.cli.connection import QueueName
from ifinu.cli.status import queue_table
from ifinu.errors import InvalidNotification

app = typer.Typer(no_args_is_help=True, help="Inspect, pause, resume and purge the queues.")


@app.command()
def size(queue: connection.Queue = QueueName.NORMAL, as_json: terminal.Json = False) -> None:
    """
    Count the messages of a queue: ready, in lanes, delayed, in flight and dead.

    Messages in lanes wait for their number. They are shown once numbers are registered.

    [bold]Examples[/bold]

    ifinu queue size
    ifinu queue size --queue all --json
    """
    with connection.broker() as client:
        rows = [one.document() for one in backlog.survey(client, queue.lists)]
    terminal.answer(rows, queue_table(rows), as_json=as_json)


@app.command()
def peek(
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="Number of messages to show.")] = 10,
    queue: connection.Queue = QueueName.NORMAL,
    number: Annotated[
        str | None, typer.Option("--number", metavar="NAME", help="Only messages that wait for this number.")
    ] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Show the messages that are served next, without fetching them.

    Phones are masked; names and texts are not shown. After the ready messages come
    as many of those that wait for their number, in the order in which the numbers
    have their turns.

    [bold]Examples[/bold]

    ifinu queue peek
    ifinu queue peek -n 50 --queue urgente
    ifinu queue peek --number acme
    """
    sandbox_number = settings.load().sandbox_number
    with connection.broker() as client:
        seen = [] if number else [one for key in queue.lists for one in _next_of(client, key, count, sandbox_number)]
        seen += [one for key in queue.lists for one in _in_lanes(client, key, number, count, sandbox_number)]
    if as_json:
        for one in seen:
            terminal.print_json(one)
        return
    if not seen:
        terminal.results().print(f"Nothing waits for {terminal.plain(number)}." if number else "Nothing is ready.")
        return
    waits = ("waits for",) if any("number" in one for one in seen) else ()
    table = terminal.columns(
        "queue", *waits, "id", "kind", "phone", "bytes", "problem", right=("bytes",), whole=("queue", "phone")
    )
    for one in seen:
        numbers = [one.get("number", "")] * len(waits)
        cells = (one["queue"], *numbers, one["id"] or "–", one["kind"] or "–", one["phone"] or "–", str(one["bytes"]))
        table.add_row(*map(terminal.plain, cells), terminal.plain(one["problem"] or ""))
    terminal.results().print(table)


@app.command()
def pause(queue: connection.Queue = QueueName.NORMAL, as_json: terminal.Json = False) -> None:
    """
    Pause a queue: workers fetch no more messages from it.

    Producers can still push, and messages in flight are finished.

    [bold]Examples[/bold]

    ifinu queue pause
    ifinu queue pause --queue all
    """
    since = datetime.now(UTC).isoformat(timespec="seconds")
    with connection.broker() as client:
        changed = {key: bool(client.set(Keys.of(key).paused, since, nx=True)) for key in queue.lists}
    _report_changes(changed, "paused", "was paused already", as_json=as_json)


@app.command()
def resume(queue: connection.Queue = QueueName.NORMAL, as_json: terminal.Json = False) -> None:
    """
    Resume a queue: workers fetch messages from it again.

    [bold]Examples[/bold]

    ifinu queue resume
    ifinu queue resume --queue all
    """
    with connection.broker() as client:
        changed = {key: bool(client.delete(Keys.of(key).paused)) for key in queue.lists}
    _report_changes(changed, "resumed", "was not paused", as_json=as_json)


@app.command()
def purge(
    queue: connection.Queue = QueueName.NORMAL,
    delayed: Annotated[bool, typer.Option("--delayed", help="Also delete delayed messages.")] = False,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Delete the ready messages of a queue, and those that wait for their number, for good.

    Messages in flight and dead letters stay.

    [bold]Examples[/bold]

    ifinu queue purge
    ifinu queue purge --queue baixa --delayed --yes
    """
    with connection.broker() as client:
        there = backlog.survey(client, queue.lists)
        in_lanes = sum(one.in_lanes or 0 for one in there)
        count = sum(one.ready + one.delayed * delayed for one in there) + in_lanes
        which = f"{', '.join(queue.lists)}{f' ({in_lanes:,} in lanes)' if in_lanes else ''}"
        terminal.confirm(f"{count:,} messages of {which} will be deleted.", queue.value, yes=yes)
        removed = {key: remove(client, Keys.of(key), delayed=delayed) for key in queue.lists}
    if as_json:
        deleted = {key: done.deleted for key, done in removed.items()}
        terminal.print_json({"deleted": deleted, "in_doubt": sum(done.in_doubt for done in removed.values())})
        return
    for key, done in removed.items():
        terminal.results().print(f"{key}: {done.deleted:,} deleted")
    if in_doubt := sum(done.in_doubt for done in removed.values()):
        warning = f"{in_doubt:,} of them may have been sent and are no longer looked up; see `ifinu unknown list`"
        terminal.notes().print(warning, style="yellow")


def _next_of(client: redis.Redis, queue: str, count: int, sandbox_number: str | None) -> Iterator[dict[str, Any]]:
    for raw in reversed(client.lrange(queue, -count, -1)):
        yield _preview(queue, bytes(raw), sandbox_number)  # type: ignore[arg-type]  # this client returns bytes


def _in_lanes(
    client: redis.Redis, queue: str, number: str | None, count: int, sandbox_number: str | None
) -> Iterator[dict[str, Any]]:
    """The next messages that wait for a number (None: for any), the numbers in the order of their turns."""
    found = lanes.counts(client, (queue,), number)
    for lane in found:
        if count <= 0:
            return
        seen = lanes.peek(client, lane, count)
        count -= len(seen)
        for raw in seen:
            yield _preview(queue, raw, sandbox_number) | {"number": lane.number}


def _preview(queue: str, raw: bytes, sandbox_number: str | None) -> dict[str, Any]:
    """The fields of a message that may be shown, and the reason for which it would become a dead letter."""
    shown: dict[str, Any] = {
        "queue": queue,
        "id": None,
        "kind": None,
        "phone": None,
        "bytes": len(raw),
        "problem": None,
    }
    try:
        call = intake.admit(raw, queue=queue, tag="", max_bytes=len(raw))
        given = call.args[0] if call.args else call.kwargs
        body = wire.parse(given) if isinstance(given, str) else given
        notification = wire.decode(body, sandbox_number=sandbox_number)
    except intake.Unreadable as exc:
        return shown | {"problem": f"{exc.reason}: {exc}"}
    except InvalidNotification as exc:
        return shown | {"problem": f"invalid: {exc}"}
    except AttributeError:
        return shown | {"problem": "not a call of send_notification"}
    return shown | {
        "id": notification.id,
        "kind": notification.kind.value,
        "phone": phone.mask(notification.phone),
    }


def _report_changes(changed: dict[str, bool], done: str, was: str, *, as_json: bool) -> None:
    states = {key: done if did else was for key, did in changed.items()}
    terminal.answer(states, "\n".join(f"{key}: {state}" for key, state in states.items()), as_json=as_json)
