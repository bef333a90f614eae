"""The arguments that the commands share, and what they work on: the gateway, and the registry with its copy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import redis
import typer

from ifinu import phone, settings
from ifinu.cli import connection, terminal
from ifinu.errors import ConfigurationError, GatewayError, LedgerUnavailable
from ifinu.names import did_you_mean
from ifinu.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ifinu.gateway import ConnectionState, Instance, Management
    from ifinu.numbers.registry import Number

CONNECT_S = 5.0
READ_S = 30.0
_COLOURS = {"open": "green", "connecting": "yellow"}


def _digits(text: str) -> str:
    try:
        return phone.digits(phone.normalize(text))
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def name(text: str) -> str:
    """Strip the name, as messages do; an instance with spaces around its name could not be sent from."""
    if not (stripped := text.strip()):
        raise typer.BadParameter("an instance needs a name")
    return stripped


Name = Annotated[str, typer.Argument(parser=name, metavar="NAME", help="Name of the instance at the gateway.")]
Names = Annotated[list[str], typer.Argument(parser=name, metavar="NAME...", help="Names of instances at the gateway.")]
PhoneNumber = Annotated[
    str | None,
    typer.Option("--number", parser=_digits, metavar="PHONE", help="Its phone, to get a pairing code to type as well."),
]


class Registered(NamedTuple):
    """The registry's database, and Redis with its copy."""

    client: redis.Redis
    engine: Engine


@contextlib.contextmanager
def gateway(config: Settings | None = None) -> Iterator[Management]:
    """The gateway's management, closed at the end."""
    from ifinu.gateway import management_of  # not loaded by the commands that need no gateway

    found = management_of(config or settings.load(), worker="cli", connect_timeout_s=CONNECT_S, read_timeout_s=READ_S)
    with contextlib.closing(found):
        try:
            yield found
        except GatewayError as exc:
            if exc.status == 404 and exc.instance and (meant := _meant(found, exc.instance)):
                raise GatewayError(f"{exc}{meant}", instance=exc.instance, status=404, answer=exc.answer) from exc
            raise


def _meant(at: Management, name: str) -> str:
    """The instance that a name which the gateway does not know may mean, as words; empty if it knows it after all."""
    try:
        known = [one.name for one in at.fetch_instances()]
    except GatewayError:
        return ""
    return "" if name in known else did_you_mean(name, known)


@contextlib.contextmanager
def registry() -> Iterator[Registered]:
    """
    The registry, to change it.

    Raises:
        ConfigurationError: The ledger's database has no registry.
        LedgerUnavailable: The database does not answer.
    """
    from ifinu.ledger import engine as ledger
    from ifinu.numbers import registry as numbers

    with connection.broker() as client, connection.ledger() as engine:
        if not ledger.exists(engine) or not numbers.exists(engine):
            raise ConfigurationError(
                "the registry of numbers is in the ledger's database, and IFINU_DATABASE_URL has none yet: set it to "
                "the database of the workers, and run `ifinu migrate`"
            )
        yield Registered(client, engine)


def registered_numbers(*, needed: bool = False) -> dict[str, Number]:
    """
    The registered numbers by name; none if there is no registry.

    Args:
        needed: Raise LedgerUnavailable if the database does not answer, instead of leaving them out with a note.
    """
    from ifinu.ledger import engine as ledger
    from ifinu.numbers import registry as numbers

    with connection.ledger() as engine:
        try:
            if not ledger.exists(engine) or not numbers.exists(engine):
                return {}
            return {one.name: one for one in numbers.read(engine).numbers}
        except LedgerUnavailable as exc:
            if needed:
                raise
            words = terminal.plain(str(exc))
            terminal.notes().print(f"[yellow]The registry of numbers does not answer, and is left out ({words}).[/]")
            return {}


def listed(at: Management) -> tuple[list[tuple[Instance, str | None]], list[str]]:
    """Each instance with its process's address (None if unsharded), and the addresses that did not answer."""
    from ifinu.gateway import ManagedShards

    found: list[tuple[Instance, str | None]]
    quiet: list[str] = []
    if isinstance(at, ManagedShards):
        answers = at.survey()
        if not any(isinstance(answer, tuple) for answer in answers.values()):
            at.fetch_instances()  # raises the reason
        found = [(one, where) for where, answer in answers.items() if isinstance(answer, tuple) for one in answer]
        quiet = sorted(where for where, answer in answers.items() if isinstance(answer, GatewayError))
    else:
        found = [(one, None) for one in at.fetch_instances()]
    return sorted(found, key=lambda one: (one[0].name, one[1] or "")), quiet


def phone_of(instance: Instance) -> str | None:
    """The E.164 number that an instance is paired with; None if it is unpaired, or the phone is not Brazilian."""
    try:
        return phone.normalize(instance.owner_jid or "")
    except ValueError:
        return None


def painted(found: ConnectionState) -> str:
    return f"[{_COLOURS.get(found.value, 'red')}]{found.value}[/]"


def number_document(one: Number) -> dict[str, Any]:
    """A registered number as JSON."""
    import dataclasses

    document = dataclasses.asdict(one)
    for hidden in ("phone_hash", "guard"):
        del document[hidden]
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in document.items()}
