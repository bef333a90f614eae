"""
How log lines look: one event a line, JSON for machines or columns for a terminal; Celery's own lines included.

Phones, names and texts are kept out where a line is written, not filtered here.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from ifinu.settings import LogFormat

# A line for each message received, started and finished costs more than the send; ours say what happened.
_QUIET = ("celery.worker.strategy", "celery.app.trace", "kombu")
# It warns with the path it asked for, and an instance may be named after its phone.
_SILENT = ("urllib3",)


def configure(level: str = "info", style: LogFormat = LogFormat.AUTO) -> None:
    """
    Set up structlog and the standard library's logging, once per process.

    Args:
        level: Least severe line that is written.
        style: See `settings.LogFormat`.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    as_json = style is LogFormat.JSON or (style is LogFormat.AUTO and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    # Ours are written as they are: a trip through the standard library would cost three times as much a line.
    structlog.configure(
        processors=[*shared, *render],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.ERROR)
