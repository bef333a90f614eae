from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from figures import Figures
from processes import Simulated, stopping

LONG = os.environ.get("FAULT") == "long"  # `make fault`

T = TypeVar("T")


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulated]:
    """Every number succeeds: what is counted here is what is lost. A send's row follows it, as in the real one."""
    names = "--instance", "ifinu", "--instance", "other"
    with stopping(Simulated(tmp_path, "--plain", "--insert-ms", "5", *names)) as server:
        yield server


@pytest.fixture(scope="session")
def sized() -> Callable[[T, T], T]:
    """The first in `make test`, the second in `make fault`."""
    return lambda short, long: long if LONG else short


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str, str, Figures], None]:
    """Print a case's line, whether it passes or not."""

    def tell(case: str, faults: str, figures: Figures) -> None:
        with capsys.disabled():
            print(f"\n{figures.row(case, faults)}")

    return tell
