"""Figures become a frame: lines, no more and no wider than the screen. Colours only repeat what the text says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from ifinu.cli.durations import span
from ifinu.cli.top.layout import Beside, Block, Column, cut, stack, table
from ifinu.cli.top.model import Model, Order, QueueRow, WorkerRow, sort
from ifinu.cli.top.snapshot import MOST_LETTERS

_BARS = "▁▂▃▄▅▆▇█"
_SPARK, _SPARK_WIDE = 12, 40
_WIDE = 120
_BESIDE = 72  # from here on three panels stand side by side
_WIDEST = 44
_BAR = 10
_FULL = 0.95  # of the limit
# A terminal that has no more.
_ASCII = str.maketrans(
    {**dict(zip(_BARS, "__..--==", strict=True)), "…": "~", "–": "-", "↑": "^", "↓": "v", "→": "=", "·": ".", "━": "="}
)

_OUTCOMES = (
    "sent", "duplicate", "expired", "suppressed", "cancelled", "dead", "held", "retried", "deferred", "in_doubt",
)  # fmt: skip

# No wider than 78 cells, no more than 22 lines.
_HELP = """\
q  end     p  pause, go on     s  sort workers: name, rate, busy     ?  this

ready      can be taken now, and how fast that grows (↑) or falls (↓)
delayed    waits for a retry, or for its time
in flight  a worker holds it
oldest     age of what is served next, where it says when it was made
dead       will not be sent: see `ifinu dlq list`

rate/s     sends in a second, whatever the gateway answered; limit: the most
busy       sends under way, of those the worker can do at the same time
wait       messages it has fetched, and that wait for their turn
sent/s     messages that the gateway took; other/s: dead, retried, deferred...
breaker    open: the gateway is away, and no message starts until it is back
no answer  the worker was asked; it is left out after a while

held by    so many workers, since the instance is disconnected, misconfigured
           or too fast: its messages wait
unknown    may have been sent, and nobody knows: see `ifinu unknown list`
ledger     events that are not in the database yet"""


@dataclass(frozen=True)
class DisplayOptions:
    """
    How it is shown.

    Attributes:
        where: The Redis server.
        every_s: How often it is looked.
        order: How the workers are sorted.
        paused: The picture stands still.
        help: The keys are shown in place of it.
        late_s: How long nothing has been heard from the looks; 0 while they are in time.
    """

    where: str
    every_s: float
    order: Order = Order.NAME
    paused: bool = False
    help: bool = False
    late_s: float = 0.0


def frame(figures: Model | None, view: DisplayOptions, width: int, height: int) -> list[Text]:
    """
    The picture.

    Args:
        figures: What to show; None before the first look.
        view: How.
        width: Cells of a line.
        height: Lines.
    """
    top = [_header(figures, view, width)]
    if view.help:
        body = [Text(line) for line in ["", *_HELP.splitlines()]]
    elif figures is None:
        body = [Text("asking Redis and the workers")]
    else:
        top += [_summary(figures, width), _state(figures, width)]
        body = stack(_blocks(figures, view, width), max(0, height - len(top)))
        if len(top) + len(body) < height:
            top.append(Text())
    return [cut(line, width) for line in [*top, *body]][:height]


def in_ascii(line: str) -> str:
    """A line for a terminal that knows nothing else."""
    return line.translate(_ASCII).encode("ascii", "replace").decode()


def spark(values: Sequence[int], width: int) -> str:
    """A curve of bars, from nothing to the highest; the last is the newest."""
    if len(values) > width:
        step = len(values) / width
        values = [values[min(len(values) - 1, int((i + 1) * step) - 1)] for i in range(width)]
    highest = max(values, default=0)
    if not highest:
        return ""
    return "".join(_BARS[min(len(_BARS) - 1, value * len(_BARS) // (highest + 1))] for value in values)


def _header(figures: Model | None, view: DisplayOptions, width: int) -> Text:
    if view.paused:
        note = Text("paused, p goes on", style="bold yellow")
    elif view.late_s:
        note = Text(f"no look for {span(view.late_s)}", style="bold yellow")
    else:
        note = Text(f"every {view.every_s:g} s")
    parts = [
        (0, Text("ifinu top", style="bold")),
        (1, Text("–" if figures is None else _clock(figures.at))),
        (2, Text(_safe(view.where))),
        (0, note),
        (3, Text(f"sorted by {view.order.value}")),
        (4, Text("? explains")),
    ]
    return _joined(parts, width)


def _summary(figures: Model, width: int) -> Text:
    if figures.error:
        told = f"{_safe(figures.error)}, since {span(figures.error_s)}; trying again"
        return Text(told, style="bold red")
    rate, limit = figures.rate_per_s, figures.limit_per_s
    full = rate is not None and limit is not None and rate >= _FULL * limit
    there = sum(not one.silent_s for one in figures.workers)
    parts = [
        (0, Text(f"{_rate(rate)}/s of {_limit(limit)}", style="green" if full else "")),
        (0, Text(f"backlog {figures.ready:,}")),
        (2, _tendency(figures)),
        (3, Text(_count(there, "worker"), style="" if there else "yellow")),
        (1, _trouble(figures.workers)),
    ]
    return _joined([(rank, part) for rank, part in parts if part.plain], width)


def _trouble(workers: Sequence[WorkerRow]) -> Text:
    silent = sum(bool(one.silent_s) for one in workers)
    away = sum(bool(one.told.get("breaker_open")) for one in workers if not one.silent_s)
    told = [f"{silent} silent"] * bool(silent) + [f"{_count(away, 'breaker')} open"] * bool(away)
    return Text(", ".join(told), style="bold yellow")


def _tendency(figures: Model) -> Text:
    if not figures.ready or figures.trend_per_s is None:
        return Text()
    if figures.is_steady:
        return Text("steady")
    if figures.drains_in_s is None:
        return Text(f"grows {_rate(figures.trend_per_s)}/s", style="yellow")
    return Text(f"empty in {span(figures.drains_in_s)}")


def _state(figures: Model, width: int) -> Text:
    found = figures.found
    if found is None:
        return Text()
    age = "" if found.unknown_oldest_s is None else f", the oldest for {span(found.unknown_oldest_s)}"
    behind = "" if found.waiting_oldest_s is None else f" ({span(found.waiting_oldest_s)})"
    writers = ", ".join(_short(one.name) for one in figures.workers if one.told.get("records") and not one.silent_s)
    parts = [
        (0, Text(f"unknown {found.unknown:,}", style="yellow" if found.unknown else "")),
        (3, Text(age.removeprefix(", "))),
        (1, Text(f"ledger {found.waiting:,} behind{behind}")),
        (
            2,
            Text(f"written by {writers}" if writers else "") if found.recorded else Text("nobody writes", "yellow"),
        ),
    ]
    return _joined([(rank, part) for rank, part in parts if part.plain], width)


def _blocks(figures: Model, view: DisplayOptions, width: int) -> list[tuple[int, Block]]:
    queues = _queues(figures.queues, width)
    workers = _workers(sort(figures.workers, view.order), width)
    if width < _BESIDE:
        return [
            (0, queues), (1, workers), (2, _outcomes(figures, width)), (4, _instances(figures, width)),
            (3, _dead(figures, width)),
        ]  # fmt: skip
    each = min(_WIDEST, (width - 4) // 3)
    parts = [(made(figures, each), each) for made in (_outcomes, _instances, _dead)]
    return [(0, queues), (1, workers), (2, Beside(parts))]


def _queues(queues: Sequence[QueueRow], width: int) -> Block:
    columns = [
        Column("queue", right=False),
        Column("ready"),
        Column("trend", rank=2),
        Column("last 5 min", right=False, rank=6),
        Column("delayed", rank=3),
        Column("in flight", rank=4),
        Column("oldest", rank=5),
        Column("dead", rank=1),
    ]
    paused = any(one.paused_since for one in queues)
    if paused:
        columns.append(Column("", right=False))
    bars = _SPARK_WIDE if width >= _WIDE else _SPARK
    rows: list[list[Text | str]] = []
    for one in queues:
        row: list[Text | str] = [
            one.queue.rpartition(":")[2],
            f"{one.ready:,}",
            _arrow(one),
            Text(spark(one.history, bars), style="cyan"),
            f"{one.delayed:,}",
            f"{one.in_flight:,}",
            "–" if one.oldest_s is None else span(one.oldest_s),
            Text(f"{one.dead:,}", style="yellow" if one.dead else ""),
        ]
        if paused:
            row.append(Text("paused" if one.paused_since else "", style="yellow"))
        rows.append(row)
    return Block(*table(columns, rows, width), least=len(rows))


def _arrow(one: QueueRow) -> str:
    if one.trend_per_s is None:
        return "–"
    rate = _rate(abs(one.trend_per_s))
    if not float(rate.replace(",", "")):
        return "→"
    return f"{'↑' if one.trend_per_s > 0 else '↓'} {rate}/s"


def _workers(workers: Sequence[WorkerRow], width: int) -> Block:
    columns = [
        Column("worker", right=False, least=18),
        Column("rate/s"),
        Column("limit/s", rank=2),
        Column("busy", rank=1),
        Column("wait", rank=4),
        Column("sent/s", rank=3),
        Column("other/s", rank=5),
        Column("up", rank=6),
        Column("version", right=False, rank=7),
        Column("pace", right=False, rank=8),
        Column("state", right=False),
    ]
    if not workers:
        return Block(Text("worker", style="bold"), [Text("none answers", style="yellow")])
    title, rows = table(columns, [_worker(one) for one in workers], width)
    for one, row in zip(workers, rows, strict=True):
        if one.silent_s:
            row.stylize("dim")
    return Block(title, rows, least=3)


def _worker(one: WorkerRow) -> list[Text | str]:
    told = one.told
    sent = one.per_s.get("sent", 0.0)
    known = one.rate_per_s is not None
    full = one.rate_per_s is not None and one.limit_per_s is not None and one.rate_per_s >= _FULL * one.limit_per_s
    busy, slots = told.get("busy"), told.get("slots")
    if one.silent_s:
        state = Text(f"no answer for {span(one.silent_s)}")
    elif slots is None:
        state = Text("tells nothing: another version?", style="yellow")
    elif told.get("breaker_open"):
        state = Text("breaker open", style="bold yellow")
    else:
        state = Text("ok")
    return [
        _short(one.name),
        Text(_rate(one.rate_per_s), style="green" if full else ""),
        "–" if one.limit_per_s is None else _number(one.limit_per_s),
        "–" if slots is None else f"{busy}/{slots}",
        f"{told.get('waiting', '–')}",
        _rate(sent) if known else "–",
        _rate(sum(one.per_s.values()) - sent) if known else "–",
        span(told["up_s"]) if told.get("up_s") else "–",
        _safe(str(told.get("version", "–"))),
        _bar(one),
        state,
    ]


def _bar(one: WorkerRow) -> Text:
    """The rate as a part of the limit."""
    if one.rate_per_s is None or one.limit_per_s is None:
        return Text()
    filled = min(_BAR, round(_BAR * one.rate_per_s / one.limit_per_s))
    return Text("━" * filled, style="green").append("·" * (_BAR - filled), style="dim")


def _outcomes(figures: Model, width: int) -> Block:
    rates, totals = figures.per_s, figures.totals
    names = [*_OUTCOMES, *sorted({*totals} - {*_OUTCOMES})]
    rows = [[_safe(name.replace("_", " ")), _rate(rates[name]), f"{totals[name]:,}"] for name in names if totals[name]]
    columns = [Column("outcome", right=False, least=6), Column("per s"), Column("so far", rank=1)]
    if not rows:
        return Block(Text("outcome", style="bold"), [Text("none yet")])
    return Block(*table(columns, rows, width), least=3)


def _instances(figures: Model, width: int) -> Block:
    columns = [Column("instance", right=False, least=10), Column("sent/s"), Column("failed/s", rank=2), Column("")]
    rows: list[list[Text | str]] = [
        [
            _safe(name) or "–",
            _rate(one.sent_per_s),
            _rate(one.failed_per_s),
            Text(f"held by {one.held_by}" if one.held_by else "", style="yellow"),
        ]
        for name, one in figures.instances.items()
    ]
    if not rows:
        return Block(Text("instance", style="bold"), [Text("none yet")])
    if not any(one.held_by for one in figures.instances.values()):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Block(*table(columns, rows, width), least=2)


def _dead(figures: Model, width: int) -> Block:
    title = "dead, by reason"
    if sum(one.dead for one in figures.queues) > figures.reasons.total():
        title = f"dead, newest {MOST_LETTERS:,}"
    rows = [[_safe(reason), f"{count:,}"] for reason, count in figures.reasons.most_common()]
    if not rows:
        return Block(Text(title, style="bold"), [Text("none")])
    return Block(*table([Column(title, right=False, least=8), Column("")], rows, width), least=2)


def _joined(parts: Sequence[tuple[int, Text]], width: int) -> Text:
    """On one line; those of the highest rank are left out while there is no room."""
    kept = list(parts)
    while sum(part.cell_len + 3 for _, part in kept) - 3 > width and any(rank for rank, _ in kept):
        kept.remove(max(kept, key=lambda one: one[0]))
    return Text("   ").join(part for _, part in kept)


def _clock(at: datetime) -> str:
    return at.astimezone().strftime("%H:%M:%S")  # of the person who looks


def _rate(rate: float | None) -> str:
    if rate is None:
        return "–"
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.1f}"


def _limit(limit: float | None) -> str:
    if limit is None:
        return "–"
    return "no limit" if limit == float("inf") else f"{_number(limit)}/s"


def _number(limit: float) -> str:
    return "none" if limit == float("inf") else f"{limit:,.4g}" if limit < 1000 else f"{limit:,.0f}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _short(name: str) -> str:
    return _safe(name.removeprefix("celery@"))


def _safe(text: str) -> str:
    """A text from elsewhere cannot steer the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
