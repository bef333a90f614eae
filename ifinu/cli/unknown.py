"""`ifinu unknown`: list the notifications in doubt, and resolve them."""

from __future__ import annotations

import shlex
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

app = typer.Typer(no_args_is_help=True, help="List and resolve notifications that may or may not have been sent.")


@app.command("list")
def list_(as_json: terminal.Json = False) -> None:
    """
    List the notifications in doubt, the oldest first.

    A look-up at the gateway usually settles them within IFINU_UNKNOWN_GRACE_S.
    Those held in the dead letters, or whose message was purged, need your decision:
    check the phone, then run [bold]ifinu unknown resolve[/bold].

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
    table = terminal.columns("id", "kind", "instance", "age", "resent", "status", right=("age",))
    for doubt in doubts:
        age = "–" if doubt.since is None else span(now - doubt.since)
        cells = (doubt.id, doubt.kind or "–", doubt.instance or "–", age, "yes" if doubt.resent else "no")
        table.add_row(*map(terminal.plain, (*cells, _status(doubt, now, paused))))
    out.print(table)
    undecided = sum(doubt.place in (Place.HELD, Place.GONE) for doubt in doubts)
    out.print(f"{len(doubts):,} in doubt; {undecided:,} need your decision", style="dim")
    if is_a_worker_there is False:
        out.print(
            f"[yellow]{len(overdue):,} look-ups are overdue and no worker answers: start one with `ifinu worker`.[/]",
            soft_wrap=True,
        )


@app.command()
def resolve(
    id: Annotated[str, typer.Argument(metavar="ID", help="The notification's id.")],  # noqa: A002 - the argument's name
    sent: Annotated[bool, typer.Option("--sent", help="It was sent: the message is on the phone.")] = False,
    resend: Annotated[
        bool, typer.Option("--resend", help="Send it again; if it was sent before, the person gets it twice.")
    ] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Do not send it, even if it was not sent.")] = False,
    key_id: Annotated[
        str,
        typer.Option("--key-id", metavar="KEY", help="With --sent: WhatsApp's id of the message, to match receipts."),
    ] = "",
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Decide what happens to a notification in doubt.

    The exit code is 1 if it is no longer in doubt; then nothing changes.

    [bold]Examples[/bold]

    ifinu unknown resolve inv-42:lembrete --sent
    ifinu unknown resolve inv-42:lembrete --resend
    ifinu unknown resolve inv-42:lembrete --discard
    """
    decisions = [d for d, given in zip(Decision, (sent, resend, discard), strict=True) if given]
    if len(decisions) != 1:
        raise ConfigurationError("give one of --sent, --resend and --discard")
    (decision,) = decisions
    if key_id and not sent:
        raise ConfigurationError("--key-id needs --sent")
    id_ = producer.id_of(id)
    with connection.broker() as client:
        unknowns = Unknowns(client, settings.load().claim_ttl_s)
        doubt = unknowns.find(id_)
        if doubt is not None and resend:
            terminal.confirm(f"{id_} may be on the phone already; the person may get it twice.", "resend", yes=yes)
            doubt = unknowns.find(id_)  # it may have been settled during the prompt
        if doubt is None:
            resolved = Resolved(False, unknowns.state(id_))
        else:
            resolved = unknowns.resolve(doubt, decision, key_id=key_id.strip())
    due = doubt.due.isoformat() if doubt and doubt.due and resend and resolved.done else None
    words = _result(doubt, decision) if doubt and resolved.done else _not_done(id_, resolved)
    document = {"id": id_, "decision": decision, "done": resolved.done, "state": resolved.state, "due": due}
    terminal.answer(document, terminal.plain(f"{id_}: {words}"), as_json=as_json)
    if not resolved.done:
        raise typer.Exit(1)


def _status(doubt: Doubt, now: datetime, paused: set[str]) -> str:
    off = "; cancelled, so it is not resent" if doubt.cancelled else ""
    if doubt.state == ClaimState.SENDING:
        return f"being resent{off}"
    match doubt.place:
        case Place.DELAYED:
            if doubt.due is not None and doubt.due > now:
                return f"look-up in {span(doubt.due - now)}{off}"
            return f"look-up overdue since {clock(doubt.due)}{off}"
        case Place.READY:
            queue = f"{doubt.queue}, which is paused" if doubt.queue in paused else doubt.queue
            return f"look-up waits on {queue}{off}"
        case Place.LANE:
            queue = f" on {doubt.queue}, which is paused" if doubt.queue in paused else ""
            return f"look-up waits for its number{queue}{off}"
        case Place.IN_FLIGHT:
            return f"look-up under way{off}"
        case Place.HELD:
            return f"held in the dead letters ({doubt.letter.reason if doubt.letter else ''}){off}"
        case Place.GONE:
            return f"its message was purged{off}"


def _is_overdue(doubt: Doubt, now: datetime) -> bool:
    return doubt.place is Place.READY or (doubt.place is Place.DELAYED and (doubt.due is None or doubt.due <= now))


def _is_a_worker_there(config: settings.Settings) -> bool | None:
    """None if Redis cannot be asked."""
    from ifinu.cli.top.workers import AWAY, Workers

    with Workers(config.redis_url.get_secret_value()) as workers:
        try:
            return bool(workers.ask())
        except (redis.RedisError, *AWAY):
            return None


def _result(doubt: Doubt, decision: Decision) -> str:
    match decision:
        case Decision.SENT:
            return "recorded as sent"
        case Decision.DISCARD:
            return "will not be sent"
    match doubt.place:
        case Place.HELD:
            return "back on its queue; it is sent in its turn"
        case Place.GONE:
            return "its id is free again, but its message was purged: push it again"
        case Place.DELAYED if doubt.due is not None and doubt.due > datetime.now(UTC):
            return f"will be sent in {span(doubt.due - datetime.now(UTC))}"
    return "will be sent in its turn"


def _not_done(id_: str, resolved: Resolved) -> str:
    match resolved.state:
        case "none":
            return "not in doubt: Redis has no claim of it"
        case "looked_up":
            return "a look-up is under way; try again in a few seconds"
        case ClaimState.CANCELLED:
            return f"cancelled; withdraw that with `ifinu cancel --undo {shlex.quote(id_)}`"
        case ClaimState.SENDING:
            return "being sent right now"
    return f"not in doubt: its state is {resolved.state}"


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
