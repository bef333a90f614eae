"""Libraries' lines in the standard library's logging: which are written, and without data of a message."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ifinu.logs import exceptions

# A line for each message received, started and finished costs more than the send; our lines cover it.
_QUIET = ("celery.worker.strategy", "kombu", "alembic.runtime.plugins")
# urllib3 warns with the path it asked for, and an instance may be named after its phone. Celery warns with a traceback
# for each message that goes back to its queue, which in an outage is every message; our lines report an outage once.
_SILENT = ("urllib3", "celery.app.trace")
# They format their text before they log it, and the reprs of exceptions follow from the second line on.
_FIRST_LINE_ONLY = ("asyncio",)
# Celery 5.6 warns of a lost connection with a traceback; its next line names the error.
_NO_TRACEBACK = "celery.worker.consumer.consumer"


def set_levels(number: int) -> None:
    """
    Set the level of each library.

    Args:
        number: Our lowest level. Below `info`, libraries repeat the data they handle: the arguments of tasks, the rows
            of a database.
    """
    logging.getLogger().setLevel(max(number, logging.INFO))
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.ERROR)


def place(record: logging.LogRecord) -> str:
    """The place that wrote a line, which stands for its event: `celery.app.trace:288`."""
    return f"{record.name}:{record.lineno}"


def redact(record: logging.LogRecord) -> bool:
    """Remove possible data from a line. Always True: this filter lets every line pass."""
    args = record.args
    if record.name == _NO_TRACEBACK and record.levelno == logging.WARNING:
        record.exc_info = None
    if isinstance(args, tuple):
        if any(isinstance(arg, BaseException) for arg in args):
            record.args = tuple(
                _Description(exceptions.describe(a)) if isinstance(a, BaseException) else a for a in args
            )
    elif isinstance(args, Mapping) and "exc" in args:  # Celery's line for a failed task: the exception's repr
        exc = record.exc_info[1] if record.exc_info else None
        words = exceptions.describe(exc) if exc is not None else str(args["exc"]).partition("(")[0]
        record.args = {**args, "exc": words, "traceback": "", "args": "", "kwargs": ""}
    if isinstance(record.msg, str):
        if "body" in record.msg:  # Celery's line for an unreadable message: the whole message follows
            record.msg, record.args = record.msg.partition("\n")[0].partition("%")[0].rstrip(" :["), ()
        elif record.name in _FIRST_LINE_ONLY:
            record.msg = record.msg.partition("\n")[0]
    return True


class _Description(str):
    """A description in place of an exception, for `%r` as for `%s`."""

    def __repr__(self) -> str:
        return str(self)
