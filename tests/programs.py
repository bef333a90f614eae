"""
Programs outside Python that tests need. Without one a test is skipped on a laptop and fails if CI is set.

As a pytest plugin it prints, in one line at the end, the missing programs and the command that installs them.
"""

import os
import re
import shutil
import sys
from collections.abc import Generator
from pathlib import Path
from typing import NoReturn

import pytest

_BESIDE_PYTHON = str(Path(sys.executable).parent)  # programs installed by pip
_MISSING = re.compile(r"^Skipped: no (?P<program>.+): (?P<command>make \w+)(?:,.+)?$")


def program(name: str, *, command: str = "make programs", variable: str = "") -> str:
    """
    The path of a program.

    Args:
        name: The program's name.
        command: The command that installs it.
        variable: Environment variable that may name another path.
    """
    found = os.environ.get(variable) if variable else None
    return found or shutil.which(name, path=os.pathsep.join(_places())) or missing(f"no {name}: {command}")


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def _places() -> list[str]:
    """PATH, and the `sbin` beside each `bin`, which many accounts lack in PATH."""
    path = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    return [_BESIDE_PYTHON, *path, *(str(Path(one).with_name("sbin")) for one in path if Path(one).name == "bin")]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """List the missing programs; leave other skipped tests to pytest's summary."""
    skipped = terminalreporter.stats.get("skipped", [])
    lacking = {report: found for report in skipped if (found := _MISSING.match(report.longrepr[2]))}
    terminalreporter.stats["skipped"] = [report for report in skipped if report not in lacking]
    try:
        yield
    finally:
        terminalreporter.stats["skipped"] = skipped
    for command in sorted({found["command"] for found in lacking.values()}):
        names = [found["program"] for found in lacking.values() if found["command"] == command]
        tests = "1 test" if len(names) == 1 else f"{len(names)} tests"
        programs = sorted(set(names))
        them = "it" if len(programs) == 1 else "them"
        terminalreporter.write_line(f"{tests} skipped without {', '.join(programs)}; `{command}` installs {them}")
