"""Request bodies as Express reads them, and Node's errors for those that are not JSON."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qsl

from ifinu.simulator.server import HttpRequest

_CONTEXT = 10  # characters that V8 shows on either side of an unexpected token
_WHITESPACE = " \t\r\n"
_STRING = re.compile(r'"(?:\\.|[^"\\])*"', re.DOTALL)
_LITERALS = {"t": "true", "f": "false", "n": "null"}


class _ConstantError(ValueError):
    """NaN or Infinity, which Python takes and Node does not."""


def _no_constant(name: str) -> float:
    raise _ConstantError(name)


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def read(request: HttpRequest) -> str | None:
    """
    Fill `request.json` from a JSON or form body.

    Returns:
        Node's error for a body that is not JSON; None if it is valid.
    """
    if not request.body:
        return None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        request.json = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
    elif kind == "application/json":
        text = request.body.decode("utf-8", "replace")
        start = len(text) - len(text.lstrip(_WHITESPACE))
        if start == len(text):
            return "Unexpected end of JSON input"
        if text[start] not in "{[":  # Express takes objects and arrays alone
            return _unexpected(text, start)
        try:
            value = _DECODER.decode(text)
        except _ConstantError as exc:
            return _unexpected(text, _STRING.sub(lambda found: "_" * len(found[0]), text).index(str(exc)))
        except json.JSONDecodeError as exc:
            return _words(text, exc)
        request.json = value if isinstance(value, dict) else {}
    return None


def _words(text: str, exc: json.JSONDecodeError) -> str:
    """V8's words for what Python's parser found."""
    at, said = exc.pos, exc.msg
    before = text[:at].rstrip(_WHITESPACE)[-1:]
    if said.startswith("Illegal trailing comma"):  # Python 3.13; earlier versions report the next token
        at += len(text[at + 1 :]) - len(text[at + 1 :].lstrip(_WHITESPACE)) + 1
    if said.startswith("Expecting value") or said.endswith("end of array"):
        for expected in _LITERALS.get(text[at : at + 1], ""):
            at += text[at : at + 1] == expected
        return _unexpected(text, at)
    if said.startswith("Unterminated string"):
        return f"Unterminated string in JSON at position {len(text)}"
    if said.startswith("Expecting ',' delimiter"):
        inside = "']' after array element" if _in_array(text, at) else "'}' after property value"
        return f"Expected ',' or {inside} in JSON at position {at}"
    if said.startswith("Expecting ':' delimiter"):
        return f"Expected ':' after property name in JSON at position {at}"
    if said.startswith("Extra data"):
        return f"Unexpected non-whitespace character after JSON at position {at}"
    if said.startswith("Invalid control character"):
        return f"Bad control character in string literal in JSON at position {at}"
    if said.startswith("Invalid \\u"):
        return f"Bad Unicode escape in JSON at position {at}"
    if said.startswith("Invalid \\"):
        return f"Bad escaped character in JSON at position {at + 1}"
    if said.startswith("Expecting property name") and before == "{":
        return f"Expected property name or '}}' in JSON at position {at}"
    return f"Expected double-quoted property name in JSON at position {at}"


def _unexpected(text: str, at: int) -> str:
    """V8's message for an unexpected token, or for the end of the text."""
    if at >= len(text.rstrip(_WHITESPACE)):
        return "Unexpected end of JSON input"
    shown = f'"{text}"'
    if len(text) > 2 * _CONTEXT:
        start, end = max(at - _CONTEXT, 0), at + _CONTEXT
        left = "..." if at >= _CONTEXT else ""
        right = "..." if end < len(text) else ""
        shown = f'{left}"{text[start:end] if right else text[start:]}"{right}'
    return f"Unexpected token '{text[at]}', {shown} is not valid JSON"


def _in_array(text: str, at: int) -> bool:
    """Whether the innermost open bracket at a position is a square one."""
    depth = 0
    for char in reversed(_STRING.sub("", text[:at])):
        if char in "]}":
            depth += 1
        elif char in "[{":
            if not depth:
                return char == "["
            depth -= 1
    return False
