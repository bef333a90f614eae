"""
The reference at the end of a text, by which a message is recognised when the gateway's answer to its send was lost.

The gateway takes no id of ours and searches no text; but it hands back the texts it sent. So each ends in a line that
follows from the notification's id: `_Ref. K7Q2-M9XT_`. It tells nothing to anybody else, and people may quote it.
"""

from __future__ import annotations

import base64
import hashlib
import re

_LINE = re.compile(r"_Ref\. ([A-Z2-7]{4}-[A-Z2-7]{4})_")
_AROUND = " \t>*_~`"  # how WhatsApp sets a line


def reference_of(notification_id: str) -> str:
    """
    The reference of a notification id: `K7Q2-M9XT`, 40 bits of its hash.

    Two ids share one in 10^12; it is only ever compared within one phone and some minutes.
    """
    code = base64.b32encode(hashlib.sha256(notification_id.encode()).digest()[:5]).decode()
    return f"{code[:4]}-{code[4:]}"


def with_reference(text: str, notification_id: str) -> str:
    """The text, and below it the reference, in italics."""
    return f"{text}\n\n_Ref. {reference_of(notification_id)}_"


def reference_in(text: str) -> str | None:
    """
    The reference that a text of ours ends in; None where its last line is not the one that we write.

    A reference anywhere else is a quotation: a person's, or of a text that came to us ready-made.
    """
    found = _LINE.fullmatch(text.rstrip().rpartition("\n")[2])
    return found and found[1]


def without_references(text: str) -> str:
    """A text that came to us ready-made, without the lines that claim to be a reference."""
    lines = text.split("\n")
    kept = [line for line in lines if not _LINE.fullmatch(f"_{line.strip(_AROUND)}_")]
    return text if len(kept) == len(lines) else "\n".join(kept).strip()
