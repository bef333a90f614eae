"""
Made-up personal data, and a search for them in whatever was written somewhere, however it was escaped on its way there.

A phone counts with its area code in any spelling, or alone where it is a figure of its own; `+55 77 9****-0003` is
masked. Words are looked for without regard to case. What is percent-encoded, escaped for JSON (twice, too), HTML or
Python, or in base64, is undone before: a leak in disguise is a leak.
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
PREFIX = "8765"  # of the line; four digits of its own follow, the first of them 0

NAME = "Zulmira Quixabeira Canário"
TEXT = "Jabuticabal: a fatura da Ubirajara"
DESCRIPTION = "Mensalidade Mirabolante"
PIX = pix("canarinho-pix-copia-e-cola")
LINK = "https://pague.example/tupiniquim/1?boleto=Macunaima"
CONTACT = "Astrogilda"  # as the phone of who writes names itself
INBOUND = "Aristobulo quer saber do boleto"  # what a person writes
LID = "277888999000111"  # what WhatsApp hides a phone behind

# Each is in one of the above, and in nothing else.
WORDS = (
    "zulmira", "quixabeira", "jabuticabal", "ubirajara", "mirabolante", "canarinho", "tupiniquim", "macunaima",
    "astrogilda", "aristobulo", LID,
)  # fmt: skip

_GAP = r"[\s().\-\u2010-\u2015+]{0,3}"
_ESCAPED = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{14,}")
_DEEPEST = 2


class Found(NamedTuple):
    """A canary, and what stands around it."""

    canary: str
    around: str


def phone(ending: int) -> str:
    """A canary's phone in E.164, by its last four digits, which choose what the simulator does with it."""
    return f"+55{DDD}9{PREFIX}{ending:04}"


def spellings(ending: int) -> list[str]:
    """The same as people write it."""
    end = f"{ending:04}"
    return [
        f"({DDD}) 9{PREFIX}-{end}", f"+55 {DDD} 9 {PREFIX} {end}", f"55{DDD}9{PREFIX}{end}", f"0{DDD}9{PREFIX}{end}",
        f"{DDD}{PREFIX}{end}", f"55{DDD}{PREFIX}{end}@s.whatsapp.net",
    ]  # fmt: skip


def search(written: str | bytes, *, allowed: tuple[str, ...] = ()) -> list[Found]:
    """
    The canaries in what was written somewhere.

    Args:
        written: All of it.
        allowed: Taken out first: what may stand there.
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
    """A text, and what it says once each disguise is taken off, and off again."""
    yield text
    if depth == _DEEPEST:
        return
    undone = {unquote_plus(text), html.unescape(text), _ESCAPED.sub(_character, text)} - {text}
    for other in undone:
        yield from _views(other, depth + 1)
    for match in _BASE64.finditer(text):
        for start in range(4):  # it may begin in the middle of what is taken for its letters
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
    # Without its area code, only where no other figure stands beside it.
    alone = rf"(?<![\w.])(?:9[\s.-]?)?{PREFIX}[\s.-]?0\d{{3}}(?!\w)"
    return re.compile(f"{anywhere}|{alone}")


_PHONE = _phone_pattern()
