import functools
import itertools
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry
from rich.cells import cell_len
from rich.text import Text

from ifinu.broker.backlog import Backlog
from ifinu.broker.claims import ClaimState
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import LOW, NORMAL, URGENT
from ifinu.broker.leases import Settled, Tally
from ifinu.broker.obstacles import Obstacle
from ifinu.broker.redis_state import RecorderLag, RedisState
from ifinu.cli.top import frame as frames
from ifinu.cli.top import layout
from ifinu.cli.top.bottlenecks import WaitingRow
from ifinu.cli.top.frame import DisplayOptions, frame
from ifinu.cli.top.model import Order, WorkerRow, sort
from ifinu.cli.top.rates import Observation, RateHistory, instances, pace, rates
from ifinu.errors import Reason, Refused
from ifinu.metrics.worker_series import Now, WorkerSeries

AT = datetime(2026, 11, 25, 14, 2, 11, tzinfo=UTC)
OPTIONS = DisplayOptions(server="redis:6379/0", every_s=2.0)


def answer(up_s, *, pid=1, sent=0, dead=0, **others):
    """The answer of a worker, `up_s` after its start."""
    return {
        "version": "0.1.0", "pid": pid, "up_s": up_s, "limit_per_s": 50.0, "waiting": 3, "slots": 10, "busy": 4,
        "breaker_open": False, "ended": {"sent": sent, "dead": dead}, "retried": 0, "deferred": 0, "in_doubt": 0,
        "answers": {"sent": sent, "send_failed": dead},
        "instances": {"loja": {"sent": sent, "failed": dead, "held": False}}, "records": False, **others,
    }  # fmt: skip


def found(ready=0, *, dead=(), oldest_s=None, paused=None, **others):
    queues = [Backlog(URGENT, 0, 0, None, 0, 0, None), Backlog(NORMAL, ready, 7, 3.0, 9, len(dead), paused)]
    queues.append(Backlog(LOW, 0, 0, None, 0, 0, None))
    given = {
        "queues": queues, "tails": {}, "oldest_s": {NORMAL: oldest_s}, "dead": {NORMAL: Counter(dead)}, "unknown": 0,
        "unknown_oldest_s": None, "lag": RecorderLag(0, None, recorded=True),
    }  # fmt: skip
    return RedisState(**{**given, **others})


def model_of(*observations, every_s=2.0):
    """The figures after these observations: (when in seconds, state of Redis, answers by name)."""
    history = RateHistory(every_s)
    for at_s, snapshot, answers in observations:
        by_who = None if answers is None else {(name, one.get("pid", 0)): one for name, one in answers.items()}
        last = history.add(Observation(AT, at_s, snapshot, by_who, "" if snapshot else "Redis cannot be reached"))
    return last


def text(lines):
    return [line.plain.rstrip() for line in lines]


# -- rates


@pytest.mark.parametrize(
    ("before", "after", "per_s"),
    [
        (answer(10.0, sent=100), answer(12.0, sent=200), {"sent": 50.0}),
        (answer(10.0, sent=100, dead=1), answer(14.0, sent=100, dead=3), {"dead": 0.5}),
        (answer(10.0), answer(12.0, retried=4, deferred=2, in_doubt=1), {"retried": 2, "deferred": 1, "in_doubt": 0.5}),
        (answer(10.0, sent=100), answer(12.0, sent=100), {}),
        (answer(10.0, sent=100), answer(1.0, pid=2, sent=20), None),  # started again
        (answer(10.0, sent=100), answer(9.0, sent=200), None),
        (answer(10.0), answer(10.0), None),
        ({}, answer(10.0, sent=100), None),
    ],
)
def test_a_rate_is_what_grew_by_the_workers_own_clock(before, after, per_s):
    assert rates(before, after) == per_s


def test_the_pace_counts_what_went_to_the_gateway_and_nothing_else():
    before = answer(10.0, sent=100, deferred=0, ended={"duplicate": 0, "sent": 100})
    after = answer(12.0, sent=190, dead=10, deferred=500, ended={"duplicate": 900, "sent": 190})
    assert pace(before, after) == 50.0
    assert pace({}, after) is None


def test_the_networks_delays_make_no_difference():
    late = model_of((0, found(), {"a": answer(10, sent=0)}), (9, found(), {"a": answer(12, sent=100)}))
    assert late.rate_per_s == 50.0


def test_instances_have_rates_and_what_is_held():
    before = answer(10.0, instances={"a": {"sent": 10, "failed": 0, "held": False}})
    after = answer(12.0, instances={"a": {"sent": 20, "failed": 1, "held": False}, "b": {"sent": 2, "held": True}})
    seen = instances(before, after)
    assert (seen["a"].sent_per_s, seen["a"].failed_per_s, seen["a"].held_by) == (5.0, 0.5, 0)
    assert (seen["b"].sent_per_s, seen["b"].held_by) == (1.0, 1)


def test_workers_add_up():
    before = {"a": answer(1, pid=1), "b": answer(5, pid=2)}
    after = {"a": answer(3, pid=1, sent=98, dead=2), "b": answer(7, pid=2, sent=90, breaker_open=True)}
    now = model_of((0, found(1000), before), (2, found(810), after))
    assert (now.rate_per_s, now.limit_per_s) == (95.0, 100.0)
    assert dict(now.per_s) == {"sent": 94.0, "dead": 1.0}
    assert now.totals == {"sent": 188, "dead": 2}
    assert (now.instances["loja"].sent_per_s, now.instances["loja"].failed_per_s) == (94.0, 1.0)
    assert json.loads(json.dumps(now.as_json()))["workers"][1]["breaker_open"] is True


def test_a_worker_without_a_limit_has_none():
    now = model_of((0, found(), {"a": answer(1, limit_per_s=None)}), (2, found(), {"a": answer(3, limit_per_s=None)}))
    assert now.limit_per_s == float("inf")
    assert now.as_json()["limit_per_s"] is None
    assert "0.0/s of no limit" in frame(now, OPTIONS, 80, 24)[1].plain


# -- the backlog's way


@pytest.mark.parametrize(
    ("ready", "trend", "drains_in_s", "says"),
    [
        ((1000, 800), -100.0, 8.0, "empty in 8.0 s"),
        ((800, 1000), 100.0, None, "grows 100.0/s"),
        ((500, 500), 0.0, None, "steady"),
        ((500,), None, None, "backlog 500"),
        ((500, 0), -250.0, 0.0, "backlog 0"),
    ],
)
def test_a_backlog_shows_when_it_will_be_empty(ready, trend, drains_in_s, says):
    now = model_of(*((2 * number, found(count), {}) for number, count in enumerate(ready)))
    assert (now.trend_per_s, now.drains_in_s) == (trend, drains_in_s)
    assert frame(now, OPTIONS, 120, 24)[1].plain.endswith(("workers", says))
    assert says in frame(now, OPTIONS, 120, 24)[1].plain


def test_a_trend_forgets_what_was_long_ago():
    now = model_of((0, found(9000), {}), (100, found(500), {}), (110, found(400), {}))
    assert now.trend_per_s == -10.0
    assert now.queues[1].history == [9000, 500, 400]
    later = model_of((0, found(9000), {}), (400, found(500), {}))
    assert later.queues[1].history == [500]


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ((), 4, ""),
        ((0, 0), 4, ""),
        ((1,), 4, "▅"),
        ((0, 10), 4, "▁█"),
        ((0, 0, 10, 10), 2, "▁█"),
        (range(8), 8, "▁▂▃▄▅▆▇█"),
        (range(800), 8, "▁▂▃▄▅▆▇█"),
    ],
)
def test_a_curve(values, width, drawn):
    assert frames.spark(tuple(values), width) == drawn


# -- workers that are not there


def looks_without_b(*times):
    both = {"a": answer(1, pid=1), "b": answer(1, pid=2)}
    return [(0, found(), both), *((at, found(), {"a": answer(1 + at, pid=1)}) for at in times)]


def test_a_worker_that_does_not_answer_is_shown_as_such_and_then_dropped():
    missed_one = model_of(*looks_without_b(2))
    assert [one.silent_s for one in missed_one.workers] == [0, 0]
    silent = model_of(*looks_without_b(2, 4, 6, 8))
    assert [(one.name, one.silent_s) for one in silent.workers] == [("a", 0), ("b", 8)]
    assert silent.limit_per_s == 50.0
    lines = frame(silent, OPTIONS, 80, 24)
    (row,) = [line for line in lines if line.plain.startswith("b ")]
    assert row.plain.rstrip().endswith("no answer for 8.0 s")
    assert any(span.style == "dim" and (span.start, span.end) == (0, len(row)) for span in row.spans)
    assert "1 silent" in lines[1].plain
    gone = model_of(*looks_without_b(2, 31))
    assert [one.name for one in gone.workers] == ["a"]


def test_a_worker_that_started_again_is_one_worker():
    now = model_of((0, found(), {"a": answer(100, pid=1, sent=900)}), (2, found(), {"a": answer(1, pid=2, sent=20)}))
    assert [(one.pid, one.rate_per_s) for one in now.workers] == [(2, None)]


def test_two_workers_of_one_name_are_two():
    history = RateHistory(2.0)
    for at_s in (0, 2):
        answers = {("a", pid): answer(1 + at_s, pid=pid, sent=50 * at_s) for pid in (1, 2)}
        now = history.add(Observation(AT, at_s, found(), answers))
    assert [(one.name, one.pid, one.rate_per_s) for one in now.workers] == [("a", 1, 50.0), ("a", 2, 50.0)]


def test_a_worker_that_does_not_know_the_question_is_shown():
    lines = frame(model_of((0, found(), {"old": {"error": "No such command"}})), OPTIONS, 80, 24)
    assert any(line.startswith("old") and line.endswith("no figures: another version?") for line in text(lines))


def test_redis_away_is_said_and_what_was_known_stays():
    now = model_of((0, found(300), {"a": answer(1)}), (2, None, None), (9, None, None))
    lines = text(frame(now, OPTIONS, 80, 24))
    assert lines[1] == "Redis cannot be reached, since 9.0 s; trying again"
    assert any(line.startswith("whatsapp    300") for line in lines)
    back = model_of((0, None, None), (2, found(300), {"a": answer(1)}))
    assert (back.error, back.error_s) == ("", 0)


# -- order


@pytest.mark.parametrize(
    ("order", "names"), [(Order.NAME, "abc"), (Order.RATE, "bca"), (Order.BUSY, "cab")]
)  # fmt: skip
def test_workers_are_sorted(order, names):
    workers = [
        WorkerRow("b", 1, 50.0, answer={"busy": 1}), WorkerRow("a", 2, None, answer={"busy": 2}),
        WorkerRow("c", 3, 9.0, answer={"busy": 9}),
    ]  # fmt: skip
    assert "".join(one.name for one in sort(workers, order)) == names


def test_every_order_has_its_turn():
    assert [Order.NAME.after(), Order.RATE.after(), Order.BUSY.after()] == [Order.RATE, Order.BUSY, Order.NAME]


# -- fitting


@functools.cache
def busy_model(workers=20):
    """With long names, wide characters, many of everything."""
    names = [f"celery@ifinu-worker-6f7d9c5b8-x{number:02}-日本" for number in range(workers)]
    many = {f"instância-número-{number}": {"sent": number, "failed": 1, "held": number % 2} for number in range(40)}
    looks = []
    for at in (0, 2, 4, 6, 8):
        answers = {
            name: answer(100 + at, pid=1 + number, sent=50 * at, dead=at, instances=many, records=number == 0)
            for number, name in enumerate(names)
            if number != 3 or at == 0
        }
        dead = [f"reason_that_is_rather_long_{number}" for number in range(40)]
        looks.append((at, found(123_456 - at, dead=dead, oldest_s=98_765.0, paused="2026", unknown=3,
                                unknown_oldest_s=99.0, lag=RecorderLag(12, 3.0, recorded=True)), answers))  # fmt: skip
    return model_of(*looks)


SIZES = [(80, 24), (40, 10), (200, 60), (1, 1), (10, 3), (71, 24), (72, 24), (100, 30), (500, 200), (25, 100)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("workers", [0, 1, 20])
@pytest.mark.parametrize("changes", [{}, {"help": True}, {"paused": True}, {"late_s": 1234.5}])
def test_a_frame_fits_its_terminal(width, height, workers, changes):
    options = DisplayOptions(server="a-server-with-a-name.example.org:6379/0", every_s=2.0, **changes)
    for model in (busy_model(workers), None):
        lines = frame(model, options, width, height)
        assert len(lines) <= height
        assert max(cell_len(line.plain) for line in lines) <= width
        assert not any("\n" in line.plain for line in lines)


def test_a_common_terminal_shows_all_panels():
    lines = text(frame(busy_model(), OPTIONS, 80, 24))
    assert len(lines) == 24
    shown = "\n".join(lines)
    for title in ("queue", "worker", "outcome", "instance", "dead, by reason"):
        assert title in shown
    assert "\nand 8 more\n" in shown  # workers
    assert lines[1].startswith("969.0/s of 950/s   backlog 123,448   empty in")


def test_the_help_is_whole_on_a_common_terminal():
    lines = text(frame(None, DisplayOptions(server="redis:6379/0", every_s=2.0, help=True), 80, 24))
    assert not any(line.endswith("…") for line in lines)
    assert lines[-1].startswith("ledger ")


def test_a_tiny_terminal_shows_what_matters_most():
    lines = text(frame(busy_model(2), OPTIONS, 40, 10))
    first = ["ifinu", "102.0/s", "unknown", "queue", "urgente", "whatsapp", "baixa", "worker"]
    assert [line.split()[0] for line in lines[:8]] == first
    assert [line[0] for line in lines[8:]] == ["…", "…"]
    assert all(line.endswith("51.0  4/10  ok") for line in lines[8:])


def test_a_wide_terminal_shows_more():
    narrow, wide = (frame(busy_model(3), OPTIONS, width, 60) for width in (80, 200))
    for title in ("version", "last 5 min", "failed/s"):
        assert not any(title in line.plain for line in narrow)
        assert any(title in line.plain for line in wide)


def test_columns_are_left_out_by_rank_and_names_keep_their_end():
    columns = [layout.Column("name", right=False, least=6), layout.Column("figure"), layout.Column("more", rank=1)]
    title, rows = layout.table(columns, [["celery@pod-1", "12", "345"], ["b", "1", "2"]], 20)
    assert text([title, *rows]) == ["name    figure  more", "…pod-1      12   345", "b            1     2"]
    title, rows = layout.table(columns, [["celery@pod-1", "12", "345"]], 17)
    assert text([title, *rows]) == ["name       figure", "…ry@pod-1      12"]


def test_rows_that_do_not_fit_are_counted():
    block = layout.Block(Text("title"), [Text(str(number)) for number in range(9)])
    assert text(block.lines(4)) == ["title", "0", "1", "and 7 more"]
    assert text(block.lines(10)) == ["title", *map(str, range(9))]


def test_blocks_are_left_out_by_rank():
    blocks = [(rank, layout.Block(Text(f"t{rank}"), [Text(f"r{rank}")] * 5, least=2)) for rank in (0, 2, 1)]
    assert text(layout.stack(blocks, 3)) == ["t0", "r0", "and 4 more"]
    assert text(layout.stack(blocks, 6)) == ["t0", "r0", "and 4 more", "t1", "r1", "and 4 more"]
    assert text(layout.stack(blocks, 7)) == ["t0", "r0", "r0", "and 3 more", "t1", "r1", "and 4 more"]
    assert layout.stack(blocks, 2) == []
    assert len(layout.stack(blocks, 100)) == 3 * 6 + 2  # a line between them where there is room


def test_a_terminal_without_unicode_gets_ascii():
    for line in frame(busy_model(3), OPTIONS, 200, 60):
        drawn = frames.in_ascii(line.plain)
        assert drawn.isascii()
        assert len(drawn) == len(line.plain)


def test_text_from_outside_cannot_control_the_terminal():
    evil = {"x\x1b[2J\n[red]y": answer(1, instances={"i\x07": {"sent": 1}}), "z": {"pid": 3, "error": "\x1b"}}
    now = model_of((0, found(1, dead=["r\x1b]0;x\x07"]), evil))
    for width, height in itertools.product((40, 80, 200), (10, 60)):
        for line in frame(now, OPTIONS, width, height):
            assert line.plain.isprintable()


# -- what a worker answers


def sent_from(instance):
    data = {"kind": "lembrete", "instance": instance, "confirmed": True}
    return Settled(ClaimState.SENT, Event(Name.SENT, "n1", data), took_s=0.1)


def test_a_snapshot_is_what_the_metrics_say():
    registry = CollectorRegistry()
    sending = WorkerSeries(registry)
    tally = Tally(reaped=2, lost=1)
    tally.buried.update(
        {("lembrete", "dead", "invalid"): 3, ("", "dead", "not_json"): 1, ("lembrete", "unknown", "u"): 1}
    )
    sending.look = lambda: Now(50.0, waiting=4, slots=10, busy=2, breaker_open=True, owed=1, tally=tally)
    for _ in range(5):
        sending.settled(sent_from("5511987654321"), accepted_at=None, started_at=None)
    refused = Refused("no", instance="loja", reason=Reason.SEND_FAILED)
    refused.took_s = 0.1
    sending.failed(refused, retried=True)
    snapshot = sending.snapshot()
    assert snapshot.pop("up_s") >= 0
    assert snapshot == {
        "limit_per_s": 50.0, "waiting": 4, "slots": 10, "busy": 2, "breaker_open": True, "owed": 1, "reaped": 2,
        "lost": 1, "ended": {"sent": 5, "dead": 4, "held": 1}, "retried": 1, "deferred": 0, "in_doubt": 0,
        "answers": {"sent": 5, "send_failed": 1},
        "instances": {
            "+55 11 9****-4321": {"sent": 5, "failed": 0, "held": False},
            "loja": {"sent": 0, "failed": 1, "held": False},
        },
    }  # fmt: skip


def test_a_snapshot_is_small_and_can_be_written_whatever_happens():
    sending = WorkerSeries(CollectorRegistry())
    sending.look = lambda: Now(float("inf"))
    for number in range(5_000):
        sending.settled(sent_from(f"loja-{number}"), accepted_at=None, started_at=None)
    snapshot = sending.snapshot()
    assert snapshot["limit_per_s"] is None
    assert snapshot["instances"]["other"]["sent"] == 4_900
    assert len(json.dumps(snapshot, allow_nan=False)) < 10_000


# -- lanes


def test_a_number_is_shown_with_its_obstacle_and_the_time_that_is_left():
    rows = [
        WaitingRow("acme\x1b", 1_200, Obstacle.DAY, "", 7_200.0),
        WaitingRow("loja", 3, Obstacle.HELD, "desconectado", None),
        WaitingRow("vendas", 1, None, "", None),
    ]
    state = found(5)
    urgent, normal, low = state.queues
    state = replace(state, queues=[urgent, replace(normal, in_lanes=1_204), replace(low, in_lanes=0)])
    history = RateHistory(2.0)
    model = history.add(Observation(AT, 0.0, state, {}, "", rows))
    for width in (60, 100, 200):
        lines = text(frame(model, OPTIONS, width, 60))
        shown = [" ".join(line.split()) for line in lines]
        assert "waits for messages why" in shown
        assert "acme\ufffd 1,200 cap of the day, for 2 h 0 min" in shown
        assert "loja 3 held (desconectado)" in shown
        assert "vendas 1 its turn is next" in shown
        assert "in lanes 1,204" in lines[1]
    away = history.add(Observation(AT, 2.0, None, None, "Redis cannot be reached"))
    assert away.as_json()["numbers_waited_for"][1]["messages"] == 3  # as of its last answer
