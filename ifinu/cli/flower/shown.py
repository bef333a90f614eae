"""
What Flower may be told: ids, kinds, states, times and workers.

Workers say no more than that themselves; but any producer may publish a message of Celery's that describes its own
arguments, an exception of a library may quote what it choked on, and a worker of an older release may be running. So
what arrives is built anew from what is known to be harmless, before Flower keeps it: there is no page, no answer of its
API and no search that knows more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ifinu.broker import intake
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
_OUTCOME = re.compile(r"'?([a-z_]+) ([\w-]{0,80}) \{")  # as `worker.outcome.encode` writes it
_REPEATING = frozenset({"InvalidNotification", "IdReused", "Poison"})  # they may say which word it was that is none


def event(told: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    An event of a worker, as it may be kept; None where it is none that Flower knows.

    Args:
        told: As Celery's workers publish it.
    """
    if told.get("type") not in _EVENTS or not isinstance(told.get("hostname"), str):
        return None
    if told["type"].startswith("worker-"):
        return dict(told)
    if not isinstance(told.get("uuid"), str):
        return None
    return {name: told[name] for name in _HARMLESS if name in told} | fields(told)


def fields(told: Mapping[str, Any]) -> dict[str, str | None]:
    """What an event tells of a message's content and its end, where it does."""
    return {name: show(str(told[name])) for name, show in _SHOWN.items() if told.get(name) is not None}


def request(told: Mapping[str, Any]) -> dict[str, Any]:
    """
    A message that a worker holds, as `inspect` answers it; stock answers with the arguments themselves.

    Args:
        told: As Celery's `Request.info` makes it, or around one, as for what is scheduled.
    """
    if isinstance(inner := told.get("request"), Mapping):
        return {**told, "request": request(inner)}
    return {**told, "args": intake.shown(told.get("args")), "kwargs": "{}"}


def result(returned: str) -> str | None:
    """How it ended, and the gateway's id: `sent 3EB0…`."""
    found = _OUTCOME.match(returned)
    return f"{found[1]} {found[2]}".strip() if found else None


def exception(written: str) -> str:
    """As logs tell it, and of a message that was wrong its name alone; its dead letter has the words."""
    told = exceptions.retold(written)
    name = told.partition("(")[0]
    return f"{name}(…)" if name in _REPEATING else told


def traceback(written: str) -> str | None:
    """Where it was raised, without what was said there."""
    return exceptions.frames_in(written) or None


_SHOWN = {
    "args": intake.shown,
    "kwargs": lambda _: "{}",
    "result": result,
    "exception": exception,
    "traceback": traceback,
}
