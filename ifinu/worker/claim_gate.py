"""
The claim gate: no message starts while Redis refuses claims.

While Redis is away the consumer's connection is lost too, and nothing starts. But Redis may serve that connection and
refuse the claims: its user lacks the right to a command, or Redis has an internal error. Then each message would go
back and be fetched again as fast as Redis answers. So the first refusal is logged, and later messages wait as they do
for a gateway that is away.
"""

from __future__ import annotations

import structlog

from ifinu import phone
from ifinu.gateway.breaker import Breaker

log = structlog.get_logger(__name__)

_LONGEST_WORDS = 300


class ClaimGate:
    """The gate of one worker. Its consumer asks it, and its requests report to it."""

    def __init__(self) -> None:
        self._breaker = Breaker(failures_to_open=1)

    @property
    def is_refused(self) -> bool:
        """Whether messages wait because Redis refuses claims."""
        return self._breaker.is_open

    def wait_s(self) -> float:
        """Seconds until a message may start; 0 when one may now."""
        return self._breaker.wait_s()

    def started(self) -> None:
        """A message starts; while claims are refused it is the probe."""
        self._breaker.started()

    def refused(self, exc: Exception) -> None:
        """Redis refused a claim, or refused to delay a message."""
        if self._breaker.failed():
            words = phone.mask_in(str(exc))[:_LONGEST_WORDS] or "no answer"
            log.error("ifinu.claims.refused", error=f"{type(exc).__name__}: {words}")

    def answered(self) -> None:
        """Redis answered a claim."""
        if self._breaker.answered():
            log.info("ifinu.claims.back")
