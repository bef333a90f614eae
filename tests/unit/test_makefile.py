from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def planned(target: str, folder: Path) -> str:
    """The commands that make would run for a target before the virtual environment exists."""
    ended = subprocess.run(
        ["make", "--dry-run", f"VENV={folder / 'venv'}", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return ended.stdout


def test_a_wheel_is_built_without_what_development_needs(tmp_path: Path):
    assert "--editable '.[demo,test,lint]'" in planned("test", tmp_path)
    assert "--editable" not in planned("wheel", tmp_path)


def test_each_file_with_a_test_that_runs_alone_is_named():
    marking = re.compile(r"^(@|pytestmark = )pytest\.mark\.alone$", re.MULTILINE)
    files = [path for path in ROOT.glob("tests/*/**/*.py") if marking.search(path.read_text(encoding="utf-8"))]
    named = re.search(r"^ALONE := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named
    assert {*named[1].split()} == {str(path.relative_to(ROOT)) for path in files}
