"""The series of the recorder; docs/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ifinu.ledger.progress import Progress


class RecorderSeries(Collector):
    """The series of a recorder."""

    def __init__(self, registry: CollectorRegistry, progress: Progress) -> None:
        self._progress = progress
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        now = self._progress
        yield GaugeMetricFamily("ifinu_recorder_active", "Whether this process writes the ledger.", float(now.active))
        yield CounterMetricFamily("ifinu_recorder_events", "Events written to the ledger.", value=now.recorded)
        yield CounterMetricFamily("ifinu_recorder_refused", "Entries that were no events.", value=now.refused)
        yield CounterMetricFamily("ifinu_recorder_gaps", "Times that the stream was lost.", value=now.gaps)
        steps = CounterMetricFamily("ifinu_guard_steps", "Steps of the guard.", labels=("step",))
        for step, count in now.guard_steps.items():
            steps.add_metric((step,), count)
        yield steps
