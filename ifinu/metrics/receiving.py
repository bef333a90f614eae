"""
What the webhook application counts.

    ifinu_webhook_requests_total{code}      by the answer's status
    ifinu_webhook_seconds                   until it was durable and answered
    ifinu_receipts_total{state}             server_ack | delivered | read | failed; those that come twice too
    ifinu_connection_changes_total{state}   of instances
    ifinu_opt_outs_total                    persons who asked for no more messages
    ifinu_opt_outs_unresolved_total         those whose phone the gateway does not tell: somebody has to see to them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ifinu.metrics.labels import Bounded

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_STATES = 20


class Receiving(Collector):
    """
    The webhook application's series.

    Args:
        registry: Where they are registered.
        opt_outs: Tells how many were taken, and how many could not be.
    """

    def __init__(self, registry: CollectorRegistry, opt_outs: Callable[[], tuple[int, int]]) -> None:
        self._opt_outs = opt_outs
        self._state = Bounded(_STATES)
        self._requests = Counter("ifinu_webhook_requests", "Webhooks by our answer.", ("code",), registry=registry)
        self._seconds = Histogram("ifinu_webhook_seconds", "From a webhook to our answer.", buckets=_SECONDS,
                                  registry=registry)  # fmt: skip
        self._receipts = Counter("ifinu_receipts", "Receipts by state.", ("state",), registry=registry)
        self._changes = Counter("ifinu_connection_changes", "States that instances went into.", ("state",),
                                registry=registry)  # fmt: skip
        registry.register(self)

    def answered(self, code: int, took_s: float) -> None:
        """A webhook was answered."""
        self._requests.labels(str(code)).inc()
        self._seconds.observe(took_s)

    def receipt(self, state: str) -> None:
        """WhatsApp's word on a message is durable."""
        self._receipts.labels(state).inc()

    def connection(self, state: str) -> None:
        """An instance went into another state."""
        self._changes.labels(self._state(state)).inc()

    def collect(self) -> Iterator[Metric]:
        """What is counted elsewhere."""
        taken, unresolved = self._opt_outs()
        yield CounterMetricFamily("ifinu_opt_outs", "Persons who asked for no more messages.", value=taken)
        yield CounterMetricFamily(
            "ifinu_opt_outs_unresolved", "Those whose phone the gateway does not tell.", value=unresolved
        )
