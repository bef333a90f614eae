"""`ifinu cancel`: cancel notifications, or withdraw a cancellation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from ifinu import producer, settings
from ifinu.broker.claims import Claims, ClaimState
from ifinu.cli import connection, files, terminal
from ifinu.errors import ConfigurationError, InvalidNotification

# The result of a cancellation by the id's state before it; in all other states it is too late.
_CANCELLED: dict[str, str] = {
    "": "cancelled; its message will not be sent",
    ClaimState.WAITING: "cancelled; its retry will not be sent",
    ClaimState.DEAD: "cancelled; a replay of its dead letter will not send it",
    ClaimState.CANCELLED: "was cancelled already",
    ClaimState.UNKNOWN: "cancelled; it may have been sent already, and will not be sent again",
}
_TOO_LATE: dict[str, str] = {ClaimState.SENDING: "too late: it is being sent", ClaimState.SENT: "too late: it was sent"}
# The result of `--undo`, likewise.
_WITHDRAWN: dict[str, str] = {
    ClaimState.WAITING: "cancellation withdrawn; it will be sent when its retry is due",
    ClaimState.DEAD: "cancellation withdrawn; it is in the dead letters",
    ClaimState.CANCELLED: "cancellation withdrawn; its message will be sent. If you pushed it before, push it again",
    ClaimState.UNKNOWN: "cancellation withdrawn; it is looked up and may be sent again",
}
_NOT_WITHDRAWN: dict[str, str] = {
    "": "was not cancelled",
    ClaimState.WAITING: "was not cancelled",
    ClaimState.DEAD: "was not cancelled",
    ClaimState.UNKNOWN: "was not cancelled",
    ClaimState.CANCELLED: "too late: its message was already dropped. Push it again under another id",
}


def cancel(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of the notifications.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE|-", help="Read ids from a file, one a line; `-` reads stdin.")
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Withdraw the cancellation, if no message was dropped for it yet.")
    ] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Cancel notifications, for example because the charge was paid.

    Works for notifications that wait, that are dead letters, or whose message is
    yet to come. One that was sent, or is being sent, cannot be cancelled: the exit
    code is then 1. With [bold]--json[/bold] it prints one document a line.

    [bold]Examples[/bold]

    ifinu cancel inv-42:lembrete inv-42:atraso
    ifinu cancel --file paid.txt
    ifinu cancel --undo inv-42:atraso
    """
    if not ids and file is None:
        raise ConfigurationError("give an ID or --file")
    config, late = settings.load(), 0
    with connection.broker() as client:
        claims = Claims(client, config.claim_ttl_s)
        for id_ in _ids(ids or [], file):
            if undo:
                done, state = claims.uncancel(id_)
                result = _WITHDRAWN[state] if done else _NOT_WITHDRAWN.get(state) or _ended(state)
            else:
                state = claims.cancel(id_)
                done = state in _CANCELLED
                result = _CANCELLED.get(state) or _ended(state)
            late += not done
            document = {"id": id_, "state": state, "withdrawn" if undo else "cancelled": done}
            terminal.answer(document, terminal.plain(f"{id_}: {result}"), as_json=as_json)
    if late:
        raise typer.Exit(1)


def _ended(state: str) -> str:
    return _TOO_LATE.get(state, f"too late: it ended without being sent ({state})")


def _ids(ids: list[str], file: str | None) -> Iterator[str]:
    yield from [producer.id_of(id_) for id_ in ids]  # validate all before the first is cancelled
    if file is None:
        return
    with files.source(file) as lines:
        for number, line in enumerate(lines, 1):
            try:
                if text := line.decode("utf-8-sig" if number == 1 else "utf-8").strip():
                    yield producer.id_of(text)
            except (UnicodeDecodeError, InvalidNotification):
                raise ConfigurationError(
                    f"{file}, line {number}: is not an id of 1 to 200 characters in UTF-8"
                ) from None
