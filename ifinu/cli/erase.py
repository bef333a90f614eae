"""`ifinu erase`: anonymise a person's notifications (LGPD), or delete old ones."""

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
from ifinu.broker.claims import forget_contacts
from ifinu.broker.optouts import forget_senders
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.redis_state import recorder_lag
from ifinu.broker.replies import Replies
from ifinu.cli import billing_database, connection, durations, ledger_status, sentences, terminal
from ifinu.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Engine

_CATCH_UP_S = 15.0


def erase(
    phone: Annotated[
        str | None, typer.Option(help="Anonymise this person's notifications; any usual Brazilian spelling.")
    ] = None,
    older_than: Annotated[
        timedelta | None,
        typer.Option(parser=durations.parse, metavar="AGE", help="Delete notifications older than this: 400d."),
    ] = None,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Anonymise a person's notifications, or delete old ones.

    [bold]--phone[/bold] anonymises the person's notifications: totals stay correct, while
    their ids, phones, hashes and errors are deleted, and so are their events,
    receipts and dead letters. An opt-out stays, so that the person gets no new
    messages; [bold]ifinu optout remove[/bold] removes it. Messages still on a queue, or waiting
    for their number, are sent and recorded: run it again afterwards.

    Customers with this phone lose their name, phone, e-mail address, document, address
    and notes, and their charges the descriptions and payment codes. Amounts and dates
    stay. What is planned or queued about these charges is cancelled.

    [bold]--older-than[/bold] deletes old notifications from the ledger, with their events and
    receipts. The recorder does this every night by IFINU_RETENTION_DAYS.

    [bold]Examples[/bold]

    ifinu erase --phone "(77) 99861-6740"
    ifinu erase --older-than 400d --yes
    """
    if (phone is None) == (older_than is None):
        raise ConfigurationError("give either --phone or --older-than")
    if phone is not None:
        done = _erase_person(_normal(phone), yes=yes)
    else:
        done = _erase_old(older_than or timedelta(), yes=yes)
    if as_json:
        terminal.print_json(done)
        return
    out = terminal.results()
    out.print(f"{done['notifications']:,} notifications {'anonymised' if phone else 'deleted'}")
    for name in ("events", "receipts", "dead_letters"):
        if name in done:
            out.print(f"{done[name]:,} {name.replace('_', ' ')} deleted")
    if "customers" in done:
        out.print(f"{done['customers']:,} customers anonymised")


def _erase_person(e164: str, *, yes: bool) -> dict[str, int]:
    from ifinu.ledger import retention

    key = settings.load().phone_key
    with connection.broker() as client, connection.ledger() as engine:
        pseudonym = Pseudonyms.load(client, key.get_secret_value() if key else None).of(e164)
        wanted, now = _Letters(e164), datetime.now(UTC)
        dead = [DeadLetters(client, queue) for queue in QUEUES]
        letters = sum(wanted.takes(letter, now) for one in dead for letter in one.find(Filter(), now))
        count, customers = retention.of_person(engine, pseudonym), _customers(engine, e164)
        question = (
            f"{count:,} notifications to {phones.mask(e164)} and {customers:,} customers will be anonymised, and "
            f"{letters:,} dead letters deleted."
        )
        terminal.confirm(question, "erase", yes=yes)
        # Customers before all else: from then on nothing more is planned for them.
        customers = _erase_customers(engine, e164)
        # Dead letters first: each purge writes an event with the id, which has to be recorded before the erasure.
        purged = sum(one.clear(wanted, now, one.purge) for one in dead)
        Replies(client).forget_person(pseudonym)
        forget_senders(client, pseudonym)
        forget_contacts(client, pseudonym)
        done = _erase_recorded(client, engine, pseudonym)
    return done | {"dead_letters": purged, "customers": customers}


def _customers(engine: Engine, e164: str) -> int:
    """The number of customers with a phone; 0 in SQLite, which has no charges."""
    from ifinu.billing import customers

    if engine.dialect.name != "postgresql":
        return 0
    with engine.connect() as database:
        return customers.count_of(database, e164)


def _erase_customers(engine: Engine, e164: str) -> int:
    from ifinu.billing import customers

    if engine.dialect.name != "postgresql":
        return 0
    with engine.begin() as database:
        count = customers.erase(database, e164, datetime.now(UTC))
    billing_database.cancel_in_redis(engine)
    return count


def _erase_recorded(client: redis.Redis, engine: Engine, pseudonym: str) -> dict[str, int]:
    from ifinu.ledger import retention

    up_to_date = ledger_status.catch_up(client, engine, _CATCH_UP_S)
    done = asdict(retention.erase(engine, pseudonym))
    if not up_to_date:
        left = recorder_lag(client).events
        terminal.notes().print(
            f"{left:,} events are not recorded yet and may be about this person: run this again once `ifinu doctor` "
            "shows no waiting events.",
            style="yellow",
        )
    return done


def _erase_old(length: timedelta, *, yes: bool) -> dict[str, int]:
    from ifinu.ledger import retention

    before = datetime.now(UTC) - length
    question = f"Notifications, events and receipts from before {sentences.clock(before)} will be deleted."
    terminal.confirm(question, "erase", yes=yes)
    with connection.ledger() as engine:
        rows, _ = retention.purge(engine, before)
    return asdict(rows)


class _Letters(NamedTuple):
    """Dead letters to one phone."""

    e164: str

    def takes(self, letter: DeadLetter, now: datetime) -> bool:
        return _phone_of(letter) == self.e164


def _phone_of(letter: DeadLetter) -> str | None:
    """The phone in a message whose other fields may be invalid; None if it has none."""
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
