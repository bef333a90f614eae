"""
The series of the ledger, the registry, the numbers and the gateway for `ifinu metrics`.

They are polled in threads, so that none delays a scrape.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar

import redis
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ifinu.errors import GatewayError, LedgerUnavailable
from ifinu.metrics import number_series
from ifinu.metrics.labels import Bounded, highest

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ifinu.gateway import Management

log = structlog.get_logger(__name__)

_UNCONFIRMED_OF = timedelta(days=7)
_STOPPED_S = 5.0
_NOT_FOUND = 404

Figures = Mapping[str | None, float]
Found = TypeVar("Found")


class Polled(Collector, Generic[Found]):
    """
    The series of one server that is polled.

    Args:
        poll: Asks the server; raises `LedgerUnavailable`, `GatewayError` or `redis.RedisError`.
        up: Name and help of the series that says whether the server answered; None where another one says so.
        series: Makes the other series of what was found; of None if there was no answer.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        poll: Callable[[], Found],
        *,
        every_s: float,
        up: tuple[str, str] | None,
        series: Callable[[Found | None], Iterable[Metric]],
    ) -> None:
        self._poll, self._every_s = poll, every_s
        self._up, self._series = up, series
        self._found: Found | None = None
        self._polled = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ifinu-poll", daemon=True)
        registry.register(self)

    def __enter__(self) -> Self:
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
        if self._up is not None:
            yield GaugeMetricFamily(*self._up, value=float(found is not None))
        yield from self._series(found)

    def poll(self) -> None:
        """Ask the server."""
        found: Found | None = None
        with contextlib.suppress(LedgerUnavailable, GatewayError, redis.RedisError):
            found = self._poll()
        before, self._found = self._found, found
        if self._up is not None and found is None and (before is not None or not self._polled.is_set()):
            log.warning("ifinu.metrics.no_answer", series=self._up[0])
        self._polled.set()

    def _run(self) -> None:
        self.poll()
        while not self._stop.wait(self._every_s):
            self.poll()


class _ByInstance:
    """A series with a label for the instance."""

    def __init__(self, name: str, help_: str) -> None:
        self._name, self._help = name, help_
        self._instance = Bounded()

    def __call__(self, found: Figures | None) -> Iterator[Metric]:
        figures = GaugeMetricFamily(self._name, self._help, labels=("whatsapp",))
        by_label: defaultdict[str, float] = defaultdict(float)
        for name, figure in (found or {}).items():
            by_label[self._instance(name)] += figure
        for label, figure in by_label.items():
            figures.add_metric((label,), figure)
        yield figures


class _Ledger(NamedTuple):
    """
    What the database knows.

    Attributes:
        unconfirmed: By instance.
        risks: Of the numbers that have any.
        registered: How many numbers the registry has.
    """

    unconfirmed: Figures
    risks: Mapping[str, int]
    registered: int


def ledger(registry: CollectorRegistry, engine: Engine, *, every_s: float) -> Polled[_Ledger]:
    """The series of the ledger and of the registry beside it, polled every `every_s` seconds."""
    unconfirmed = _ByInstance("ifinu_unconfirmed", "Messages sent in the last week that got no receipt in time.")

    def poll() -> _Ledger:
        from ifinu.ledger import migrate, queries
        from ifinu.numbers import patrol
        from ifinu.numbers import registry as registered

        if not migrate.is_current(engine):
            raise LedgerUnavailable("not migrated")
        now = datetime.now(UTC)
        all_ = registered.read(engine).numbers
        risks = {name: found.risk for name, found in patrol.risks(all_, now).items() if found.risk}
        return _Ledger(queries.unconfirmed(engine, now - _UNCONFIRMED_OF), risks, len(all_))

    def series(found: _Ledger | None) -> Iterator[Metric]:
        yield from unconfirmed(found and found.unconfirmed)
        registered = GaugeMetricFamily("ifinu_numbers_registered", "Numbers in the registry.")
        if found is not None and found.registered:
            registered.add_metric((), found.registered)
        yield registered
        risks = GaugeMetricFamily("ifinu_number_risk", "Risk of a number, 0 to 100.", labels=("whatsapp",))
        for label, risk in highest(found.risks if found is not None else {}).items():
            risks.add_metric((label,), risk)
        yield risks

    return Polled(
        registry,
        poll,
        every_s=every_s,
        up=("ifinu_ledger_up", "Whether the ledger's database answers and has the tables."),
        series=series,
    )


def numbers(registry: CollectorRegistry, client: redis.Redis, *, every_s: float) -> Polled[number_series.Figures]:
    """The series of the numbers in Redis, polled every `every_s` seconds."""
    return Polled(
        registry,
        functools.partial(number_series.Figures.read, client),
        every_s=every_s,
        up=None,  # `ifinu_redis_up` says it
        series=number_series.figures,
    )


def gateway(registry: CollectorRegistry, client: Management, *, every_s: float) -> Polled[Figures]:
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
        series=_ByInstance("ifinu_instance_connected", "Whether an instance is connected to WhatsApp."),
    )
