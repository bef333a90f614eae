"""
Exceptions as a log may show them: where they were raised, and only words that cannot be personal data.

A library's exception quotes its input: `KeyError('Maria')`, `invalid literal for int(): '77 99861-6740'`, the input of
pydantic, the parameters of SQL. The place says more than that, so a class that is not listed here shows only its name.
Local variables are never shown, and a phone is masked even in the words of our exceptions.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator
from typing import Any

import redis

from ifinu import phone
from ifinu.errors import IfinuError

_LONGEST_WORDS = 300
_MOST_FRAMES = 30  # of one exception, the outermost and the innermost half of them
_MOST_LINKS = 5  # of a chain, or of a group
_DEEPEST = 3
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"
# A child of a process pool hands over its traceback as text; these parts of it hold no data.
_NAME = re.compile(r"[A-Za-z_]\w{0,99}")
_FRAME = re.compile(r'^ *File "[^"\n]*", line \d+, in \S+$', re.MULTILINE)


def describe(exc: BaseException, *, _depth: int = 0) -> str:
    """Name an exception in one line, with its words where they are known to be harmless: `module.Class: words`."""
    kind = type(exc)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    words = _words(exc)
    if not words and _depth < _DEEPEST:  # such as celery's Reject, which wraps another exception
        words = "; ".join(describe(one, _depth=_depth + 1) for one in exc.args if isinstance(one, BaseException))
    return f"{name}: {words}" if words else name


def render(exc: BaseException, traceback: Any = None) -> str:
    """
    Write an exception and its causes frame by frame, as Python does, with `describe` in place of its words.

    Args:
        traceback: The traceback of an exception that came from another process without one.
    """
    return "\n".join(_lines(exc, traceback, 0))


def retold(written: str) -> str:
    """
    An exception of which Celery hands on only the repr. One of ours keeps its words; others keep their name and that of
    the exception of ours inside, if there is one: `NotSent('…')`, `Retry(NotSent)`, `KeyError(…)`.
    """
    name, *others = _NAME.findall(written[:_LONGEST_WORDS]) or ["Exception"]
    if name in _OURS:
        return phone.mask_in(written[:_LONGEST_WORDS])
    return f"{name}({next((other for other in others if other in _OURS), '…')})"


def frames_in(text: str) -> str:
    """The frames of a traceback given as text, without the exception's words."""
    return "\n".join(_FRAME.findall(text)[-_MOST_FRAMES:])


def _names(kind: type[IfinuError]) -> set[str]:
    return {kind.__name__}.union(*map(_names, kind.__subclasses__()))


_OURS = frozenset(_names(IfinuError))


def _words(exc: BaseException) -> str:
    match exc:
        case IfinuError():  # masked where they are raised
            said = str(exc)
        case redis.RedisError():
            said = str(exc).partition(", with args")[0]  # of a command it does not know Redis repeats the arguments
        case OSError():
            said = exc.strerror or ""
        case AttributeError() | NameError() | ImportError():  # names of the program's
            said = str(exc)
        case _:
            return ""
    return phone.mask_in(" ".join(said.split()))[:_LONGEST_WORDS]


def _lines(exc: BaseException, traceback: Any, depth: int) -> Iterator[str]:
    for one, link in _chain(exc):
        yield from _own_lines(one, one.__traceback__ or (traceback if one is exc else None), depth)
        if link:
            yield from ("", link, "")


def _chain(exc: BaseException) -> list[tuple[BaseException, str]]:
    """The exceptions that led to this one, oldest first, each with the sentence that links it to the next."""
    chain: list[tuple[BaseException, str]] = [(exc, "")]
    met = {id(exc)}
    while len(chain) < _MOST_LINKS:
        last = chain[0][0]
        before, link = last.__cause__, _CAUSE
        if before is None and not last.__suppress_context__:
            before, link = last.__context__, _CONTEXT
        if before is None or id(before) in met:
            break
        met.add(id(before))
        chain.insert(0, (before, link))
    return chain


def _own_lines(exc: BaseException, traceback: Any, depth: int) -> Iterator[str]:
    frames = list(_frames(traceback))
    if frames:
        yield "Traceback (most recent call last):"
    left_out = len(frames) - _MOST_FRAMES
    if left_out > 0:
        half = _MOST_FRAMES // 2
        frames[half:-half] = [f"  ... {left_out} frames"]
    yield from frames
    if type(exc).__name__ == "RemoteTraceback":
        yield frames_in(str(exc))
    yield describe(exc)
    if isinstance(exc, BaseExceptionGroup) and depth < _DEEPEST:
        for one in exc.exceptions[:_MOST_LINKS]:
            yield from (f"  | {line}" for line in _lines(one, None, depth + 1))


def _frames(traceback: Any) -> Iterator[str]:
    """Line by line; billiard's stand-ins for tracebacks, which can be pickled, have the same attributes."""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        source = linecache.getline(code.co_filename, traceback.tb_lineno).strip()
        where = f'  File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_name}'
        yield f"{where}\n    {source}" if source else where
        traceback = traceback.tb_next
