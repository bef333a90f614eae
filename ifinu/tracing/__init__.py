"""
One trace a notification, from where it is enqueued to WhatsApp's last word on it.

    ifinu.enqueue         PRODUCER  a producer hands it over
    └─ ifinu.deliver      CONSUMER  a worker has it: one for each try, and for each look-up of a send in doubt
       ├─ ifinu.claim     CLIENT    Redis says whether it may be sent
       ├─ ifinu.check     CLIENT    what its charge says in PostgreSQL; only of a message about one there
       ├─ ifinu.look_up   CLIENT    whether the gateway has it already
       ├─ ifinu.render    INTERNAL  its text is made
       ├─ ifinu.send      CLIENT    the POST to the gateway
       └─ ifinu.receipt   CONSUMER  a webhook reports its state: server_ack, delivered, read or failed

A message carries its trace as W3C `traceparent`: in a header of Celery's, or in a bare JSON object beside its `id`,
where any language can put it. What began with neither begins its trace in the worker, and its retries carry it on.

Nothing of a person is ever in a span: no phone, no name, no text, and no error's words, only its class and its reason.

Until it is switched on (`IFINU_TRACING`) nothing of OpenTelemetry is imported: all here is `OFF` and `NO_SPAN`. Only
`sdk.py` knows OpenTelemetry.
"""

from __future__ import annotations

import contextlib
import enum
import re
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from ifinu.errors import ConfigurationError

# The attributes of spans, besides those of OpenTelemetry's conventions.
ID, QUEUE = "messaging.message.id", "messaging.destination.name"
KIND, INSTANCE, ATTEMPT, KEY_ID = "ifinu.kind", "ifinu.instance", "ifinu.attempt", "ifinu.key_id"
VERDICT, OUTCOME, REASON, STATE = "ifinu.verdict", "ifinu.outcome", "ifinu.reason", "ifinu.state"

Facts = Mapping[str, str | int | bool]

# Services, unless OTEL_SERVICE_NAME is set.
PRODUCER, WORKER, WEBHOOK = "ifinu-producer", "ifinu-worker", "ifinu-webhook"

# https://www.w3.org/TR/trace-context-2/#traceparent-header; version ff is invalid, and later ones may have more fields.
_FORM = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})"
    r"-(?P<said>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})"
    r"(?P<more>-.*)?"
)


class SpanName(enum.StrEnum):
    """The names of the spans."""

    ENQUEUE = "ifinu.enqueue"
    DELIVER = "ifinu.deliver"
    CLAIM = "ifinu.claim"
    CHECK = "ifinu.check"
    LOOK_UP = "ifinu.look_up"
    RENDER = "ifinu.render"
    SEND = "ifinu.send"
    RECEIPT = "ifinu.receipt"


class Span(Protocol):
    """
    Work that takes time.

    A `with` block makes it the one that steps belong to, marks it as failed by what is raised, and ends it.
    """

    @property
    def sampled(self) -> bool:
        """Whether the span is recorded; if not, a caller may skip the work for its attributes."""

    @property
    def traceparent(self) -> str:
        """The W3C header that continues its trace; empty without a trace."""

    def set_attributes(self, facts: Facts) -> None:
        """Add attributes. They must not hold personal data."""

    def fail(self, error: BaseException, reason: str = "") -> None:
        """Mark the span as failed, with the error's class and one word, by default the reason of a `SendError`."""

    def current(self) -> AbstractContextManager[object]:
        """Make it the current span of a `with` block, which neither marks nor ends it."""

    def end(self) -> None: ...

    def __enter__(self) -> Span: ...

    def __exit__(self, _: object, error: BaseException | None, __: object, /) -> None: ...


class Tracer(Protocol):
    """Makes spans. Threads and forked processes may share it. No method raises, or waits for a collector."""

    @property
    def on(self) -> bool:
        """Whether it makes spans at all."""

    def start(self, work: SpanName, facts: Facts, *, parent: object = None, apart: bool = False) -> Span:
        """
        Begin a span.

        Args:
            facts: What is known of it by now.
            parent: The `traceparent` of the span that it follows from, unchecked, as a message carries it. It counts if
                no span is current in this thread; an invalid one counts as absent.
            apart: Whether it only points to the span that is current, and is not of its trace.
        """

    def step(self, work: SpanName) -> Span:
        """Begin a child of the current span, if that is recorded."""

    def record(self, work: SpanName, facts: Facts, *, parent: str, started_ns: int, ended_ns: int) -> None:
        """Record a span that has ended; times are in ns since the epoch."""

    def close(self) -> None:
        """Export the remaining spans, within a few seconds. The tracer may be used again."""


class _NoSpan:
    sampled = False
    traceparent = ""

    def set_attributes(self, facts: Facts) -> None: ...

    def fail(self, error: BaseException, reason: str = "") -> None: ...

    def current(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext()

    def end(self) -> None: ...

    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(self, *_: object) -> None: ...


NO_SPAN = _NoSpan()


class _Off:
    on = False

    def start(self, work: SpanName, facts: Facts, *, parent: object = None, apart: bool = False) -> Span:
        return NO_SPAN

    def step(self, work: SpanName) -> Span:
        return NO_SPAN

    def record(self, work: SpanName, facts: Facts, *, parent: str, started_ns: int, ended_ns: int) -> None: ...

    def close(self) -> None: ...


OFF: Tracer = _Off()

_made: dict[tuple[str, str], Tracer] = {}
_making = threading.Lock()


def tracer(on: bool, service: str, *, gateway_url: str = "") -> Tracer:
    """
    The tracer of this process, by `IFINU_TRACING` and OpenTelemetry's own variables.

    Args:
        on: Whether traces are wanted.
        service: What the process is, where OpenTelemetry's variables do not name it.
        gateway_url: Where `ifinu.send` goes.

    Raises:
        ConfigurationError: OpenTelemetry is not installed, or one of its variables is wrong.
    """
    if not on:
        return OFF
    with _making:
        if (service, gateway_url) not in _made:
            _made[service, gateway_url] = _with_opentelemetry(service, gateway_url)
        return _made[service, gateway_url]


def _with_opentelemetry(service: str, gateway_url: str) -> Tracer:
    try:
        from ifinu.tracing.sdk import OpenTelemetry
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"IFINU_TRACING is set, and {exc.name} is not installed: pip install 'ifinu[otel]'"
        ) from exc
    return OpenTelemetry(service, gateway_url)


def traceparent(value: object) -> str:
    """
    Normalise the `traceparent` of a message to version 00 of W3C's form; empty if it is invalid.

    Anybody can push a message that says anything.
    """
    if not isinstance(value, str) or len(value) > 512:
        return ""
    found = _FORM.fullmatch(value)
    if found is None or (found["version"] == "00" and found["more"]):
        return ""
    return f"00-{found['said']}"
