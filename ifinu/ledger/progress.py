"""Progress of a recorder, for metrics and tests. A module apart, since a process that stands by loads no SQLAlchemy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """
    Counts since this process started.

    Attributes:
        active: Whether this process records now.
        recorded: Events written.
        refused: Entries that could not be recorded.
        lag: Entries in the stream when it was last read.
        gaps: How often the stream was lost.
    """

    active: bool = False
    recorded: int = 0
    refused: int = 0
    lag: int = 0
    gaps: int = 0
