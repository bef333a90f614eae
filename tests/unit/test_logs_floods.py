from __future__ import annotations

import threading

import pytest

from ifinu.logs.floods import Dropped, Floods


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reports() -> list[Dropped]:
    return []


@pytest.fixture
def floods(clock: Clock, reports: list[Dropped]) -> Floods:
    """Two lines a second: twenty in a window, and two for warnings or errors."""
    return Floods(2, reports.append, clock)


def test_each_window_admits_the_limit_of_lines_of_an_event(floods: Floods, clock: Clock):
    assert [floods.admits("a", "info") for _ in range(25)] == [True] * 20 + [False] * 5
    clock.now += 9.9
    assert not floods.admits("a", "info")
    clock.now += 0.1
    assert floods.admits("a", "info")


@pytest.mark.parametrize("level", ["warning", "error", "critical"])
def test_warnings_and_errors_get_a_tenth_of_the_limit_and_at_least_one(floods: Floods, level: str):
    assert [floods.admits("a", level) for _ in range(4)] == [True, True, False, False]
    assert Floods(1, print).admits("a", level)


def test_each_event_level_and_reason_has_a_separate_allowance(floods: Floods):
    lines = [("a", "info", None), ("b", "info", None), ("a", "error", None), ("a", "error", "x"), ("a", "error", "y")]
    for event, level, reason in lines:
        most = 20 if level == "info" else 2
        passed = [floods.admits(event, level, reason) for _ in range(30)]
        assert passed == [True] * most + [False] * (30 - most)


def test_dropped_lines_are_reported_once_with_the_next_line_of_any_event(
    floods: Floods, clock: Clock, reports: list[Dropped]
):
    for _ in range(25):
        floods.admits("a", "info")
    for _ in range(7):
        floods.admits("b", "error", "x")
    clock.now += 3600
    assert reports == []
    assert floods.admits("c", "info")
    assert reports == [Dropped("a", "info", None, 5), Dropped("b", "error", "x", 5)]
    clock.now += 3600
    floods.admits("c", "info")
    floods.flush()
    assert len(reports) == 2


def test_a_flush_reports_at_once_and_counts_nothing_twice(floods: Floods, reports: list[Dropped]):
    for _ in range(22):
        floods.admits("a", "info")
    floods.flush()
    floods.flush()
    assert reports == [Dropped("a", "info", None, 2)]
    assert floods.admits("a", "info")


def test_a_reason_that_is_not_a_string_is_left_out(floods: Floods, reports: list[Dropped]):
    for reason in ([], {}, 3, None):
        for _ in range(10):
            floods.admits("a", "info", reason)
    floods.flush()
    assert reports == [Dropped("a", "info", None, 20)]


def test_thousands_of_reasons_fill_neither_memory_nor_the_disk(floods: Floods, reports: list[Dropped]):
    passed = sum(floods.admits("a", "error", f"reason {number}") for number in range(100_000))
    assert passed == 200 + 2
    assert len(floods._seen) == 201
    floods.flush()
    assert reports == [Dropped("(others)", "error", None, 100_000 - 202)]


def test_threads_share_one_allowance_exactly(clock: Clock, reports: list[Dropped]):
    floods = Floods(100, reports.append, clock)
    passed: list[int] = []

    def write() -> None:
        passed.append(sum(floods.admits("a", "info") for _ in range(1000)))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 1000
    floods.flush()
    assert reports == [Dropped("a", "info", None, 7000)]


def test_threads_at_the_end_of_a_window_report_all_of_it_once(clock: Clock, reports: list[Dropped]):
    floods = Floods(1, reports.append, clock)
    for _ in range(50):
        floods.admits("a", "info")
    clock.now += 10
    threads = [threading.Thread(target=floods.admits, args=("b", "info")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reports == [Dropped("a", "info", None, 40)]


def test_the_report_callback_may_log(clock: Clock):
    said: list[bool] = []
    floods = Floods(1, lambda dropped: said.append(floods.admits("dropped", "error")), clock)
    for _ in range(15):
        floods.admits("a", "info")
    clock.now += 10
    assert floods.admits("a", "info")
    assert said == [True]
