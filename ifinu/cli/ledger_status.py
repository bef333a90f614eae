"""Looking at the ledger: what it counts, and how far it is behind what happened."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import redis
from rich.console import RenderableType

from ifinu.broker.keys import EVENTS, RECORDER, UNKNOWN
from ifinu.cli import terminal
from ifinu.cli.durations import span
from ifinu.errors import LedgerUnavailable
from ifinu.ledger.stream import GROUP

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ifinu.ledger.queries import By

MANY = 1000  # events that wait
_POLL_S = 0.1
_FOR_A_LONG_TIME = timedelta(days=7)  # in which a gap is worth a line


def waiting(client: redis.Redis) -> int:
    """How many events of the stream are not in the ledger yet."""
    length = int(client.xlen(EVENTS))
    for group in client.xinfo_groups(EVENTS) if length else ():
        if _text(group["name"]) == GROUP and group.get("lag") is not None:
            return min(length, int(group["lag"]) + int(group["pending"]))
    return length


def is_recorded(client: redis.Redis) -> bool:
    """Whether somebody records."""
    return bool(client.exists(RECORDER))


def unknown(client: redis.Redis) -> int:
    """How many notifications may have been sent, and nobody knows."""
    return int(client.zcard(UNKNOWN))


def catch_up(client: redis.Redis, engine: Engine, deadline_s: float) -> bool:
    """
    Wait until what has happened by now is in the ledger.

    Args:
        client: A connection that returns bytes.
        engine: The ledger.
        deadline_s: How long at most; not at all where nobody records.

    Returns:
        Whether it is.
    """
    from ifinu.ledger import queries

    if not client.exists(EVENTS):
        return True
    last = _text(client.xinfo_stream(EVENTS)["last-generated-id"]).partition("-")
    give_up_at = time.monotonic() + deadline_s
    while True:
        there = queries.position(engine)
        if waiting(client) == 0 or (there and (there.ms, there.seq) >= (int(last[0]), int(last[2]))):
            return True
        if time.monotonic() > give_up_at or not is_recorded(client):
            return False
        time.sleep(_POLL_S)


def look(engine: Engine, by: By, length: timedelta) -> dict[str, Any]:
    """
    What the ledger has of the last `length`, for a program; only `error` where it cannot be asked.

    Args:
        engine: The ledger.
        by: What notifications are counted by.
        length: How far back.
    """
    from ifinu.ledger import queries

    now = datetime.now(UTC)
    since = now - length
    try:
        found = queries.counts(engine, by, since)
        unconfirmed = queries.unconfirmed(engine, since)
        duplicates = queries.duplicates(engine, since)
        there = queries.position(engine)
        gaps = queries.found_gaps(engine, now - _FOR_A_LONG_TIME)
    except LedgerUnavailable as exc:
        return {"error": str(exc)}
    return {
        "by": by.value,
        "since": _written(since),
        "total": found.total,
        "counts": [dataclasses.asdict(count) for count in found.rows],
        "unconfirmed": [{"instance": name, "total": total} for name, total in unconfirmed.items()],
        "duplicates": dataclasses.asdict(duplicates),
        "recorded_at": there and _written(there.updated_at),
        "gaps": [
            {"found_at": _written(gap.found_at), "after": gap.after and _written(gap.after), "cause": gap.cause}
            for gap in gaps
        ],
    }


def picture(ledger: dict[str, Any], unknown: int) -> list[RenderableType]:
    """The same for a person, with what Redis says of the stream (`waiting`, `recorded`)."""
    parts: list[RenderableType] = []
    if "error" in ledger:
        parts.append(f"[yellow]ledger: {terminal.plain(ledger['error'])}[/]")
    else:
        parts += _counts(ledger)
    if ledger["waiting"] >= MANY or (ledger["waiting"] and not ledger["recorded"]):
        hint = "" if ledger["recorded"] else "; nobody records: start a worker, or `ifinu recorder`"
        parts.append(f"[yellow]ledger is {ledger['waiting']:,} events behind{hint}[/]")
    if gaps := ledger.get("gaps"):
        parts.append(
            f"[yellow]events were lost before they were recorded, last noticed {_clock(gaps[0]['found_at'])}[/]"
        )
    if (dropped := ledger.get("duplicates")) and dropped["messages"]:
        ids = "1 id" if dropped["ids"] == 1 else f"{dropped['ids']:,} ids"
        parts.append(
            f"duplicates: {dropped['messages']:,} messages were dropped in the last {_over(ledger)}, since their id "
            f"had been there before ({ids})"
        )
    for one in ledger.get("unconfirmed", ()):
        name = terminal.plain(one["instance"] or "(none)")
        parts.append(
            f"unconfirmed: {one['total']:,} sent from instance {name} got no receipt in time, "
            "or the gateway was restarted and lost it"
        )
    if unknown:
        parts.append(f"[yellow]unknown: {unknown:,} may have been sent; see `ifinu unknown list`[/]")
    return parts


def _counts(ledger: dict[str, Any]) -> list[RenderableType]:
    from ifinu.ledger.states import State

    over = _over(ledger)
    if not ledger["total"]:
        return [f"ledger: nothing in the last {over}"]
    by = ledger["by"]
    rows: Sequence[dict[str, Any]] = ledger["counts"]
    there = [state.value for state in State if any(state.value in row["states"] for row in rows)]
    names = () if by == "state" else there
    table = terminal.columns(by, "total", *names, right=("total", *names), whole=(by,))
    for row in rows:
        key = terminal.plain(_clock(row["key"], "%d/%m %H h") if by == "hour" else row["key"] or "(none)")
        table.add_row(key, f"{row['total']:,}", *(f"{row['states'].get(name, 0):,}" for name in names))
    shown = sum(row["total"] for row in rows)
    left = [f"and {ledger['total'] - shown:,} of others"] if shown < ledger["total"] else []
    return [f"ledger: {ledger['total']:,} notifications in the last {over}", table, *left]


def _over(ledger: dict[str, Any]) -> str:
    return span(datetime.now(UTC) - datetime.fromisoformat(ledger["since"]))


def _clock(iso: str, form: str = "%d/%m/%Y %H:%M") -> str:
    from ifinu.ledger.queries import ZONE

    return datetime.fromisoformat(iso).astimezone(ZONE).strftime(form)


def _written(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
