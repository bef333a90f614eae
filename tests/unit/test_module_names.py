from __future__ import annotations

import collections
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "ifinu"
GERUNDS = {"billing", "routing", "tracing"}  # terms of the field


def test_a_module_name_stands_for_one_module():
    """The modules of `cli` are named after their commands."""
    outside = [path for path in PACKAGE.rglob("*.py") if "cli" not in path.relative_to(PACKAGE).parts]
    names = collections.Counter(path.stem for path in outside if not path.stem.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_a_module_is_a_noun():
    names = {path.stem for path in PACKAGE.rglob("*") if path.is_dir() or path.suffix == ".py"}
    assert {name for name in names if name.endswith("ing")} == GERUNDS
