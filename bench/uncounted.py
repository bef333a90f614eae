"""ifinu's worker without Prometheus metrics, the baseline of `metrics.py`."""

from typing import Any

from ifinu import app
from ifinu.metrics.worker_series import Now


class _Silent:
    """Replaces `ifinu.metrics.worker_series.WorkerSeries` and counts nothing."""

    look = Now

    def settled(self, *_: Any, **__: Any) -> None:
        pass

    failed = waits = settled


app.sending = _Silent()
