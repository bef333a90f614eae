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
def told() -> list[Dropped]:
    return []


@pytest.fixture
def floods(clock: Clock, told: list[Dropped]) -> Floods:
    """Of two lines a second: twenty in a window, two of them warnings or errors."""
    return Floods(2, told.append, clock)


def test_so_many_lines_of_an_event_pass_in_a_window_and_again_in_the_next(floods: Floods, clock: Clock):
    assert [floods.admits("a", "info") for _ in range(25)] == [True] * 20 + [False] * 5
    clock.now += 9.9
    assert not floods.admits("a", "info")
    clock.now += 0.1
    assert floods.admits("a", "info")


@pytest.mark.parametrize("level", ["warning", "error", "critical"])
def test_of_warnings_and_errors_a_tenth_passes_and_never_none(floods: Floods, level: str):
    assert [floods.admits("a", level) for _ in range(4)] == [True, True, False, False]
    assert Floods(1, print).admits("a", level)


def test_events_levels_and_reasons_have_each_their_own_allowance(floods: Floods):
    lines = [("a", "info", None), ("b", "info", None), ("a", "error", None), ("a", "error", "x"), ("a", "error", "y")]
    for event, level, reason in lines:
        most = 20 if level == "info" else 2
        passed = [floods.admits(event, level, reason) for _ in range(30)]
        assert passed == [True] * most + [False] * (30 - most)


def test_what_was_dropped_is_told_once_with_the_next_line_of_any_event(
    floods: Floods, clock: Clock, told: list[Dropped]
):
    for _ in range(25):
        floods.admits("a", "info")
    for _ in range(7):
        floods.admits("b", "error", "x")
    clock.now += 3600
    assert told == []
    assert floods.admits("c", "info")
    assert told == [Dropped("a", "info", None, 5), Dropped("b", "error", "x", 5)]
    clock.now += 3600
    floods.admits("c", "info")
    floods.flush()
    assert len(told) == 2


def test_a_flush_tells_at_once_and_counts_nothing_twice(floods: Floods, told: list[Dropped]):
    for _ in range(22):
        floods.admits("a", "info")
    floods.flush()
    floods.flush()
    assert told == [Dropped("a", "info", None, 2)]
    assert floods.admits("a", "info")


def test_a_reason_that_is_no_word_is_left_out(floods: Floods, told: list[Dropped]):
    for reason in ([], {}, 3, None):
        for _ in range(10):
            floods.admits("a", "info", reason)
    floods.flush()
    assert told == [Dropped("a", "info", None, 20)]


def test_thousands_of_reasons_take_neither_memory_nor_the_disk(floods: Floods, told: list[Dropped]):
    passed = sum(floods.admits("a", "error", f"reason {number}") for number in range(100_000))
    assert passed == 200 + 2
    assert len(floods._seen) == 201
    floods.flush()
    assert told == [Dropped("(others)", "error", None, 100_000 - 202)]


def test_threads_share_one_allowance_exactly(clock: Clock, told: list[Dropped]):
    floods = Floods(100, told.append, clock)
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
    assert told == [Dropped("a", "info", None, 7000)]


def test_threads_that_meet_at_the_end_of_a_window_report_all_it_once(clock: Clock, told: list[Dropped]):
    floods = Floods(1, told.append, clock)
    for _ in range(50):
        floods.admits("a", "info")
    clock.now += 10
    threads = [threading.Thread(target=floods.admits, args=("b", "info")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [Dropped("a", "info", None, 40)]


def test_who_is_told_may_log(clock: Clock):
    said: list[bool] = []
    floods = Floods(1, lambda dropped: said.append(floods.admits("told", "error")), clock)
    for _ in range(15):
        floods.admits("a", "info")
    clock.now += 10
    assert floods.admits("a", "info")
    assert said == [True]
