"""What `ifinu doctor` finds."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # works, or could not be checked
    FAIL = "fail"  # messages are lost, not sent or not recorded


@dataclass(frozen=True)
class Finding:
    """One check: what, how it is, what was seen, and what mends it."""

    check: str
    level: Level
    seen: str
    mend: str = ""
