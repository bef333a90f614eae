from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifinu.worker.retry import backoff_s


@pytest.mark.parametrize(
    ("retries", "jitter", "wait_s"),
    [
        (0, 1.0, 5.0),
        (1, 1.0, 10.0),
        (2, 1.0, 20.0),
        (3, 0.5, 20.0),
        (0, 0.0, 0.0),
        (6, 1.0, 320.0),
        (7, 1.0, 600.0),  # the cap, and from here on
        (7, 0.25, 150.0),
        (10_000, 1.0, 600.0),
    ],
)
def test_the_wait_doubles_up_to_the_cap_and_is_spread_from_nothing(retries: int, jitter: float, wait_s: float):
    assert backoff_s(retries, base_s=5.0, most_s=600.0, jitter=jitter) == wait_s


@given(st.integers(0, 10**6), st.floats(0.001, 1e4), st.floats(0.001, 1e6), st.floats(0, 1, exclude_max=True))
def test_no_wait_is_negative_or_above_the_cap(retries: int, base_s: float, most_s: float, jitter: float):
    assert 0 <= backoff_s(retries, base_s=base_s, most_s=most_s, jitter=jitter) <= most_s
