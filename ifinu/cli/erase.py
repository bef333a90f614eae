"""`ifinu erase`: forget a person (LGPD), or what is old."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import redis
import typer

from ifinu import phone as phones
from ifinu import settings, wire
from ifinu.broker import QUEUES, DeadLetter, DeadLetters, Filter, intake
from ifinu.broker.optouts import forget_senders
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.redis_state import recorder_lag
from ifinu.broker.replies import Replies
from ifinu.cli import connection, durations, ledger_status, sentences, terminal
from ifinu.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Engine

_CATCH_UP_S = 15.0


def erase(
    phone: Annotated[str | None, typer.Option(help="Forget this person; any usual Brazilian spelling.")] = None,
    older_than: Annotated[
        timedelta | None,
        typer.Option(parser=durations.parse, metavar="AGE", help="Forget what is older than this: 400d."),
    ] = None,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Forget a person, or what is old.

    [bold]Of a person[/bold] the ledger's notifications stay, so that counts stay true,
    but say of nobody what became of them: their ids, phones and errors are
    gone, and so are their events, receipts and dead letters. An opt-out is
    kept, or they would be written to again; [bold]ifinu optout remove[/bold] takes it
    back. What waits on a queue is still sent, and recorded: erase again then.

    [bold]What is old[/bold] goes from the ledger altogether. The recorder does that every
    night by IFINU_RETENTION_DAYS; this does it at once.

    [bold]Examples[/bold]

    ifinu erase --phone "(77) 99861-6740"
    ifinu erase --older-than 400d --yes
    """
    if (phone is None) == (older_than is None):
        raise ConfigurationError("say what to forget: either --phone or --older-than")
    if phone is not None:
        done = _erase_person(_normal(phone), yes=yes)
    else:
        done = _erase_old(older_than or timedelta(), yes=yes)
    if as_json:
        terminal.print_json(done)
        return
    out = terminal.results()
    out.print(f"{done['notifications']:,} notifications {'made nobody’s' if phone else 'deleted'}")
    for name in ("events", "receipts", "dead_letters"):
        if name in done:
            out.print(f"{done[name]:,} {name.replace('_', ' ')} deleted")


def _erase_person(e164: str, *, yes: bool) -> dict[str, int]:
    from ifinu.ledger import retention

    key = settings.load().phone_key
    with connection.broker() as client, connection.ledger() as engine:
        pseudonym = Pseudonyms.load(client, key.get_secret_value() if key else None).of(e164)
        wanted, now = _Letters(e164), datetime.now(UTC)
        dead = [DeadLetters(client, queue) for queue in QUEUES]
        letters = sum(wanted.takes(letter, now) for one in dead for letter in one.find(Filter(), now))
        count = retention.of_person(engine, pseudonym)
        masked = phones.mask(e164)
        what = f"{count:,} notifications to {masked} will be made nobody's, and {letters:,} dead letters deleted."
        terminal.confirm(what, "erase", yes=yes)
        # First, since each tells the stream, and what is recorded afterwards would bring its id back.
        purged = sum(one.clear(wanted, now, one.purge) for one in dead)
        Replies(client).forget_person(pseudonym)
        forget_senders(client, pseudonym)
        done = _erase_recorded(client, engine, pseudonym)
    return done | {"dead_letters": purged}


def _erase_recorded(client: redis.Redis, engine: Engine, pseudonym: str) -> dict[str, int]:
    from ifinu.ledger import retention

    up_to_date = ledger_status.catch_up(client, engine, _CATCH_UP_S)
    done = asdict(retention.erase(engine, pseudonym))
    if not up_to_date:
        left = recorder_lag(client).events
        terminal.notes().print(
            f"{left:,} events are not recorded yet and may be of this person: erase again once `ifinu doctor` finds "
            "none waiting.",
            style="yellow",
        )
    return done


def _erase_old(length: timedelta, *, yes: bool) -> dict[str, int]:
    from ifinu.ledger import retention

    before = datetime.now(UTC) - length
    what = f"Notifications, events and receipts of before {sentences.clock(before)} will be deleted from the ledger."
    terminal.confirm(what, "erase", yes=yes)
    with connection.ledger() as engine:
        rows, _ = retention.purge(engine, before)
    return asdict(rows)


class _Letters(NamedTuple):
    """Dead letters to one phone."""

    e164: str

    def takes(self, letter: DeadLetter, now: datetime) -> bool:
        """Whether a letter is one of them."""
        return _phone_of(letter) == self.e164


def _phone_of(letter: DeadLetter) -> str | None:
    """The phone in a message that may be wrong in any other way."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        body: Any = json.loads(letter.original())
        if "headers" in body:
            args, fields = intake.call_of(body)
            body = args[0] if args else fields
        return wire.phone_of(body)
    return None


def _normal(spelling: str) -> str:
    try:
        return phones.normalize(spelling)
    except ValueError as exc:
        raise ConfigurationError(f"--phone {exc}") from None
