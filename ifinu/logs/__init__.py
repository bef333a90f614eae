"""
The format of log lines: one event per line, as JSON for machines or as columns for a terminal. Libraries' lines too.

    ours       structlog ─────────────────────────────▶ flood? ─▶ fields, traceback ─▶ JSON or columns ─▶ stderr
    libraries' logging ─▶ level, `foreign.redact` ─▶ flood? ─▶ ╯
    uncaught   warnings, exceptions of threads and of the process ─▶ as ours (`uncaught.py`)

The callers keep phones, names and texts out of our lines; searching for them here would cost more than the line. Lines
of others are trusted less: an exception shows only words that cannot repeat its input (`exceptions.py`), a library's
line shows no argument of a task (`foreign.py`). docs/logs.md lists the events.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from ifinu.escapes import visible, visible_json
from ifinu.json_encoder import encoder
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
        level: Lowest level of our lines. Libraries log at `info` or above, because their debug lines repeat the data
            they handle.
        style: See `settings.LogFormat`.
        limit_per_s: See `floods.Floods`.
        name: Name of this process on each JSON line; by default the host name.
    """
    global _floods
    number = logging.getLevelNamesMapping()[level.upper()]
    as_json = style is LogFormat.JSON or (style is LogFormat.AUTO and not sys.stderr.isatty())
    _floods = floods = Floods(limit_per_s, report=_report)
    atexit.register(floods.flush)
    # The parent reports what it counted, and its lock may have been held at the fork.
    os.register_at_fork(after_in_child=floods.forget)
    finish = _finish(name or socket.gethostname() if as_json else None)
    render: Any = _as_json if as_json else _as_columns()
    # Our lines are written directly: through the standard library a line would cost three times as much.
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
    """Report dropped lines now; for a process that exits without running Python's exit handlers."""
    if _floods is not None:
        _floods.flush()


def _report(dropped: Dropped) -> None:
    level = "warning" if dropped.level in QUIET else dropped.level
    write = getattr(structlog.get_logger(__name__), level)
    write(_DROPPED, of=dropped.event, of_level=dropped.level, reason=dropped.reason, count=dropped.lines)


def _unless_flooded(floods: Floods) -> Any:
    """The first processor, so that a dropped line costs least."""

    def process(_: Any, method: str, line: dict[str, Any]) -> dict[str, Any]:
        event = line["event"]
        if floods.admits(event, _LEVELS.get(method, method), line.get("reason")) or event == _DROPPED:
            return line
        raise structlog.DropEvent

    return process


def _finish(name: str | None) -> Any:
    """Adds level, time and host. One step instead of structlog's four, which cost twice as much."""

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
    """The exception of a line, and its traceback if that is not an attribute of the exception."""
    if isinstance(exc_info, BaseException):
        return exc_info, None
    _, exc, traceback = exc_info if isinstance(exc_info, tuple) else sys.exc_info()
    # Celery wraps an exception that came from another process.
    return getattr(exc, "exc", exc) if type(exc).__name__ == "ExceptionWithTraceback" else exc, traceback


def _written(value: object) -> str:
    """A value that JSON cannot encode; an exception only as far as its words may be shown."""
    return exceptions.describe(value) if isinstance(value, BaseException) else str(value)


_encode = encoder(ascii_only=False, default=_written)


def _as_json(_: Any, __: str, line: dict[str, Any]) -> str:
    return visible_json(_encode(line))


def _as_columns() -> Callable[[Any, str, dict[str, Any]], str]:
    """Columns for people. The traceback is text already: structlog's pretty ones show local variables."""
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
