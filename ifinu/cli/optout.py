"""`ifinu optout`: manage the people who opted out, and the answers that need a decision."""

from __future__ import annotations

import contextlib
import csv
import heapq
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ifinu import phone as phones
from ifinu import settings
from ifinu.broker.keys import EVERY_TENANT
from ifinu.broker.optouts import ALL, OptOut, OptOuts
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.replies import Replies
from ifinu.cli import connection, files, signals, terminal
from ifinu.cli.record_files import File, Form, FromLine, Mapped, Report, Sheet, again, join_area_code
from ifinu.cli.sentences import clock
from ifinu.errors import ConfigurationError, InvalidNotification
from ifinu.names import likely
from ifinu.tables import Fields, Record, Table
from ifinu.tables.delimited import shielded

app = typer.Typer(no_args_is_help=True, help="Manage opt-outs: people who are sent no messages.")

_COLUMNS = ("tenant", "hash", "phone", "source", "at", "key")
_NAMES = {**{name: name for name in _COLUMNS}, "telefone": "phone", "usuario_id": "tenant", "ddd": "ddd"}
_HASH = re.compile(r"[0-9a-f]{32}")

_Number = Annotated[str, typer.Argument(metavar="NUMBER", help="Brazilian phone number, in any usual spelling.")]
_Tenant = Annotated[
    str | None,
    typer.Option("--tenant", help="Tenant of the messages, '*' for all tenants; by default messages without a tenant."),
]
_OfTenant = Annotated[
    str | None, typer.Option("--tenant", help="Only those of this tenant; '' for messages without a tenant.")
]


@app.command("list")
def list_(
    tenant: _OfTenant = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show this many.")] = 20,
    as_json: terminal.Json = False,
) -> None:
    """
    List the latest opt-outs, and count all of them.

    Phones are stored as hashes and shown masked.

    [bold]Examples[/bold]

    ifinu optout list
    ifinu optout list --tenant u1 --json | jq .total
    """
    total = 0

    def counted(found: Iterator[OptOut]) -> Iterator[OptOut]:
        nonlocal total
        for optout in found:
            total += 1
            yield optout

    with _optouts() as optouts:
        latest = heapq.nlargest(limit, counted(_of(optouts, tenant)), key=lambda optout: optout.at)
    if as_json:
        terminal.print_json({"total": total, "optouts": [_as_json(optout) for optout in latest]})
        return
    out = terminal.results()
    if not latest:
        out.print("There are no opt-outs.")
        return
    table = terminal.columns("tenant", "phone", "source", "since", whole=("phone", "since"))
    for one in latest:
        table.add_row(
            *map(terminal.plain, (_named_in_list(one.tenant), one.phone, one.source, f"{one.at:%Y-%m-%d %H:%M} UTC"))
        )
    out.print(table)
    out.print(f"{len(latest):,} of {total:,}", style="dim")


@app.command()
def add(number: _Number, tenant: _Tenant = None, as_json: terminal.Json = False) -> None:
    """
    Opt a person out: they get no more messages.

    Messages that are already waiting for them are not sent either.

    [bold]Examples[/bold]

    ifinu optout add 77998616740
    ifinu optout add "(77) 99861-6740" --tenant u1
    """
    phone, whose = _phone(number), _named(tenant)
    with _optouts() as optouts:
        new = optouts.add(whose, phone, source="cli")
    words = f"{phones.mask(phone)} {'is now' if new else 'was already'} opted out of {_messages_of(whose)}."
    document = {"tenant": whose, "phone": phones.mask(phone), "added": new}
    terminal.answer(document, terminal.plain(words), as_json=as_json)


@app.command()
def remove(number: _Number, tenant: _Tenant = None, yes: terminal.Yes = False, as_json: terminal.Json = False) -> None:
    """
    Remove an opt-out: the person gets messages again. Do it only if they ask for it.

    [bold]Examples[/bold]

    ifinu optout remove 77998616740
    ifinu optout remove "(77) 99861-6740" --tenant u1 --yes
    """
    phone, whose = _phone(number), _named(tenant)
    masked = phones.mask(phone)
    with _optouts() as optouts:
        known = optouts.find(whose, phone) is not None
        if known:
            terminal.confirm(f"{masked} will get {_messages_of(whose)} again.", "remove", yes=yes)
            known = optouts.remove(whose, phone, source="cli")
        from_all = whose != EVERY_TENANT and optouts.find(EVERY_TENANT, phone) is not None
    if from_all:
        terminal.notes().print(
            f"{masked} also opted out of all tenants and still gets no messages; `ifinu optout remove` with "
            f"--tenant '{EVERY_TENANT}' removes that opt-out.",
            style="yellow",
        )
    messages = _messages_of(whose)
    words = f"gets {messages} again" if known else f"had not opted out of {messages}"
    document = {"tenant": whose, "phone": masked, "removed": known}
    terminal.answer(document, terminal.plain(f"{masked} {words}."), as_json=as_json)
    if not known:
        raise typer.Exit(1)


@app.command()
def unresolved(as_json: terminal.Json = False) -> None:
    """
    List the answers that need your decision, the oldest first.

    [bold]stop[/bold]: the person opted out, but the gateway hides their phone. Open the chat on the
    instance's phone, at that time, and read the number there.
    [bold]wrong person[/bold]: the person says the text is not for them; they get no messages until you decide.
    [bold]maybe[/bold]: the person may have opted out; they get messages until you decide.

    If the answer quotes one of your messages, pass its id to [bold]ifinu show[/bold] to see which one.
    Settle each answer with [bold]ifinu optout resolve[/bold].

    [bold]Examples[/bold]

    ifinu optout unresolved
    ifinu optout unresolved --json | jq -r '.answers[] | select(.wish == "stop") | .id'
    """
    with connection.broker() as client:
        found = Replies(client).all()
    if as_json:
        answers = [asdict(one) | {"at": one.at.isoformat(), "tenants": list(one.tenants)} for one in found]
        terminal.print_json({"total": len(found), "answers": answers})
        return
    out = terminal.results()
    if not found:
        out.print("No answer needs a decision.")
        return
    table = terminal.columns("id", "asks for", "São Paulo", "instance", "phone", "quotes", "wrote", whole=("id",))
    for one in found:
        cells = (one.id, one.wish.replace("_", " "), clock(one.at), one.instance, one.phone or "hidden")
        table.add_row(*map(terminal.plain, (*cells, one.quoted or "–", one.text or "–")))
    out.print(table)
    out.print(f"{len(found):,} open; settle each with `ifinu optout resolve ID --stop` or `--dismiss`", style="dim")


@app.command()
def resolve(
    answer_id: Annotated[str, typer.Argument(metavar="ID", help="The answer's id in `ifinu optout unresolved`.")],
    stop: Annotated[bool, typer.Option("--stop", help="The person opts out: they get no more messages.")] = False,
    dismiss: Annotated[
        bool, typer.Option("--dismiss", help="The person did not opt out: they get messages again.")
    ] = False,
    number: Annotated[
        str | None, typer.Option("--phone", metavar="NUMBER", help="The person's phone, if the gateway hides it.")
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            help="Tenant of the messages; '' for messages without a tenant, '*' for all tenants. By default the "
            "tenants known to have written to the person, else all.",
        ),
    ] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Settle an answer of [bold]ifinu optout unresolved[/bold].

    [bold]Examples[/bold]

    ifinu optout resolve 3f9a0c41d2 --stop --phone "(77) 99861-6740" --tenant u1
    ifinu optout resolve 3f9a0c41d2 --dismiss
    """
    if stop == dismiss:
        raise ConfigurationError("give either --stop or --dismiss")
    phone = None if number is None else _phone(number)
    with _optouts() as optouts, connection.broker() as client:
        answers = Replies(client)
        answer = answers.find(answer_id)
        if answer is None:
            raise ConfigurationError(f"there is no open answer {answer_id}; `ifinu optout unresolved` lists them")
        if dismiss:
            answers.dismiss(answer)
            tenants: tuple[str, ...] = ()
        else:
            if phone is not None:
                answer = replace(answer, hash=optouts.pseudonym(phone), phone=phones.mask(phone))
            if answer.hash is None:
                raise ConfigurationError("the gateway hides this person's phone: give it with --phone NUMBER")
            tenants = answer.tenants or (EVERY_TENANT,) if tenant is None else (_named(tenant) or "",)
            answers.settle(answer, tenants, source="cli")
    messages = "; ".join(_messages_of(one or None) for one in tenants)
    words = f"{answer_id} is dismissed." if dismiss else f"{answer.phone} is now opted out of {messages}."
    document = {"id": answer_id, "phone": answer.phone, "stopped": stop, "tenants": list(tenants)}
    terminal.answer(document, terminal.plain(words), as_json=as_json)


@app.command("import")
def import_(
    file: File,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Tenant of the messages, for lines that have no tenant.")
    ] = None,
    form: Form = None,
    mapped: Mapped = None,
    sheet: Sheet = None,
    from_line: FromLine = 1,
    as_json: terminal.Json = False,
) -> None:
    """
    Import opt-outs from a file of phones, or from [bold]ifinu optout export[/bold].

    Phones are in the column phone or telefone, tenants in tenant or usuario_id;
    --map names other columns. Invalid lines are refused with their number and do
    not stop the rest; the exit code is then 1. It is safe to import a file twice.

    [bold]Examples[/bold]

    ifinu optout import asked-to-stop.csv --tenant u1
    ifinu optout import asked-to-stop.xlsx --map "Celular=telefone"
    ifinu optout import optouts.csv
    echo '{"telefone": "77998616740", "usuario_id": "u1"}' | ifinu optout import -
    """
    fields = Fields(
        names=_NAMES, needed=[("phone", "hash")], guards=frozenset({"tenant"}), likely=likely,
        mapped=Fields.mapping(mapped or (), _NAMES),
    )  # fmt: skip
    default = _named(tenant)
    report = Report(as_json=as_json)
    added = known = 0
    with signals.sigterm_interrupts(), files.source(file) as source, _optouts() as optouts:
        table = Table(source, fields, name="stdin" if file == "-" else file, form=form, sheet=sheet)
        _refuse_hidden_tenant(table, default)
        try:
            for record in report.over(table, from_line):
                try:
                    new = _import(optouts, _read(table, record), default)
                except InvalidNotification as exc:
                    report.refuse(record, InvalidNotification(table.spelling.get(exc.field, exc.field), exc.reason))
                    continue
                added, known = added + new, known + (not new)
        except BaseException:  # Ctrl-C and SIGTERM too
            options = [("--tenant", tenant), ("--format", form), ("--sheet", sheet)]
            options += [("--map", one) for one in mapped or ()]
            go_on = again("optout import", file, options, max(report.line, 1))
            so_far = f"{added:,} added, {known:,} known already, {report.refused:,} refused. Continue with: {go_on}"
            terminal.notes().print(terminal.plain(so_far), soft_wrap=True)
            raise
    if as_json:
        report.print_json({"added": added, "known": known})
    else:
        report.print(f"{added:,} added, {known:,} known already", "--json lists them")
    if report.refused:
        raise typer.Exit(1)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="New file to write; stdout by default.")] = Path("-"),
    tenant: _OfTenant = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON lines instead of CSV.")] = False,
) -> None:
    """
    Export all opt-outs to a file that [bold]ifinu optout import[/bold] restores.

    It holds each phone as a hash and masked. The hashes depend on
    IFINU_PHONE_KEY: back up that key too, or the file matches no phone any more.

    [bold]Examples[/bold]

    ifinu optout export optouts.csv
    ifinu optout export --tenant u1 --json | jq -r .phone
    """
    count = 0
    with _optouts() as optouts, files.created(file) as out:
        table = csv.writer(out, lineterminator="\n")
        if not as_json:
            table.writerow(_COLUMNS)
        for optout in _of(optouts, tenant):
            row = _as_json(optout) | {"key": optouts.key_mark}
            if as_json:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                table.writerow(shielded(row[name]) for name in _COLUMNS)
            count += 1
    terminal.notes().print(f"{count:,} opt-outs written")


@contextlib.contextmanager
def _optouts() -> Iterator[OptOuts]:
    key = settings.load().phone_key
    with connection.broker() as client:
        yield OptOuts(client, Pseudonyms.load(client, None if key is None else key.get_secret_value()))


def _of(optouts: OptOuts, tenant: str | None) -> Iterator[OptOut]:
    return optouts.all(ALL if tenant is None else _named(tenant))


def _named(tenant: str | None) -> str | None:
    if tenant and not tenant.isprintable():
        raise ConfigurationError("--tenant has control characters")
    return (tenant or "").strip() or None


def _named_in_list(tenant: str | None) -> str:
    return "(all)" if tenant == EVERY_TENANT else tenant or "–"


def _messages_of(tenant: str | None) -> str:
    if tenant == EVERY_TENANT:
        return "messages of all tenants"
    return f"messages of tenant {tenant}" if tenant else "messages without a tenant"


def _phone(number: str) -> str:
    try:
        return phones.normalize(number)
    except ValueError as exc:
        raise ConfigurationError(f"NUMBER: {exc}") from None


def _as_json(optout: OptOut) -> dict[str, Any]:
    return asdict(optout) | {"at": optout.at.isoformat()}


def _refuse_hidden_tenant(table: Table, default: str | None) -> None:
    for column, field in table.guesses.items():
        if field == "tenant" and default is None:
            raise ConfigurationError(
                f'the column {column!r} is not used: if it holds tenants, add --map "{column}=tenant"; '
                "otherwise add --tenant ''"
            )


def _read(table: Table, record: Record) -> dict[str, object]:
    """
    The fields of a record; those of a table have the names in `_COLUMNS`.

    Raises:
        InvalidNotification: The record cannot be read, or has a key that looks like a misspelt tenant.
    """
    fields = table.read(record)
    join_area_code(fields, table)
    if record.cells is None and not fields.get("tenant") and not fields.get("usuario_id"):
        for key in fields:
            if key not in _NAMES and likely(key) == "usuario_id":
                raise InvalidNotification(key, "unknown field; did you mean usuario_id?")
    return fields


def _import(optouts: OptOuts, fields: Mapping[str, object], default: str | None) -> bool:
    """
    Add one record; return whether it is new.

    Raises:
        InvalidNotification: A field is wrong; the error names the field and does not repeat its value.
    """
    _, tenant = _text(fields, "tenant", "usuario_id")
    _, pseudonym = _text(fields, "hash")
    if pseudonym:
        return optouts.restore(_exported(fields, tenant or None, pseudonym, optouts.key_mark))
    name, number = _text(fields, "phone", "telefone")
    if not number:
        raise InvalidNotification("", "has no phone, telefone or hash")
    try:
        phone = phones.normalize(number)
    except ValueError as exc:
        raise InvalidNotification(name, str(exc)) from None
    return optouts.add(tenant or default, phone, source="import")


def _exported(fields: Mapping[str, object], tenant: str | None, pseudonym: str, key_mark: str) -> OptOut:
    if not _HASH.fullmatch(pseudonym):
        raise InvalidNotification("hash", "is not 32 hexadecimal digits, as `ifinu optout export` writes it")
    _, key = _text(fields, "key")
    if key != key_mark:
        raise InvalidNotification("key", "is of another IFINU_PHONE_KEY, so its hash would match no phone")
    _, written = _text(fields, "at")
    try:
        at = datetime.fromisoformat(written)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidNotification("at", "is not a time with a UTC offset, such as 2026-12-01T18:00:00+00:00")
    _, masked = _text(fields, "phone")
    _, source = _text(fields, "source")
    return OptOut(tenant, pseudonym, phones.mask_in(masked), source, at)


def _text(fields: Mapping[str, object], *names: str) -> tuple[str, str]:
    """The first of these fields that is set, and its text; ('', '') if none is."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str | None):
            raise InvalidNotification(name, "must be a string")
        if value and not value.isprintable():
            raise InvalidNotification(name, "has control characters")
        if value and value.strip():
            return name, value.strip()
    return "", ""
