"""The series of payment webhooks; docs/metrics.md lists them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)


class PaymentSeries:
    """The series of payment webhooks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter("ifinu_payment_events", "Events of payment providers, by what became of them.",
                               ("provider", "effect", "state"), registry=registry)  # fmt: skip
        self._refusals = Counter("ifinu_payment_refusals", "Payment webhooks that were refused.",
                                 ("provider", "reason"), registry=registry)  # fmt: skip
        self._answers = Counter("ifinu_payment_requests", "Payment webhooks by our answer.", ("code",),
                                registry=registry)  # fmt: skip
        self._seconds = Histogram("ifinu_payment_seconds", "From a payment webhook to our answer.", buckets=_SECONDS,
                                  registry=registry)  # fmt: skip

    def answered(self, code: int, took_s: float) -> None:
        self._answers.labels(str(code)).inc()
        self._seconds.observe(took_s)

    def event(self, provider: str, effect: str, state: str) -> None:
        self._events.labels(provider, effect, state).inc()

    def refused(self, provider: str, reason: str) -> None:
        """Count a refusal; `provider` is empty for an unknown address."""
        self._refusals.labels(provider, reason).inc()
