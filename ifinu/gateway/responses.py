"""
The gateway's answers: the words in them, in every shape of error.

Almost every error is `{"status", "error", "response": {"message": M}}`, where M is one of

    "text"                            an unexpected exception; 401
    ["text"]                          a deliberate error
    [["a", "b"]]                      errors of the schema
    [{"exists": false, …}]            the number is not on WhatsApp

`chat/whatsappNumbers` leaves `response` out, or answers a Boom object (`output.payload.message`), or `{}`.
The WhatsApp Business channel passes on Meta's `{"message", "type", "code"}`. A proxy answers HTML, plain
text, or nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pydantic_core

from ifinu import phone

_LONGEST_WORDS = 200
_LONGEST_READ = 4000  # characters read, from the start of an answer
_SHORTEST_HIDDEN = 4  # a text of one letter would hide every such letter
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
# Prisma prints the query's values, the message's text among them, between these two.
_QUERY = re.compile(r"\binvocation\b.*\n", re.DOTALL)


def decode(body: bytes) -> Any:
    """
    Parse an answer.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return pydantic_core.from_json(body, cache_strings="keys")  # twice as fast, and stricter
    except ValueError:
        pass
    try:
        return json.loads(body)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


def plain(body: bytes) -> str | None:
    """An answer in plain text; None if it is a proxy's page."""
    text = body[:_LONGEST_READ].decode("utf-8", "replace").strip()
    return text if text and not text.startswith("<") else None


def message(answer: Any) -> Any:
    """M of a parsed error, which may be the whole answer; None if it has none."""
    if isinstance(answer, (str, list)):
        return answer
    if not isinstance(answer, dict):
        return None
    for holder in (answer.get("response"), answer, _payload(answer)):
        if isinstance(holder, dict) and holder.get("message") is not None:
            return holder["message"]
    return answer.get("error")


def texts(said: Any) -> tuple[str, ...]:
    """All texts in M, in order. Objects are skipped: they hold phones and no further words."""
    if isinstance(said, str):
        return (said,)
    if isinstance(said, list):
        flat = (inner for item in said for inner in (item if isinstance(item, list) else [item]))
        return tuple(text for text in flat if isinstance(text, str))
    return ()


def words(body: bytes, *, hide: Iterable[str] = ()) -> str:
    """
    Summarise an answer in one line.

    Args:
        hide: Texts to remove even if the gateway repeats them: the key, the message's text.

    Returns:
        At most 200 characters, phones masked; empty if the answer has no words.
    """
    try:
        answer = decode(body)
    except ValueError:
        plain = body[:_LONGEST_READ].decode("utf-8", "replace")
        title = _TITLE.search(plain)
        return one_line(title[1] if title else _TAG.sub(" ", plain), hide=hide)
    return one_line("; ".join(texts(message(answer))), hide=hide)


def one_line(said: str, *, hide: Iterable[str] = ()) -> str:
    """Same as `words`, for a text."""
    said = _QUERY.sub("invocation: ", said)[:_LONGEST_READ]
    for secret in _as_repeated(hide):
        said = said.replace(secret, "[…]")
    said = " ".join("".join(char if char.isprintable() else " " for char in said).split())
    said = phone.mask_in(said)
    return said if len(said) <= _LONGEST_WORDS else said[: _LONGEST_WORDS - 1] + "…"


def _payload(answer: dict[str, Any]) -> Any:
    output = answer.get("output")
    return output.get("payload") if isinstance(output, dict) else None


def _as_repeated(hide: Iterable[str]) -> list[str]:
    forms = set()
    for secret in hide:
        forms |= {json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
        forms |= {secret, *secret.splitlines()}
    return sorted((form for form in forms if len(form) >= _SHORTEST_HIDDEN), key=len, reverse=True)
