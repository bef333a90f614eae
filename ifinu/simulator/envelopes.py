"""
The shapes in which the Evolution API answers.

1. `error(...)`     {"status", "error", "response": {"message": M}}
                    where M is a string, ["text"], [["a", "b"]] or [{…}]
2. `raw_error(...)` {"status", "error", "message": […]}, only from `chat/whatsappNumbers`
3. `hidden_error()` HTTP 200 with {"error": true, …}, from `instance/connect` and `instance/restart`
"""

from __future__ import annotations

import http
import json
from typing import Any, NamedTuple

JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"


class JsonResponse(NamedTuple):
    """One answer, or `RESET`."""

    status: int
    body: bytes
    content_type: str = JSON


_END_OF_SESSION = {401: "Intentional Logout"}

# In place of an answer: the connection is reset (RST), as when a pod is killed or a proxy gives up.
RESET = JsonResponse(0, b"")


def encode(value: object) -> bytes:
    """`value` as `JSON.stringify` writes it: no spaces, text as UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def answer(status: int, value: object) -> JsonResponse:
    return JsonResponse(status, encode(value))


def error(status: int, message: Any, phrase: str | None = None) -> JsonResponse:
    """
    Envelope 1.

    Args:
        message: One of the four forms in the module's docstring.
        phrase: Value of `error`, unless it is the reason phrase of `status`.
    """
    phrase = phrase or http.HTTPStatus(status).phrase
    return answer(status, {"status": status, "error": phrase, "response": {"message": message}})


def raw_error(message: Any) -> JsonResponse:
    """Envelope 2."""
    return answer(400, {"status": 400, "error": "Bad Request", "message": message})


def boom(status: int, phrase: str, message: str) -> JsonResponse:
    """Envelope 2 when Baileys raised: its Boom object, whose own status is not the HTTP one."""
    payload = {"statusCode": status, "error": phrase, "message": message}
    output = {"statusCode": status, "payload": payload, "headers": {}}
    return answer(400, {"data": None, "isBoom": True, "isServer": False, "output": output})


def hidden_error() -> JsonResponse:
    """Envelope 3."""
    return answer(200, {"error": True, "message": "[object Object]"})


def unreadable(property_name: str) -> JsonResponse:
    """Node's error when this process does not hold the instance (the wrong shard)."""
    return error(500, f"Cannot read properties of undefined (reading '{property_name}')")


def context_info(at: int) -> dict[str, Any]:
    """`contextInfo` of a message that is part of no conversation, sent at `at` (epoch seconds)."""
    return {
        "mentionedJid": [],
        "groupMentions": [],
        "ephemeralSettingTimestamp": {"low": at, "high": 0, "unsigned": False},
        "disappearingMode": {"initiator": 0},
    }


def invalid_argument(call: str, argument: str, expected: str, given: object) -> str:
    """Prisma's error for an argument of the wrong type."""
    kinds = {str: "String", int: "Int", float: "Float", bool: "Boolean", dict: "Object", list: "List"}
    return (
        f"\nInvalid `prisma.{call}` invocation:\n\n\nArgument `{argument}`: Invalid value provided. "
        f"Expected {expected}, provided {kinds.get(type(given), 'Null')}."
    )


def disconnection(code: int, at: str | None) -> str:
    """`disconnectionObject`: Baileys' error for the end of a session, as text."""
    phrase = http.HTTPStatus(code).phrase
    payload = {"statusCode": code, "error": phrase, "message": _END_OF_SESSION.get(code, "Connection Failure")}
    output = {"statusCode": code, "payload": payload, "headers": {}}
    return encode({"error": {"data": None, "isBoom": True, "isServer": False, "output": output}, "date": at}).decode()


def pool_timeout(call: str) -> str:
    """Prisma's error for a database that gives no connection in time."""
    return (
        f"\nInvalid `prisma.{call}` invocation:\n\n\n"
        "Timed out fetching a new connection from the connection pool. "
        "(Current connection pool timeout: 10, connection limit: 5)"
    )


def proxy_page(status: int) -> JsonResponse:
    title = f"{status} {http.HTTPStatus(status).phrase}"
    page = f"<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>"
    return JsonResponse(status, page.encode(), HTML)
