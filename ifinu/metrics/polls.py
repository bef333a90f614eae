"""
What the ledger and the gateway answer, asked in the background: neither may hold up a scrape; for `ifinu metrics`.

    ifinu_ledger_up                      whether the database answers and has this version's tables
    ifinu_unconfirmed{whatsapp}          sent in the last week, and no receipt in time
    ifinu_gateway_up                     whether the gateway answers; of several processes, one of them
    ifinu_instance_connected{whatsapp}   whether it is paired and has its connection to WhatsApp
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ifinu.errors import GatewayError, LedgerUnavailable
from ifinu.metrics.labels import Bounded

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ifinu.gateway import Gateway

log = structlog.get_logger(__name__)

_UNCONFIRMED_OF = timedelta(days=7)
_STOPPED_S = 5.0
_NOT_FOUND = 404

Answer = Mapping[str | None, float]


class Polled(Collector):
    """
    One thing that is asked every so often.

    Args:
        registry: Where its series are registered.
        ask: Asks; its figures are by instance.
        every_s: How often, in seconds.
        up: Series that tells whether it answered, and its help.
        figures: Series of the figures, and its help.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        ask: Callable[[], Answer],
        *,
        every_s: float,
        up: tuple[str, str],
        figures: tuple[str, str],
    ) -> None:
        self._ask, self._every_s = ask, every_s
        self._up, self._figures = up, figures
        self._instance = Bounded()
        self._answer: Answer | None = None
        self._asked = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_asking, name=up[0], daemon=True)
        registry.register(self)

    def __enter__(self) -> Polled:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_STOPPED_S)

    def describe(self) -> Iterable[Metric]:
        """Nothing: there is no answer yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """As it was when it was last asked; nothing before the first answer."""
        if not self._asked.is_set():
            return
        answer = self._answer
        yield GaugeMetricFamily(*self._up, value=float(answer is not None))
        figures = GaugeMetricFamily(*self._figures, labels=("whatsapp",))
        by_label: dict[str, float] = {}
        for name, figure in (answer or {}).items():
            label = self._instance(name)
            by_label[label] = by_label.get(label, 0.0) + figure
        for label, figure in by_label.items():
            figures.add_metric((label,), figure)
        yield figures

    def _keep_asking(self) -> None:
        while True:
            before, self._answer = self._answer, self._answered()
            if self._answer is None and (before is not None or not self._asked.is_set()):
                log.warning("ifinu.metrics.no_answer", series=self._up[0])
            self._asked.set()
            if self._stop.wait(self._every_s):
                return

    def _answered(self) -> Answer | None:
        try:
            return self._ask()
        except (LedgerUnavailable, GatewayError):
            return None


def ledger(registry: CollectorRegistry, engine: Engine, *, every_s: float) -> Polled:
    """What the ledger knows that Redis does not."""

    def ask() -> Answer:
        from ifinu.ledger import migrate, queries

        if not migrate.is_current(engine):
            raise LedgerUnavailable("not migrated")
        return queries.unconfirmed(engine, datetime.now(UTC) - _UNCONFIRMED_OF)

    return Polled(
        registry,
        ask,
        every_s=every_s,
        up=("ifinu_ledger_up", "Whether the ledger's database answers and has the tables."),
        figures=("ifinu_unconfirmed", "Messages sent in the last week that got no receipt in time."),
    )


def gateway(registry: CollectorRegistry, whole: Gateway, *, every_s: float) -> Polled:
    """
    What the gateway says of its instances.

    One that it told before and does not tell now is asked for by its name: it was deleted (and is told no more), or the
    process that holds it does not answer (and it is not connected).
    """
    known: set[str | None] = set()

    def ask() -> Answer:
        from ifinu.gateway import ConnectionState

        found: dict[str | None, float] = {
            one.name: float(one.state is ConnectionState.OPEN) for one in whole.fetch_instances()
        }
        for name in known - found.keys():
            try:
                found[name] = float(whole.connection_state(str(name)) is ConnectionState.OPEN)
            except GatewayError as exc:
                if exc.status != _NOT_FOUND:
                    found[name] = 0.0
        known.clear()
        known.update(found)
        return found

    return Polled(
        registry,
        ask,
        every_s=every_s,
        up=("ifinu_gateway_up", "Whether the gateway answers."),
        figures=("ifinu_instance_connected", "Whether an instance is connected to WhatsApp."),
    )
