r"""
Characters that are not to reach a terminal as they are: they move its cursor, colour it, or turn the order of a text.

A control character (C0, C1), a mark of direction or half of a surrogate pair is shown by its escape, `\x1b` or
`\u202e`: it can be seen, and does nothing.
"""

from __future__ import annotations

import json
import re

# Parts of a character class, in a spelling that Python's and Rust's patterns both read.
CONTROLS = r"\x00-\x1f\x7f-\x9f"  # C0 and C1
_OTHERS = (
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # directions, other invisible ones, line separators
)
SURROGATES = r"\ud800-\udfff"

_UNSEEN = re.compile(f"[{CONTROLS}{_OTHERS}{SURROGATES}]")
_UNSEEN_BUT_LINES = re.compile(rf"(?!\n){_UNSEEN.pattern}")


def visible(text: str, *, lines: bool = False) -> str:
    """
    A text on one line, each such character as its Python escape.

    Args:
        text: From anywhere.
        lines: Whether its line ends stay.
    """
    unseen = _UNSEEN_BUT_LINES if lines else _UNSEEN
    return unseen.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_json(document: str) -> str:
    """JSON that says the same, each such character within its strings as JSON's escape."""
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], document)
