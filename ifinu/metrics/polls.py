"""The series of the ledger and the gateway for `ifinu metrics`, polled in threads so that neither delays a scrape."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ifinu.errors import GatewayError, LedgerUnavailable
from ifinu.metrics.labels import Bounded

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ifinu.gateway import Management

log = structlog.get_logger(__name__)

_UNCONFIRMED_OF = timedelta(days=7)
_STOPPED_S = 5.0
_NOT_FOUND = 404

Figures = Mapping[str | None, float]


class Polled(Collector):
    """
    The series of one server that is polled.

    Args:
        poll: Returns figures by instance; raises `LedgerUnavailable` or `GatewayError`.
        up: Name and help of the series that says whether the server answered.
        figures: Name and help of the series of the figures.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        poll: Callable[[], Figures],
        *,
        every_s: float,
        up: tuple[str, str],
        figures: tuple[str, str],
    ) -> None:
        self._poll, self._every_s = poll, every_s
        self._up, self._figures = up, figures
        self._instance = Bounded()
        self._found: Figures | None = None
        self._polled = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=up[0], daemon=True)
        registry.register(self)

    def __enter__(self) -> Polled:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_STOPPED_S)

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that the server is not polled before it starts."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The figures of the last poll; nothing before the first."""
        if not self._polled.is_set():
            return
        found = self._found
        yield GaugeMetricFamily(*self._up, value=float(found is not None))
        figures = GaugeMetricFamily(*self._figures, labels=("whatsapp",))
        by_label: defaultdict[str, float] = defaultdict(float)
        for name, figure in (found or {}).items():
            by_label[self._instance(name)] += figure
        for label, figure in by_label.items():
            figures.add_metric((label,), figure)
        yield figures

    def _run(self) -> None:
        while True:
            found: Figures | None = None
            with contextlib.suppress(LedgerUnavailable, GatewayError):
                found = self._poll()
            before, self._found = self._found, found
            if found is None and (before is not None or not self._polled.is_set()):
                log.warning("ifinu.metrics.no_answer", series=self._up[0])
            self._polled.set()
            if self._stop.wait(self._every_s):
                return


def ledger(registry: CollectorRegistry, engine: Engine, *, every_s: float) -> Polled:
    """The series of the ledger, polled every `every_s` seconds."""

    def poll() -> Figures:
        from ifinu.ledger import migrate, queries

        if not migrate.is_current(engine):
            raise LedgerUnavailable("not migrated")
        return queries.unconfirmed(engine, datetime.now(UTC) - _UNCONFIRMED_OF)

    return Polled(
        registry,
        poll,
        every_s=every_s,
        up=("ifinu_ledger_up", "Whether the ledger's database answers and has the tables."),
        figures=("ifinu_unconfirmed", "Messages sent in the last week that got no receipt in time."),
    )


def gateway(registry: CollectorRegistry, client: Management, *, every_s: float) -> Polled:
    """
    The series of the gateway, polled every `every_s` seconds.

    An instance that is no longer in the gateway's list is asked for by its name. It was deleted, and is exported no
    more; or the process that holds it does not answer, and it counts as not connected.
    """
    known: set[str | None] = set()

    def poll() -> Figures:
        from ifinu.gateway import ConnectionState

        found: dict[str | None, float] = {
            one.name: float(one.state is ConnectionState.OPEN) for one in client.fetch_instances()
        }
        for name in known - found.keys():
            try:
                found[name] = float(client.connection_state(str(name)) is ConnectionState.OPEN)
            except GatewayError as exc:
                if exc.status != _NOT_FOUND:
                    found[name] = 0.0
        known.clear()
        known.update(found)
        return found

    return Polled(
        registry,
        poll,
        every_s=every_s,
        up=("ifinu_gateway_up", "Whether the gateway answers."),
        figures=("ifinu_instance_connected", "Whether an instance is connected to WhatsApp."),
    )
