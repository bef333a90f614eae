"""The ledger's part of `ifinu status`: counts and gaps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import redis
from rich.console import RenderableType

from ifinu.broker.keys import EVENTS
from ifinu.broker.redis_state import recorder_lag
from ifinu.cli import terminal
from ifinu.cli.durations import span
from ifinu.errors import LedgerUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ifinu.ledger.queries import By

MANY = 1000  # waiting events, from which on the recorder counts as behind
GAPS_OF = timedelta(days=7)  # the period of which lost events are reported
_POLL_S = 0.1


def catch_up(client: redis.Redis, engine: Engine, deadline_s: float) -> bool:
    """Wait until the events written before the call are in the ledger; at once False if no recorder runs."""
    from ifinu.ledger import queries

    if not client.exists(EVENTS):
        return True
    last = tuple(map(int, client.xinfo_stream(EVENTS)["last-generated-id"].split(b"-")))
    give_up_at = time.monotonic() + deadline_s
    while True:
        there = queries.position(engine)
        lag = recorder_lag(client)
        if lag.events == 0 or (there and (there.ms, there.seq) >= last):
            return True
        if time.monotonic() > give_up_at or not lag.recorded:
            return False
        time.sleep(_POLL_S)


def read(engine: Engine, by: By, length: timedelta) -> dict[str, Any]:
    """Count the notifications of the last `length`, as JSON values; only `error` when the ledger does not answer."""
    from ifinu.ledger import queries

    now = datetime.now(UTC)
    since = now - length
    try:
        found = queries.counts(engine, by, since)
        unconfirmed = queries.unconfirmed(engine, since)
        duplicates = queries.duplicates(engine, since)
        there = queries.position(engine)
        gaps = queries.found_gaps(engine, now - GAPS_OF)
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


def render(ledger: dict[str, Any], unknown: int) -> list[RenderableType]:
    """The lines of `read`'s figures, and of the recorder's lag (`waiting`, `recorded`)."""
    parts: list[RenderableType] = []
    if "error" in ledger:
        parts.append(f"[yellow]ledger: {terminal.plain(ledger['error'])}[/]")
    else:
        parts += _counts(ledger)
    if ledger["waiting"] >= MANY or (ledger["waiting"] and not ledger["recorded"]):
        hint = "" if ledger["recorded"] else "; no recorder runs: start a worker, or `ifinu recorder`"
        parts.append(f"[yellow]ledger is {ledger['waiting']:,} events behind{hint}[/]")
    if gaps := ledger.get("gaps"):
        parts.append(f"[yellow]events were lost before they were recorded, last found {_clock(gaps[0]['found_at'])}[/]")
    if (dropped := ledger.get("duplicates")) and dropped["messages"]:
        ids = "1 id" if dropped["ids"] == 1 else f"{dropped['ids']:,} ids"
        parts.append(
            f"duplicates: {dropped['messages']:,} messages were dropped in the last {_length(ledger)}, because their "
            f"id had been used before ({ids})"
        )
    for one in ledger.get("unconfirmed", ()):
        name = terminal.plain(one["instance"] or "(none)")
        parts.append(
            f"unconfirmed: {one['total']:,} sent from instance {name} without a receipt in time; "
            "a restart of the gateway loses receipts"
        )
    if unknown:
        parts.append(f"[yellow]unknown: {unknown:,} may have been sent; see `ifinu unknown list`[/]")
    return parts


def _counts(ledger: dict[str, Any]) -> list[RenderableType]:
    from ifinu.ledger.states import State

    over = _length(ledger)
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


def _length(ledger: dict[str, Any]) -> str:
    return span(datetime.now(UTC) - datetime.fromisoformat(ledger["since"]))


def _clock(iso: str, form: str = "%d/%m/%Y %H:%M") -> str:
    from ifinu.ledger.queries import ZONE

    return datetime.fromisoformat(iso).astimezone(ZONE).strftime(form)


def _written(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")
