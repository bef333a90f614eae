"""The JSON schemas of the send routes, with upstream's error messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

MEDIA = {
    "image": "imageMessage",
    "document": "documentMessage",
    "video": "videoMessage",
    "audio": "audioMessage",
}
_NUMERIC = re.compile(r"\d+")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")


_Check = Callable[[Any], list[str]]


def _of_type(name: str, kind: type, word: str) -> _Check:
    return lambda value: [] if isinstance(value, kind) else [f"{name} is not of a type(s) {word}"]


def _string(name: str) -> _Check:
    return _of_type(name, str, "string")


def _number(value: Any) -> list[str]:
    return [] if isinstance(value, str) else ["Invalid format"]


def _delay(value: Any) -> list[str]:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
    return [] if whole else ["Enter a value in milliseconds"]


def _quoted(value: Any) -> list[str]:
    if not isinstance(value, dict):
        return ["quoted is not of a type(s) object"]
    key = value.get("key", {"id": ""})  # a missing one passes here, and fails later
    if not isinstance(key, dict):
        return ["quoted.key is not of a type(s) object"]
    return [] if "id" in key else ['quoted.key requires property "id"']


def _numeric_strings(name: str) -> _Check:
    """An element that is not a number gets the schema's message; a fault of the list gets the validator's."""

    def check(value: Any) -> list[str]:
        if not isinstance(value, list):
            return [f"{name} is not of a type(s) array"]
        if not value:
            return [f"{name} does not meet minimum length of 1"]
        twice = any(one in value[:index] for index, one in enumerate(value))
        bad = [one for one in value if not (isinstance(one, str) and _NUMERIC.match(one))]
        return [f"{name} contains duplicate item"] * twice + [f'"{name}" must be an array of numeric strings'] * len(
            bad
        )

    return check


def _mediatype(value: Any) -> list[str]:
    return (
        [] if isinstance(value, str) and value in MEDIA else [f"mediatype is not one of enum values: {','.join(MEDIA)}"]
    )


_OPTIONS: dict[str, _Check] = {
    "linkPreview": _of_type("linkPreview", bool, "boolean"),
    "delay": _delay,
    "quoted": _quoted,
    "mentioned": _numeric_strings("mentioned"),
}
_TEXT: dict[str, _Check] = {"number": _number, "text": _string("text"), **_OPTIONS}
_MEDIA: dict[str, _Check] = {
    "number": _number,
    "mediatype": _mediatype,
    "media": _string("media"),
    "fileName": _string("fileName"),
    "caption": _string("caption"),
    "mimetype": _string("mimetype"),
    **_OPTIONS,
}


_TEMPLATE: dict[str, _Check] = {
    "number": _number,
    "name": _string("name"),
    "language": _string("language"),
    "components": _of_type("components", list, "array"),
}


def text_problems(body: dict[str, Any]) -> list[str]:
    """The errors of sendText's JSON schema: those of properties in order, then missing properties."""
    return _problems(body, _TEXT, ("number", "text"))


def numbers_problems(body: dict[str, Any]) -> list[str]:
    """The JSON schema of whatsappNumbers, which accepts a missing list."""
    return _problems(body, {"numbers": _numeric_strings("numbers")}, ())


def media_problems(body: dict[str, Any]) -> list[str]:
    return _problems(body, _MEDIA, ("number", "mediatype"))


def template_problems(body: dict[str, Any]) -> list[str]:
    return _problems(body, _TEMPLATE, ("name", "language", "number", "components"))


def is_url_or_base64(media: str) -> bool:
    """Whether upstream accepts the media; a `data:` URI is neither a URL nor base64."""
    return media.startswith(("http://", "https://")) or _BASE64.fullmatch(media) is not None


def _problems(body: dict[str, Any], checks: dict[str, _Check], required: tuple[str, ...]) -> list[str]:
    problems = [problem for key, check in checks.items() if key in body for problem in check(body[key])]
    return problems + [f'instance requires property "{key}"' for key in required if key not in body]
