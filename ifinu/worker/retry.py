"""How long to wait before another try."""

from __future__ import annotations


def backoff_s(retries: int, *, base_s: float, most_s: float, jitter: float) -> float:
    """
    The wait before a retry: exponential, with full jitter.

    Args:
        retries: How many retries there were before this one; 0 for the first.
        base_s: Longest wait before the first retry; it doubles with each.
        most_s: Longest wait there is.
        jitter: Uniform in [0, 1); the caller draws it, so that a test can choose it.

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
    """
    return float(min(most_s, base_s * 2.0 ** min(retries, 64)) * jitter)
