"""`ifinu unknown`: the notifications that may have been sent, and a person's word on them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import redis
import typer

from ifinu import producer, settings
from ifinu.broker import QUEUES, Keys
from ifinu.broker import clock as clocks
from ifinu.broker.claims import ClaimState
from ifinu.broker.unknown import Decision, Doubt, Place, Resolved, Unknowns
from ifinu.cli import connection, terminal
from ifinu.cli.durations import span
from ifinu.cli.sentences import clock
from ifinu.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="The notifications that may have been sent, and nobody knows.")


@app.command("list")
def list_(as_json: terminal.Json = False) -> None:
    """
    List what may have been sent, the oldest first, and what is done about it.

    What is looked up settles by itself, as a rule within IFINU_UNKNOWN_GRACE_S.
    What is held in the dead letters, or whose message was purged, waits for you:
    look at the phone, then [bold]ifinu unknown resolve[/bold].

    [bold]Examples[/bold]

    ifinu unknown list
    ifinu unknown list --json | jq -r '.unknown[] | select(.place == "held").id'
    """
    config = settings.load()
    with connection.broker() as client:
        doubts = Unknowns(client, config.claim_ttl_s).all()
        now = clocks.now(client)
        paused = {queue for queue in QUEUES if client.exists(Keys.of(queue).paused)}
    overdue = [doubt for doubt in doubts if _is_overdue(doubt, now)]
    is_a_worker_there = _is_a_worker_there(config) if overdue else None
    if as_json:
        terminal.print_json(
            {
                "total": len(doubts),
                "overdue": len(overdue),
                "worker_answers": is_a_worker_there,
                "unknown": [_as_json(doubt) for doubt in doubts],
            }
        )
        return
    out = terminal.results()
    if not doubts:
        out.print("Nothing is in doubt.")
        return
    table = terminal.columns("id", "kind", "instance", "for", "sent again", "", right=("for",))
    for doubt in doubts:
        length = "–" if doubt.since is None else span(now - doubt.since)
        about = (doubt.id, doubt.kind or "–", doubt.instance or "–", length, "yes" if doubt.resent else "no")
        table.add_row(*map(terminal.plain, (*about, _what(doubt, now, paused))))
    out.print(table)
    undecided = sum(doubt.place in (Place.HELD, Place.GONE) for doubt in doubts)
    out.print(f"{len(doubts):,} in doubt, {undecided:,} of them wait for a person", style="dim")
    if is_a_worker_there is False:
        out.print(
            f"[yellow]No worker answers, so that {len(overdue):,} are not looked up: start one, `ifinu worker`.[/]",
            soft_wrap=True,
        )


@app.command()
def resolve(
    id: Annotated[str, typer.Argument(metavar="ID", help="Of the notification.")],  # noqa: A002 - the argument's name
    sent: Annotated[bool, typer.Option("--sent", help="It is on the phone.")] = False,
    resend: Annotated[
        bool, typer.Option("--resend", help="Send it; if it was sent, the person gets it twice.")
    ] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Do not send it, whatever became of it.")] = False,
    key_id: Annotated[
        str,
        typer.Option("--key-id", metavar="KEY", help="With --sent: WhatsApp's id of the message, to join receipts."),
    ] = "",
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Say what became of a notification that may have been sent.

    Exit code 1 when it is not in doubt any more; then nothing has changed.

    [bold]Examples[/bold]

    ifinu unknown resolve inv-42:lembrete --sent
    ifinu unknown resolve inv-42:lembrete --resend
    ifinu unknown resolve inv-42:lembrete --discard
    """
    decisions = [d for d, given in zip(Decision, (sent, resend, discard), strict=True) if given]
    if len(decisions) != 1:
        raise ConfigurationError("say one of --sent, --resend and --discard")
    (decision,) = decisions
    if key_id and not sent:
        raise ConfigurationError("--key-id goes with --sent")
    id_ = producer.id_of(id)
    with connection.broker() as client:
        unknowns = Unknowns(client, settings.load().claim_ttl_s)
        doubt = unknowns.find(id_)
        if doubt is not None and resend:
            terminal.confirm(f"{id_} may be on the phone already; it may come twice.", "resend", yes=yes)
            doubt = unknowns.find(id_)  # while they thought about it, its message went on
        if doubt is None:
            resolved = Resolved(False, unknowns.state(id_))
        else:
            resolved = unknowns.resolve(doubt, decision, key_id=key_id.strip())
    due = doubt.due.isoformat() if doubt and doubt.due and resend and resolved.done else None
    words = _told(doubt, decision) if doubt and resolved.done else _not_done(resolved)
    document = {"id": id_, "decision": decision, "done": resolved.done, "state": resolved.state, "due": due}
    terminal.answer(document, terminal.plain(f"{id_}: {words}"), as_json=as_json)
    if not resolved.done:
        raise typer.Exit(1)


def _what(doubt: Doubt, now: datetime, paused: set[str]) -> str:
    off = "; called off, it is not sent again" if doubt.cancelled else ""
    if doubt.state == ClaimState.SENDING:
        return "is being sent once more" + off
    match doubt.place:
        case Place.DELAYED:
            if doubt.due is not None and doubt.due > now:
                return f"is looked up in {span(doubt.due - now)}{off}"
            return f"is to be looked up, due since {clock(doubt.due)}{off}"
        case Place.READY:
            held_up = ", which is paused" if doubt.queue in paused else ""
            return f"is on {doubt.queue}{held_up}, to be looked up{off}"
        case Place.IN_FLIGHT:
            return f"is being looked up{off}"
        case Place.HELD:
            return f"held in the dead letters ({doubt.letter.reason if doubt.letter else ''}){off}"
        case Place.GONE:
            return f"its message was purged{off}"


def _is_overdue(doubt: Doubt, now: datetime) -> bool:
    """Whether a worker should have its message by now, or is about to take it."""
    return doubt.place is Place.READY or (doubt.place is Place.DELAYED and (doubt.due is None or doubt.due <= now))


def _is_a_worker_there(config: settings.Settings) -> bool | None:
    """None where it cannot be asked."""
    from ifinu.cli.top.workers import AWAY, Workers

    with Workers(config.redis_url.get_secret_value()) as workers:
        try:
            return bool(workers.ask())
        except (redis.RedisError, *AWAY):
            return None


def _told(doubt: Doubt, decision: Decision) -> str:
    match decision:
        case Decision.SENT:
            return "was sent, as you say"
        case Decision.DISCARD:
            return "will not be sent"
    match doubt.place:
        case Place.HELD:
            return "is on its queue again, and is sent when it is its turn"
        case Place.GONE:
            return "may be sent; its message was purged, so give it again"
        case Place.DELAYED if doubt.due is not None and doubt.due > datetime.now(UTC):
            return f"is sent in {span(doubt.due - datetime.now(UTC))}"
    return "is sent when it is its turn"


def _not_done(resolved: Resolved) -> str:
    match resolved.state:
        case "none":
            return "is not in doubt: nothing is known of it"
        case "looked_up":
            return "is being looked up; try again in some seconds"
        case ClaimState.CANCELLED:
            return "was called off; `ifinu cancel --undo` withdraws that"
        case ClaimState.SENDING:
            return "is being sent at this moment"
    return f"is not in doubt: its state is {resolved.state}"


def _as_json(doubt: Doubt) -> dict[str, Any]:
    return {
        "id": doubt.id,
        "since": doubt.since and doubt.since.isoformat(timespec="milliseconds"),
        "state": doubt.state,
        "place": doubt.place,
        "queue": doubt.queue,
        "due": doubt.due and doubt.due.isoformat(timespec="milliseconds"),
        "resent": doubt.resent,
        "cancelled": doubt.cancelled,
        "kind": doubt.kind,
        "instance": doubt.instance,
        "reason": doubt.letter and doubt.letter.reason,
    }
