"""`ifinu cancel`: call notifications off, or want them again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from ifinu import producer, settings
from ifinu.broker.claims import Claims, ClaimState
from ifinu.cli import connection, files, terminal
from ifinu.errors import ConfigurationError, InvalidNotification

# What an id's state until now means for a cancellation; in all others it is too late.
_CALLED_OFF: dict[str, str] = {
    "": "called off; if it comes it is not sent",
    ClaimState.WAITING: "called off; its retry is not sent",
    ClaimState.DEAD: "called off; a replay of its dead letter does not send it",
    ClaimState.CANCELLED: "called off, as before",
    ClaimState.UNKNOWN: "called off; it may have been sent already, and is not sent again",
}
_TOO_LATE: dict[str, str] = {ClaimState.SENDING: "too late: it is being sent", ClaimState.SENT: "too late: it was sent"}
# The same for its withdrawal.
_WANTED: dict[str, str] = {
    ClaimState.WAITING: "wanted again; it is sent when its retry is due",
    ClaimState.DEAD: "wanted again; it is in the dead letters",
    ClaimState.CANCELLED: "wanted again; it is sent when it comes. If it came before, give it again",
    ClaimState.UNKNOWN: "wanted again; it is looked up, and may be sent again",
}
_NOT_WITHDRAWN: dict[str, str] = {
    "": "was not called off",
    ClaimState.WAITING: "was not called off",
    ClaimState.DEAD: "was not called off",
    ClaimState.UNKNOWN: "was not called off",
    ClaimState.CANCELLED: "too late: its message came and was not sent. Give it again under another id",
}


def cancel(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Of the notifications.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE|-", help="Those in a file, one a line; `-` reads stdin.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="They are wanted again, if nothing came of it yet.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Call notifications off, e.g. because the charge was paid: those that wait,
    those in the dead letters, and those that are yet to come.

    What is being sent or was sent cannot be called off. Exit code 1 when that
    was so for any. With [bold]--json[/bold] there is one document a line.

    [bold]Examples[/bold]

    ifinu cancel inv-42:lembrete inv-42:atraso
    ifinu cancel --file paid.txt
    ifinu cancel --undo inv-42:atraso
    """
    if not ids and file is None:
        raise ConfigurationError("say which: an ID, or --file")
    chosen, late = settings.load(), 0
    with connection.broker() as client:
        claims = Claims(client, chosen.claim_ttl_s)
        for id_ in _meant(ids or [], file):
            if undo:
                done, state = claims.uncancel(id_)
                told = _WANTED[state] if done else _NOT_WITHDRAWN.get(state) or _ended(state)
            else:
                state = claims.cancel(id_)
                done = state in _CALLED_OFF
                told = _CALLED_OFF.get(state) or _ended(state)
            late += not done
            document = {"id": id_, "state": state, "wanted" if undo else "called_off": done}
            terminal.answer(document, terminal.plain(f"{id_}: {told}"), as_json=as_json)
    if late:
        raise typer.Exit(1)


def _ended(state: str) -> str:
    return _TOO_LATE.get(state, f"too late: it had ended without being sent ({state})")


def _meant(ids: list[str], file: str | None) -> Iterator[str]:
    yield from [producer.id_of(id_) for id_ in ids]  # all are read before one is called off
    if file is None:
        return
    with files.source(file) as lines:
        for number, line in enumerate(lines, 1):
            try:
                if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                    yield producer.id_of(text)
            except (UnicodeDecodeError, InvalidNotification):
                raise ConfigurationError(f"{file}, line {number}: is no id in UTF-8 of 1 to 200 characters") from None
