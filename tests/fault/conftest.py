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
    """A simulator where every send succeeds. Its row is stored 5 ms after the answer, as by the gateway."""
    names = "--instance", "ifinu", "--instance", "other"
    with stopping(Simulated(tmp_path, "--plain", "--insert-ms", "5", *names)) as server:
        yield server


@pytest.fixture(scope="session")
def sized() -> Callable[[T, T], T]:
    """Choose a case's size: the first value in `make test`, the second in `make fault`."""
    return lambda short, long: long if LONG else short


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[[str, str, Figures], None]:
    """Print a case's line, whether it passes or not."""

    def report(case: str, faults: str, figures: Figures) -> None:
        with capsys.disabled():
            print(f"\n{figures.row(case, faults)}")

    return report
