"""What libraries log through the standard library: which of it, and without what they put into it of a message."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ifinu.logs import exceptions

# A line for each message received, started and finished costs more than the send; ours say what happened.
_QUIET = ("celery.worker.strategy", "kombu", "alembic.runtime.plugins")
# urllib3 warns with the path it asked for, and an instance may be named after its phone. Celery warns with a traceback
# of each message that goes back to its queue, which in an outage are all of them; that there is one is said once.
_SILENT = ("urllib3", "celery.app.trace")
# They put together what they say before they log it, the reprs of exceptions with it, from the second line on.
_FIRST_LINE_ONLY = ("asyncio",)


def set_levels(number: int) -> None:
    """
    Say how much each library may.

    Args:
        number: Least severe level of ours. What they say below `info` repeats what they handle: the arguments of tasks,
            the rows of a database.
    """
    logging.getLogger().setLevel(max(number, logging.INFO))
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.ERROR)


def place(record: logging.LogRecord) -> str:
    """Where in a program a line is written, which stands for its event: `celery.app.trace:288`."""
    return f"{record.name}:{record.lineno}"


def redact(record: logging.LogRecord) -> bool:
    """Take out of a line what may be data; always True, as a filter that lets all pass."""
    args = record.args
    if isinstance(args, tuple):
        if any(isinstance(arg, BaseException) for arg in args):
            record.args = tuple(_Said(exceptions.describe(a)) if isinstance(a, BaseException) else a for a in args)
    elif isinstance(args, Mapping) and "exc" in args:  # of Celery, on a task that failed: the exception's repr
        exc = record.exc_info[1] if record.exc_info else None
        words = exceptions.describe(exc) if exc is not None else str(args["exc"]).partition("(")[0]
        record.args = {**args, "exc": words, "traceback": "", "args": "", "kwargs": ""}
    if isinstance(record.msg, str):
        if "body" in record.msg:  # of Celery, on a message that it cannot read: all of it follows
            record.msg, record.args = record.msg.partition("\n")[0].partition("%")[0].rstrip(" :["), ()
        elif record.name in _FIRST_LINE_ONLY:
            record.msg = record.msg.partition("\n")[0]
    return True


class _Said(str):
    """A description in place of an exception, for `%r` as for `%s`."""

    def __repr__(self) -> str:
        return str(self)
