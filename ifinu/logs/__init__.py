"""
How log lines look: one event a line, JSON for machines or columns for a terminal; what libraries say included.

    ours       structlog ─────────────────────────────▶ flood? ─▶ fields, traceback ─▶ JSON or columns ─▶ stderr
    libraries' logging ─▶ level, `foreign.redact` ─▶ flood? ─▶ ╯
    uncaught   warnings, exceptions of threads and of the process ─▶ as ours (`uncaught.py`)

Phones, names and texts are kept out where a line of ours is written, and not looked for here: that would cost more
than the line. What others say is trusted less: of an exception only words that cannot repeat what it choked on
(`exceptions.py`), of a library's line only what is no argument of a task (`foreign.py`). docs/logs.md lists the events.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from ifinu.escapes import visible, visible_json
from ifinu.logs import exceptions, foreign, uncaught
from ifinu.logs.floods import QUIET, Dropped, Floods
from ifinu.settings import LogFormat

LIMIT_PER_S = 200  # of one event, unless IFINU_LOG_LIMIT says otherwise

_DROPPED = "ifinu.logs.dropped"
_LEVELS = {"exception": "error", "warn": "warning", "fatal": "critical"}  # of the methods that have another name

_floods: Floods | None = None


def configure(
    level: str = "info",
    style: LogFormat = LogFormat.AUTO,
    limit_per_s: int = LIMIT_PER_S,
    name: str | None = None,
) -> None:
    """
    Set up structlog and the standard library's logging, once per process.

    Args:
        level: Least severe line of ours that is written. Libraries say `info` at most, since what they say to debug
            them repeats what they handle.
        style: See `settings.LogFormat`.
        limit_per_s: See `floods.Floods`.
        name: Of this process, on each line of JSON; by default the host's.
    """
    global _floods
    number = logging.getLevelNamesMapping()[level.upper()]
    as_json = style is LogFormat.JSON or (style is LogFormat.AUTO and not sys.stderr.isatty())
    _floods = floods = Floods(limit_per_s, tell=_tell)
    atexit.register(floods.flush)
    # What a parent counted is its parent's to tell, and the lock may have been held.
    os.register_at_fork(after_in_child=floods.forget)
    finish = _finish(name or socket.gethostname() if as_json else None)
    render: Any = _as_json if as_json else _as_columns()
    # Ours are written as they are: a trip through the standard library would cost three times as much a line.
    structlog.configure(
        processors=[_unless_flooded(floods), finish, render],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(foreign.redact)
    handler.addFilter(lambda record: floods.admits(foreign.place(record), record.levelname.lower()))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, finish],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    foreign.set_levels(number)
    uncaught.log_them()


def flush() -> None:
    """Tell now of what was dropped; for a process that ends without Python's own way to end."""
    if _floods is not None:
        _floods.flush()


def _tell(dropped: Dropped) -> None:
    level = "warning" if dropped.level in QUIET else dropped.level
    say = getattr(structlog.get_logger(__name__), level)
    say(_DROPPED, of=dropped.event, of_level=dropped.level, reason=dropped.reason, count=dropped.lines)


def _unless_flooded(floods: Floods) -> Any:
    """First of the processors: what is dropped costs least."""

    def process(_: Any, method: str, line: dict[str, Any]) -> dict[str, Any]:
        event = line["event"]
        if floods.admits(event, _LEVELS.get(method, method), line.get("reason")) or event == _DROPPED:
            return line
        raise structlog.DropEvent

    return process


def _finish(name: str | None) -> Any:
    """What each line has beside what its writer gave it. One step instead of structlog's four, which cost twice."""

    def process(_: Any, method: str, line: dict[str, Any]) -> dict[str, Any]:
        line["level"] = _LEVELS.get(method, method)
        line["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        if name is not None:
            line["host"] = name
        if exc_info := line.pop("exc_info", None):
            exc, traceback = _fault(exc_info)
            if exc is not None:
                line["exception"] = exceptions.render(exc, traceback)
        return line

    return process


def _fault(exc_info: Any) -> tuple[BaseException | None, Any]:
    """The exception that a line is about, and its traceback where that is not its own."""
    if isinstance(exc_info, BaseException):
        return exc_info, None
    _, exc, traceback = exc_info if isinstance(exc_info, tuple) else sys.exc_info()
    # Celery's, around an exception that came from another process.
    return getattr(exc, "exc", exc) if type(exc).__name__ == "ExceptionWithTraceback" else exc, traceback


def _written(value: object) -> str:
    """What JSON does not know; an exception's words may not be ours to repeat."""
    return exceptions.describe(value) if isinstance(value, BaseException) else str(value)


_encode = json.JSONEncoder(ensure_ascii=False, default=_written).encode


def _as_json(_: Any, __: str, line: dict[str, Any]) -> str:
    return visible_json(_encode(line))


def _as_columns() -> Callable[[Any, str, dict[str, Any]], str]:
    """For people. The traceback is written before it gets here: the pretty ones show local variables."""
    render = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )

    def shown(logger: Any, method: str, line: dict[str, Any]) -> str:
        safe = {
            name: visible(value, lines=name == "exception") if isinstance(value, str) else value
            for name, value in line.items()
        }
        return str(render(logger, method, safe))

    return shown
