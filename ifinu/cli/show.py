"""`ifinu show`: the state and the history of one notification."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import redis
import typer

from ifinu.broker import QUEUES, DeadLetter, DeadLetters, Filter, lanes, obstacles
from ifinu.broker.dead_letters import identity
from ifinu.broker.keys import UNKNOWN, claim_key
from ifinu.broker.obstacles import Readiness
from ifinu.cli import connection, sentences, terminal
from ifinu.cli.sentences import ClaimView, clock
from ifinu.errors import LedgerUnavailable

if TYPE_CHECKING:
    from ifinu.ledger.queries import Happening, Known, Timeline

_Found = TypeVar("_Found")
# States in which its message may be in a lane; `queued` also stands for an id that nothing is known of.
_MAY_WAIT = (
    "queued", "retrying", "deferred", "unknown", "purged", "waiting",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Waits:
    """The lane of its message, how many of that lane are before it, and the state of the number."""

    lane: lanes.Lane
    ahead: int
    number: Readiness


@dataclasses.dataclass(frozen=True)
class _All:
    id: str
    timeline: Timeline | None
    claim: ClaimView | None
    letters: list[DeadLetter]
    waits: _Waits | None = None

    def state(self) -> str:
        return sentences.state_of(self._known(), self.claim, self._latest())

    def sentence(self) -> str:
        words = sentences.sentence(self.id, self.state(), self._known(), self.claim, self._latest())
        if self.waits is None:
            return words
        lane = sentences.waiting(self.waits.number, self.waits.ahead)
        return lane if self.state() == "queued" else f"{words} {lane}"

    def _known(self) -> Known | None:
        return self.timeline.known if self.timeline else None

    def _latest(self) -> DeadLetter | None:
        return max(self.letters, key=lambda letter: letter.last_at, default=None)


def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The notification's id, or WhatsApp's id of its message.")],  # noqa: A002 - the argument's name
    as_json: terminal.Json = False,
) -> None:
    """
    Show the state of a notification and its history.

    The ledger has the history; Redis has the events that are not recorded yet.
    Times are in São Paulo's time zone, and the phone is masked. WhatsApp's id of a
    message (`key.id`) also finds its notification. If its message waits for its
    number, the reason is shown. The exit code is 1 if the id is unknown.

    [bold]Examples[/bold]

    ifinu show inv-42:lembrete
    ifinu show inv-42:lembrete --json | jq -r .state
    ifinu show 3EB0215708B0C9E11F64B0
    """
    failed: list[redis.RedisError | LedgerUnavailable] = []
    with connection.broker() as client:
        found = _look(client, id, failed)
        if found is None and (sent_as := _asked(lambda: _sent_as(id), failed)):
            found = _look(client, sent_as, failed)
    if found is None:
        if failed:
            raise failed[0]
        terminal.notes().print(
            f"{terminal.plain(id)} was not found. It may be misspelt, be on a queue and not yet tried (`ifinu queue "
            "peek`), be older than IFINU_RETENTION_DAYS, or have been erased."
        )
        raise typer.Exit(1)
    for exc in failed:
        source = "the ledger" if isinstance(exc, LedgerUnavailable) else "Redis"
        terminal.notes().print(
            f"Shown without {source}, which does not answer ({terminal.plain(str(exc))}).", style="yellow"
        )
    if as_json:
        terminal.print_json(_document(found))
    else:
        _print(found)


def _look(client: redis.Redis, notification_id: str, failed: list[redis.RedisError | LedgerUnavailable]) -> _All | None:
    timeline = _asked(lambda: _timeline(notification_id), failed)
    claim = _asked(lambda: _claim(client, notification_id), failed)
    letters = _asked(lambda: _letters(client, notification_id), failed) or []
    found = _All(notification_id, timeline, claim, letters)
    if found.state() in _MAY_WAIT and not any(isinstance(exc, redis.RedisError) for exc in failed):
        waits = _asked(lambda: _waits(client, notification_id), failed)
        found = dataclasses.replace(found, waits=waits)
    return found if timeline or claim or letters or found.waits else None


def _asked(ask: Callable[[], _Found], failed: list[redis.RedisError | LedgerUnavailable]) -> _Found | None:
    """Ask one source; note its error and return None if it fails, so that the other source is still shown."""
    try:
        return ask()
    except (redis.RedisError, LedgerUnavailable) as exc:
        failed.append(exc)
        return None


def _timeline(notification_id: str) -> Timeline | None:
    from ifinu.ledger import queries

    with connection.ledger() as engine:
        return queries.timeline(engine, notification_id)


def _sent_as(key_id: str) -> str | None:
    from ifinu.ledger import queries

    with connection.ledger() as engine:
        return queries.id_of(engine, key_id)


def _claim(client: redis.Redis, notification_id: str) -> ClaimView | None:
    found: Any = client.hmget(claim_key(notification_id), "state", "key_id", "cancelled")
    state, key_id, cancelled = (value.decode() if value else "" for value in found)
    given_up = state == "unknown" and client.zscore(UNKNOWN, notification_id) is None
    return ClaimView(state, key_id, bool(cancelled), given_up) if state or cancelled else None


def _waits(client: redis.Redis, notification_id: str) -> _Waits | None:
    found = lanes.find(client, lambda raw: identity(raw)[0] == notification_id)
    if found is None:
        return None
    (number,) = obstacles.read(client, [found.lane.number])
    return _Waits(found.lane, found.ahead, number)


def _letters(client: redis.Redis, notification_id: str) -> list[DeadLetter]:
    now = datetime.now(UTC)
    wanted = Filter(id=notification_id)
    return [letter for queue in QUEUES for letter in DeadLetters(client, queue).find(wanted, now)]


def _document(found: _All) -> dict[str, Any]:
    timeline = found.timeline
    return {
        "id": found.id,
        "state": found.state(),
        "summary": found.sentence(),
        "notification": timeline and _plain(dataclasses.asdict(timeline.known)),
        "events": [_event(one) for one in timeline.happened] if timeline else [],
        "left_off": timeline.left_off if timeline else 0,
        "claim": found.claim and dataclasses.asdict(found.claim),
        "dead_letters": len(found.letters),
        **({} if found.waits is None else {"lane": _lane(found.waits)}),
    }


def _lane(waits: _Waits) -> dict[str, Any]:
    number = waits.number
    until = None if number.until_ms is None else datetime.fromtimestamp(number.until_ms / 1000, UTC)
    return {
        "queue": waits.lane.queue,
        "number": number.name,
        "tenant": waits.lane.tenant or None,
        "ahead": waits.ahead,
        "obstacle": number.obstacle,
        "until": until and until.isoformat(timespec="milliseconds"),
        "reason": number.reason or None,
        "sent_today": number.sent,
        "per_day": number.per_day,
    }


def _event(one: Happening) -> dict[str, Any]:
    # The pseudonym only serves to join rows in the database.
    data = {name: value for name, value in one.data.items() if name != "hash"}
    return _plain({"at": one.at, "name": one.name, "data": data})


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value
        for name, value in fields.items()
    }


def _print(found: _All) -> None:
    out = terminal.results()
    out.print(f"[bold]{terminal.plain(found.id)}[/]  {found.state()}", soft_wrap=True)
    out.print(terminal.plain(found.sentence()), soft_wrap=True)
    timeline = found.timeline
    if timeline is None:
        out.print("It is not in the ledger; this comes from Redis.", style="dim")
        return
    known = timeline.known
    rows = (
        ("kind", known.kind),
        ("phone", known.phone),
        ("tenant", known.tenant),
        ("instance", known.instance),
        ("queue", known.queue),
        ("tries", str(known.attempts)),
        ("id at WhatsApp", known.key_id),
        ("first seen", clock(known.first_at)),
    )
    out.print()
    for name, value in rows:
        if value is not None:
            out.print(f"[dim]{name:14}[/] {terminal.plain(value)}", soft_wrap=True)
    out.print()
    whole = ("São Paulo", "event")
    table = terminal.columns("São Paulo", "event", "reason", "tries", "next", right=("tries",), whole=whole)
    middle = (len(timeline.happened) + 1) // 2 if timeline.left_off else None
    for place, one in enumerate(timeline.happened):
        if place == middle:
            table.add_row("", f"… {timeline.left_off:,} more", "", "", "")
        table.add_row(*map(terminal.plain, _row(one)))
    out.print(table)


def _row(one: Happening) -> tuple[str, str, str, str, str]:
    data = one.data
    event = str(data.get("status", one.name)) if one.name == "receipt" else one.name
    tries = "" if data.get("attempts") is None else str(data["attempts"])
    due = ""
    with contextlib.suppress(TypeError, ValueError, KeyError, OverflowError):
        due = clock(datetime.fromtimestamp(data["due_ms"] / 1000, UTC))
    return clock(one.at), event, "; ".join(_reasons(one.name, data)), tries, due


def _reasons(name: str, data: dict[str, Any]) -> list[str]:
    parts = [str(data[field]) for field in ("reason", "error") if data.get(field)]
    if name == "sent" and data.get("by"):
        parts.append(f"by {data['by']}")
    if name == "sent" and data.get("key_id"):
        parts.append(f"id {data['key_id']}")
    if name == "sent" and data.get("confirmed") is False:
        parts.append("the gateway could not store it")
    if name == "duplicate" and data.get("first"):
        parts.append(f"the first is {data['first']}")
    return parts
