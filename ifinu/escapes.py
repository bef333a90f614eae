r"""
Escapes for characters that would move a terminal's cursor, colour it, or reorder a text.

A control character (C0, C1), a mark of direction or half a surrogate pair is shown as its escape, `\x1b` or `\u202e`:
visible, and without effect.
"""

from __future__ import annotations

import json
import re

# Parts of a character class, in the syntax that Python's and Rust's patterns share.
CONTROLS = r"\x00-\x1f\x7f-\x9f"  # C0 and C1
_OTHERS = (
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # directions, other invisible ones, line separators
)
SURROGATES = r"\ud800-\udfff"

_UNSEEN = re.compile(f"[{CONTROLS}{_OTHERS}{SURROGATES}]")
_UNSEEN_BUT_LINES = re.compile(rf"(?!\n){_UNSEEN.pattern}")


def visible(text: str, *, lines: bool = False) -> str:
    """
    The text with each such character as its Python escape.

    Args:
        lines: Whether line breaks stay; otherwise they are escaped too.
    """
    unseen = _UNSEEN_BUT_LINES if lines else _UNSEEN
    return unseen.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_json(document: str) -> str:
    """The same JSON, with each such character in its strings as a JSON escape."""
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], document)
