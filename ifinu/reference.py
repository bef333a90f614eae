"""
The reference at the end of a text, by which a message is recognised when the gateway's answer to its send was lost.

The gateway takes no id of ours and searches no text; but it hands back the texts it sent. So each ends in a line that
follows from the notification's id: `_Ref. K7Q2-M9XT_`. It tells nothing to anybody else, and people may quote it.
"""

from __future__ import annotations

import base64
import hashlib
import re

# Not \b: the underscores of the italics are letters to it.
_IN_TEXT = re.compile(r"(?<![A-Za-z0-9])Ref\. ([A-Z2-7]{4}-[A-Z2-7]{4})(?![A-Za-z0-9])")


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


def references_in(text: str) -> list[str]:
    """The references that stand in a text."""
    return _IN_TEXT.findall(text)
