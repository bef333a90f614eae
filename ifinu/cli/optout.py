"""`ifinu optout`: who wants no messages."""

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

app = typer.Typer(no_args_is_help=True, help="Who wants no messages: they are not written to.")

_COLUMNS = ("tenant", "hash", "phone", "source", "at", "key")
_NAMES = {**{name: name for name in _COLUMNS}, "telefone": "phone", "usuario_id": "tenant", "ddd": "ddd"}
_HASH = re.compile(r"[0-9a-f]{32}")

_Number = Annotated[str, typer.Argument(metavar="NUMBER", help="Any usual Brazilian spelling.")]
_Tenant = Annotated[
    str | None, typer.Option("--tenant", help="Whose messages, '*' for all; not given: those that are of no tenant.")
]
_Whose = Annotated[
    str | None, typer.Option("--tenant", help="Only those of this tenant; '' for messages of no tenant.")
]


@app.command("list")
def list_(
    tenant: _Whose = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show at most so many.")] = 20,
    as_json: terminal.Json = False,
) -> None:
    """
    List the latest, and count all; phones are known by a hash and shown masked.

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
        out.print("Nobody has opted out.")
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
    Send a person no more messages; those that wait already are not sent either.

    [bold]Examples[/bold]

    ifinu optout add 77998616740
    ifinu optout add "(77) 99861-6740" --tenant u1
    """
    phone, whose = _phone(number), _named(tenant)
    with _optouts() as optouts:
        new = optouts.add(whose, phone, source="cli")
    words = f"{phones.mask(phone)} gets no more messages {_told(whose)}{'' if new else ', as before'}."
    document = {"tenant": whose, "phone": phones.mask(phone), "added": new}
    terminal.answer(document, terminal.plain(words), as_json=as_json)


@app.command()
def remove(number: _Number, tenant: _Tenant = None, yes: terminal.Yes = False, as_json: terminal.Json = False) -> None:
    """
    Send a person messages again. Do it only if they asked for that.

    [bold]Examples[/bold]

    ifinu optout remove 77998616740
    ifinu optout remove "(77) 99861-6740" --tenant u1 --yes
    """
    phone, whose = _phone(number), _named(tenant)
    masked = phones.mask(phone)
    with _optouts() as optouts:
        known = optouts.find(whose, phone) is not None
        if known:
            terminal.confirm(f"{masked} will get messages {_told(whose)} again.", "remove", yes=yes)
            known = optouts.remove(whose, phone, source="cli")
        from_all = whose != EVERY_TENANT and optouts.find(EVERY_TENANT, phone) is not None
    if from_all:
        terminal.notes().print(
            f"{masked} opted out of the messages of all tenants, and still gets none: `ifinu optout remove` with "
            f"--tenant '{EVERY_TENANT}' takes that back.",
            style="yellow",
        )
    words = f"gets messages {_told(whose)} again" if known else f"had not opted out of messages {_told(whose)}"
    document = {"tenant": whose, "phone": masked, "removed": known}
    terminal.answer(document, terminal.plain(f"{masked} {words}."), as_json=as_json)
    if not known:
        raise typer.Exit(1)


@app.command()
def unresolved(as_json: terminal.Json = False) -> None:
    """
    List the answers that a person has to look into, the oldest first.

    [bold]stop[/bold]: they want no more messages, and the gateway hides their phone. Open the chat on the
    phone of the instance, at that time, and read the number there.
    [bold]wrong person[/bold]: the text is not for them; they are not written to until you decide.
    [bold]maybe[/bold]: they may have asked for no more; they are written to until you decide.

    Where the answer quotes a message of ours, [bold]ifinu show[/bold] with its id says which one.
    Settle each with [bold]ifinu optout resolve[/bold].

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
        out.print("No answer is open.")
        return
    table = terminal.columns("id", "asks for", "São Paulo", "instance", "phone", "quotes", "wrote", whole=("id",))
    for one in found:
        told = (one.id, one.wish.replace("_", " "), clock(one.at), one.instance, one.phone or "hidden")
        table.add_row(*map(terminal.plain, (*told, one.quoted or "–", one.text or "–")))
    out.print(table)
    out.print(f"{len(found):,} open; settle each with `ifinu optout resolve ID --stop` or `--dismiss`", style="dim")


@app.command()
def resolve(
    answer_id: Annotated[str, typer.Argument(metavar="ID", help="As `ifinu optout unresolved` shows it.")],
    stop: Annotated[bool, typer.Option("--stop", help="They get no more messages.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="They did not ask for that; they are written to.")] = False,
    number: Annotated[
        str | None, typer.Option("--phone", metavar="NUMBER", help="Their number, where the gateway hides it.")
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            help="Whose messages; '' for messages of no tenant, '*' for all. Not given: those that wrote to them, as "
            "far as that is known, else all.",
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
        raise ConfigurationError("say what follows from it: either --stop or --dismiss")
    phone = None if number is None else _phone(number)
    with _optouts() as optouts, connection.broker() as client:
        answers = Replies(client)
        answer = answers.find(answer_id)
        if answer is None:
            raise ConfigurationError(f"no answer {answer_id} is open; `ifinu optout unresolved` lists them")
        if dismiss:
            answers.dismiss(answer)
            tenants: tuple[str, ...] = ()
        else:
            if phone is not None:
                answer = replace(answer, hash=optouts.pseudonym(phone), phone=phones.mask(phone))
            if answer.hash is None:
                raise ConfigurationError("the gateway hides the phone of this person: give it with --phone NUMBER")
            tenants = answer.tenants or (EVERY_TENANT,) if tenant is None else (_named(tenant) or "",)
            answers.settle(answer, tenants, source="cli")
    whose = "; ".join(_told(one or None) for one in tenants)
    words = f"{answer_id} is dismissed." if dismiss else f"{answer.phone} gets no more messages {whose}."
    document = {"id": answer_id, "phone": answer.phone, "stopped": stop, "tenants": list(tenants)}
    terminal.answer(document, terminal.plain(words), as_json=as_json)


@app.command("import")
def import_(
    file: File,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Whose messages, for phones beside which the file names no tenant.")
    ] = None,
    form: Form = None,
    mapped: Mapped = None,
    sheet: Sheet = None,
    from_line: FromLine = 1,
    as_json: terminal.Json = False,
) -> None:
    """
    Add a file of phones, or what [bold]ifinu optout export[/bold] wrote.

    Phones stand under phone or telefone, tenants under tenant or usuario_id; --map
    says what other columns are. A wrong line is refused with its number, and
    does not stop the others: then the exit code is 1. Giving a file again does no
    harm.

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
            so_far = f"{added:,} added, {known:,} known already, {report.refused:,} refused. Go on with: {go_on}"
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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; it must not exist. Else stdout.")] = Path("-"),
    tenant: _Whose = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines in place of CSV.")] = False,
) -> None:
    """
    Write all of them, so that [bold]ifinu optout import[/bold] can restore them.

    Phones are in it as hashes, beside what is left of them masked. The hashes
    depend on IFINU_PHONE_KEY: keep that too, or nobody in the file can be told
    any more.

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


def _told(tenant: str | None) -> str:
    if tenant == EVERY_TENANT:
        return "of any tenant"
    return f"of tenant {tenant}" if tenant else "that are of no tenant"


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
                f"the column {column!r} is not used; if it holds tenants: --map \"{column}=tenant\", else --tenant ''"
            )


def _read(table: Table, record: Record) -> dict[str, object]:
    """
    The fields of a record, by the names of `_COLUMNS` where they are a table's.

    Raises:
        InvalidNotification: It cannot be read, or has a key that looks like a tenant and is not spelled so.
    """
    fields = table.read(record)
    join_area_code(fields, table)
    if record.cells is None and not fields.get("tenant") and not fields.get("usuario_id"):
        for key in fields:
            if key not in _NAMES and likely(key) == "usuario_id":
                raise InvalidNotification(key, "is no field; did you mean usuario_id?")
    return fields


def _import(optouts: OptOuts, fields: Mapping[str, object], default: str | None) -> bool:
    """
    Add one record; whether it is new.

    Raises:
        InvalidNotification: Naming the field at fault, without repeating what stands in it.
    """
    _, tenant = _text(fields, "tenant", "usuario_id")
    _, pseudonym = _text(fields, "hash")
    if pseudonym:
        return optouts.restore(_exported(fields, tenant or None, pseudonym, optouts.key_mark))
    name, number = _text(fields, "phone", "telefone")
    if not number:
        raise InvalidNotification("", "has neither phone, telefone nor hash")
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
        raise InvalidNotification("key", "is of another IFINU_PHONE_KEY, so nobody could be told by this hash")
    _, said = _text(fields, "at")
    try:
        at = datetime.fromisoformat(said)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidNotification("at", "is not a time with its zone, such as 2026-12-01T18:00:00+00:00")
    _, masked = _text(fields, "phone")
    _, source = _text(fields, "source")
    return OptOut(tenant, pseudonym, phones.mask_in(masked), source, at)


def _text(fields: Mapping[str, object], *names: str) -> tuple[str, str]:
    """The first of these that is there, and what it says; ('', '') for none."""
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
