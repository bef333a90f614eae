"""The span of one try: where it begins, and what became of it."""

from __future__ import annotations

from ifinu import tracing
from ifinu.broker.claims import ClaimState
from ifinu.broker.leases import Settled
from ifinu.outcome import Dead, GiveBack, Retry, Wait
from ifinu.tracing import Span, SpanName, Tracer
from ifinu.worker.attempt import Attempt


def begin(tracer: Tracer, attempt: Attempt) -> Span:
    """Begin the span of a try. Its next message has the parent of this message, or else the first try as its parent."""
    facts: dict[str, str | int] = {tracing.QUEUE: attempt.ref.queue, tracing.ATTEMPT: attempt.number}
    span = tracer.start(SpanName.DELIVER, facts, parent=attempt.traceparent)
    attempt.traceparent = attempt.traceparent or span.traceparent
    return span


def record(span: Span, attempt: Attempt, failure: BaseException | None) -> None:
    """
    Set the outcome of a try on its span.

    Args:
        failure: What the task raised; it counts if there is no outcome.
    """
    if attempt.notification is not None:
        span.set_attributes({tracing.ID: attempt.notification.id, tracing.KIND: attempt.notification.kind.value})
    word, reason, error = "held", "error", failure
    match attempt.outcome:
        case Settled() as settled:
            word, reason, error = settled.state, "", None
        case Wait() as wait:
            word, reason, error = "unknown" if wait.claim is ClaimState.UNKNOWN else "deferred", "", wait.error
            if error is None:
                span.set_attributes({tracing.REASON: wait.reason})
        case Retry() as retry:
            word, reason, error = "retrying", "", retry.error
        case GiveBack() as back:
            word, reason, error = "returned", "", back.error
        case Dead() as dead:
            word, reason, error = "held" if dead.maybe_sent else "dead", dead.reason, dead.error
    span.set_attributes({tracing.OUTCOME: word})
    if error is not None:
        span.fail(error, reason)
