"""
The reference at the end of a text, by which a message is recognised when the gateway's answer to its send was lost.

The gateway neither stores an id of ours nor searches texts, but it returns the texts that it sent. So each text ends in
a line derived from the notification's id: `_Ref. K7Q2-M9XT_`. The line reveals nothing, and people may quote it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re

_LINE = re.compile(r"_Ref\. ([A-Z2-7]{4}-[A-Z2-7]{4})_")
_AROUND = " \t>*_~`"  # WhatsApp's marks of formatting


@functools.lru_cache(maxsize=1024)  # a send needs it twice
def reference_of(notification_id: str) -> str:
    """
    The reference of a notification id: `K7Q2-M9XT`, 40 bits of its hash.

    Two ids share a reference once in 10^12, and references are only compared within one phone and some minutes.
    """
    code = base64.b32encode(hashlib.sha256(notification_id.encode()).digest()[:5]).decode()
    return f"{code[:4]}-{code[4:]}"


def with_reference(text: str, notification_id: str) -> str:
    """The text with the reference below it, in italics."""
    return f"{text}\n\n_Ref. {reference_of(notification_id)}_"


def reference_in(text: str) -> str | None:
    """
    The reference in the last line of a text; None where the last line is not a reference.

    A reference anywhere else is a quotation, by a person or in a text that a producer wrote.
    """
    found = _LINE.fullmatch(text.rstrip().rpartition("\n")[2])
    return found and found[1]


def without_references(text: str) -> str:
    """A producer's text without the lines that look like a reference."""
    lines = text.split("\n")
    kept = [line for line in lines if not _LINE.fullmatch(f"_{line.strip(_AROUND)}_")]
    return text if len(kept) == len(lines) else "\n".join(kept).strip()
