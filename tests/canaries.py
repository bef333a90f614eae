"""
Made-up personal data, and a search for them in any output, through every common escape.

A phone is found with its area code in any spelling, and without it if no other digits adjoin it; `+55 77 9****-0003`
is masked and not found. Words are found in any case. The search first decodes percent-encoding, escapes of JSON (even
twice), HTML and Python, and base64, since an encoded leak is still a leak.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_plus

from pix import pix

DDD = "77"
PREFIX = "8765"  # of the local number; four more digits follow, the first of them 0

NAME = "Zulmira Quixabeira Canário"
TEXT = "Jabuticabal: a fatura da Ubirajara"
DESCRIPTION = "Mensalidade Mirabolante"
PIX = pix("canarinho-pix-copia-e-cola")
LINK = "https://pague.example/tupiniquim/1?boleto=Macunaima"
CONTACT = "Astrogilda"  # the profile name on the sender's phone
INBOUND = "Aristobulo quer saber do boleto"  # a word of a person's message
LID = "277888999000111"  # the LID that WhatsApp shows in place of a phone

# Each is a part of one of the above and of nothing else.
WORDS = (
    "zulmira", "quixabeira", "jabuticabal", "ubirajara", "mirabolante", "canarinho", "tupiniquim", "macunaima",
    "astrogilda", "aristobulo", LID,
)  # fmt: skip

_GAP = r"[\s().\-\u2010-\u2015+]{0,3}"
_ESCAPED = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{14,}")
_DEEPEST = 2


class Found(NamedTuple):
    """A canary and the text around it."""

    canary: str
    around: str


def phone(ending: int) -> str:
    """A canary's phone in E.164 by its last four digits, which select the simulator's outcome."""
    return f"+55{DDD}9{PREFIX}{ending:04}"


def spellings(ending: int) -> list[str]:
    """A canary's phone in the spellings that people use."""
    end = f"{ending:04}"
    return [
        f"({DDD}) 9{PREFIX}-{end}", f"+55 {DDD} 9 {PREFIX} {end}", f"55{DDD}9{PREFIX}{end}", f"0{DDD}9{PREFIX}{end}",
        f"{DDD}{PREFIX}{end}", f"55{DDD}{PREFIX}{end}@s.whatsapp.net",
    ]  # fmt: skip


def search(written: str | bytes, *, allowed: tuple[str, ...] = ()) -> list[Found]:
    """
    Find the canaries in some output.

    Args:
        written: The whole output.
        allowed: Texts that may occur; they are removed first.
    """
    text = written.decode("utf-8", "backslashreplace") if isinstance(written, bytes) else written
    for one in allowed:
        text = text.replace(one, "")
    return sorted({found for view in _views(text, 0) for found in _in(view)})


def _in(text: str) -> Iterator[Found]:
    low = text.lower()
    for word in WORDS:
        if (at := low.find(word)) >= 0:
            yield Found(word, _around(text, at))
    for match in _PHONE.finditer(text):
        yield Found("phone", _around(text, match.start()))


def _around(text: str, at: int) -> str:
    return text[max(0, at - 60) : at + 60]


def _views(text: str, depth: int) -> Iterator[str]:
    """A text, and its decoded forms, repeatedly decoded."""
    yield text
    if depth == _DEEPEST:
        return
    undone = {unquote_plus(text), html.unescape(text), _ESCAPED.sub(_character, text)} - {text}
    for other in undone:
        yield from _views(other, depth + 1)
    for match in _BASE64.finditer(text):
        for start in range(4):  # the base64 may start within the matched characters
            yield from _decoded(match.group()[start:], depth)


def _character(match: re.Match[str]) -> str:
    return chr(int(match[1] or match[2], 16))


def _decoded(letters: str, depth: int) -> Iterator[str]:
    whole = letters[:-1] if len(letters) % 4 == 1 else letters + "=" * (-len(letters) % 4)
    raw = base64.b64decode(whole.translate(str.maketrans("-_", "+/")))
    for encoding in ("latin-1", "utf-8"):
        yield from _views(raw.decode(encoding, "replace"), depth + 1)


def _phone_pattern() -> re.Pattern[str]:
    anywhere = _GAP.join([*DDD, f"(?:9{_GAP})?{PREFIX[0]}", *PREFIX[1:], "0", *[r"\d"] * 3])
    # Without its area code, only if no other digit adjoins it.
    alone = rf"(?<![\w.])(?:9[\s.-]?)?{PREFIX}[\s.-]?0\d{{3}}(?!\w)"
    return re.compile(f"{anywhere}|{alone}")


_PHONE = _phone_pattern()
