"""The figures as lines of text that fit the terminal. Colours repeat what the text already says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from ifinu.broker.obstacles import Obstacle
from ifinu.broker.redis_state import NEWEST_LETTERS
from ifinu.cli.durations import span
from ifinu.cli.top.bottlenecks import WaitingRow
from ifinu.cli.top.layout import Beside, Block, Column, block, cut, stack
from ifinu.cli.top.model import InstanceRow, Model, Order, QueueRow, WorkerRow, sort

_BARS = "▁▂▃▄▅▆▇█"
_SPARK, _SPARK_WIDE = 12, 40
_WIDE = 120
_BESIDE = 72  # from this width on, three panels stand side by side
_WIDEST = 44  # of those panels
_BAR = 10
_FULL = 0.95  # share of the limit
_ASCII = str.maketrans(
    {**dict(zip(_BARS, "__..--==", strict=True)), "…": "~", "–": "-", "↑": "^", "↓": "v", "→": "=", "·": ".", "━": "="}
)

_OUTCOMES = (
    "sent", "duplicate", "expired", "suppressed", "cancelled", "dead", "held", "retried", "deferred", "in_doubt",
)  # fmt: skip

_OBSTACLES = {
    Obstacle.UNREGISTERED: "not registered",
    Obstacle.HELD: "held",
    Obstacle.RESTARTED: "Redis was restarted",
    Obstacle.DAY: "cap of the day",
    Obstacle.HOUR: "share of the hour",
    Obstacle.GAP: "gap after a send",
    Obstacle.BUSY: "its messages are in flight",
}
_TROUBLES = (Obstacle.UNREGISTERED, Obstacle.HELD)

# At most 78 cells wide and 22 lines long.
_HELP = """\
q  quit    p  pause, resume    s  sort workers: name, rate, busy    ?  this help

ready      can be sent now; the trend says how fast that grows (↑) or falls (↓)
delayed    waits for a retry, or for its time
in flight  a worker holds it
oldest     age of the next message, if it says when it was made
dead       dead letters: see `ifinu dlq list`
in lanes   waits for its number (`waits for`): gap, cap, or a hold

rate/s     sends per second, successful or not; limit/s: the maximum
busy       sends under way, of those the worker can do at the same time
wait       messages the worker has fetched and not started
sent/s     messages the gateway accepted; other/s: dead, retried, deferred, ...
breaker    open: the gateway is away, and no message starts until it is back
no answer  from this worker; after a while it is removed
held by    workers that hold the messages of this instance back, since it is
           disconnected, misconfigured or throttled
unknown    may have been sent: see `ifinu unknown list`
ledger     events that are not in the database yet"""


@dataclass(frozen=True)
class DisplayOptions:
    """
    The state of the display.

    Attributes:
        server: Host, port and database of Redis.
        every_s: Seconds between two observations.
        order: What the workers are sorted by.
        paused: The display does not follow the figures.
        help: The help is shown instead of the figures.
        late_s: Seconds since the last observation, if one is overdue; else 0.
    """

    server: str
    every_s: float
    order: Order = Order.NAME
    paused: bool = False
    help: bool = False
    late_s: float = 0.0


def frame(model: Model | None, options: DisplayOptions, width: int, height: int) -> list[Text]:
    """
    Lay out one frame.

    Args:
        model: The figures; None before the first observation.
        width: Cells of a line.
        height: Most lines.
    """
    top = [_header(model, options, width)]
    if options.help:
        body = [Text(line) for line in ["", *_HELP.splitlines()]]
    elif model is None:
        body = [Text("waiting for Redis and the workers")]
    else:
        top += [_summary(model, width), _state(model, width)]
        body = stack(_blocks(model, options, width), max(0, height - len(top)))
        if len(top) + len(body) < height:
            top.append(Text())
    return [cut(line, width) for line in [*top, *body]][:height]


def in_ascii(line: str) -> str:
    """The line for a terminal that has ASCII only."""
    return line.translate(_ASCII).encode("ascii", "replace").decode()


def spark(values: Sequence[int], width: int) -> str:
    """A curve of bars from 0 to the highest value, newest at the right."""
    if len(values) > width:
        step = len(values) / width
        values = [values[min(len(values) - 1, int((i + 1) * step) - 1)] for i in range(width)]
    highest = max(values, default=0)
    if not highest:
        return ""
    return "".join(_BARS[min(len(_BARS) - 1, value * len(_BARS) // (highest + 1))] for value in values)


def _header(model: Model | None, options: DisplayOptions, width: int) -> Text:
    if options.paused:
        note = Text("paused, p resumes", style="bold yellow")
    elif options.late_s:
        note = Text(f"no update for {span(options.late_s)}", style="bold yellow")
    else:
        note = Text(f"every {options.every_s:g} s")
    parts = [
        (0, Text("ifinu top", style="bold")),
        (1, Text("–" if model is None else _clock(model.at))),
        (2, Text(_safe(options.server))),
        (0, note),
        (3, Text(f"sorted by {options.order.value}")),
        (4, Text("? help")),
    ]
    return _joined(parts, width)


def _summary(model: Model, width: int) -> Text:
    if model.error:
        return Text(f"{_safe(model.error)}, since {span(model.error_s)}; trying again", style="bold red")
    rate, limit = model.rate_per_s, model.limit_per_s
    answering = sum(not one.silent_s for one in model.workers)
    parts = [
        (0, Text(f"{_rate(rate)}/s of {_limit(limit)}", style="green" if _is_full(rate, limit) else "")),
        (0, Text(f"backlog {model.ready:,}")),
        (1, Text(f"in lanes {model.in_lanes:,}" if model.in_lanes else "")),
        (2, _tendency(model)),
        (3, Text(_count(answering, "worker"), style="" if answering else "yellow")),
        (1, _trouble(model.workers)),
    ]
    return _joined(parts, width)


def _trouble(workers: Sequence[WorkerRow]) -> Text:
    silent = sum(bool(one.silent_s) for one in workers)
    away = sum(bool(one.answer.get("breaker_open")) for one in workers if not one.silent_s)
    words = [f"{silent} silent"] * bool(silent) + [f"{_count(away, 'breaker')} open"] * bool(away)
    return Text(", ".join(words), style="bold yellow")


def _tendency(model: Model) -> Text:
    if not model.ready or model.trend_per_s is None:
        return Text()
    if model.is_steady:
        return Text("steady")
    if model.drains_in_s is None:
        return Text(f"grows {_rate(model.trend_per_s)}/s", style="yellow")
    return Text(f"empty in {span(model.drains_in_s)}")


def _state(model: Model, width: int) -> Text:
    snapshot = model.snapshot
    if snapshot is None:
        return Text()
    age = "" if snapshot.unknown_oldest_s is None else f"the oldest for {span(snapshot.unknown_oldest_s)}"
    behind = "" if snapshot.lag.oldest_s is None else f" ({span(snapshot.lag.oldest_s)})"
    recorders = ", ".join(_short(one.name) for one in model.workers if one.answer.get("records") and not one.silent_s)
    recorder = Text(f"recorder {recorders}" if recorders else "")
    parts = [
        (0, Text(f"unknown {snapshot.unknown:,}", style="yellow" if snapshot.unknown else "")),
        (3, Text(age)),
        (1, Text(f"ledger {snapshot.lag.events:,} behind{behind}")),
        (2, recorder if snapshot.lag.recorded else Text("no recorder", "yellow")),
    ]
    return _joined(parts, width)


def _blocks(model: Model, options: DisplayOptions, width: int) -> list[tuple[int, Block]]:
    queues = _queues(model.queues, width)
    workers = _workers(sort(model.workers, options.order), width)
    lanes = [(1, _waiting(model.waiting, width))] if model.waiting else []
    if width < _BESIDE:
        return [
            (0, queues), *lanes, (1, workers), (2, _outcomes(model, width)), (4, _instances(model, width)),
            (3, _dead(model, width)),
        ]  # fmt: skip
    each = min(_WIDEST, (width - 4) // 3)
    parts = [(panel(model, each), each) for panel in (_outcomes, _instances, _dead)]
    return [(0, queues), *lanes, (1, workers), (2, Beside(parts))]


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
        *([Column("", right=False)] if any(one.paused_since for one in queues) else []),
    ]
    bars = _SPARK_WIDE if width >= _WIDE else _SPARK
    rows: list[list[Text | str]] = [
        [
            one.queue.rpartition(":")[2],
            f"{one.ready:,}",
            _arrow(one),
            Text(spark(one.history, bars), style="cyan"),
            f"{one.delayed:,}",
            f"{one.in_flight:,}",
            "–" if one.oldest_s is None else span(one.oldest_s),
            Text(f"{one.dead:,}", style="yellow" if one.dead else ""),
            Text("paused" if one.paused_since else "", style="yellow"),
        ]
        for one in queues
    ]
    return block(columns, rows, width, least=len(rows))


def _waiting(waiting: Sequence[WaitingRow], width: int) -> Block:
    columns = [Column("waits for", right=False, least=10), Column("messages"), Column("why", right=False)]
    rows: list[list[Text | str]] = [[_safe(one.number), f"{one.messages:,}", _obstacle(one)] for one in waiting]
    return block(columns, rows, width, least=min(3, len(rows)))


def _obstacle(one: WaitingRow) -> Text:
    if one.obstacle is None:
        return Text("its turn is next")
    words = _OBSTACLES[one.obstacle]
    reason = f" ({_safe(one.reason)})" if one.reason else ""
    left = "" if one.left_s is None else f", for {span(one.left_s)}"
    return Text(f"{words}{reason}{left}", style="yellow" if one.obstacle in _TROUBLES else "")


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
    made = block(
        columns, [_worker(one) for one in workers], width, least=3, empty=Text("no worker answers", style="yellow")
    )
    for one, row in zip(workers, made.rows, strict=False):
        if one.silent_s:
            row.stylize("dim")
    return made


def _worker(one: WorkerRow) -> list[Text | str]:
    answer = one.answer
    sent = one.per_s.get("sent", 0.0)
    known = one.rate_per_s is not None
    busy, slots = answer.get("busy"), answer.get("slots")
    if one.silent_s:
        state = Text(f"no answer for {span(one.silent_s)}")
    elif slots is None:
        state = Text("no figures: another version?", style="yellow")
    elif answer.get("breaker_open"):
        state = Text("breaker open", style="bold yellow")
    else:
        state = Text("ok")
    return [
        _short(one.name),
        Text(_rate(one.rate_per_s), style="green" if _is_full(one.rate_per_s, one.limit_per_s) else ""),
        "–" if one.limit_per_s is None else _number(one.limit_per_s),
        "–" if slots is None else f"{busy}/{slots}",
        f"{answer.get('waiting', '–')}",
        _rate(sent) if known else "–",
        _rate(sum(one.per_s.values()) - sent) if known else "–",
        span(answer["up_s"]) if answer.get("up_s") else "–",
        _safe(str(answer.get("version", "–"))),
        _bar(one),
        state,
    ]


def _bar(one: WorkerRow) -> Text:
    """The rate as a share of the limit."""
    if one.rate_per_s is None or one.limit_per_s is None:
        return Text()
    filled = min(_BAR, round(_BAR * one.rate_per_s / one.limit_per_s))
    return Text("━" * filled, style="green").append("·" * (_BAR - filled), style="dim")


def _outcomes(model: Model, width: int) -> Block:
    rates, totals = model.per_s, model.totals
    names = [*_OUTCOMES, *sorted({*totals} - {*_OUTCOMES})]
    rows = [[_safe(name.replace("_", " ")), _rate(rates[name]), f"{totals[name]:,}"] for name in names if totals[name]]
    columns = [Column("outcome", right=False, least=6), Column("per s"), Column("so far", rank=1)]
    return block(columns, rows, width, least=3, empty=Text("none yet"))


def _instances(model: Model, width: int) -> Block:
    columns = [Column("instance", right=False, least=10), Column("sent/s"), Column("failed/s", rank=2), Column("")]
    if not any(one.held_by for one in model.instances.values()):
        columns.pop()

    def row(name: str, one: InstanceRow) -> list[Text | str]:
        held = Text(f"held by {one.held_by}" if one.held_by else "", style="yellow")
        return [_safe(name) or "–", _rate(one.sent_per_s), _rate(one.failed_per_s), held]

    rows = [row(*item) for item in model.instances.items()]
    return block(columns, rows, width, least=2, empty=Text("none yet"))


def _dead(model: Model, width: int) -> Block:
    read_all = sum(one.dead for one in model.queues) <= model.reasons.total()
    title = "dead, by reason" if read_all else f"dead, newest {NEWEST_LETTERS:,}"
    rows = [[_safe(reason), f"{count:,}"] for reason, count in model.reasons.most_common()]
    return block([Column(title, right=False, least=8), Column("")], rows, width, least=2, empty=Text("none"))


def _joined(parts: Sequence[tuple[int, Text]], width: int) -> Text:
    """The parts that are not empty, on one line; those of the highest rank are left out until the others fit."""
    kept = [(rank, part) for rank, part in parts if part.plain]
    while sum(part.cell_len + 3 for _, part in kept) - 3 > width and any(rank for rank, _ in kept):
        kept.remove(max(kept, key=lambda one: one[0]))
    return Text("   ").join(part for _, part in kept)


def _clock(at: datetime) -> str:
    return at.astimezone().strftime("%H:%M:%S")  # in the zone of this machine


def _is_full(rate: float | None, limit: float | None) -> bool:
    return rate is not None and limit is not None and rate >= _FULL * limit


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


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _short(name: str) -> str:
    return _safe(name.removeprefix("celery@"))


def _safe(text: str) -> str:
    """A text from outside, without control characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
