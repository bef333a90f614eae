"""Programs that are not Python's: without one a test is skipped on a laptop, and fails where CI is set."""

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

_BESIDE_PYTHON = str(Path(sys.executable).parent)  # what pip installed
_FOR_ROOT = ("/usr/sbin", "/usr/local/sbin")  # not in everybody's PATH


def program(name: str, install: str, *, variable: str = "") -> str:
    """
    The path of a program.

    Args:
        name: As it is called.
        install: What has it: `apt-get install …`, `pip install …`.
        variable: Of the environment; names another one.
    """
    found = os.environ.get(variable) if variable else None
    places = os.pathsep.join([_BESIDE_PYTHON, os.environ.get("PATH", ""), *_FOR_ROOT])
    return found or shutil.which(name, path=places) or missing(f"no {name}: {install}")


def missing(what: str) -> NoReturn:
    """End the test, which cannot run."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
