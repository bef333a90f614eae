"""
The WhatsApp account of a number, as the Evolution API and WhatsApp determine it.

WhatsApp registers a Brazilian mobile in one of two forms: with the ninth digit (area codes below 31) or without it
(most others). The gateway accepts both and answers with the registered one, so `key.remoteJid` may differ from
`number`.
"""

from __future__ import annotations

import re

USER = "@s.whatsapp.net"
_JID_MARKS = ("@g.us", USER, "@lid", "@broadcast")
_NOT_DIGIT = re.compile(r"\D")
_BRAZIL_WITH_NINE = re.compile(r"55(\d\d)\d(\d{8})", re.ASCII)
_BRAZIL_WITHOUT_NINE = re.compile(r"55(\d\d)([6-9]\d{7})", re.ASCII)


def jid(number: str) -> str:
    """
    The JID with which the gateway asks WhatsApp for a number.

    Source: behaves as `createJid` of Evolution API 2.3.6.
    """
    if "@" in number and any(mark in number for mark in _JID_MARKS):
        return number
    digits = number if number.isdecimal() and number.isascii() else _NOT_DIGIT.sub("", number)
    if len(digits) >= 18 or ("-" in number and len(number) >= 24):
        return f"{digits}@g.us"
    if len(digits) == 13:
        if digits.startswith(("52", "54")):
            return digits[:2] + digits[3:] + USER
        if (match := _BRAZIL_WITH_NINE.fullmatch(digits)) and not _keeps_nine(match[1], match[2]):
            return f"55{match[1]}{match[2]}{USER}"
    return digits + USER


def canonical(number: str) -> str:
    """The registered JID of the account, with the ninth digit added or removed."""
    asked = jid(number)
    if asked is number:  # a JID skips the ninth-digit matching
        return asked
    match = _BRAZIL_WITHOUT_NINE.fullmatch(asked.removesuffix(USER))
    if match and _keeps_nine(match[1], match[2]):
        return f"55{match[1]}9{match[2]}{USER}"
    return asked


def digits(jid: str) -> str:
    """The part of a JID before the `@`."""
    return jid.partition("@")[0]


def _keeps_nine(area: str, subscriber: str) -> bool:
    return int(area) < 31 or subscriber[0] < "7"
