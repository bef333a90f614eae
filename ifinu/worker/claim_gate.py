"""
Whether Redis lets this worker claim what it sends.

While Redis is away the consumer's own connection is lost as well, and nothing starts. But it may serve that one and
refuse the claims: to a user without the right to a command, or with an error of its own. Then each message would go
back and be taken again, as fast as Redis answers. So the first refusal is said, and what follows waits as it does for a
gateway that is away.
"""

from __future__ import annotations

import structlog

from ifinu import phone
from ifinu.gateway.breaker import Breaker

log = structlog.get_logger(__name__)

_LONGEST_WORDS = 300


class ClaimGate:
    """Of one worker; asked by its consumer, told by its requests."""

    def __init__(self) -> None:
        self._breaker = Breaker(failures_to_open=1)

    @property
    def is_refused(self) -> bool:
        """Whether messages are held back for it."""
        return self._breaker.is_open

    def wait_s(self) -> float:
        """Seconds until a message may start; 0 when one may now."""
        return self._breaker.wait_s()

    def started(self) -> None:
        """A message starts; while claims are refused it is the one that finds out whether they still are."""
        self._breaker.started()

    def refused(self, exc: Exception) -> None:
        """A claim could not be asked for, or what has to wait not put off."""
        if self._breaker.failed():
            words = phone.mask_in(str(exc))[:_LONGEST_WORDS] or "no answer"
            log.error("ifinu.claims.refused", error=f"{type(exc).__name__}: {words}")

    def answered(self) -> None:
        """One was asked for, and answered."""
        if self._breaker.answered():
            log.info("ifinu.claims.back")
