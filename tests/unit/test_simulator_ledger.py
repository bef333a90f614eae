import json

import pytest

from ifinu.simulator.send_ledger import Ledger, duplicates, mean_rate, worst_window


@pytest.mark.parametrize(
    ("times", "worst"),
    [
        ([], 0),
        ([5.0], 1),
        ([0.0, 0.5, 0.999], 3),
        ([0.0, 0.5, 1.0], 2),  # open on the right: exactly a second later is another window
        ([0.0, 0.9, 1.0, 1.1, 1.2, 3.0], 4),
        ([0.0, 0.0, 0.0], 3),
    ],
)
def test_the_worst_window_slides(times, worst):
    assert worst_window(times) == worst


@pytest.mark.parametrize(
    ("times", "rate"), [([], None), ([1.0], None), ([1.0, 1.0], None), ([0.0, 0.5, 1.0, 2.0], 1.5)]
)
def test_the_mean_rate_counts_gaps(times, rate):
    assert mean_rate(times) == rate


def test_the_same_text_to_the_same_number_is_a_duplicate():
    ledger = Ledger()
    for instance, number, text in [("a", "1", "x"), ("b", "1", "x"), ("a", "1", "y"), ("a", "2", "x")]:
        ledger.sent(ledger.begins(instance), number, text, "3EB0", "ok")
    assert duplicates(ledger.sends()) == {("1", "x"): 2}
    sends = ledger.summary()["sends"]
    assert (sends["total"], sends["distinct"], sends["duplicates"]) == (4, 3, 1)


def test_arrivals_are_grouped_by_worker():
    ledger = Ledger()
    for worker in ("a", "b", "a"):
        ledger.arrived(worker)
    summary = ledger.summary()
    assert summary["posts"]["total"] == 3
    assert {worker: figures["total"] for worker, figures in summary["clients"].items()} == {"a": 2, "b": 1}


def test_the_peak_in_flight_is_per_instance():
    ledger = Ledger()
    ledger.begins("a")
    ledger.finishes(ledger.begins("a"))
    ledger.begins("b")
    ledger.begins("a")
    assert ledger.summary()["peak_in_flight"] == {"a": 2, "b": 1}


def test_each_send_is_in_the_file_before_the_next(tmp_path):
    file = tmp_path / "ledger.jsonl"
    ledger = Ledger(file)
    ledger.sent(ledger.begins("ifinu"), "5511987654321", "Olá, Conceição", "3EB0A", "ok")
    (line,) = file.read_text(encoding="utf-8").splitlines()
    ledger.close()
    row = json.loads(line)
    assert row["text"] == "Olá, Conceição"
    assert set(row) == {
        "at_monotonic",
        "at",
        "instance",
        "number",
        "text",
        "key_id",
        "outcome",
        "begun_monotonic",
        "ended_monotonic",
    }


def test_a_reset_forgets():
    ledger = Ledger()
    ledger.arrived("a")
    ledger.ended("ok")
    ledger.sent(ledger.begins("ifinu"), "1", "x", "3EB0", "ok")
    ledger.reset()
    assert len(ledger) == 0
    assert ledger.summary()["posts"] == {
        "total": 0,
        "worst_window": 0,
        "mean_per_s": None,
        "first_at": None,
        "last_at": None,
        "by_outcome": {},
    }
