from __future__ import annotations

import json
import sys

import pytest
from forks import bare, programs

from ifinu import tracing
from ifinu.broker import NORMAL, intake
from ifinu.broker.headers import TRACEPARENT
from ifinu.errors import ConfigurationError
from ifinu.tracing import NO_SPAN, OFF, SpanName, traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (GOOD, GOOD),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-03", f"00-{TRACE}-{SPAN}-03"),
        (f"01-{TRACE}-{SPAN}-01-what-is-to-come", GOOD),
        (f"cc-{TRACE}-{SPAN}-01", GOOD),
    ],
)
def test_a_traceparent_of_any_version_is_read_as_the_first_one(given: str, read: str):
    assert traceparent(given) == read


@pytest.mark.parametrize(
    "given",
    [
        None, 1, True, [], [GOOD], {"traceparent": GOOD}, b"00-", "", "00", GOOD[:-1], f"{GOOD}0", f"{GOOD}\n",
        f" {GOOD}", f"{GOOD}-more", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN}-0g", f"00_{TRACE}_{SPAN}_01",
        f"01-{TRACE}-{SPAN}-01{'-x' * 300}", f"01-{TRACE}-{SPAN}-01.more", GOOD.replace("a", "á"),
        GOOD.replace("0", "٠"), "\ud800", f"00-{TRACE}-{SPAN}-01-\ud800",
    ],
)  # fmt: skip
def test_a_malformed_traceparent_is_ignored(given: object):
    assert traceparent(given) == ""


def admitted(message: object) -> dict:
    return intake.admit(json.dumps(message).encode(), queue=NORMAL, tag="t", max_bytes=10_000).headers


def test_a_bare_messages_traceparent_becomes_a_header():
    bare = {"id": "a", "tipo_notificacao": "lembrete"}
    assert admitted({**bare, TRACEPARENT: GOOD})[TRACEPARENT] == GOOD
    for wrong in ("Maria", None, {"a": 1}, ["x"], 7):
        assert TRACEPARENT not in admitted({**bare, TRACEPARENT: wrong})
    assert TRACEPARENT not in admitted(bare)


def test_no_trace_is_made_if_tracing_is_off():
    assert tracing.tracer(False, tracing.WORKER) is OFF
    assert not OFF.on
    span = OFF.start(SpanName.DELIVER, {}, parent=GOOD)
    assert span is OFF.step(SpanName.SEND) is NO_SPAN
    with span as same, same.current():
        same.set_attributes({"ifinu.kind": "lembrete"})
        same.fail(ValueError("which is not exported"))
    assert (span.sampled, span.traceparent) == (False, "")
    with pytest.raises(KeyError), NO_SPAN:
        raise KeyError


@pytest.mark.parametrize("before", ["", "sys.modules['opentelemetry'] = None; "])
def test_importing_all_modules_does_not_import_the_tracing_extra(before: str):
    """
    With and without the extra installed. redis-py imports OpenTelemetry's metrics by itself if they are there.
    """
    code = (
        f"import sys; {before}import ifinu, ifinu.cli, ifinu.worker.tasks, ifinu.receipts.webhook_app, ifinu.producer;"
        "traces = 'opentelemetry.sdk.trace', 'opentelemetry.exporter', 'ifinu.tracing.sdk';"
        "print([name for name in sys.modules if name.startswith(traces)])"
    )
    done = (bare() if before else programs()).run(code)
    assert done.out == "[]\n", done.err


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "ifinu.tracing.sdk", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError) as caught:
        tracing.tracer(True, "a service of this test")
    assert str(caught.value) == ("IFINU_TRACING is set, and opentelemetry is not installed: pip install 'ifinu[otel]'")


def test_every_span_is_drawn():
    """
    The picture on top of the package names each, with its kind.
    """
    from ifinu.tracing.sdk import _KINDS

    drawn = dict(line.replace("└─", "").replace("├─", "").split()[:2] for line in tracing.__doc__.splitlines()[3:11])
    assert drawn == {work.value: kind.name for work, kind in _KINDS.items()}
    assert set(_KINDS) == set(SpanName)


def test_a_span_has_an_errors_class_and_reason_but_not_its_words(in_memory):
    from ifinu.errors import MaybeSent, Reason

    tracer, exported = in_memory
    root = tracer.start(SpanName.DELIVER, {})
    with root.current():
        with pytest.raises(ValueError, match="Maria"), tracer.step(SpanName.RENDER):
            raise ValueError("Maria, +55 77 99861-6740")
        with pytest.raises(MaybeSent), tracer.step(SpanName.SEND):
            raise MaybeSent("Maria", reason=Reason.TIMEOUT, status=504, answer="Maria")
    root.fail(KeyError("Maria"), "error")
    root.end()
    spans = exported()
    assert [(s.attributes["error.type"], s.attributes.get("ifinu.reason"), s.status.description) for s in spans] == [
        ("ValueError", None, "ValueError"),
        ("MaybeSent", "timeout", "timeout"),
        ("KeyError", "error", "error"),
    ]
    assert spans[1].attributes["http.response.status_code"] == 504
    assert [s.events for s in spans] == [(), (), ()]
    assert "Maria" not in "".join(s.to_json() for s in spans)


def test_a_step_is_only_made_if_its_span_is_recorded(in_memory):
    tracer, exported = in_memory
    assert tracer.step(SpanName.SEND) is NO_SPAN
    not_sampled = tracer.start(SpanName.DELIVER, {}, parent=f"00-{TRACE}-{SPAN}-00")
    assert not not_sampled.sampled
    assert not_sampled.traceparent.startswith(f"00-{TRACE}-")
    assert int(not_sampled.traceparent[-2:], 16) & 1 == 0
    with not_sampled.current():
        assert tracer.step(SpanName.SEND) is NO_SPAN
    not_sampled.end()
    assert exported() == ()


def test_a_tracer_that_was_closed_may_be_used_again(in_memory):
    tracer, _ = in_memory
    tracer.close()
    tracer.close()
    with tracer.start(SpanName.ENQUEUE, {}) as span:
        assert span.sampled
    tracer.close()


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch):
    """A tracer and a function that returns the spans it has exported so far."""
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from ifinu.tracing import sdk

    for name in ("OTEL_TRACES_SAMPLER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    kept = InMemorySpanExporter()
    monkeypatch.setattr(sdk, "OTLPSpanExporter", lambda: kept)
    tracer = sdk.OpenTelemetry("test", "http://gateway:8080")
    kept._stopped = False  # the check of the variables has shut it down

    def exported():
        tracer._own.provider.force_flush()
        return kept.get_finished_spans()

    yield tracer, exported
    tracer.close()
