"""
Warnings and uncaught exceptions, which Python would print: here they become log lines like any other.

Printed, they span several lines, which a collector of JSON cannot read, and repeat the words of the exception.
"""

from __future__ import annotations

import sys
import threading
import warnings
from types import TracebackType
from typing import Any, TextIO

import structlog

from ifinu import phone

log = structlog.get_logger(__name__)

_LONGEST = 300


def log_them() -> None:
    """Replace the interpreter's default hooks; hooks that other code has set stay."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _of_the_process
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _of_a_thread
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    if warnings.showwarning.__module__ == "warnings":
        warnings.showwarning = _warning


def _of_the_process(kind: type[BaseException], exc: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, traceback)
    else:
        log.critical("ifinu.process.died", exc_info=exc)


def _of_a_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else None
        log.error("ifinu.thread.died", thread=name, exc_info=args.exc_value)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    log.error("ifinu.python.unraisable", exc_info=args.exc_value)


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
    **_: Any,
) -> None:
    words = phone.mask_in(" ".join(str(message).split()))[:_LONGEST]
    log.warning("ifinu.python.warning", category=category.__name__, words=words, at=f"{filename}:{lineno}")
