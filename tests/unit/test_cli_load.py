from __future__ import annotations

import pytest

from ifinu.cli.load import Drain


def drained(looks: list[tuple[float, int]]) -> Drain:
    drain = Drain()
    for now, left in looks:
        drain.saw(now, left)
    return drain


def falling(start: float, left: int, per_s: int, seconds: float) -> list[tuple[float, int]]:
    """Looks ten times a second at a backlog that shrinks evenly."""
    return [(start + tenth / 10, left - per_s * tenth // 10) for tenth in range(round(seconds * 10) + 1)]


@pytest.mark.parametrize(
    ("looks", "pace_per_s", "fastest_per_s"),
    [
        (falling(0, 1000, 100, 10), 100, 100),
        (falling(0, 300, 100, 3), 100, None),  # shorter than the five seconds of the fastest
        (falling(0, 50, 100, 0.5), None, None),  # too short to say
        ([(0.0, 0)], None, None),  # over before the first look
        # Nothing ran for the first minute: that is no pace.
        ([(0.0, 1000), (60.0, 1000), *falling(60.1, 1000, 100, 10)], 100, 100),
        # A second pod joins after ten seconds.
        (falling(0, 3000, 50, 10) + falling(10.1, 2500, 100, 25), 85.47, 100),
    ],
)
def test_the_pace_is_that_of_the_time_in_which_the_backlog_shrank(
    looks: list[tuple[float, int]], pace_per_s: float | None, fastest_per_s: float | None
):
    drain = drained(looks)
    assert drain.left == 0
    assert drain.pace_per_s == (pace_per_s and pytest.approx(pace_per_s, abs=0.01))
    assert drain.fastest_per_s == (fastest_per_s and pytest.approx(fastest_per_s, rel=0.01))


def test_a_backlog_that_does_not_move_keeps_the_time_of_its_last_move():
    drain = drained([(0.0, 10), (1.0, 8), (50.0, 8)])
    assert (drain.moved_at, drain.left, drain.rate_per_s) == (1.0, 8, 0.0)
