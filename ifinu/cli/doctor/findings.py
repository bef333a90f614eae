"""The result of one check of `ifinu doctor`."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"  # it works, or could not be checked
    FAIL = "fail"  # messages are lost, not sent or not recorded


@dataclass(frozen=True)
class Finding:
    """
    The result of one check.

    Attributes:
        fix: What to do about it; empty when there is nothing to do.
    """

    check: str
    level: Level
    seen: str
    fix: str = ""

    @classmethod
    def graded(cls, check: str, figure: float, seen: str, *, warn: float, fail: float, fix: str) -> Finding:
        """A finding whose level follows from a figure: `WARN` from `warn` on, `FAIL` from `fail` on."""
        level = Level.FAIL if figure >= fail else Level.WARN if figure >= warn else Level.OK
        return cls(check, level, seen, "" if level is Level.OK else fix)
