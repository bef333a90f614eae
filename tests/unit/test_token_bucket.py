from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifinu.worker.token_bucket import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drain(bucket: TokenBucket) -> int:
    taken = 0
    while bucket.take("tag"):
        bucket.goes("tag")
        taken += 1
    return taken


@pytest.mark.parametrize(
    ("level", "burst", "at_once"),
    [(1.0, 5, 1), (0.0, 5, 0), (5.0, 5, 5), (9.0, 5, 5), (0.99, 5, 0)],  # never above its capacity
)
def test_a_bucket_starts_with_its_level(level: float, burst: int, at_once: int):
    assert drain(TokenBucket(50, burst, level=level, clock=Clock())) == at_once


@pytest.mark.parametrize(
    ("idle_s", "at_once"),
    [(0.01, 1), (0.02, 2), (0.04, 3), (0.06, 4), (0.1, 5), (3600.0, 5)],  # at 50/s, with one token in the bucket
)
def test_a_pause_earns_tokens_up_to_the_burst_and_no_credit_beyond(idle_s: float, at_once: int):
    clock = Clock()
    bucket = TokenBucket(50, 5, clock=clock)
    clock.now += idle_s
    assert drain(bucket) == at_once


@pytest.mark.parametrize(
    ("rate", "level", "wait_s"), [(50.0, 0.0, 0.02), (50.0, 0.5, 0.01), (50.0, 1.0, 0.0), (1 / 60, 0.0, 60.0)]
)
def test_the_wait_is_the_time_to_the_next_token(rate: float, level: float, wait_s: float):
    assert TokenBucket(rate, 3, level=level, clock=Clock()).wait_s() == pytest.approx(wait_s)


@pytest.mark.parametrize("rate", [5.0, 50.0, 100.0, 3000 / 60, 100 / 3600])
def test_a_timer_set_by_the_wait_gives_the_exact_average(rate: float):
    clock = Clock()
    bucket = TokenBucket(rate, 3, clock=clock)
    taken = 0
    while taken < 1000:
        if bucket.take("tag"):
            bucket.goes("tag")
            taken += 1
        else:
            clock.now += bucket.wait_s() + 1e-9
    assert (taken - 1) / clock.now == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(("waiting", "wait_s"), [(1, 0.02), (2, 0.04), (3, 0.06), (50, 0.06)])
def test_one_wake_up_is_for_as_many_messages_as_wait_up_to_the_burst(waiting: int, wait_s: float):
    bucket = TokenBucket(50, 3, level=0.0, clock=Clock())
    bucket.contents.extend(range(waiting))
    assert bucket.wait_s() == pytest.approx(wait_s)


@pytest.mark.parametrize(("late_s", "least_per_s"), [(1e-6, 49.9), (0.02, 49.9), (0.04, 49.9), (0.1, 47), (0.3, 40)])
def test_late_wake_ups_cost_hardly_any_pace_while_messages_wait(late_s: float, least_per_s: float):
    """
    Each wake-up comes `late_s` after its tokens, and no second exceeds its limit.
    """
    clock = Clock()
    bucket = TokenBucket(50, 3, clock=clock)
    bucket.contents.extend(range(100))
    drain(bucket)
    taken: list[float] = []
    while clock.now < 100:
        clock.now += bucket.wait_s() + late_s
        taken += [clock.now] * drain(bucket)
    assert least_per_s <= len(taken) / clock.now <= 50.1
    assert all(later - earlier >= 1 - 1e-9 for earlier, later in zip(taken, taken[53:], strict=False))


def test_a_wake_up_more_than_a_second_late_catches_up_a_second_at_most():
    clock = Clock()
    bucket = TokenBucket(50, 3, clock=clock)
    bucket.contents.extend(range(100))
    drain(bucket)
    bucket.wait_s()
    clock.now += 3600
    assert drain(bucket) == 53
    assert drain(bucket) == 0


@pytest.mark.parametrize("pause", [TokenBucket.pause, TokenBucket.clear_pending])
def test_no_tokens_are_kept_while_something_else_is_waited_for(pause):
    """
    A slot or the gateway: what was not sent in that time is not caught up.
    """
    clock = Clock()
    bucket = TokenBucket(50, 3, clock=clock)
    bucket.contents.extend(range(100))
    drain(bucket)
    bucket.wait_s()
    clock.now += 0.5
    pause(bucket)
    clock.now += 0.5
    assert drain(bucket) == 3


def test_no_tokens_are_kept_once_no_message_waits():
    clock = Clock()
    bucket = TokenBucket(50, 3, clock=clock)
    bucket.contents.append("a")
    drain(bucket)
    bucket.wait_s()
    bucket.contents.clear()
    clock.now += 10
    assert drain(bucket) == 3


def test_a_token_that_is_put_back_is_taken_again():
    bucket = TokenBucket(50, 3, level=3, clock=Clock())
    assert drain(bucket) == 3
    bucket.put_back()
    assert drain(bucket) == 1


def test_messages_that_have_not_gone_count_as_ones_that_go_now():
    """
    The process stands still after 53 have started: when they go at last, no other may go in the same second.
    """
    clock = Clock()
    bucket = TokenBucket(50, 3, clock=clock)
    bucket.contents.extend(range(1000))
    started: list[str] = []
    while len(started) < 53:
        clock.now += bucket.wait_s()
        if bucket.take(tag := f"n{len(started)}"):
            started.append(tag)
    clock.now += 5
    assert not bucket.take("one more")
    for tag in started[1:]:
        bucket.goes(tag)
    bucket.ended(started[0])
    assert drain(bucket) == 1
    clock.now += 0.99
    assert drain(bucket) == 0
    clock.now += 0.02
    assert drain(bucket) > 0


def test_a_new_rate_goes_on_after_what_the_old_one_let_go():
    clock = Clock()
    old = TokenBucket(50, 3, level=3, clock=clock)
    old.contents.extend(range(10))
    assert drain(old) == 3
    assert not old.take("tag")
    new = TokenBucket(1, 3, clock=clock)
    new.follow(old)
    assert (list(new.contents), list(old.contents)) == (list(range(10)), [])
    assert drain(new) == 0
    clock.now += 1.01
    assert drain(new) == 1


@given(
    rate=st.floats(0.5, 500),
    burst=st.integers(1, 50),
    level=st.floats(0, 100),
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 80)), min_size=1, max_size=60),
)
def test_no_window_of_any_width_has_more_than_its_rate_and_the_burst(
    rate: float, burst: int, level: float, steps: list[tuple[float, int]]
):
    clock = Clock()
    bucket = TokenBucket(rate, burst, level=level, clock=clock)
    taken: list[float] = []
    for pause_s, tries in steps:
        clock.now += pause_s
        for _ in range(tries):
            if bucket.take("tag"):
                bucket.goes("tag")
                taken.append(clock.now)
    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            width_s = taken[last] - start
            assert last - first + 1 <= rate * width_s + burst + 1e-6


def test_forgetting_waiting_tasks_keeps_the_level():
    clock = Clock()
    bucket = TokenBucket(50, 3, clock=clock)
    bucket.contents.extend(["a", "b"])
    assert bucket.take("a")
    bucket.clear_pending()
    assert not bucket.contents
    assert not bucket.take("b")
