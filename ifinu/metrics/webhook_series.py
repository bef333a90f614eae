"""The series of the webhook application; docs/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ifinu.metrics.labels import Bounded

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LAG_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0)
_HOUR_S, _CLOCKS_APART_S = 3600.0, 300.0
_STATES = 20


class WebhookSeries(Collector):
    """
    The webhook application's series.

    Args:
        opt_outs: Returns how many opt-outs were recorded, and how many could not be.
        unclear: Returns how many replies were unclear, by wish.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        opt_outs: Callable[[], tuple[int, int]],
        unclear: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._opt_outs, self._unclear = opt_outs, unclear
        self._state = Bounded(_STATES)
        self._requests = Counter("ifinu_webhook_requests", "Webhooks by our answer.", ("code",), registry=registry)
        self._seconds = Histogram("ifinu_webhook_seconds", "From a webhook to our answer.", buckets=_SECONDS,
                                  registry=registry)  # fmt: skip
        self._receipts = Counter("ifinu_receipts", "Receipts by state.", ("state",), registry=registry)
        self._lag = Histogram("ifinu_receipts_lag_seconds", "From the gateway's posting, or a person's writing, to us.",
                              ("since",), buckets=_LAG_SECONDS, registry=registry)  # fmt: skip
        self._changes = Counter("ifinu_connection_changes", "States that instances went into.", ("state",),
                                registry=registry)  # fmt: skip
        registry.register(self)

    def answered(self, code: int, took_s: float) -> None:
        self._requests.labels(str(code)).inc()
        self._seconds.observe(took_s)

    def receipt(self, state: str) -> None:
        """Count a durable receipt."""
        self._receipts.labels(state).inc()

    def posted(self, at: datetime | None) -> None:
        """
        Observe the lag of a receipt, by the gateway's wall clock.

        The clock's zone is not known, so the lag counts modulo an hour: the gateway gives up after twenty minutes.
        """
        if at is not None:
            passed_s = (datetime.now(UTC) - at).total_seconds()
            self._lag.labels("posted").observe(max(0.0, (passed_s + _CLOCKS_APART_S) % _HOUR_S - _CLOCKS_APART_S))

    def wrote(self, at: datetime | None) -> None:
        """Observe the lag of a person's text."""
        if at is not None:
            self._lag.labels("written").observe(max(0.0, (datetime.now(UTC) - at).total_seconds()))

    def connection(self, state: str) -> None:
        self._changes.labels(self._state(state)).inc()

    def collect(self) -> Iterator[Metric]:
        taken, unresolved = self._opt_outs()
        yield CounterMetricFamily("ifinu_opt_outs", "Persons who asked for no more messages.", value=taken)
        yield CounterMetricFamily(
            "ifinu_opt_outs_unresolved", "Opt-outs whose phone the gateway does not report.", value=unresolved
        )
        answers = CounterMetricFamily("ifinu_opt_outs_unclear", "Answers that a person has to read.", labels=("wish",))
        unclear = self._unclear()
        for wish in ("maybe", "wrong_person"):
            answers.add_metric((wish,), unclear.get(wish, 0))
        yield answers
