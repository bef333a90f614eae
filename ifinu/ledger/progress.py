"""Progress of a recorder, for metrics and tests. A module apart, since a process that stands by loads no SQLAlchemy."""

from __future__ import annotations

from dataclasses import dataclass, field

# The guard's steps (`numbers.guard.Move`), from the start, so that the first of its kind shows as an increase.
GUARD_STEPS = (
    "slowed", "no_new_chats", "paused", "unlinked", "banned", "released", "new_chats", "recovered",
)  # fmt: skip


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
        guard_steps: Steps that the guard took, by their names.
    """

    active: bool = False
    recorded: int = 0
    refused: int = 0
    lag: int = 0
    gaps: int = 0
    guard_steps: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GUARD_STEPS, 0))
