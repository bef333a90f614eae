from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

SOME_NEED_PROGRAMS = """
import pytest
from programs import program

@pytest.mark.parametrize("name", ["a-browser", "a-browser", "a-server"])
def test_needs(name):
    program(name)

def test_needs_a_linter():
    program("a-linter", command="make install")

def test_needs_something_else():
    pytest.skip("on a Tuesday")

def test_needs_nothing():
    pass
"""


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_some.py").write_text(SOME_NEED_PROGRAMS)
    alone = {"PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "programs", "-p", "no:cacheprovider", f"--rootdir={folder}"],
        cwd=folder, env={"PATH": os.environ["PATH"], **alone, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_tests_skipped_for_a_missing_program_are_one_line_with_the_command_that_installs_it(tmp_path: Path):
    ended = run(tmp_path)
    lines = [line for line in ended.stdout.splitlines() if " skipped" in line or "SKIPPED" in line]
    assert ended.returncode == 0, ended.stdout
    assert lines[0].startswith("SKIPPED [1]")
    assert lines[0].endswith(": on a Tuesday")
    assert lines[1:3] == [
        "1 test skipped without a-linter; `make install` installs it",
        "3 tests skipped without a-browser, a-server; `make programs` installs them",
    ]
    assert "1 passed, 5 skipped" in lines[3]
    assert len(lines) == 4


def test_where_ci_is_set_a_missing_program_fails_its_test(tmp_path: Path):
    ended = run(tmp_path, CI="true")
    assert ended.returncode == 1
    assert "4 failed, 1 passed, 1 skipped" in ended.stdout
    assert "no a-browser: make programs" in ended.stdout
