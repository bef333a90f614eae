"""What a recorder did so far; for metrics and tests. Apart from it, since who only stands by loads no database."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """
    Of all the turns of one process.

    Attributes:
        active: It is this process' turn.
        recorded: Events written.
        refused: Entries that were no events.
        lag: Entries in the stream when it was last looked at.
        gaps: How often the stream was lost.
    """

    active: bool = False
    recorded: int = 0
    refused: int = 0
    lag: int = 0
    gaps: int = 0
