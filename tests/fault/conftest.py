from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Simulated, stopping

LONG = os.environ.get("FAULT") == "long"  # `make fault`


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulated]:
    """Every number succeeds: what is counted here is what is lost."""
    with stopping(Simulated(tmp_path, "--plain")) as server:
        yield server


@pytest.fixture
def size() -> dict[str, int]:
    """How much of it: the long version is `make fault`."""
    return {"messages": 20_000, "kills": 20} if LONG else {"messages": 2_500, "kills": 5}
