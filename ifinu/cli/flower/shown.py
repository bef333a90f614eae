"""
Filters what Flower may show: ids, kinds, states, times and workers.

Workers publish no more than that. But a producer may publish a Celery message that describes its arguments, a library's
exception may quote its input, and a worker of an older release may be running. So each event is rebuilt from fields
known to be harmless before Flower keeps it: no page, API answer or search of Flower can show more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ifinu.broker import intake
from ifinu.broker.claims import ClaimState
from ifinu.broker.leases import DUPLICATE
from ifinu.logs import exceptions

_EVENTS = frozenset(
    {"worker-online", "worker-heartbeat", "worker-offline"}
    | {f"task-{how}" for how in ("sent", "received", "started", "succeeded", "failed", "retried")}
    | {f"task-{how}" for how in ("revoked", "rejected", "cancelled")}
)
_HARMLESS = (
    "type", "uuid", "name", "hostname", "timestamp", "local_received", "utcoffset", "clock", "pid", "root_id",
    "parent_id", "retries", "eta", "expires", "runtime", "terminated", "signum", "expired", "requeue",
)  # fmt: skip
# As the task returns it; a brace follows in the results of older releases.
_OUTCOME = re.compile(rf"'?({'|'.join((*ClaimState, DUPLICATE))})(?: ([\w-]{{0,80}}))?(?:'?$| {{)")
_REPEATING = frozenset({"InvalidNotification", "IdReused", "Poison"})  # their text may quote a value of the message


def event(published: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rebuild a worker's event from its harmless fields; None if Flower does not know such an event."""
    if published.get("type") not in _EVENTS or not isinstance(published.get("hostname"), str):
        return None
    if published["type"].startswith("worker-"):
        return dict(published)
    if not isinstance(published.get("uuid"), str):
        return None
    return {name: published[name] for name in _HARMLESS if name in published} | fields(published)


def fields(published: Mapping[str, Any]) -> dict[str, str | None]:
    """The fields of an event on a message's content and outcome, as they may be shown."""
    return {name: show(str(published[name])) for name, show in _SHOWN.items() if published.get(name) is not None}


def request(published: Mapping[str, Any]) -> dict[str, Any]:
    """
    A message that a worker holds, as `inspect` reports it, without the arguments that Celery would show.

    Args:
        published: The result of Celery's `Request.info`, or an object around one, as for scheduled messages.
    """
    if isinstance(inner := published.get("request"), Mapping):
        return {**published, "request": request(inner)}
    return {**published, "args": intake.shown(published.get("args")), "kwargs": "{}"}


def result(returned: str) -> str | None:
    """The outcome and the gateway's id of the message: `sent 3EB0…`."""
    found = _OUTCOME.match(returned)
    return f"{found[1]} {found[2] or ''}".strip() if found else None


def exception(written: str) -> str:
    """The exception as in the logs; for an invalid message only its name, since the dead letter has its text."""
    redacted = exceptions.retold(written)
    name = redacted.partition("(")[0]
    return f"{name}(…)" if name in _REPEATING else redacted


def traceback(written: str) -> str | None:
    """The frames of a traceback, without its text."""
    return exceptions.frames_in(written) or None


_SHOWN = {
    "args": intake.shown,
    "kwargs": lambda _: "{}",
    "result": result,
    "exception": exception,
    "traceback": traceback,
}
