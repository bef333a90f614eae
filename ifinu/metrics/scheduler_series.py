"""The series of the scheduler; docs/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ifinu.billing.scheduler import Figures

_DONE = {
    "planned": "Messages planned.",
    "skipped": "Steps decided without a message.",
    "pushed": "Messages pushed to the queues.",
    "withdrawn": "Planned messages that did not go after all.",
    "expired": "Planned messages whose validity ended first.",
    "no_trace": "Queued messages of which the ledger never heard.",
}


class SchedulerSeries(Collector):
    """The series of a scheduler."""

    def __init__(self, registry: CollectorRegistry, figures: Figures) -> None:
        self._figures = figures
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        now = self._figures
        for name, help_ in _DONE.items():
            yield CounterMetricFamily(f"ifinu_scheduler_{name}", help_, value=now.done[name])
        losses = CounterMetricFamily(
            "ifinu_scheduler_redis_losses", "Times that Redis had lost data.", labels=("found",)
        )
        for found in ("restarted", "lost"):
            losses.add_metric((found,), now.losses[found])
        yield losses
        faults = CounterMetricFamily("ifinu_scheduler_faults", "Failed passes.", labels=("duty",))
        passed = GaugeMetricFamily(
            "ifinu_scheduler_passed_timestamp_seconds", "When a duty last passed.", labels=("duty",)
        )
        for duty, count in sorted(now.faults.items()):
            faults.add_metric((duty,), count)
        for duty, at in sorted(now.passed_at.items()):
            passed.add_metric((duty,), at)
        yield from (faults, passed)
        if now.counted:
            yield GaugeMetricFamily(
                "ifinu_scheduler_behind_days", "Days since the agenda's first undecided day.", now.behind_days
            )
            yield GaugeMetricFamily("ifinu_scheduler_due", "Planned messages that are due.", now.due)
            yield GaugeMetricFamily("ifinu_scheduler_cancel_flags", "Cancellations that Redis lacks.", now.flags)
            yield GaugeMetricFamily("ifinu_payments_unmatched", "Payment events without a charge.", now.unmatched)
