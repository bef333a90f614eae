"""
Spans by OpenTelemetry; the only module that imports it.

A process that has set up OpenTelemetry for itself, as an application that enqueues may have, gets our spans among its
own. Any other exports them by OTLP over HTTP, as the `OTEL_*` variables say; see docs/tracing.md.

What is exported waits in a bounded queue for a thread that starts with the first span, and so after a pool has forked.
Where the collector is away, spans are dropped.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    ProxyTracerProvider,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from ifinu.errors import ConfigurationError, GatewayError, SendError
from ifinu.tracing import NO_SPAN, REASON, Facts, Span, SpanName, traceparent

_CLOSING_S = 3.0  # for what is left to export at the end
_NOWHERE = context.Context()  # where no span is current

_KINDS: Final = {
    SpanName.ENQUEUE: SpanKind.PRODUCER,
    SpanName.DELIVER: SpanKind.CONSUMER,
    SpanName.CLAIM: SpanKind.CLIENT,
    SpanName.CHECK: SpanKind.CLIENT,
    SpanName.LOOK_UP: SpanKind.CLIENT,
    SpanName.RENDER: SpanKind.INTERNAL,
    SpanName.SEND: SpanKind.CLIENT,
    SpanName.RECEIPT: SpanKind.CONSUMER,
}
# https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/, and likewise for HTTP and databases.
_ALWAYS: Final[dict[SpanName, Facts]] = {
    SpanName.ENQUEUE: {
        "messaging.system": "redis",
        "messaging.operation.type": "send",
        "messaging.operation.name": "enqueue",
    },
    SpanName.DELIVER: {
        "messaging.system": "redis",
        "messaging.operation.type": "process",
        "messaging.operation.name": "deliver",
    },
    SpanName.CLAIM: {"db.system.name": "redis", "db.operation.name": "EVALSHA"},
    SpanName.LOOK_UP: {"http.request.method": "POST", "url.template": "/chat/findMessages/{instance}"},
    SpanName.RENDER: {},
    SpanName.SEND: {"http.request.method": "POST", "url.template": "/message/sendText/{instance}"},
    SpanName.RECEIPT: {},
}
_POSTS = (SpanName.SEND, SpanName.LOOK_UP)


class OpenTelemetry:
    """
    The tracer that is on.

    Args:
        service: What the process is, where OpenTelemetry's variables do not name it.
        gateway_url: Where `ifinu.send` goes.

    Raises:
        ConfigurationError: One of OpenTelemetry's variables is wrong.
    """

    on = True

    def __init__(self, service: str, gateway_url: str = "") -> None:
        self._service = service
        address = _address(gateway_url)
        self._facts = {work: {**facts, **(address if work in _POSTS else {})} for work, facts in _ALWAYS.items()}
        self._lock = threading.Lock()
        self._own: _Export | None = None
        self._tracer: trace.Tracer | None = None
        try:  # now, rather than with the first message
            exporter: SpanExporter = OTLPSpanExporter()
            processor: SpanProcessor = BatchSpanProcessor(exporter)
        except (ValueError, OSError) as exc:
            raise ConfigurationError(f"OTEL_*: {exc}") from exc
        processor.shutdown()  # its thread would stay behind when a pool forks

    def start(self, work: SpanName, facts: Facts, *, parent: object = None, apart: bool = False) -> Span:
        where: context.Context | None = None  # the current one
        links: Sequence[Link] = ()
        current = trace.get_current_span().get_span_context()
        if apart or not current.is_valid:
            where = _following(parent)
            links = (Link(current),) if current.is_valid else ()
        return _Span(self._made().start_span(work.value, where, _KINDS[work], {**self._facts[work], **facts}, links))

    def step(self, work: SpanName) -> Span:
        if not trace.get_current_span().is_recording():
            return NO_SPAN
        return _Span(self._made().start_span(work.value, None, _KINDS[work], self._facts[work]))

    def record(self, work: SpanName, facts: Facts, *, parent: str, started_ns: int, ended_ns: int) -> None:
        attributes = {**self._facts[work], **facts}
        span = self._made().start_span(work.value, _following(parent), _KINDS[work], attributes, start_time=started_ns)
        span.end(ended_ns)

    def close(self) -> None:
        with self._lock:
            own, self._own, self._tracer = self._own, None, None
        if own is not None:
            atexit.unregister(self.close)
            own.close()

    def _made(self) -> trace.Tracer:
        if (made := self._tracer) is not None:
            return made
        with self._lock:
            if self._tracer is None:
                provider = trace.get_tracer_provider()
                if isinstance(provider, ProxyTracerProvider):  # none is set
                    self._own = _Export(self._service)
                    provider = self._own.provider
                    atexit.register(self.close)
                self._tracer = provider.get_tracer("ifinu", version("ifinu"))
            return self._tracer


class _Span:
    __slots__ = ("_span", "_token", "sampled")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.sampled = span.is_recording() and span.get_span_context().trace_flags.sampled

    @property
    def traceparent(self) -> str:
        me = self._span.get_span_context()
        return f"00-{me.trace_id:032x}-{me.span_id:016x}-{me.trace_flags:02x}" if me.is_valid else ""

    def set_attributes(self, facts: Facts) -> None:
        self._span.set_attributes(facts)

    def fail(self, error: BaseException, reason: str = "") -> None:
        reason = reason or (error.reason.value if isinstance(error, SendError) else "")
        kind = type(error).__qualname__
        self._span.set_attributes({"error.type": kind, **({REASON: reason} if reason else {})})
        self._span.set_status(Status(StatusCode.ERROR, reason or kind))

    def current(self) -> AbstractContextManager[object]:
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def end(self) -> None:
        self._span.end()

    def __enter__(self) -> _Span:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        context.detach(self._token)
        if error is not None:
            self.fail(error)
            if isinstance(error, GatewayError) and error.status is not None:
                self.set_attributes({"http.response.status_code": error.status})
        self._span.end()


class _Export:
    def __init__(self, service: str) -> None:
        said = OTELResourceDetector().detect().attributes  # by its variables, which win
        resource = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: version("ifinu"), **said})
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._ending, self._ended = threading.Event(), threading.Event()
        # Ready from the start, since a thread cannot be started while Python ends.
        self._closer = self._start_closer()

    def close(self) -> None:
        if not self._closer.is_alive():  # it stayed in the process that this one was forked from
            with contextlib.suppress(RuntimeError):  # too late, then, for what is left
                self._closer = self._start_closer()
        self._ending.set()
        self._ended.wait(_CLOSING_S)

    def _start_closer(self) -> threading.Thread:
        thread = threading.Thread(target=self._close, name="ifinu-tracing", daemon=True)
        thread.start()
        return thread

    def _close(self) -> None:
        self._ending.wait()
        self.provider.shutdown()
        self._ended.set()


def _following(parent: object) -> context.Context:
    """The context that follows from a message's `traceparent`; None if that is invalid."""
    said = traceparent(parent)
    if not said:
        return _NOWHERE
    _, trace_id, span_id, flags = said.split("-")
    where = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return trace.set_span_in_context(NonRecordingSpan(where), _NOWHERE)


def _address(url: str) -> Facts:
    parts = urlsplit(url)
    if not parts.hostname:
        return {}
    return {"server.address": parts.hostname, "server.port": parts.port or (443 if parts.scheme == "https" else 80)}
